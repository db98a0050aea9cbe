// The cases: how each is measured and what becomes of the figures. `list` makes them from landmarks.js.
"use strict";
const fs = require("fs");
const os = require("os");
const path = require("path");
const { Absent, Program, alternate, median, spread } = require("./turns");
const landmarks = require("./landmarks");

const LARGEST_DIFFERENCE = 1e-3; // of outputs, as a share of the largest output: two float32 programs agree far better

const zoo = (setting, name) => {
    const file = path.join(setting.directory, `${name}.onnx`);
    if (!fs.existsSync(file))
        setting.command(setting.program, ["run", path.join(__dirname, "models.lua"), name], setting.directory);
    return file;
};

function sharedModel(setting, name) {
    const shared = process.env.ESPALIER_SHARED || path.join(setting.root, "..", "shared");
    const file = path.join(shared, "models", `${name}.onnx`);
    if (!fs.existsSync(file)) throw new Absent(`${file} is not there`);
    return file;
}

function groupedModel(setting, ratio, name = "resnet50", classifier = "fc") {
    const file = path.join(setting.directory, `${name}-sg${Math.round(100 * ratio)}.onnx`);
    if (!fs.existsSync(file))
        setting.command(setting.program, ["prune", zoo(setting, name), "-o", file, "--method", "sg", "--mode", "faithful",
            "--ratio", String(ratio), "--layer", `${classifier}=${landmarks.fcRatio}`, "--groups", String(landmarks.groupCount)]);
    return file;
}

// ---- programs ----

const flags = (batch, threads) => ["--batch", String(batch), "--threads", String(threads)];

const ours = (setting, model, batch, threads, { more = [], kernels } = {}) =>
    new Program("espalier", [setting.program, "bench", model, "--turns", ...flags(batch, threads), ...more],
        kernels ? { ESPALIER_KERNELS: kernels } : {}).start();

const onnxruntime = (setting, model, batch, threads) =>
    new Program("onnxruntime", [process.execPath, path.join(__dirname, "peer_onnxruntime.js"), model, ...flags(batch, threads)]).start();

const torch = (setting, model, batch, threads) =>
    new Program("PyTorch", ["/usr/bin/python3", path.join(__dirname, "peer_torch.py"), model, ...flags(batch, threads)]).start();

// Runs `body` on programs that are ended whatever happens.
async function withPrograms(starts, body) {
    const programs = [];
    try {
        for (const start of starts) programs.push(await start());
        return await body(...programs);
    } finally {
        await Promise.all(programs.map((program) => program.stop()));
    }
}

// Ours alone where the peer cannot be had.
async function withPeer(startOurs, startPeer, body) {
    return withPrograms([startOurs], async (mine) => {
        let peer;
        try {
            peer = await startPeer();
        } catch (problem) {
            if (!(problem instanceof Absent)) throw problem;
            return body(mine, null, problem.message);
        }
        try {
            return await body(mine, peer);
        } finally {
            await peer.stop();
        }
    });
}

// ---- figures ----

const times = (answers) => answers.map((answer) => answer.ms);

// From what alternate() gives for [ours, peer].
function figures(measured) {
    const [mine, peer] = measured.answers.map(times);
    const row = { ours_ms: median(mine), ours_spread: spread(mine), rounds: measured.rounds, quiet: measured.quiet,
        foreign: measured.foreign };
    if (peer)
        Object.assign(row, { peer_ms: median(peer), peer_spread: spread(peer), ratio: median(peer) / median(mine),
            ratio_spread: spread(peer.map((ms, i) => ms / mine[i])) });
    return row;
}

function judge(row, target, isAtLeast = true) {
    if (target === undefined || row.ratio === undefined) return row;
    return { ...row, target, target_text: isAtLeast ? `>= ${target}` : `<= ${target}`,
        is_met: isAtLeast ? row.ratio >= target : row.ratio <= target };
}

const readFloats = (file) => {
    const bytes = fs.readFileSync(file);
    return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
};

