#!/usr/bin/python3
"""Selection of filters beside one read of the weights at memory bandwidth, in alternation in one run.

    ESP_BUILD_DIR=build/release tests/bench/selection.py [--threads 1,2] [--rounds 9] [--models vgg16,resnet50]

One JSON line per model, method and number of threads (bench_selection prints them). `ratio` is the time of a read over
ours: 0.5 is "within twice a read". Builds what it needs; networks are
those of the zoo, written into $ESP_BUILD_DIR/bench when missing.
"""
import argparse
import os
import subprocess
import sys

BUILD = os.path.abspath(os.environ.get("ESP_BUILD_DIR", "build/release"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", "--seeds", type=int, default=9)
    parser.add_argument("--models", default="vgg16,resnet50")
    options = parser.parse_args()
    subprocess.run(["cmake", "--build", BUILD, "--target", "bench_selection", "espalier"], check=True, stdout=sys.stderr)

    directory = os.path.join(BUILD, "bench")
    os.makedirs(directory, exist_ok=True)
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models.lua")
    for model in options.models.split(","):
        path = os.path.join(directory, model + ".onnx")
        if not os.path.exists(path):
            subprocess.run([os.path.join(BUILD, "espalier"), "run", script, model], cwd=directory, check=True)
        for threads in options.threads.split(","):
            sys.stdout.flush()
            subprocess.run([os.path.join(BUILD, "bench_selection"), path, threads, str(options.rounds)], check=True)


if __name__ == "__main__":
    main()
