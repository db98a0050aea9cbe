// The benchmarks: ours and, where they are installed, onnxruntime, PyTorch and scikit-learn, in alternation in one run.
//
//   ESP_BUILD_DIR=build/release node tests/bench/run.js [--quick] [--only PART[,PART...]] [--json FILE] [--list]
//                                                       [--threads 1,2] [--batch N,..] [--rounds N] [--built]
//                                                       [MODEL.onnx...]
//
// Builds the program in $ESP_BUILD_DIR (Release; not with --built), writes the networks of the zoo into $ESP_BUILD_DIR/bench, and measures the
// cases whose names contain one of the PARTs; models given by path are measured against onnxruntime. Prints a table with the
// landmarks (landmarks.js) and one JSON line per case. Exit status 1 when a case failed or outputs differ; a landmark that
// is missed is no failure of the run. docs/benchmarks.md says how to read it.
"use strict";
const fs = require("fs");
const os = require("os");
const path = require("path");
const { spawnSync } = require("child_process");
const { Absent } = require("./turns");
const cases = require("./cases");

const root = path.resolve(__dirname, "..", "..");
const build = path.resolve(process.env.ESP_BUILD_DIR || path.join(root, "build", "release"));

function parse(argv) {
    const options = { rounds: 7, seconds: 0.4, quick: false, only: [], threads: [...new Set([1, os.cpus().length])],
        batches: null, json: null, list: false, isBuilt: false, models: [] };
    const numbers = (text) => text.split(",").map(Number);
    for (let i = 0; i < argv.length; i++) {
        switch (argv[i]) {
        case "--quick": Object.assign(options, { quick: true, rounds: 3, seconds: 0.2 }); break;
        case "--only": options.only.push(...argv[++i].split(",")); break;
        case "--threads": options.threads = numbers(argv[++i]); break;
        case "--batch": options.batches = numbers(argv[++i]); break;
        case "--rounds": options.rounds = Number(argv[++i]); break;
        case "--json": options.json = argv[++i]; break;
        case "--list": options.list = true; break;
        case "--built": options.isBuilt = true; break;
        case "--help":
            console.log(fs.readFileSync(__filename, "utf8").split("\n\n")[0].replace(/^\/\/ ?/gm, ""));
            process.exit(0);
            break;
        default:
            if (argv[i].startsWith("--")) {
                console.error(`run.js: unknown option '${argv[i]}'; --help lists them`);
                process.exit(2);
            }
            options.models.push(argv[i]);
        }
    }
    return options;
}

function command(program, args, where) {
    const child = spawnSync(program, args, { cwd: where || root, encoding: "utf8", maxBuffer: 1 << 28 });
    if (child.status !== 0)
        throw new Error(`${program} ${args.join(" ")}: ${child.error ? child.error.message : child.stderr || child.stdout}`);
    return child.stdout;
}

function buildProgram() {
    console.error(`building ${build} (Release)`);
    command("cmake", ["-S", root, "-B", build, "-DCMAKE_BUILD_TYPE=Release"]);
    command("cmake", ["--build", build, "--target", "espalier", "-j", String(os.cpus().length)]);
}

// What the figures were measured on: the processor, and what it could do at that moment per number of threads.
function machine(setting) {
    const model = path.join(root, "sample_models", "lenet5.onnx");
    const peaks = setting.threads.map((threads) => JSON.parse(command(setting.program,
        ["bench", model, "--layers", "--json", "--repeats", "1", "--threads", String(threads)])).peak);
    return { cpu: os.cpus()[0] ? os.cpus()[0].model : "unknown", cores: os.cpus().length,
        memory_gib: Math.round(os.totalmem() / 2 ** 30), system: `${os.type()} ${os.release()}`, peaks };
}

const met = (row) => row.target === undefined ? "" : row.is_met ? "yes" : "NO";

function print(rows, skipped) {
    const cells = rows.map((row) => [row.name, row.ours_ms === undefined ? "" : row.ours_ms.toPrecision(4),
        row.peer_ms === undefined ? "" : row.peer_ms.toPrecision(4), row.peer || "",
        row.ratio === undefined ? "" : row.ratio.toFixed(2), row.target === undefined ? "" : row.target_text, met(row),
        row.ratio_spread === undefined ? "" : `${(100 * row.ratio_spread).toFixed(0)} %`,
        row.quiet === undefined ? "" : `${row.quiet}/${row.rounds}`, row.note || ""]);
    const headings = ["case", "ours ms", "peer ms", "against", "ratio", "landmark", "met", "spread", "quiet", ""];
    const widths = headings.map((heading, i) => Math.max(heading.length, ...cells.map((row) => row[i].length)));
    const isLeft = [true, false, false, true, false, true, true, false, false, true];
    const line = (row) => row.map((cell, i) => isLeft[i] ? cell.padEnd(widths[i]) : cell.padStart(widths[i])).join("  ").trimEnd();
    console.log(`\n${line(headings)}\n${widths.map((width) => "-".repeat(width)).join("  ")}`);
    cells.forEach((row) => console.log(line(row)));
    skipped.forEach((reason) => console.log(`left out: ${reason}`));
    const judged = rows.filter((row) => row.target !== undefined);
    if (judged.length > 0)
        console.log(`\n${judged.filter((row) => row.is_met).length} of ${judged.length} landmarks met`);
    const noisy = rows.filter((row) => row.quiet !== undefined && row.quiet < Math.min(3, row.rounds));
    console.log(noisy.length === 0 ? "the machine was quiet enough"
        : `the machine was busy: ${noisy.length} cases without three quiet rounds (${noisy.map((row) => row.name).join(", ")})`);
}

async function main() {
    const options = parse(process.argv.slice(2));
    process.env.ESP_BUILD_DIR = build;
    const list = cases.list(options);
    const wanted = list.filter(({ name }) => options.only.length === 0 || options.only.some((part) => name.includes(part)));
    if (options.list) {
        wanted.forEach(({ name }) => console.log(name));
        return;
    }
    if (wanted.length === 0) {
        console.error("run.js: no case has such a name; --list shows them");
        process.exit(2);
    }
    if (!options.isBuilt) buildProgram();
    const setting = { ...options, root, build, command, program: path.join(build, "espalier"), directory: path.join(build, "bench") };
    fs.mkdirSync(setting.directory, { recursive: true });
    const rows = [], skipped = [], lines = [JSON.stringify({ machine: machine(setting) })];
    let failures = 0;
    console.log(lines[0]);
    for (const { name, run } of wanted) {
        try {
            for (const row of await run(setting)) {
                rows.push({ name, ...row });
                lines.push(JSON.stringify(rows[rows.length - 1]));
                console.log(lines[lines.length - 1]);
            }
        } catch (problem) {
            if (!(problem instanceof Absent)) failures++;
            skipped.push(`${name}: ${problem.message.trim().split("\n").slice(-3).join("; ")}`);
            console.error(skipped[skipped.length - 1]);
        }
    }
    if (options.json) fs.writeFileSync(options.json, `${lines.join("\n")}\n`);
    print(rows, skipped);
    process.exit(failures > 0 || rows.some((row) => row.outputs_differ) ? 1 : 0);
}

main().catch((problem) => {
    console.error(problem.message);
    process.exit(1);
});