// Gives both programs the same input; returns the largest difference of their outputs, relative to the largest output.
async function compareOutputs(setting, mine, peer, shape) {
    const file = (name) => path.join(setting.directory, `${name}.f32`);
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1)).map((_, i) => Math.sin(i * 0.37));
    fs.writeFileSync(file("input"), Buffer.from(values.buffer));
    await mine.order(`input ${file("input")}`);
    await peer.order(`input ${file("input")} ${shape.join("x")}`);
    await mine.order(`output ${file("ours")}`);
    await peer.order(`output ${file("peer")}`);
    const a = readFloats(file("ours")), b = readFloats(file("peer"));
    if (a.length !== b.length) throw new Error(`outputs of ${a.length} and ${b.length} numbers`);
    const largest = b.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    let difference = 0;
    for (let i = 0; i < a.length; i++)
        difference = Math.max(difference, Number.isNaN(a[i]) !== Number.isNaN(b[i]) ? Infinity : Math.abs(a[i] - b[i]));
    return largest > 0 ? difference / largest : difference;
}

const memoryShare = ({ memory }) => memory.peak / (memory.weights + memory.live);

// ---- inference ----

async function runInference(setting, model, image, batch, threads, landmark) {
    return withPeer(() => ours(setting, model, batch, threads), () => onnxruntime(setting, model, batch, threads),
        async (mine, peer, absence) => {
            const difference = peer ? await compareOutputs(setting, mine, peer, [batch, ...image]) : undefined;
            const measured = await alternate(peer ? [mine, peer] : [mine], { ...setting, threads });
            const last = measured.answers[0][0];
            const row = { ...figures(measured), threads, batch, peer: peer ? "onnxruntime" : undefined, difference,
                peer_version: peer ? peer.ready.version : undefined, memory: last.memory };
            if (absence) row.note = absence;
            if (difference > LARGEST_DIFFERENCE)
                Object.assign(row, { outputs_differ: true, note: `outputs differ by ${difference.toExponential(1)}` });
            return [judge(row, landmark)];
        });
}

// ---- training ----

// What a step needs beside the program itself and its libraries.
const stepBytes = (program, answer) => answer.memory.rss_peak - program.ready.rss_before;

async function runTraining(setting, model, batch, threads, landmark) {
    return withPeer(() => ours(setting, model, batch, threads, { more: ["--train"] }),
        () => torch(setting, model, batch, threads), async (mine, peer, absence) => {
            const measured = await alternate(peer ? [mine, peer] : [mine], { ...setting, threads });
            const last = measured.answers.map((answers) => answers[answers.length - 1]);
            const parts = (part) => median(measured.answers[0].map((answer) => answer[part]));
            const row = { ...figures(measured), threads, batch, peer: peer ? "PyTorch" : undefined, memory: last[0].memory,
                forward_ms: parts("forward_ms"), backward_ms: parts("backward_ms"), update_ms: parts("update_ms"), note: absence };
            if (!peer) return [row];
            const bytes = [stepBytes(mine, last[0]), stepBytes(peer, last[1])];
            const mib = bytes.map((count) => Math.round(count / 2 ** 20));
            return [judge({ ...row, peer_version: peer.ready.version }, landmark),
                judge({ note: `memory of the step: ${mib[0]} MiB, PyTorch ${mib[1]} MiB`, threads, batch, bytes: bytes[0],
                    peer_bytes: bytes[1], ratio: bytes[0] / bytes[1] }, landmarks.trainingMemory, false)];
        });
}

// Steps of a network cut by self-grouping: against those of the dense network, and against PyTorch's on the same cut graph,
// which take seconds.
async function runGroupedTraining(setting, { ratio, batch, landmark, hasPeer }, threads) {
    const cut = groupedModel(setting, ratio, "resnet20"), more = ["--train"];
    const rows = await withPrograms([() => ours(setting, cut, batch, threads, { more }),
        () => ours(setting, zoo(setting, "resnet20"), batch, threads, { more })], async (mine, dense) => {
        const measured = await alternate([mine, dense], { ...setting, threads });
        return [judge({ ...figures(measured), threads, batch, peer: "our dense" }, landmark)];
    });
    if (hasPeer) rows.push(...await runTraining({ ...setting, rounds: 2 }, cut, batch, threads));
    return rows;
}

