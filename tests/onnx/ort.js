// onnxruntime for tests and benchmarks: require("./ort").load() gives the module. It is installed from npm into
// $ESP_BUILD_DIR/onnxruntime-VERSION on first use. Exit status 77, with the reason, when it cannot be had.
"use strict";
const fs = require("fs");
const path = require("path");
const { spawnSync } = require("child_process");

const VERSION = "1.30.0";
const directory = path.join(process.env.ESP_BUILD_DIR || "build", `onnxruntime-${VERSION}`);

function unavailable(reason) {
    console.log(`skipped: onnxruntime-node ${VERSION} cannot be had: ${reason.trim().split("\n").slice(0, 3).join("; ")}`);
    process.exit(77);
}

// Two tests may get here at once: each installs aside, the first to rename wins.
function install() {
    const aside = `${directory}.${process.pid}`;
    fs.mkdirSync(aside, { recursive: true });
    const npm = spawnSync("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save",
        "--loglevel=error", "--fetch-retries=1", "--fetch-timeout=60000", "--prefix", aside,
        `onnxruntime-node@${VERSION}`], { encoding: "utf8", timeout: 240000 });
    if (npm.status !== 0) {
        fs.rmSync(aside, { recursive: true, force: true });
        unavailable(npm.error ? npm.error.message : npm.stderr);
    }
    try {
        fs.renameSync(aside, directory);
    } catch (problem) {
        fs.rmSync(aside, { recursive: true, force: true });
    }
}

function load() {
    const module = path.resolve(directory, "node_modules", "onnxruntime-node");
    if (!fs.existsSync(module))
        install();
    try {
        return require(module);
    } catch (problem) {
        return unavailable(problem.message);
    }
}

module.exports = { load, VERSION };
