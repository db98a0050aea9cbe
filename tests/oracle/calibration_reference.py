#!/usr/bin/python3
"""Numbers that PyTorch finds for the network of tests/unit/train/calibration_net.c, as a C header.

Run with a Python that has torch:  python3 tests/oracle/calibration_reference.py > tests/unit/train/calibration_reference.h
Weights and images come from the formulas that the C file uses too. Everything is computed in double.
"""
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

IMAGES, CLASSES = 5, 3


def wave(seed, count, scale=1.0, offset=0.0):
    return [float(np.float32(offset + scale * math.sin(0.37 * i + seed))) for i in range(count)]


def tensor(seed, shape, scale=1.0, offset=0.0):
    return torch.tensor(wave(seed, int(np.prod(shape)), scale, offset), dtype=torch.float64).reshape(shape)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv2d(4, 6, 3, padding=1, stride=2)
        self.norm3 = nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, CLASSES)
        self.double()
        with torch.no_grad():
            self.conv1.weight.copy_(tensor(1, (4, 2, 3, 3), 0.5))
            self.conv2.weight.copy_(tensor(2, (4, 4, 3, 3), 0.4))
            self.conv2.bias.copy_(tensor(3, (4,), 0.3))
            self.conv3.weight.copy_(tensor(4, (6, 4, 3, 3), 0.4))
            self.conv3.bias.copy_(tensor(5, (6,), 0.3))
            self.linear.weight.copy_(tensor(6, (CLASSES, 6), 0.8))
            self.linear.bias.copy_(tensor(7, (CLASSES,), 0.2))
            for norm, seed in ((self.norm1, 10), (self.norm3, 20)):
                count = norm.num_features
                norm.weight.copy_(tensor(seed, (count,), 0.3, 1.0))
                norm.bias.copy_(tensor(seed + 1, (count,), 0.4))
                norm.running_mean.copy_(tensor(seed + 2, (count,), 0.3))
                norm.running_var.copy_(tensor(seed + 3, (count,), 0.5, 1.0))

    def forward(self, x):
        self.maps = {}
        a1 = F.relu(self.norm1(self.conv1(x)))
        y2 = self.conv2(a1)
        r2 = F.relu(y2 + a1)
        a3 = F.relu(self.norm3(self.conv3(r2)))
        logits = self.linear(a3.mean((2, 3)))
        self.maps = {"conv1": a1, "conv2": y2, "conv3": a3, "linear": logits}
        self.rectified = {"conv1": a1, "conv2": r2, "conv3": a3}
        return logits


def images():
    pixels = np.zeros((IMAGES, 2, 6, 6))
    for n in range(IMAGES):
        for i in range(72):
            pixels[n].flat[i] = (i * 29 + n * 53 + i * i % 17 * 7) % 256
    mean = np.float32([0.4, 0.5]).astype(np.float64).reshape(1, 2, 1, 1)
    std = np.float32([0.25, 0.3]).astype(np.float64).reshape(1, 2, 1, 1)
    return torch.tensor((pixels / 255 - mean) / std), torch.arange(IMAGES) % CLASSES


def show(name, values):
    numbers = ", ".join("%.10g" % float(v) for v in values)
    print("static const double %s[] = {%s};" % (name, numbers))


def per_channel(map_, reduce):
    dims = [d for d in range(map_.dim()) if d != 1]
    return reduce(map_).double().mean(dims)


def criteria(net, x, labels):
    net.eval()
    logits = net(x)
    for name, map_ in net.maps.items():
        show("activation_" + name, per_channel(map_.detach(), torch.abs))
        map_.retain_grad()
    for name, map_ in net.rectified.items():
        show("apoz_" + name, per_channel(map_.detach(), lambda a: a != 0))
    F.cross_entropy(logits, labels, reduction="sum").backward()
    for name, map_ in net.maps.items():
        product = (map_ * map_.grad).detach().reshape(IMAGES, map_.shape[1], -1).sum(2)
        show("taylor_" + name, product.abs().mean(0))
    totals = {}
    for n in range(IMAGES):
        net.zero_grad()
        F.cross_entropy(net(x[n:n + 1]), labels[n:n + 1]).backward()
        for name in ("conv1", "conv2", "conv3", "linear"):
            weight = getattr(net, name).weight
            product = (weight * weight.grad).detach().reshape(weight.shape[0], -1).sum(1)
            totals[name] = totals.get(name, 0) + product ** 2 / IMAGES
    for name, total in totals.items():
        show("taylor_weight_" + name, total)


def recalibrated(net, batches, prefix):
    """Mean and unbiased variance of what every batch-norm reads, over all batches, each normalised by itself."""
    seen = {"norm1": [], "norm3": []}
    hooks = [getattr(net, name).register_forward_hook(lambda m, i, o, name=name: seen[name].append(i[0].detach()))
             for name in seen]
    net.train()
    for batch in batches:
        net(batch)
    for hook in hooks:
        hook.remove()
    for name, inputs in seen.items():
        values = torch.cat(inputs).transpose(0, 1).flatten(1)
        show("%s_%s_mean" % (prefix, name), values.mean(1))
        show("%s_%s_variance" % (prefix, name), values.var(1, unbiased=True))


def momentum_none(net, x):
    for name in ("norm1", "norm3"):
        norm = getattr(net, name)
        norm.momentum = None
        norm.reset_running_stats()
    net.train()
    net(x)
    for name in ("norm1", "norm3"):
        show("whole_%s_mean" % name, getattr(net, name).running_mean)
        show("whole_%s_variance" % name, getattr(net, name).running_var)


def main():
    x, labels = images()
    print("/* Made by tests/oracle/calibration_reference.py with PyTorch %s. */" % torch.__version__.split("+")[0])
    print("#ifndef ESP_TESTS_CALIBRATION_REFERENCE_H\n#define ESP_TESTS_CALIBRATION_REFERENCE_H\n")
    print("/* per filter */")
    criteria(Net(), x, labels)
    print("\n/* batch-norm statistics: all five images as one batch by BatchNorm2d with momentum=None; the first two,\n"
          " * then three, pooled */")
    with torch.no_grad():
        momentum_none(Net(), x)
        recalibrated(Net(), [x[:2], x[2:]], "pooled")
    print("\n#endif")


main()
