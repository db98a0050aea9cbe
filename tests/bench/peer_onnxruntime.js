// Forward passes of an ONNX model in onnxruntime, in turns with another program.
//
//   node peer_onnxruntime.js MODEL.onnx --batch N --threads N
//
// Orders and answers are those of `espalier bench --turns`. Exit status 77, with the reason, when onnxruntime cannot be had.
"use strict";
const fs = require("fs");
const readline = require("readline");
const { load, VERSION } = require("../onnx/ort");

function option(name, otherwise) {
    const index = process.argv.indexOf(name);
    return index < 0 ? otherwise : Number(process.argv[index + 1]);
}

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

const processorSeconds = () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
};

class Runner {
    constructor(ort, session) {
        this.ort = ort;
        this.session = session;
    }

    // The input's shape is not to be had from this binding: it comes with the numbers ("input FILE 8x3x224x224").
    setInput(path, shape) {
        const bytes = fs.readFileSync(path);
        const data = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
        this.feeds = { [this.session.inputNames[0]]: new this.ort.Tensor("float32", data, shape.split("x").map(Number)) };
        return { bytes: bytes.length };
    }

    async writeOutput(path) {
        const values = (await this.session.run(this.feeds))[this.session.outputNames[0]].data;
        fs.writeFileSync(path, Buffer.from(values.buffer, values.byteOffset, values.byteLength));
        return { bytes: values.byteLength };
    }

    async runFor(seconds) {
        const times = [];
        const start = performance.now(), processor = processorSeconds();
        while (times.length === 0 || performance.now() - start < 1000 * seconds) {
            const begin = performance.now();
            await this.session.run(this.feeds);
            times.push(performance.now() - begin);
        }
        return { ms: median(times), runs: times.length, elapsed_s: (performance.now() - start) / 1000,
            cpu_s: processorSeconds() - processor, memory: { rss_peak: rssPeak() } };
    }

    follow(line) {
        const [order, ...rest] = line.split(" ");
        if (order === "run") return this.runFor(Number(rest[0]));
        if (order === "input") return this.setInput(rest.slice(0, -1).join(" "), rest[rest.length - 1]);
        if (order === "output") return this.writeOutput(rest.join(" "));
        throw new Error(`found '${line}', expected run SECONDS, input FILE SHAPE or output FILE`);
    }
}

// Not resourceUsage: what that says begins with the peak of the process that started this one.
const rssPeak = () => 1024 * Number(/VmHWM:\s+(\d+)/.exec(fs.readFileSync("/proc/self/status", "utf8"))[1]);

async function main() {
    const ort = load();
    const rssBefore = rssPeak();
    const threads = option("--threads", 1);
    const session = await ort.InferenceSession.create(process.argv[2], { intraOpNumThreads: threads, interOpNumThreads: 1,
        graphOptimizationLevel: "all", executionProviders: ["cpu"], logSeverityLevel: 3 });
    const runner = new Runner(ort, session);
    console.log(JSON.stringify({ ready: true, version: VERSION, threads, rss_before: rssBefore }));
    for await (const line of readline.createInterface({ input: process.stdin }))
        console.log(JSON.stringify(await runner.follow(line)));
}

main().catch((problem) => {
    console.error(problem.message);
    process.exit(1);
});
