#!/usr/bin/python3
"""Writes the test images of CIFAR-10's binary version as files: OUT/test/CLASS/NUMBER.png, or .jpg of quality 95.

Usage: cifar_as_files.py CIFAR_DIRECTORY OUT [png|jpg]. Needs Debian's python3-pil and python3-numpy. With the files
`espalier eval resnet20_cifar10.onnx --data folder:OUT` gives the accuracy of `--data cifar10:CIFAR_DIRECTORY` exactly
(PNG loses nothing), which is how the reader of folders was checked on 10,000 real images.
"""
import os
import sys

import numpy as np
from PIL import Image

NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()
source, out = sys.argv[1:3]
ending = sys.argv[3] if len(sys.argv) > 3 else "png"
records = np.fromfile(os.path.join(source, "test_batch.bin"), np.uint8).reshape(-1, 3073)
for number, record in enumerate(records):
    directory = os.path.join(out, "test", NAMES[record[0]])
    os.makedirs(directory, exist_ok=True)
    image = Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0))
    options = {"quality": 95} if ending == "jpg" else {"compress_level": 1}
    image.save(os.path.join(directory, "%05d.%s" % (number, ending)), **options)