// ---- one program against itself ----

async function runThreads(setting, model, batch, threads, atLeast) {
    return withPrograms([() => ours(setting, model, batch, threads), () => ours(setting, model, batch, 1)],
        async (many, one) => {
            const measured = await alternate([many, one], { ...setting, threads });
            const row = { ...figures(measured), threads, batch, peer: "1 thread" };
            return [judge(row, atLeast)];
        });
}

async function runMemory(setting, model, batch) {
    return withPrograms([() => ours(setting, model, batch, os.cpus().length)], async (mine) => {
        const answer = await mine.order("run 0");
        const mib = (bytes) => (bytes / 2 ** 20).toFixed(1);
        const { weights, live, peak } = answer.memory;
        return [judge({ batch, memory: answer.memory, ratio: memoryShare(answer),
            note: `${mib(peak)} MiB; weights ${mib(weights)} + live ${mib(live)}` }, landmarks.inferenceMemory, false)];
    });
}

// ---- self-grouped layers ----

const POINTWISE = new Set(["BatchNormalization", "Relu", "Clip", "Add"]);

// Time per layer: its own nodes ("fc", or "fc/group0", ...) and what follows them element by element, which another kernel
// may have taken into the convolution.
function layerTimes(nodes, inspected, nodeTimes) {
    const result = new Map();
    let current = null;
    for (const { name, operator } of nodes) {
        const layer = inspected.find((candidate) => name === candidate || name.startsWith(`${candidate}/`));
        if (layer !== undefined) current = layer;
        else if (!POINTWISE.has(operator)) current = null;
        if (current !== null) result.set(current, (result.get(current) || 0) + nodeTimes[name]);
    }
    return result;
}

const layersOf = (setting, model) => JSON.parse(setting.command(setting.program, ["bench", model, "--layers", "--json",
    "--repeats", "1", "--threads", "1"])).layers;

function macsByLayer(nodes, names) {
    const macs = new Map();
    for (const node of nodes) {
        const layer = names.find((name) => node.name === name || node.name.startsWith(`${name}/`));
        if (layer !== undefined) macs.set(layer, (macs.get(layer) || 0) + node.macs);
    }
    return macs;
}

async function runGroupedLayers(setting, ratio, batch, threads, share) {
    const dense = zoo(setting, "resnet50"), sparse = groupedModel(setting, ratio);
    const denseNodes = layersOf(setting, dense), sparseNodes = layersOf(setting, sparse);
    const names = denseNodes.filter((node) => node.macs > 0).map((node) => node.name);
    const denseMacs = macsByLayer(denseNodes, names), sparseMacs = macsByLayer(sparseNodes, names);
    const pruned = names.filter((name) => sparseMacs.get(name) < denseMacs.get(name));
    const more = ["--layers"];
    return withPrograms([() => ours(setting, sparse, batch, threads, { more }),
        () => ours(setting, dense, batch, threads, { more, kernels: "no-winograd" }),
        () => ours(setting, dense, batch, threads, { more })], async (...programs) => {
        const measured = await alternate(programs, { ...setting, threads });
        const byLayer = measured.answers.map((answers, i) => {
            const turns = answers.map((answer) => layerTimes(i === 0 ? sparseNodes : denseNodes, names, answer.nodes));
            return new Map(pruned.map((name) => [name, median(turns.map((turn) => turn.get(name)))]));
        });
        const sum = (map) => pruned.reduce((total, name) => total + map.get(name), 0);
        const [now, direct, best] = byLayer;
        const layers = pruned.map((name) => ({ name, theory: denseMacs.get(name) / sparseMacs.get(name), ms: now.get(name),
            direct_ms: direct.get(name), dense_ms: Math.min(direct.get(name), best.get(name)) }));
        const theory = sum(denseMacs) / sum(sparseMacs);
        const slower = layers.filter((layer) => layer.ms > 1.05 * layer.dense_ms);
        return [judge({ ours_ms: sum(now), peer_ms: sum(direct), peer: "our direct dense", threads, batch, ratio: sum(direct) / sum(now),
            theory, rounds: measured.rounds, quiet: measured.quiet, layers,
            note: `theory ${theory.toFixed(2)}x; ${slower.length} of ${pruned.length} layers slower than their best dense form` },
        share === undefined ? undefined : Number((share * theory).toFixed(3)))];
    });
}

