// Latency of ours beside onnxruntime's, in alternation in one run, so that a slow minute of the machine hits both.
//
//   ESP_BUILD_DIR=build/release node tests/bench/inference.js [--rounds N] [--batch 1,32] [--threads 1,2] MODEL.onnx...
//
// One JSON line per case with the medians over all rounds, our ratio (peer / ours: above 1 we are faster) and the spread
// of our own rounds, then a table. Each round runs both for about half a second.
"use strict";
const os = require("os");
const path = require("path");
const { spawnSync } = require("child_process");
const { load, VERSION } = require("../onnx/ort");

const program = path.join(process.env.ESP_BUILD_DIR || "build/release", "espalier");

function parse(argv) {
    const options = { rounds: 5, batch: [1], threads: [1, os.cpus().length], models: [] };
    for (let i = 0; i < argv.length; i++) {
        if (argv[i] === "--rounds") options.rounds = Number(argv[++i]);
        else if (argv[i] === "--batch") options.batch = argv[++i].split(",").map(Number);
        else if (argv[i] === "--threads") options.threads = argv[++i].split(",").map(Number);
        else options.models.push(argv[i]);
    }
    if (options.models.length === 0) {
        console.error("usage: inference.js [--rounds N] [--batch 1,32] [--threads 1,2] MODEL.onnx...");
        process.exit(2);
    }
    return options;
}

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

function run(arguments_) {
    const child = spawnSync(program, [...arguments_, "--json"], { encoding: "utf8" });
    if (child.status !== 0) {
        console.error(child.error ? child.error.message : child.stderr);
        process.exit(1);
    }
    return JSON.parse(child.stdout);
}

// The first input's shape with the batch in place of its name, from `espalier inspect`.
function inputShape(model, batch) {
    return run(["inspect", model]).inputs[0].shape.split("x").map((dim, i) => i === 0 ? batch : Number(dim));
}

async function timePeer(session, feeds, seconds) {
    const times = [];
    const end = performance.now() + seconds * 1000;
    do {
        const start = performance.now();
        await session.run(feeds);
        times.push(performance.now() - start);
    } while (performance.now() < end || times.length < 3);
    return median(times);
}

async function measure(ort, model, batch, threads, rounds) {
    const session = await ort.InferenceSession.create(model, { intraOpNumThreads: threads, interOpNumThreads: 1,
        graphOptimizationLevel: "all", executionProviders: ["cpu"], logSeverityLevel: 3 });
    const shape = inputShape(model, batch);
    const data = new Float32Array(shape.reduce((a, b) => a * b, 1)).map((_, i) => Math.sin(i * 0.37));
    const feeds = { [session.inputNames[0]]: new ort.Tensor("float32", data, shape) };
    const ours = [], peer = [];
    await timePeer(session, feeds, 0.2);
    for (let round = 0; round < rounds; round++) {
        ours.push(run(["bench", model, "--batch", String(batch), "--threads", String(threads)]).median_ms);
        peer.push(await timePeer(session, feeds, 0.5));
    }
    await session.release();
    const sorted = [...ours].sort((a, b) => a - b);
    return { model: path.basename(model), batch, threads, ours_ms: median(ours), peer_ms: median(peer),
        ratio: median(peer.map((ms, i) => ms / ours[i])),
        noise: (sorted[sorted.length - 1] - sorted[0]) / median(ours) };
}

async function main() {
    const options = parse(process.argv.slice(2));
    const ort = load();
    const rows = [];
    for (const model of options.models)
        for (const batch of options.batch)
            for (const threads of options.threads) {
                rows.push(await measure(ort, model, batch, threads, options.rounds));
                console.log(JSON.stringify(rows[rows.length - 1]));
            }
    console.log(`\nours against onnxruntime ${VERSION}; ratio above 1: we are faster; noise: range of our rounds / median`);
    console.table(rows.map((row) => ({ model: row.model, batch: row.batch, threads: row.threads,
        "ours ms": row.ours_ms.toFixed(3), "peer ms": row.peer_ms.toFixed(3), ratio: row.ratio.toFixed(2),
        noise: `${(100 * row.noise).toFixed(0)} %` })));
}

main().catch((problem) => {
    console.error(problem.message);
    process.exit(1);
});
