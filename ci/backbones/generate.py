#!/usr/bin/env python3
"""Writes parity files of timm architectures: names, shapes, features, logits and gradients of filled networks.

usage: generate.py OUT_DIR ARCH[@SIZE[xBATCH]] ...          needs: torch, timm, safetensors, numpy

Every parameter is filled by the formula in README.md, so no weights travel. Everything is computed in float64. Without
arguments behind OUT_DIR the shipped set is made. A size is the side of the images (default 64), a batch their number
(default 4).
"""
import json
import math
import os
import sys

import numpy as np
import timm
import torch
from safetensors.torch import save_file

# What `bench verify` compares by default: one small network of every family, at sizes at which they are quick.
SHIPPED = [
    "resnet18@64",
    "regnetx_002@64",
    "regnety_002@80",
    "convnext_atto@64",
    "efficientnet_b0@64",
    "vit_tiny_patch16_224@64",
]
CLASSES = 10
# Buffers that are no numbers of the network.
SKIPPED = ("num_batches_tracked", "relative_position_index", "attn_mask")

FNV_OFFSET, FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3
GOLDEN, FIRST, SECOND = (np.uint64(v) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def unit(name, count):
    """`count` multiples of 2^-23 in [-1, 1): splitmix64's output function over the FNV-1a hash of the name."""
    state = FNV_OFFSET
    for byte in name.encode():
        state = (state ^ byte) * FNV_PRIME % 2**64
    with np.errstate(over="ignore"):
        bits = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN + np.uint64(state)
        bits = (bits ^ bits >> np.uint64(30)) * FIRST
        bits = (bits ^ bits >> np.uint64(27)) * SECOND
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0


def fill(name, shape):
    """The values of a parameter or buffer, rounded to float32."""
    shape = tuple(shape)
    u = torch.from_numpy(unit(name, math.prod(shape))).reshape(shape)
    if name.endswith("running_var"):
        values = 1 + u * 0.5
    elif name.endswith("running_mean"):
        values = u * 0.1
    elif name.endswith("gamma"):
        values = 0.5 + u * 0.1
    elif name in ("pos_embed", "cls_token", "reg_token") or name.endswith("relative_position_bias_table"):
        values = u * 0.2
    elif len(shape) > 1:
        values = u * math.sqrt(3.0 / math.prod(shape[1:]))
    elif name.endswith("weight"):
        values = 1 + u * 0.1
    else:
        values = u * 0.1
    return values.float().double()


def model_of(arch, size):
    """The network with filled parameters, in float64, and the names and shapes that were filled."""
    sized = {"img_size": size} if arch.startswith("vit_") else {}
    model = timm.create_model(arch, num_classes=CLASSES, **sized).double()
    filled = {n: fill(n, t.shape) for n, t in model.state_dict().items() if not n.endswith(SKIPPED)}
    missing, unexpected = model.load_state_dict(filled, strict=False)
    assert not unexpected and all(n.endswith(SKIPPED) for n in missing), (missing, unexpected)
    return model, [{"name": n, "shape": list(t.shape)} for n, t in filled.items()]


def gradients(model, features):
    """L2 norm and probe of each gradient of `sum(features * unit("cotangent")) / count`."""
    cotangent = torch.from_numpy(unit("cotangent", features.numel())).reshape(features.shape)
    ((features * cotangent).sum() / features.numel()).backward()
    pairs = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradient = parameter.grad.reshape(-1)
            probe = torch.from_numpy(unit(f"probe.{name}", gradient.numel()))
            pairs[name] = [gradient.norm().item(), gradient.dot(probe).item()]
    return pairs


def write(out, arch, size, batch):
    model, params = model_of(arch, size)
    shape = [batch, 3, size, size]
    images = torch.from_numpy(unit("input", math.prod(shape))).reshape(shape)
    with torch.no_grad():
        features_eval = model.eval().forward_features(images)
        logits_eval = model.forward_head(features_eval)
    features_train = model.train().forward_features(images)
    grads = gradients(model, features_train)
    description = {"arch": arch, "timm": timm.__version__, "input": shape, "num_classes": CLASSES,
                   "num_features": model.num_features, "params": params, "grads": grads}
    with open(f"{out}/{arch}.json", "w") as file:
        lines = json.dumps(description)
        # A parameter a line.
        file.write(lines.replace("}, {", "},\n{").replace("], \"", "],\n\"") + "\n")
    tensors = {"features_eval": features_eval, "logits_eval": logits_eval, "features_train": features_train}
    save_file({n: t.detach().contiguous() for n, t in tensors.items()}, f"{out}/{arch}.safetensors")
    os.chmod(f"{out}/{arch}.safetensors", 0o644)
    print(arch, shape, tuple(features_eval.shape), f"{len(params)} parameters and buffers", flush=True)


def main(out, specs):
    os.makedirs(out, exist_ok=True)
    torch.manual_seed(0)
    for spec in specs or SHIPPED:
        arch, _, sizes = spec.partition("@")
        size, _, batch = sizes.partition("x")
        write(out, arch, int(size or 64), int(batch or 4))


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