async function runGroupedNetwork(setting, ratio, threads, landmark) {
    const sparse = groupedModel(setting, ratio);
    return withPeer(() => ours(setting, sparse, 1, threads), () => onnxruntime(setting, zoo(setting, "resnet50"), 1, threads),
        async (mine, peer, absence) => {
            if (peer) await peer.order(`input ${inputFile(setting, [1, 3, 224, 224])} 1x3x224x224`);
            const measured = await alternate(peer ? [mine, peer] : [mine], { ...setting, threads });
            return [judge({ ...figures(measured), threads, batch: 1, peer: peer ? "onnxruntime, dense" : undefined, note: absence },
                landmark)];
        });
}

function inputFile(setting, shape) {
    const file = path.join(setting.directory, "input.f32");
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1)).map((_, i) => Math.sin(i * 0.37));
    fs.writeFileSync(file, Buffer.from(values.buffer));
    return file;
}

// ---- clustering and selection: scripts with a C program each (kmeans.py, selection.py) ----

function compileHelper(setting, name) {
    const libraries = ["prune", "io", "onnx_proto", "train", "graph", "tensor", "base"]
        .map((layer) => path.join(setting.build, `libesp_${layer}.a`));
    const system = setting.command("pkg-config", ["--libs", "openblas", "libprotobuf-c", "jansson", "zlib"]).trim().split(/\s+/);
    setting.command(process.env.CC || "cc", ["-O2", "-std=c17", "-D_GNU_SOURCE", "-I", path.join(setting.root, "src"),
        path.join(__dirname, `${name}.c`), "-o", path.join(setting.build, `bench_${name}`), ...libraries, ...system, "-lm", "-pthread"]);
}

function runScript(setting, name, threads, rowOf) {
    const script = path.join(__dirname, `${name}.py`);
    try {
        setting.command("/usr/bin/python3", [script, "--help"]);
    } catch (problem) {
        throw new Absent(`${name}.py: ${problem.message.trim().split("\n").pop()}`);
    }
    compileHelper(setting, name);
    const lines = setting.command("/usr/bin/python3", [script, "--threads", String(threads),
        ...(setting.quick ? ["--seeds", "1"] : [])]);
    return lines.split("\n").filter((line) => line.startsWith("{")).map((line) => rowOf(JSON.parse(line)));
}

const kmeansRow = (line) => {
    const row = judge({ ours_ms: line.ours_ms, peer_ms: line.peer_ms, peer: line.peer, threads: line.threads, ratio: line.ratio,
        inertia_share: line.inertia_share, note: `${line.work}; mean inertia ${line.inertia_share} of scikit-learn's` },
    landmarks.kmeans);
    return { ...row, is_met: row.is_met && line.inertia_share <= landmarks.kmeansInertia };
};

// The landmark is WSP's; what the criteria take is for information.
const selectionRow = (line) => judge({ ours_ms: line.ours_ms, peer_ms: line.peer_ms, peer: line.peer, threads: line.threads,
    ratio: line.ours_ms / line.peer_ms, note: line.work }, line.work.startsWith("wsp ") ? landmarks.selection : undefined, false);

// ---- previews: all layers at once, cold and with what is known of the weights kept ----

