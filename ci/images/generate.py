"""Reference values for decoding, resizing and augmenting, made with Pillow and torchvision.

usage: generate.py OUT_DIR        (the project's are datasets/tests/images/data)

Needs Pillow 12 or earlier, numpy, torch and torchvision. Pillow 13 makes the vertical pass of a resize first where that
is less work; all versions before it, and torchvision's tensors, make the horizontal one first, and so do we. Writes

    files/*         small images in every format and pixel layout that is read
    decoded.csv     name,width,height,offset: where Pillow's `Image.open(f).convert("RGB")` begins in decoded.bin
    decoded.bin     those pixels, rows from the top, red green blue
    resized.csv     size, box, new size, filter and sha256 of what Pillow's crop and resize make of the pattern below
    augmented.toml  inputs, parameters and results of torchvision's functions on float images
    drawn.csv       random numbers, and the rectangles that torchvision makes of them
"""

import csv
import hashlib
import io
import math
import pathlib
import struct
import sys
import unittest.mock
import zlib

import numpy as np
import PIL
import torch
import torchvision.transforms.v2 as transforms
import torchvision.transforms.v2.functional as F
from PIL import Image

WIDTH, HEIGHT = 25, 19


def pattern(width, height):
    """The picture that the tests of Rust make too."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((37 * x + 101 * y + 59 * c + (x * y) % 7 * 13) % 256).astype(np.uint8)


def scene():
    """A smooth picture with an edge: lossy formats keep it, and their rounding shows."""
    y, x = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    red = 128 + 100 * np.sin(x / 5) * np.cos(y / 7)
    green = 40 + 8 * y + 2 * x
    blue = np.where(x + y > 22, 210, 60) - y
    return np.clip(np.stack([red, green, blue], axis=2), 0, 255).astype(np.uint8)


def saved(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, depth, color, rows, extra=b""):
    """A PNG of a layout that Pillow reads but does not write."""
    head = struct.pack(">IIBBBBB", width, len(rows), depth, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def deep_rows(channels):
    """Two rows of 16-bit samples around every border where a rounding could go another way."""
    levels = [0, 1, 127, 128, 129, 254, 255, 256, 257, 384, 511, 512, 32639, 32767, 32768, 65407, 65408, 65534, 65535]
    rows = []
    for step in (1, 7):
        values = [levels[(step * (i + c)) % len(levels)] for i in range(len(levels)) for c in range(channels)]
        rows.append(struct.pack(f">{len(values)}H", *values))
    return len(levels), rows


def png_files(rgb):
    image, grey = Image.fromarray(rgb), Image.fromarray(rgb).convert("L")
    alpha = Image.fromarray((rgb[:, :, 0] // 2 + 30).astype(np.uint8))
    few = image.quantize(16)
    yield "grey.png", saved(grey, "PNG")
    yield "grey-alpha.png", saved(Image.merge("LA", [grey, alpha]), "PNG")
    yield "bilevel.png", saved(image.convert("1"), "PNG")
    yield "rgb.png", saved(image, "PNG")
    yield "rgba.png", saved(Image.merge("RGBA", [*image.split(), alpha]), "PNG")
    yield "rgb-key.png", saved(image, "PNG", transparency=tuple(int(v) for v in rgb[3, 4]))
    yield "grey-key.png", saved(grey, "PNG", transparency=int(np.asarray(grey)[3, 4]))
    yield "palette.png", saved(few, "PNG")
    yield "palette-key.png", saved(few, "PNG", transparency=3)
    yield "palette-alpha.png", saved(few, "PNG", transparency=bytes(range(0, 240, 15)))
    yield "palette-1bit.png", saved(image.quantize(2), "PNG", bits=1)
    yield "palette-2bit.png", saved(image.quantize(4), "PNG", bits=2)
    packed = [bytes([0b00011011, 0b10110001, (row * 37) % 256]) for row in range(6)]
    yield "grey-2bit.png", png(12, 2, 0, packed)
    yield "grey-4bit.png", png(6, 4, 0, packed)
    yield "palette-short.png", png(12, 2, 3, packed, chunk(b"PLTE", bytes([9, 8, 7, 250, 3, 90, 0, 255, 1, 5, 5, 5])))
    for name, color, channels in (("grey", 0, 1), ("grey-alpha", 4, 2), ("rgb", 2, 3), ("rgba", 6, 4)):
        width, rows = deep_rows(channels)
        yield f"{name}-16bit.png", png(width, 16, color, rows)
    width, rows = deep_rows(1)
    yield "grey-16bit-key.png", png(width, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 257)))
    width, rows = deep_rows(3)
    yield "rgb-16bit-key.png", png(width, 16, 2, rows, chunk(b"tRNS", struct.pack(">HHH", 0, 1, 127)))
    gamma = chunk(b"gAMA", struct.pack(">I", 100_000))
    yield "gamma.png", png(WIDTH, 8, 2, [row.tobytes() for row in rgb], gamma)


def jpeg_files(rgb):
    image = Image.fromarray(rgb)
    for name, sampling in (("444", 0), ("422", 1), ("420", 2)):
        yield f"rgb-{name}.jpg", saved(image, "JPEG", quality=90, subsampling=sampling)
        yield f"rgb-{name}-progressive.jpg", saved(image, "JPEG", quality=75, subsampling=sampling, progressive=True)
    yield "restarts.jpg", saved(image, "JPEG", quality=90, subsampling=2, restart_marker_blocks=2)
    yield "grey.jpg", saved(image.convert("L"), "JPEG", quality=90)
    yield "untransformed.jpg", saved(image, "JPEG", quality=90, keep_rgb=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "turned.jpg", saved(image, "JPEG", quality=90, subsampling=0, exif=exif)
    black = Image.fromarray((rgb[:, :, 2] // 3).astype(np.uint8))
    cmyk = saved(Image.merge("CMYK", [*image.split(), black]), "JPEG", quality=90)
    yield "cmyk.jpg", cmyk
    # The marker's last byte is the colour transform: 2 is YCCK. Without the marker the levels are not inverted.
    at = cmyk.index(b"\xff\xee\x00\x0eAdobe")
    yield "ycck.jpg", cmyk[: at + 15] + b"\x02" + cmyk[at + 16 :]
    yield "cmyk-plain.jpg", cmyk[:at] + cmyk[at + 16 :]


def other_files(rgb):
    image, grey = Image.fromarray(rgb), Image.fromarray(rgb).convert("L")
    alpha = Image.fromarray((rgb[:, :, 0] // 2 + 30).astype(np.uint8))
    rgba, few = Image.merge("RGBA", [*image.split(), alpha]), image.quantize(16)
    for name, source in (("bilevel", image.convert("1")), ("palette", few), ("grey", grey), ("rgb", image), ("rgba", rgba)):
        yield f"{name}.bmp", saved(source, "BMP")
        yield f"{name}.tif", saved(source, "TIFF")
    yield "grey-alpha.tif", saved(Image.merge("LA", [grey, alpha]), "TIFF")
    yield "grey-16bit.tif", saved(Image.fromarray(np.arange(0, 700, 7, dtype=np.uint16).reshape(10, 10)), "TIFF")
    yield "cmyk.tif", saved(Image.merge("CMYK", [*image.split(), alpha]), "TIFF")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield f"rgb-{compression}.tif", saved(image, "TIFF", compression=compression)
    yield "palette.gif", saved(few, "GIF")
    yield "palette-key.gif", saved(few, "GIF", transparency=3)
    second = few.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    yield "frames.gif", saved(few, "GIF", save_all=True, append_images=[second])
    yield "rgb-lossless.webp", saved(image, "WEBP", lossless=True)
    yield "rgba-lossless.webp", saved(rgba, "WEBP", lossless=True, exact=True)
    yield "rgb-lossy.webp", saved(image, "WEBP", quality=90)
    yield "rgba-lossy.webp", saved(rgba, "WEBP", quality=90)


def write_decoded(out):
    (out / "files").mkdir(parents=True, exist_ok=True)
    rgb, pixels = scene(), b""
    with open(out / "decoded.csv", "w", newline="") as table:
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["name", "width", "height", "offset"])
        for name, data in [*png_files(rgb), *jpeg_files(rgb), *other_files(rgb)]:
            (out / "files" / name).write_bytes(data)
            with Image.open(io.BytesIO(data)) as image:
                converted = image.convert("RGB")
            rows.writerow([name, converted.width, converted.height, len(pixels)])
            pixels += converted.tobytes()
    (out / "decoded.bin").write_bytes(pixels)


def write_resized(out):
    # Size, box of the crop (left, top, width, height), new size.
    works = [
        ((500, 375), (0, 0, 500, 375), (341, 256)),
        ((375, 500), (0, 0, 375, 500), (256, 341)),
        ((256, 256), (0, 0, 256, 256), (224, 224)),
        ((256, 256), (13, 7, 231, 219), (224, 224)),
        ((256, 256), (100, 3, 20, 250), (224, 224)),
        ((256, 256), (0, 200, 256, 1), (64, 64)),
        ((1600, 30), (5, 0, 1590, 30), (48, 48)),
        ((90, 70), (10, 10, 64, 48), (64, 31)),
        ((90, 70), (10, 6, 48, 64), (31, 64)),
        ((33, 21), (0, 0, 33, 21), (33, 21)),
        ((3, 2), (0, 0, 3, 2), (400, 300)),
        ((1, 1), (0, 0, 1, 1), (5, 7)),
    ]
    with open(out / "resized.csv", "w", newline="") as table:
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow("width height left top box_width box_height new_width new_height filter sha256".split())
        for (width, height), (left, top, w, h), size in works:
            box = Image.fromarray(pattern(width, height)).crop((left, top, left + w, top + h))
            for name, kernel in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
                digest = hashlib.sha256(box.resize(size, kernel).tobytes()).hexdigest()
                rows.writerow([width, height, left, top, w, h, *size, name, digest])


def numbers(values):
    return "[" + ", ".join(f"{v:.9g}" if v % 1 else f"{v:.1f}" for v in values) + "]"


def case(name, image, result, **parameters):
    lines = [f"[[{name}]]"]
    for key, value in parameters.items():
        lines.append(f"{key} = {numbers(value) if isinstance(value, list) else value}")
    lines.append(f"input = {numbers(image.flatten().tolist())}")
    lines.append(f"output = {numbers(result.flatten().tolist())}")
    return "\n".join(lines) + "\n"


def write_augmented(out):
    torch.manual_seed(3)
    levels = torch.randint(0, 256, (3, 6, 6)).float() / 255
    levels[:, 0, 0], levels[:, 0, 1], levels[:, 0, 2] = 0.0, 1.0, 0.5
    levels[:, 1, 0] = torch.tensor([0.2, 0.2, 0.7])
    levels[:, 1, 1] = torch.tensor([0.9, 0.1, 0.9])
    signed = torch.randn(3, 7, 7)
    light = {
        "brightness": F.adjust_brightness, "contrast": F.adjust_contrast,
        "saturation": F.adjust_saturation, "hue": F.adjust_hue,
    }
    factors = {"brightness": [0.0, 0.7, 1.6], "contrast": [0.0, 0.6, 1.8], "saturation": [0.0, 0.5, 1.9], "hue": [-0.5, -0.13, 0.0, 0.29, 0.5]}
    cases = []
    for part, apply in light.items():
        for factor in factors[part]:
            cases.append(case("jitter", levels, apply(levels, factor), parts=f'["{part}"]', factors=[factor]))
    for order in (["hue", "contrast", "saturation", "brightness"], ["saturation", "brightness", "hue", "contrast"]):
        chosen, result = {"brightness": 1.2, "contrast": 0.7, "saturation": 1.3, "hue": 0.1}, levels
        for part in order:
            result = light[part](result, chosen[part])
        parts = "[" + ", ".join(f'"{part}"' for part in order) + "]"
        cases.append(case("jitter", levels, result, parts=parts, factors=[chosen[part] for part in order]))
    for image in (signed, signed[:, :6, :6]):
        for degrees in (-180.0, -31.0, -7.5, 2.0, 15.0, 45.0, 90.0):
            turned = F.rotate(image, degrees, interpolation=transforms.InterpolationMode.BILINEAR)
            cases.append(case("rotate", image, turned, size=image.shape[1], degrees=degrees))
        cases.append(case("flip", image, F.horizontal_flip(image), size=image.shape[1]))
        erased = F.erase(image, 2, 1, 3, 4, torch.zeros(3, 1, 1))
        cases.append(case("erase", image, erased, size=image.shape[1], top=2, left=1, height=3, width=4))
    norm = F.normalize(levels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    cases.append(case("normalise", levels, norm, size=6))
    for grid, order in ((2, [3, 0, 2, 1]), (3, [8, 1, 6, 0, 4, 2, 7, 3, 5])):
        image, tile = signed[:, :6, :6], 6 // grid
        tiles = [image[:, y : y + tile, x : x + tile] for y in range(0, 6, tile) for x in range(0, 6, tile)]
        rows = [torch.cat([tiles[k] for k in order[r * grid : (r + 1) * grid]], 2) for r in range(grid)]
        cases.append(case("shuffle", image, torch.cat(rows, 1), size=6, grid=grid, order=str(order)))
    (out / "augmented.toml").write_text("\n".join(cases))


class Drawn:
    """Stands in for `torch.empty(1)`: its `uniform_` gives the next of the numbers."""

    def __init__(self, values):
        self.values = iter(values)

    def __call__(self, *_, **__):
        return self

    def uniform_(self, *_):
        return torch.tensor([next(self.values)], dtype=torch.float64)


def shapes(transform, image, numbers):
    """The rectangle of `transform` when the first try draws these numbers (share of area, log of the ratio) and every
    further one the same; positions are 0."""
    zero = lambda *_, **__: torch.zeros(1, dtype=torch.int64)
    with unittest.mock.patch("torch.empty", Drawn(numbers * 10)), unittest.mock.patch("torch.randint", zero):
        return transform.make_params([image])


def write_drawn(out):
    with open(out / "drawn.csv", "w", newline="") as table:
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow("what width height share log_ratio fits left top box_width box_height".split())
        crop = transforms.RandomResizedCrop(224, scale=(0.08, 1.0))
        erase = transforms.RandomErasing(p=1, scale=(0.02, 0.9))
        for width, height in ((256, 256), (341, 256), (37, 90), (500, 20), (20, 500), (1, 1)):
            for share in (0.08, 0.331, 0.67, 0.9, 1.0):
                for ratio in (0.75, 0.9, 1.0, 1.21, 4 / 3):
                    image = torch.zeros(3, height, width)
                    got = shapes(crop, image, [share, math.log(ratio)])
                    fits = got["height"], got["width"]
                    tried = [int(round(math.sqrt(width * height * share * r))) for r in (ratio, 1 / ratio)]
                    fits = 0 < tried[0] <= width and 0 < tried[1] <= height
                    row = [got["left"], got["top"], got["width"], got["height"]]
                    rows.writerow(["crop", width, height, share, repr(math.log(ratio)), int(fits), *row])
        for size in (10, 64, 224):
            for share in (0.02, 0.15, 0.3, 0.45, 0.9):
                for ratio in (0.3, 0.8, 1.0, 1.7, 3.3):
                    got = shapes(erase, torch.zeros(3, size, size), [share, math.log(ratio)])
                    row, fits = [got["j"], got["i"], got["w"], got["h"]], got["v"] is not None
                    rows.writerow(["erase", size, size, share, repr(math.log(ratio)), int(fits), *(row if fits else [0] * 4)])


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: generate.py OUT_DIR")
    if int(PIL.__version__.split(".")[0]) > 12:
        sys.exit(f"generate.py: Pillow {PIL.__version__} resizes in another order; install 'pillow<13'")
    out = pathlib.Path(sys.argv[1])
    write_decoded(out)
    write_resized(out)
    write_augmented(out)
    write_drawn(out)


if __name__ == "__main__":
    main()
