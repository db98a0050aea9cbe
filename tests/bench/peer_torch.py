#!/usr/bin/python3
"""Training steps of an ONNX model in PyTorch, in turns with another program.

    peer_torch.py MODEL.onnx --batch N --threads N

The network is rebuilt from the file: the same nodes and weights, with activations in place where autograd allows it. Images
are channels-last. A step is forward, cross-entropy with random labels, backward, SGD with momentum 0.9 and weight decay 1e-4.
Orders and answers are those of `espalier bench --turns`. Exit status 77, with the reason, where PyTorch or onnx is missing.
"""
import argparse
import json
import os
import resource
import statistics
import sys
import time

# an allocator that gives nothing back to the system between steps: the fair peer (must be set before the process starts)
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
if any(os.environ.get(name) != value for name, value in TUNED.items()):
    os.environ.update(TUNED)
    os.execv(sys.executable, [sys.executable] + sys.argv)

try:
    import numpy
    import onnx
    import onnx.numpy_helper
    import torch
    import torch.nn.functional as F
except ImportError as problem:
    print(f"PyTorch cannot be had: {problem}")
    sys.exit(77)


def rss_peak():
    # not getrusage: what that says begins with the peak of the process that started this one
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def processor_s():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def symmetric(pads):
    if pads[: len(pads) // 2] != pads[len(pads) // 2 :]:
        raise ValueError(f"pads {pads}: expected the same on both sides")
    return pads[: len(pads) // 2]


class Network(torch.nn.Module):
    """The operators the zoo's networks have."""

    def __init__(self, path):
        super().__init__()
        graph = onnx.load(path).graph
        self.tensors, self.readers, self.steps = {}, {}, []
        for constant in graph.initializer:
            value = torch.from_numpy(onnx.numpy_helper.to_array(constant).copy())
            self.tensors[constant.name] = value
        names = {constant.name for constant in graph.initializer}
        self.input = [value.name for value in graph.input if value.name not in names][0]
        self.shape = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim][1:]
        self.output = graph.output[0].name
        for node in graph.node:
            for name in node.input:
                self.readers[name] = self.readers.get(name, 0) + 1
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            self.steps.append((getattr(self, "run_" + node.op_type), list(node.input), node.output[0], attributes))
            running = set(node.input[3:5]) if node.op_type == "BatchNormalization" else set()
            for i, name in enumerate(node.input):
                value = self.tensors.get(name)
                if value is None or not value.is_floating_point():
                    continue
                if name in running:
                    self.register_buffer(name.replace(".", "_"), value)
                elif not isinstance(value, torch.nn.Parameter):
                    if value.dim() == 4:
                        value = value.contiguous(memory_format=torch.channels_last)
                    self.tensors[name] = torch.nn.Parameter(value)
                    self.register_parameter(name.replace(".", "_"), self.tensors[name])

    def run_Conv(self, values, inputs, attributes):
        x, *parameters = (values[name] for name in inputs)
        return F.conv2d(x, *parameters, stride=attributes.get("strides", 1), groups=attributes.get("group", 1),
                        padding=symmetric(attributes.get("pads", [0, 0, 0, 0])),
                        dilation=attributes.get("dilations", 1))

    def run_BatchNormalization(self, values, inputs, attributes):
        x, weight, bias, mean, variance = (values[name] for name in inputs)
        return F.batch_norm(x, mean, variance, weight, bias, training=True,
                            momentum=1 - attributes.get("momentum", 0.9), eps=attributes.get("epsilon", 1e-5))

    def run_Relu(self, values, inputs, attributes):
        x = values[inputs[0]]
        return F.relu_(x) if self.readers[inputs[0]] == 1 and inputs[0] != self.input else F.relu(x)

    def run_MaxPool(self, values, inputs, attributes):
        return F.max_pool2d(values[inputs[0]], attributes["kernel_shape"], attributes.get("strides", 1),
                            symmetric(attributes.get("pads", [0, 0, 0, 0])))

    def run_AveragePool(self, values, inputs, attributes):
        return F.avg_pool2d(values[inputs[0]], attributes["kernel_shape"], attributes.get("strides", 1),
                            symmetric(attributes.get("pads", [0, 0, 0, 0])))

    def run_GlobalAveragePool(self, values, inputs, attributes):
        return F.adaptive_avg_pool2d(values[inputs[0]], 1)

    def run_Flatten(self, values, inputs, attributes):
        return torch.flatten(values[inputs[0]], attributes.get("axis", 1))

    def run_Gemm(self, values, inputs, attributes):
        if attributes.get("transB", 0) != 1 or attributes.get("alpha", 1.0) != 1.0:
            raise ValueError("Gemm: expected transB = 1 and alpha = 1")
        return F.linear(*(values[name] for name in inputs))

    def run_Add(self, values, inputs, attributes):
        return values[inputs[0]] + values[inputs[1]]

    def run_Concat(self, values, inputs, attributes):
        return torch.cat([values[name] for name in inputs], attributes["axis"])

    def run_Gather(self, values, inputs, attributes):
        return torch.index_select(values[inputs[0]], attributes.get("axis", 0), values[inputs[1]])

    def run_Dropout(self, values, inputs, attributes):
        return F.dropout(values[inputs[0]], 0.5, training=True)

    def forward(self, x):
        values = dict(self.tensors)
        values[self.input] = x
        for run, inputs, output, attributes in self.steps:
            values[output] = run(values, inputs, attributes)
        return values[self.output]


class Step:
    def __init__(self, options):
        self.rss_before = rss_peak()
        torch.manual_seed(0)
        torch.set_num_threads(options.threads)
        self.network = Network(options.model)
        self.x = torch.randn(options.batch, *self.network.shape).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            classes = self.network(self.x[:2]).shape[1]
        self.labels = torch.randint(0, classes, (options.batch,))
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def run(self):
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.network(self.x)
        F.cross_entropy(logits, self.labels).backward()
        self.optimizer.step()
        return logits

    def run_for(self, seconds):
        times, start, processor = [], time.perf_counter(), processor_s()
        while not times or time.perf_counter() - start < seconds:
            begin = time.perf_counter()
            self.run()
            times.append(1e3 * (time.perf_counter() - begin))
        return {"ms": statistics.median(times), "runs": len(times), "elapsed_s": time.perf_counter() - start,
                "cpu_s": processor_s() - processor, "memory": {"rss_peak": rss_peak()}}


def say(answer):
    print(json.dumps(answer), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    step = Step(options)
    for _ in range(2):
        step.run()
    say({"ready": True, "version": torch.__version__, "threads": torch.get_num_threads(), "rss_before": step.rss_before})
    for line in sys.stdin:
        order, _, argument = line.strip().partition(" ")
        if order == "run":
            say(step.run_for(float(argument)))
        elif order == "input":
            values = numpy.fromfile(argument, "<f4").reshape(step.x.shape)
            step.x = torch.from_numpy(values).contiguous(memory_format=torch.channels_last)
            say({"bytes": values.nbytes})
        elif order == "output":
            logits = step.run().detach().contiguous().numpy()
            logits.astype("<f4").tofile(argument)
            say({"bytes": logits.nbytes})
        else:
            sys.exit(f"standard input: found '{line.strip()}', expected run SECONDS, input FILE or output FILE")


main()
