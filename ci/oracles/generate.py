#!/usr/bin/env python3
"""Writes the oracle files: inputs, expected outputs, cotangents and expected gradients of every op.

usage: generate.py OUT_DIR [SEED]          needs: numpy, gmpy2

Everything is computed with 256-bit floating-point numbers (77 digits) from the definitions in FORMAT.md, by other
methods than the kernels': matrix functions by Newton's iteration on dual matrices (no eigenvalues), gradients of
everything else by central differences with a step of 1e-25, or through a closed form that is itself checked against
such a difference. The expected numbers are then right to the last digit of float64, the ill-conditioned cases too.
"""
import json
import os
import struct
import sys

import numpy as np

from exact import bw_distances, difference, exact, le_distances, matrix_exp, matrix_inv_sqrt, matrix_log, matrix_sqrt
from exact import mp, norm, plain
import definitions as define

DIGITS = 70
STEP = mp("1e-25")


class Writer:
    """The files of one set; the generator of random numbers that they share."""

    def __init__(self, out, seed):
        self.out, self.rng = out, np.random.default_rng(seed)
        os.makedirs(out, exist_ok=True)

    def save(self, op, case, tensors, **attributes):
        """One file: an 8-byte length, a JSON header padded to 8 bytes, the tensors row by row."""
        header = {"__metadata__": {"op": op, "case": case, "digits": str(DIGITS)}}
        header["__metadata__"].update({name: str(value) for name, value in attributes.items()})
        body = b""
        for name, values in tensors.items():
            array = np.ascontiguousarray(values)
            array = array.astype("<i8") if array.dtype.kind in "iu" else plain(array).astype("<f8")
            start, body = len(body), body + array.tobytes()
            dtype = "I64" if array.dtype.kind == "i" else "F64"
            header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, len(body)]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(self.out, f"{op}.{case}.safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + body)
        print(f"{op}.{case}", flush=True)

    def normal(self, *shape):
        return single(self.rng.standard_normal(shape))

    def uniform(self, low, high, *shape):
        return single(self.rng.uniform(low, high, shape))

    def symmetric(self, n, d):
        g = self.rng.standard_normal((n, d, d))
        return (g + g.transpose(0, 2, 1)) / 2


def single(a):
    """The nearest float32 numbers, as float64: an op in float32 is given the same problem."""
    return np.asarray(a, dtype=np.float32).astype(np.float64)


def lower_mirrored(a):
    """Exactly symmetric: the lower triangle copied to the upper one."""
    return np.tril(a) + np.tril(a, -1).transpose()


def spectrum(kind, d, rng):
    return {
        "well": lambda: rng.uniform(0.5, 2.0, d),
        "wide": lambda: np.geomspace(1e-4, 1e2, d),
        "repeated": lambda: np.repeat([0.3, 2.5, 7.0], -(-d // 3))[:d],
        "near": lambda: 1.5 * (1 + 1e-6 * np.arange(d)),
        "spike": lambda: np.append(np.full(d - 1, 2.0**-10), 3.0),
    }[kind]()


def matrices(kind, n, d, rng):
    """`n` positive definite matrices of a kind, exactly symmetric float32 numbers."""
    out = []
    for _ in range(n):
        if kind == "identity":
            a = 1.25 * np.eye(d)
        elif kind == "lowrank":
            x = rng.standard_normal((d // 2, d))
            a = x.T @ x / len(x) + 1e-4 * np.eye(d)
        else:
            q = np.linalg.qr(rng.standard_normal((d, d)))[0]
            a = (q * spectrum(kind, d, rng)) @ q.T
        out.append(lower_mirrored(single(a)))
    return np.stack(out)


def functions(w):
    kinds = [("well", 3, 5), ("well", 1, 33), ("wide", 2, 7), ("repeated", 2, 6), ("near", 2, 5), ("identity", 2, 4),
             ("lowrank", 2, 10), ("spike", 2, 6), ("well", 2, 1)]
    ops = {"log": matrix_log, "sqrt": matrix_sqrt, "inv_sqrt": matrix_inv_sqrt, "exp": matrix_exp}
    for name, function in ops.items():
        for kind, n, d in kinds:
            if name == "exp" and kind == "wide":
                continue  # e^100 beside e^0: the relative error of the small part is invisible.
            a, g = matrices(kind, n, d, w.rng), w.symmetric(n, d)
            # The derivative of a primary matrix function at a symmetric matrix is self-adjoint: applied to the
            # cotangent it is the gradient.
            y, grad = zip(*(function(exact(a[i]), exact(g[i])) for i in range(n)))
            w.save(f"spd_{name}", f"{kind}{d}", {"a": a, "y": np.stack(y), "g": g, "grad_a": np.stack(grad)})


def distances(w):
    for op, distance in (("le_distance", le_distances), ("bw_distance", bw_distances)):
        for case, left, right, d in (("well6", "well", "well", 6), ("wide5", "wide", "wide", 5), ("near4", "near", "well", 4),
                                     ("repeated6", "repeated", "repeated", 6), ("lowrank8", "lowrank", "lowrank", 8),
                                     ("spike5", "spike", "spike", 5), ("well1", "well", "well", 1), ("coincident5", "well", None, 5)):
            a = matrices(left, 3, d, w.rng)
            b = matrices(right, 2, d, w.rng) if right else a.copy()
            g = w.rng.standard_normal((len(a), len(b)))
            dist, grad_a, grad_b = distance(exact(a), exact(b), exact(g), check=STEP)
            w.save(op, case, {"a": a, "b": b, "dist": dist, "g": g, "grad_a": grad_a, "grad_b": grad_b})


def covariances(w):
    for case, b, n, d, eps in (("weighted4", 2, 7, 4, 1e-4), ("dominant3", 2, 5, 3, 1e-2), ("token1", 1, 1, 3, 1e-3)):
        x, logits, g = w.normal(b, n, d), w.normal(b, n), w.symmetric(b, d)
        logits = single(logits * 8) if case.startswith("dominant") else logits
        y, gx, gl = [], [], []
        for i in range(b):
            f = lambda x, l: define.covariance(x, l, mp(eps))
            cotangent = exact(g[i])
            y.append(f(exact(x[i]), exact(logits[i])))
            of = lambda x, l: (f(x, l) * cotangent).sum()
            gx.append(difference(lambda v: of(v, exact(logits[i])), exact(x[i]), STEP))
            gl.append(difference(lambda v: of(exact(x[i]), v), exact(logits[i]), STEP))
        w.save("covariance", case, {"x": x, "logits": logits, "y": np.stack(y), "g": g, "grad_x": np.stack(gx),
                                    "grad_logits": np.stack(gl)}, eps=eps)


def transport(w):
    cases = (("grid9", 2, 9, 0.1, 20), ("grid16", 1, 16, 0.1, 20), ("sharp9", 2, 9, 0.01, 20), ("sharpest6", 1, 6, 0.003, 12),
             ("converged6", 1, 6, 0.25, 400), ("forbidden5", 1, 5, 0.2, 10), ("token1", 2, 1, 0.1, 3))
    for case, b, n, eps, iterations in cases:
        cost, g = w.uniform(0, 2, b, n, n), w.rng.standard_normal((b, n, n))
        if case.startswith("forbidden"):
            cost[0, 0, 1] = cost[0, 3, 2] = cost[0, 4, 4] = np.inf
        plan, grad = [], []
        for i in range(b):
            f = lambda c: define.sinkhorn(c, mp(eps), iterations)
            plan.append(f(exact(cost[i])))
            cotangent = exact(g[i]) * n * n
            grad.append(difference(lambda c: (f(c) * cotangent).sum(), exact(cost[i]), STEP))
        w.save("sinkhorn", case, {"cost": cost, "plan": np.stack(plan), "g": g, "grad_cost": np.stack(grad)}, eps=eps,
               iters=iterations)


def graphs(w):
    for case, b, height, width, d, k, eps in (("grid12", 2, 3, 4, 5, 5, 0.1), ("sharp9", 1, 3, 3, 4, 9, 0.02), ("line5", 1, 1, 5, 3, 2, 0.1)):
        x = single(w.normal(b, height * width, d) + 0.5)
        setting = {"height": height, "width": width, "k": k, "eps": eps, "iters": 20, "lambda_pos": 0.1, "self_loop_alpha": 0.2}
        parts = [define.graph(exact(entry), setting) for entry in x]
        names = ("cost", "adjacency", "edge_index", "edge_weight")
        tensors = {name: np.stack([part[name] for part in parts]) for name in names}
        tensors["edge_index"] = tensors["edge_index"].astype(np.int64)
        w.save("dsot_graph", case, {"x": x, **tensors}, **setting)


def losses(w):
    for case, labels, temperature in (("pairs8", [0, 1, 2, 3, 0, 1, 2, 3], 0.1), ("cold9", [0, 0, 1, 1, 1, 2, 2, 0, 1], 0.02),
                                      ("singletons6", [0, 1, 0, 2, 3, 4], 0.2), ("alone3", [0, 1, 2], 0.1)):
        z = w.normal(len(labels), 5)
        f = lambda z: define.supcon(z, labels, mp(temperature))
        w.save("supcon", case, {"z": z, "labels": np.array(labels), "loss": np.array([f(exact(z))]),
                                "grad_z": difference(f, exact(z), STEP)}, temperature=temperature)
    for case, margin in (("active7", 2.0), ("mixed7", 0.2), ("idle7", -9.0)):
        inputs = [exact(w.normal(7, 4)) for _ in range(3)]
        f = lambda a, p, n: define.triplet(a, p, n, mp(margin))
        grads = [difference(lambda v: f(*inputs[:i], v, *inputs[i + 1:]), inputs[i], STEP) for i in range(3)]
        names = ("anchor", "positive", "negative")
        w.save("triplet", case, {**dict(zip(names, inputs)), "loss": np.array([f(*inputs)]),
                                 **{f"grad_{name}": grad for name, grad in zip(names, grads)}}, margin=margin)
    for case, n, levels in (("random60", 60, None), ("ties48", 48, 4), ("sorted30", 30, None), ("constant16", 16, 0), ("alone1", 1, None)):
        q = single(np.tanh(w.rng.standard_normal(n)))
        p = single(np.clip(q + 0.4 * w.rng.standard_normal(n), -1, 1))
        if levels:
            p, q = np.round(p * levels) / levels, np.round(q * levels) / levels
        if case.startswith("sorted"):
            p = q.copy()
        if case.startswith("constant"):
            q = np.full(n, 0.5)
        loss, grad = define.cotap(exact(p), exact(q), mp(-0.2), mp(0.5))
        w.save("cotap", case, {"p": p, "q": q, "loss": np.array([loss]), "grad_p": grad}, tau1=-0.2, tau2=0.5)


def part_contrast(w):
    n, parts, d = 4, 3, 3
    for metric, distance in (("le", le_distances), ("bw", bw_distances)):
        while True:
            base = np.eye(d) + 0.5 * w.symmetric(n * parts, d) / 2
            near = base + 0.3 * w.symmetric(n * parts, d) / 2
            a, b = (np.stack([lower_mirrored(single(m @ m.T + 0.05 * np.eye(d))) for m in side]) for side in (base, near))
            labels = [0, 1, 0, 2]
            table = distance(exact(a), exact(b), exact(np.zeros((n * parts, n * parts))))[0]
            found = {align: define.alignments(table, align, n, parts) for align in ("nearest", "mutual", "hungarian")}
            if len({str(match) for match in found.values()}) == 3:
                break
        shape = (n, parts, d, d)
        margin = define.telling_margin(table, found["hungarian"], labels, parts)
        for align, match in found.items():
            loss, cotangent = define.part_contrast(table, match, labels, parts, mp(margin))
            _, grad_a, grad_b = distance(exact(a), exact(b), cotangent)
            w.save("pac_mcl", f"{metric}_{align}", {"anchor": a.reshape(shape), "positive": b.reshape(shape), "labels": np.array(labels),
                   "match": np.array(match), "loss": np.array([loss]), "grad_anchor": grad_a.reshape(shape),
                   "grad_positive": grad_b.reshape(shape)}, metric=metric, align=align, margin=margin)
        match = found["mutual"]
        w.save("pac_mcl", f"{metric}_one_class", {"anchor": a.reshape(shape), "positive": b.reshape(shape), "labels": np.zeros(n, int),
               "match": np.array(match), "loss": np.zeros(1), "grad_anchor": np.zeros(shape), "grad_positive": np.zeros(shape)},
               metric=metric, align="mutual", margin=margin)


def evaluation(w):
    n, classes = 60, 7
    labels = w.rng.integers(0, classes - 1, n)  # The last class has no image.
    logits = w.normal(n, classes) * 2
    logits[np.arange(n), labels] = single(logits[np.arange(n), labels] + 1.0)
    w.save("classification_metrics", f"n{n}c{classes}", {"logits": logits, "labels": labels, **define.classification(exact(logits), labels)})
    labels = np.append(w.rng.integers(0, 5, 39), 9)  # The last image is alone in its class.
    centres = w.normal(10, 6)
    embeddings = single(w.normal(40, 6) + 1.1 * centres[labels])
    w.save("retrieval_metrics", "n40", {"embeddings": embeddings, "labels": labels, **define.retrieval(exact(embeddings), labels)})


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    writer = Writer(sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else 0)
    for part in (distances, covariances, transport, graphs, losses, part_contrast, evaluation, functions):
        part(writer)


if __name__ == "__main__":
    main()
