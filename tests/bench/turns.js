// Programs measured in turns: each stays alive, takes orders over a pipe (see `espalier bench --turns`), and only one works
// at a time. A turn counts as quiet when hardly anybody else used the processors meanwhile; what is not quiet is repeated.
"use strict";
const fs = require("fs");
const os = require("os");
const readline = require("readline");
const { spawn } = require("child_process");

const TICKS_PER_S = 100; // USER_HZ, whatever the kernel's own rate
const FOREIGN_LIMIT = 0.08; // processors that others may use in a quiet turn, beyond those the turn leaves idle
const ANSWER_LIMIT_S = 600;

// The program is not there, or cannot be had: said in the table, no failure.
class Absent extends Error {}

class Program {
    constructor(name, command, environment) {
        this.name = name;
        this.command = command;
        this.child = spawn(command[0], command.slice(1), { stdio: ["pipe", "pipe", "pipe"],
            env: { ...process.env, ...environment } });
        this.errors = "";
        this.lines = [];
        this.waiting = null;
        this.child.stderr.on("data", (text) => { this.errors = (this.errors + text).slice(-4000); });
        this.child.stdin.on("error", () => {}); // an ended program is told by its exit status
        readline.createInterface({ input: this.child.stdout }).on("line", (line) => this.take(line));
        this.child.on("error", (problem) => this.end(new Absent(`${name}: ${problem.message}`)));
        this.child.on("close", (status) => this.end(status === 77
            ? new Absent(`${name}: ${this.lines.join(" ") || "cannot be had"}`)
            : new Error(`${name} ended with status ${status}: ${this.errors.trim()}`)));
    }

    take(line) {
        if (!line.startsWith("{")) {
            this.lines.push(line);
            return;
        }
        const waiting = this.waiting;
        this.waiting = null;
        if (waiting) waiting.resolve(JSON.parse(line));
    }

    end(problem) {
        this.problem = this.problem || problem;
        if (this.waiting) this.waiting.reject(this.problem);
        this.waiting = null;
    }

    // The next line of JSON it prints.
    answer() {
        if (this.problem) return Promise.reject(this.problem);
        return new Promise((resolve, reject) => {
            const timer = setTimeout(() => {
                this.child.kill();
                reject(new Error(`${this.name}: no answer within ${ANSWER_LIMIT_S} s`));
            }, 1000 * ANSWER_LIMIT_S);
            const settle = (settled) => (value) => { clearTimeout(timer); settled(value); };
            this.waiting = { resolve: settle(resolve), reject: settle(reject) };
        });
    }

    order(text) {
        const answer = this.answer();
        this.child.stdin.write(`${text}\n`);
        return answer;
    }

    async start() {
        this.ready = await this.answer();
        return this;
    }

    stop() {
        this.child.stdin.end();
        this.child.stdout.resume();
        return new Promise((resolve) => {
            if (this.problem) return resolve();
            this.child.on("close", resolve);
            setTimeout(() => this.child.kill("SIGKILL"), 5000).unref();
        });
    }
}

const median = (values) => quantile(values, 0.5);

function quantile(values, q) {
    const sorted = [...values].sort((a, b) => a - b);
    const position = q * (sorted.length - 1), below = Math.floor(position);
    const above = Math.min(below + 1, sorted.length - 1);
    return sorted[below] + (position - below) * (sorted[above] - sorted[below]);
}

// (third quartile - first) / median
const spread = (values) => (quantile(values, 0.75) - quantile(values, 0.25)) / median(values);

// Processor seconds of the whole machine that were not idle, time taken by the host included.
function machineSeconds() {
    const fields = fs.readFileSync("/proc/stat", "utf8").split("\n")[0].trim().split(/\s+/).slice(1, 9).map(Number);
    return (fields.reduce((a, b) => a + b) - fields[3] - fields[4]) / TICKS_PER_S;
}

const driverSeconds = () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
};

// One turn: the program's answer and how many processors others kept busy meanwhile.
async function turn(program, seconds) {
    const machine = machineSeconds(), driver = driverSeconds(), start = performance.now();
    const answer = await program.order(`run ${seconds}`);
    const elapsed = (performance.now() - start) / 1000;
    const foreign = machineSeconds() - machine - (driverSeconds() - driver) - answer.cpu_s;
    return { ...answer, foreign: Math.max(0, foreign) / elapsed };
}

// Rounds in which every program has one turn of about `seconds`, in changing order, until `rounds` of them were quiet or
// three times as many are done. `threads` is how many processors a turn may use. Returns one entry per program with the
// answers of the rounds that count (the quiet ones, when there are at least three), and how noisy the machine was.
async function alternate(programs, { rounds, seconds, threads }) {
    const limit = Math.max(0, os.cpus().length - threads) + FOREIGN_LIMIT;
    const all = [];
    let quiet = 0;
    for (let round = 0; quiet < rounds && round < 3 * rounds; round++) {
        const turns = new Array(programs.length);
        const order = [...programs.keys()];
        for (const i of round % 2 ? order.reverse() : order) {
            turns[i] = await turn(programs[i], seconds);
            await new Promise((resolve) => setTimeout(resolve, 10)); // threads of the last one fall asleep
        }
        turns.is_quiet = turns.every((answer) => answer.foreign <= limit);
        quiet += turns.is_quiet ? 1 : 0;
        all.push(turns);
    }
    const counted = quiet >= Math.min(3, rounds) ? all.filter((turns) => turns.is_quiet) : all;
    return { rounds: all.length, quiet, foreign: median(all.flat().map((answer) => answer.foreign)),
        answers: programs.map((_, i) => counted.map((turns) => turns[i])) };
}

module.exports = { Absent, Program, alternate, median, quantile, spread };
