#!/usr/bin/python3
"""CIFAR-10's test images as photographs of all sizes, and what torchvision makes of them.

Usage: torchvision_images.py CIFAR_DIRECTORY OUT IMAGES RESIZE CROP. Needs Debian's python3-torchvision. Writes
OUT/folder/test/CLASS/NUMBER.jpg or .png (sizes of 40 to 400, qualities of 60 to 100, some grey, progressive or with a
palette), and OUT/npy/{x,y}_test.npy: the same files through torchvision's ImageFolder, Resize, CenterCrop and ToTensor.
"""
import os
import random
import sys

import numpy as np
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()
source, out = sys.argv[1:3]
count, resize, crop = (int(text) for text in sys.argv[3:6])
random.seed(1)


def save(image, path, number):
    width = random.randint(40, 400)
    height = random.randint(40, 400)
    image = image.resize((width, height), Image.BICUBIC)
    kind = number % 8
    if kind == 0:
        image.convert("L").save(path + ".jpg", quality=90)
    elif kind == 1:
        image.save(path + ".png", compress_level=1)
    elif kind == 2:
        image.convert("P").save(path + ".png", compress_level=1)
    else:
        image.save(path + ".jpg", quality=random.randint(60, 100), progressive=kind == 3, subsampling=kind % 3)


records = np.fromfile(os.path.join(source, "test_batch.bin"), np.uint8).reshape(-1, 3073)[:count]
for number, record in enumerate(records):
    directory = os.path.join(out, "folder", "test", NAMES[record[0]])
    os.makedirs(directory, exist_ok=True)
    save(Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0)), os.path.join(directory, "%05d" % number), number)

transform = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop), transforms.ToTensor()])
dataset = ImageFolder(os.path.join(out, "folder", "test"), transform)
images = np.stack([image.numpy() for image, _ in dataset])
os.makedirs(os.path.join(out, "npy"), exist_ok=True)
np.save(os.path.join(out, "npy", "x_test.npy"), np.rint(images * 255).astype(np.uint8))
np.save(os.path.join(out, "npy", "y_test.npy"), np.array([label for _, label in dataset], np.int64))
for name in ("x", "y"):  # a set has training images
    np.save(os.path.join(out, "npy", name + "_train.npy"), np.load(os.path.join(out, "npy", name + "_test.npy"))[:1])
