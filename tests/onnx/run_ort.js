// Runs a model in onnxruntime, so that tests can compare what another runtime makes of a file.
//
//   node run_ort.js MODEL INPUT.f32 SHAPE OUT.f32
//
// INPUT.f32 holds raw little-endian float32 of SHAPE (2x3x32x32) for the model's only input. The first output goes to
// OUT.f32, output i > 0 to OUT.f32.i, in the same form. Exit status 77, with the reason, when onnxruntime cannot be
// had (ort.js); without arguments nothing is run, which asks just that.
"use strict";
const fs = require("fs");
const { load } = require("./ort");

async function run(ort, [model, inputPath, shape, outputPath]) {
    const session = await ort.InferenceSession.create(model, { intraOpNumThreads: 1, logSeverityLevel: 3 });
    if (session.inputNames.length !== 1)
        throw new Error(`${model} has ${session.inputNames.length} inputs, expected 1`);
    const bytes = fs.readFileSync(inputPath);
    const data = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    const input = new ort.Tensor("float32", data, shape.split("x").map(Number));
    const outputs = await session.run({ [session.inputNames[0]]: input });
    session.outputNames.forEach((name, i) => {
        const values = outputs[name].data;
        fs.writeFileSync(i === 0 ? outputPath : `${outputPath}.${i}`,
            Buffer.from(values.buffer, values.byteOffset, values.byteLength));
    });
}

const ort = load();
if (process.argv.length > 2) {
    if (process.argv.length !== 6) {
        console.error("usage: run_ort.js MODEL INPUT.f32 SHAPE OUT.f32");
        process.exit(2);
    }
    run(ort, process.argv.slice(2)).catch((problem) => {
        console.error(`${process.argv[2]}: ${problem.message}`);
        process.exit(1);
    });
}
