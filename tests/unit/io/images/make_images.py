#!/usr/bin/python3
"""Makes the images beside this script and what Pillow and torchvision's recipe make of them.

Run with Debian's python3-pil and python3-numpy (Pillow 9.4 made the files here). Files:
  NAME.jpg, NAME.png   the images, of 29x23 pixels unless the name says otherwise
  NAME.rgb             open(NAME).convert("RGB"), rows of R, G, B bytes
  NAME.grey            open(NAME).convert("L"), for some
  wide-HOW.rgb         wide.png after a transform: see the list at the end
  jitter-HOW.rgb       wide.png after an ImageEnhance operation or a turn of the hue
Pillow's 16-bit grey cuts values off at 255; the expectation for it is the upper byte, made here by hand.
"""
import os
import struct
import sys
import zlib

import numpy as np
from PIL import Image, ImageEnhance

W, H = 29, 23
HERE = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))


def picture(width, height, seed):
    """A smooth picture with an edge and some noise: compressible, and every pixel differs from its neighbours."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [127 + 90 * np.sin(x / (3 + c) + seed) * np.cos(y / (4 + c)) for c in range(3)]
    image = np.stack(planes, axis=2) + rng.normal(0, 6, (height, width, 3))
    image[height // 3:height // 2, width // 4:width // 2] = (240, 20, 60)
    return np.clip(image, 0, 255).astype(np.uint8)


def path(name):
    return os.path.join(HERE, name)


def raw(name, array):
    with open(path(name), "wb") as out:
        out.write(np.ascontiguousarray(array, dtype=np.uint8).tobytes())


def expect(file, grey=False):
    stem = os.path.splitext(file)[0]
    image = Image.open(path(file))
    raw(stem + ".rgb", np.asarray(image.convert("RGB")))
    if grey:
        raw(stem + ".grey", np.asarray(image.convert("L")))


def png16(name, array, colour_type):
    """A PNG of 16 bits a sample, which Pillow cannot write for RGB."""
    height, width = array.shape[:2]
    rows = b"".join(b"\0" + array[y].astype(">u2").tobytes() for y in range(height))

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    with open(path(name), "wb") as out:
        out.write(b"\x89PNG\r\n\x1a\n")
        out.write(chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)))
        out.write(chunk(b"IDAT", zlib.compress(rows, 9)))
        out.write(chunk(b"IEND", b""))


rgb = picture(W, H, 1)
image = Image.fromarray(rgb)
grey = image.convert("L")

image.save(path("rgb420.jpg"), quality=85)
image.save(path("rgb444.jpg"), quality=92, subsampling=0)
image.save(path("progressive.jpg"), quality=85, progressive=True)
grey.save(path("tones.jpg"), quality=85)
image.convert("CMYK").save(path("cmyk.jpg"), quality=92)
exif = Image.Exif()
exif[0x0112] = 6  # turned by 90 degrees: not applied
image.save(path("turned.jpg"), quality=85, exif=exif)
for file in ("rgb420.jpg", "rgb444.jpg", "progressive.jpg", "tones.jpg", "cmyk.jpg", "turned.jpg"):
    expect(file, grey=file in ("rgb420.jpg", "tones.jpg", "cmyk.jpg"))

image.save(path("rgb.png"))
grey.save(path("grey.png"))
alpha = np.dstack([rgb, (np.arange(W * H) % 256).reshape(H, W).astype(np.uint8)])
Image.fromarray(alpha, "RGBA").save(path("rgba.png"))
Image.fromarray(np.dstack([np.asarray(grey), alpha[:, :, 3]]), "LA").save(path("greyalpha.png"))
palette = image.quantize(11)
palette.save(path("palette.png"))
palette.save(path("palettealpha.png"), transparency=3)
grey.point(lambda v: 255 * (v > 127)).convert("1").save(path("grey1.png"))
for file in ("rgb.png", "grey.png", "rgba.png", "greyalpha.png", "palette.png", "palettealpha.png", "grey1.png"):
    expect(file, grey=file in ("rgb.png", "grey.png", "palette.png", "grey1.png"))
deep = rgb.astype(np.uint16) * 256 + np.arange(W * H * 3, dtype=np.uint16).reshape(H, W, 3) % 256
png16("rgb16.png", deep, 2)
expect("rgb16.png")
png16("grey16.png", deep[:, :, 0], 0)
raw("grey16.rgb", np.repeat(rgb[:, :, :1], 3, axis=2))

# ---- transforms of one picture, 61x43 ----
wide_array = picture(61, 43, 2)
wide = Image.fromarray(wide_array)
wide.save(path("wide.png"))


def resize_shorter(picture, side, how):
    """torchvision.transforms.Resize(side) on an image."""
    width, height = picture.size
    short, long = min(width, height), max(width, height)
    if short == side:
        return picture
    longer = int(side * long / short)
    return picture.resize((side, longer) if width <= height else (longer, side), how)


def centre_crop(picture, height, width):
    """torchvision.transforms.CenterCrop."""
    w, h = picture.size
    if width > w or height > h:
        padding = [max(0, (width - w) // 2), max(0, (height - h) // 2)]
        canvas = Image.new("RGB", (max(width, w), max(height, h)))
        canvas.paste(picture, tuple(padding))
        picture = canvas
        w, h = picture.size
        if (w, h) == (width, height):
            return picture
    top = int(round((h - height) / 2.0))
    left = int(round((w - width) / 2.0))
    return picture.crop((left, top, left + width, top + height))


TRANSFORMS = [  # name, resize (shorter side, or (height, width)), crop (height, width), filter
    ("r20c16", 20, (16, 16), Image.BILINEAR),
    ("r20c17", 20, (17, 17), Image.BILINEAR),
    ("r20c16cubic", 20, (16, 16), Image.BICUBIC),
    ("r70c64", 70, (64, 64), Image.BILINEAR),
    ("r70c64cubic", 70, (64, 64), Image.BICUBIC),
    ("r12c20", 12, (20, 20), Image.BILINEAR),
    ("r43c40", 43, (40, 40), Image.BILINEAR),
    ("e19x50", (19, 50), (19, 50), Image.BILINEAR),
]
for name, size, crop, how in TRANSFORMS:
    resized = wide.resize((size[1], size[0]), how) if isinstance(size, tuple) else resize_shorter(wide, size, how)
    raw("wide-%s.rgb" % name, np.asarray(centre_crop(resized, *crop)))
# RandomResizedCrop's crop and resize for one box
raw("wide-box.rgb", np.asarray(wide.crop((7, 5, 7 + 33, 5 + 21)).resize((16, 16), Image.BILINEAR)))

# ---- colours ----


def turn_hue(picture, factor):
    """torchvision.transforms.functional_pil.adjust_hue."""
    h, s, v = picture.convert("HSV").split()
    turned = np.array(h, dtype=np.uint8)
    turned = (turned.astype(np.int64) + int(factor * 255)).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned, "L"), s, v)).convert("RGB")


for factor in (0.6, 1.4):
    raw("jitter-brightness%.1f.rgb" % factor, np.asarray(ImageEnhance.Brightness(wide).enhance(factor)))
    raw("jitter-contrast%.1f.rgb" % factor, np.asarray(ImageEnhance.Contrast(wide).enhance(factor)))
    raw("jitter-saturation%.1f.rgb" % factor, np.asarray(ImageEnhance.Color(wide).enhance(factor)))
for factor in (-0.3, 0.2):
    raw("jitter-hue%.1f.rgb" % factor, np.asarray(turn_hue(wide, factor)))