function runPreview(setting, model, threads) {
    compileHelper(setting, "preview");
    const lines = setting.command(path.join(setting.build, "bench_preview"),
        [zoo(setting, model), String(threads), setting.quick ? "5" : "41"]);
    return lines.split("\n").filter((line) => line.startsWith("{")).map((line) => {
        const { method, mode, cold_ms, warm_ms, warm_most_ms } = JSON.parse(line);
        return { ours_ms: warm_ms, threads, cold_ms, target: landmarks.previewMs,
            target_text: `<= ${landmarks.previewMs} ms`, is_met: warm_ms <= landmarks.previewMs,
            note: `${method} ${mode}; slowest ${warm_most_ms} ms, cold ${cold_ms} ms` };
    });
}

// ---- the list ----

function list(options) {
    const cases = [];
    const add = (name, run) => cases.push({ name, run: async (setting) => run(setting) });
    const threadCounts = options.threads;
    for (const file of options.models)
        for (const batch of options.batches || [1])
            for (const threads of threadCounts)
                add(`inference/${path.basename(file, ".onnx")}/b${batch}/t${threads}`, (setting) =>
                    runInference(setting, path.resolve(file), imageOf(setting, file), batch, threads));
    if (options.models.length > 0) return cases;
    for (const { model, shape, batches, landmark, shared } of landmarks.inference)
        for (const batch of options.batches || (options.quick ? batches.slice(0, 1) : batches))
            for (const threads of threadCounts)
                add(`inference/${model}/b${batch}/t${threads}`, (setting) => runInference(setting,
                    shared ? sharedModel(setting, model) : zoo(setting, model), shape, batch, threads, landmark));
    for (const { model, batch, landmark } of landmarks.training)
        for (const threads of threadCounts)
            add(`training/${model}/b${batch}/t${threads}`, (setting) =>
                runTraining(setting, zoo(setting, model), batch, threads, landmark));
    for (const grouped of landmarks.groupedTraining)
        for (const threads of threadCounts)
            add(`grouped-training/resnet20/${grouped.ratio}/b${grouped.batch}/t${threads}`, (setting) =>
                runGroupedTraining(setting, grouped, threads));
    for (const { ratio } of landmarks.grouped)
        for (const batch of [1, 8])
            for (const threads of threadCounts)
                add(`grouped-layers/resnet50/${ratio}${batch > 1 ? `/b${batch}` : ""}/t${threads}`, (setting) =>
                    runGroupedLayers(setting, ratio, batch, threads, batch * threads === 1 ? landmarks.theoryShare : undefined));
    for (const { ratio, landmark } of landmarks.grouped)
        for (const threads of threadCounts)
            add(`grouped-network/resnet50/${ratio}/t${threads}`, (setting) =>
                runGroupedNetwork(setting, ratio, threads, threads === 1 ? landmark : undefined));
    for (const threads of threadCounts.filter((count) => count > 1)) {
        add(`threads/resnet50/b1/t${threads}`, (setting) =>
            runThreads(setting, zoo(setting, "resnet50"), 1, threads, Number((landmarks.efficiency * threads).toFixed(2))));
        for (const model of ["lenet5", "resnet20"])
            add(`threads/${model}/b1/t${threads}`, (setting) => runThreads(setting, zoo(setting, model), 1, threads, 1));
    }
    for (const model of ["vgg16", "resnet50", "densenet121", "densenet201", "resnet20"])
        add(`memory/${model}/b1`, (setting) => runMemory(setting, zoo(setting, model), 1));
    for (const threads of threadCounts)
        add(`preview/resnet50/t${threads}`, (setting) => runPreview(setting, "resnet50", threads));
    for (const threads of threadCounts) {
        add(`kmeans/resnet50/t${threads}`, (setting) => runScript(setting, "kmeans", threads, kmeansRow));
        add(`selection/t${threads}`, (setting) => runScript(setting, "selection", threads, selectionRow));
    }
    return cases;
}

const imageOf = (setting, model) => JSON.parse(setting.command(setting.program, ["inspect", path.resolve(model), "--json"]))
    .inputs[0].shape.split("x").slice(1).map(Number);

module.exports = { list };
