#!/usr/bin/env python3
"""Writes PyTorch's trajectories of the optimisers: parameters after each of 20 steps, in float64.

usage: generate.py OUT.json          needs: torch

Every parameter starts, and every gradient is, by a formula that the test knows too:
`wave(seed, i) = sin(1.7 seed + 0.9 i) + 0.3 cos(0.2 seed i)` for element `i`. A file holds, per trajectory, its settings and
the parameters after steps 1, 5, 10 and 20. `bn.weight` and `bn.bias` are one-dimensional and do not decay; `late.weight` has
no gradient in the first three steps.
"""
import json
import math
import sys

import torch

SHAPES = {"conv.weight": [3, 2, 2, 2], "bn.weight": [5], "bn.bias": [5], "late.weight": [2, 3]}
STEPS, SHOWN = 20, (1, 5, 10, 20)
LATE = 3


def wave(seed, count):
    return [math.sin(1.7 * seed + 0.9 * i) + 0.3 * math.cos(0.2 * seed * i) for i in range(count)]


def tensor(seed, shape):
    return torch.tensor(wave(seed, math.prod(shape)), dtype=torch.float64).reshape(shape)


def start():
    return {name: torch.nn.Parameter(tensor(index + 1, shape)) for index, (name, shape) in enumerate(SHAPES.items())}


def groups(parameters, decay):
    """Weight decay for what has two dimensions or more alone."""
    flat = [p for p in parameters.values() if p.dim() < 2]
    deep = [p for p in parameters.values() if p.dim() >= 2]
    return [{"params": deep, "weight_decay": decay}, {"params": flat, "weight_decay": 0.0}]


def schedule(optimizer, warmup, least):
    """Linear warm-up to the rate, then half a cosine down to `least`, from PyTorch's own schedulers."""
    up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / warmup)
    down = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - warmup, eta_min=least)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [up, down], milestones=[warmup])


def trajectory(kind, settings):
    parameters = start()
    rate, decay = settings["learning_rate"], settings["weight_decay"]
    if kind == "adamw":
        betas = (settings["beta1"], settings["beta2"])
        optimizer = torch.optim.AdamW(groups(parameters, decay), lr=rate, betas=betas, eps=settings["eps"], foreach=False)
    else:
        momentum, nesterov = settings["momentum"], settings["nesterov"]
        optimizer = torch.optim.SGD(groups(parameters, decay), lr=rate, momentum=momentum, nesterov=nesterov, foreach=False)
    warmup = settings.get("warmup_steps", 0)
    scheduler = schedule(optimizer, warmup, settings["min_learning_rate"]) if warmup else None
    teacher = torch.optim.swa_utils.AveragedModel(
        torch.nn.ParameterDict({n.replace(".", "_"): p for n, p in parameters.items()}),
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(settings["ema_decay"]))
    # The first update of PyTorch's class copies; ours starts as a copy.
    teacher.update_parameters(teacher.module)
    shown, norms, rates = {}, [], []
    for step in range(1, STEPS + 1):
        for index, (name, p) in enumerate(parameters.items()):
            late = name == "late.weight" and step <= LATE
            p.grad = None if late else tensor(100 * step + index + 1, p.shape)
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), settings["max_norm"], foreach=False)
        norms.append(norm.item())
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler:
            scheduler.step()
        teacher.update_parameters(torch.nn.ParameterDict({n.replace(".", "_"): p for n, p in parameters.items()}))
        if step in SHOWN:
            shown[step] = {
                "parameters": {n: p.detach().reshape(-1).tolist() for n, p in parameters.items()},
                "averages": {n: teacher.module[n.replace(".", "_")].detach().reshape(-1).tolist() for n in parameters},
            }
    return {"optimizer": kind, "settings": settings, "norms": norms, "rates": rates, "steps": shown}


def main(out):
    adamw = {"learning_rate": 3e-2, "weight_decay": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    sgd = {"learning_rate": 3e-2, "weight_decay": 0.02, "momentum": 0.9, "nesterov": False}
    common = {"max_norm": 2.0, "ema_decay": 0.9}
    cosine = {"warmup_steps": 4, "min_learning_rate": 1e-3}
    trajectories = {
        "adamw": trajectory("adamw", adamw | common),
        "adamw-cosine": trajectory("adamw", adamw | common | cosine | {"beta2": 0.95, "eps": 1e-6}),
        "sgd-plain": trajectory("sgd", sgd | common | {"momentum": 0.0, "max_norm": 1e6}),
        "sgd-momentum": trajectory("sgd", sgd | common),
        "sgd-nesterov-cosine": trajectory("sgd", sgd | common | cosine | {"nesterov": True}),
    }
    with open(out, "w") as file:
        json.dump({"torch": torch.__version__.split("+")[0], "shapes": SHAPES, "trajectories": trajectories}, file, indent=0)
        file.write("\n")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(sys.argv[1])
