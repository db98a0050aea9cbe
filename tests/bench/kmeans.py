#!/usr/bin/python3
"""k-means of ResNet-50's importance vectors beside scikit-learn's, in alternation in one run.

    ESP_BUILD_DIR=build/release tests/bench/kmeans.py [--threads 1,2] [--seeds 5] [--data random,structured]

48 convolutions (no stem, no shortcuts) and the classifier, 16 groups, 10 restarts, at most 300 iterations, started
from random rows. Builds bench_kmeans. One JSON line per data set and number of threads: medians over the seeds of the time for the whole
set, and the mean over seeds and layers of our best inertia over scikit-learn's.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

import numpy
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits


def layer_shapes():
    """(filters, channels, kernel positions) of ResNet-50's layers that are grouped."""
    shapes, channels = [], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for _ in range(blocks):
            shapes += [(width, channels, 1), (width, width, 9), (4 * width, width, 1)]
            channels = 4 * width
    return shapes + [(1000, 2048, 1)]


def importance(data, shape, generator):
    """Sums of absolute weights, He-initialised; structured: 24 families of filters that favour different channels,
    and filters of different sizes, as after training."""
    filters, channels, positions = shape
    weight = generator.standard_normal((filters, channels, positions), dtype="float32")
    weight *= (2 / (channels * positions)) ** 0.5
    if data == "structured":
        families = numpy.exp(0.5 * generator.standard_normal((24, channels), dtype="float32"))
        weight *= families[generator.integers(24, size=filters)][:, :, None]
        weight *= numpy.exp(0.2 * generator.standard_normal((filters, 1, 1), dtype="float32"))
    return numpy.abs(weight).sum(axis=2)


class Ours:
    def __init__(self, program, directory, matrices):
        path = os.path.join(directory, "list")
        with open(path, "w") as listing:
            for i, rows in enumerate(matrices):
                name = os.path.join(directory, f"{i}.f32")
                rows.tofile(name)
                listing.write(f"{rows.shape[0]} {rows.shape[1]} {name}\n")
        self.process = subprocess.Popen([program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, threads, seed):
        self.process.stdin.write(f"{threads} {seed}\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["ms"], answer["inertias"]


def run_peer(matrices, threads, seed):
    inertias = []
    with threadpool_limits(threads):
        start = time.perf_counter()
        for rows in matrices:
            model = KMeans(n_clusters=16, n_init=10, init="random", max_iter=300, random_state=seed).fit(rows)
            inertias.append(model.inertia_)
        return (time.perf_counter() - start) * 1e3, inertias


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", default="random,structured")
    options = parser.parse_args()
    build = os.path.abspath(os.environ.get("ESP_BUILD_DIR", "build/release"))
    subprocess.run(["cmake", "--build", build, "--target", "bench_kmeans"], check=True, stdout=sys.stderr)
    warnings.filterwarnings("ignore")

    for data in options.data.split(","):
        generator = numpy.random.default_rng(0)
        matrices = [importance(data, shape, generator) for shape in layer_shapes()]
        with tempfile.TemporaryDirectory() as directory:
            ours = Ours(os.path.join(build, "bench_kmeans"), directory, matrices)
            for threads in map(int, options.threads.split(",")):
                ours.run(threads, 0)
                mine, theirs, shares = [], [], []
                for seed in range(options.seeds):
                    ms, found = ours.run(threads, seed)
                    mine.append(ms)
                    ms, expected = run_peer(matrices, threads, seed)
                    theirs.append(ms)
                    shares += [a / b for a, b in zip(found, expected)]
                ours_ms, peer_ms = statistics.median(mine), statistics.median(theirs)
                print(json.dumps({
                    "bench": "kmeans", "work": f"resnet50 48 convs + fc, {data}", "threads": threads,
                    "ours_ms": round(ours_ms, 1), "peer": "scikit-learn", "peer_ms": round(peer_ms, 1),
                    "ratio": round(peer_ms / ours_ms, 2), "spread": round(max(mine) / min(mine) - 1, 3),
                    "inertia_share": round(statistics.mean(shares), 5), "inertia_worst": round(max(shares), 5)}))
                sys.stdout.flush()
            ours.process.stdin.close()
            ours.process.wait()


if __name__ == "__main__":
    main()
