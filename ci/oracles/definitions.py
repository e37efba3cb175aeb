"""The ops that are no matrix functions, written down as FORMAT.md defines them."""
from itertools import permutations

import gmpy2
import numpy as np

from exact import eye, exact, mp, norm

exp_all = np.frompyfunc(gmpy2.exp, 1, 1)


def softmax(logits):
    weights = exp_all(logits - max(logits))
    return weights / weights.sum()


def covariance(x, logits, eps):
    weights = softmax(logits)
    centred = x - weights @ x
    return (centred * weights[:, None]).T @ centred + eps * eye(x.shape[1])


def sinkhorn(cost, eps, iterations):
    """With the scalings themselves: 256-bit numbers neither underflow nor overflow here."""
    n = len(cost)
    kernel, v = exp_all(-cost / eps), exact(np.ones(n))
    for _ in range(iterations):
        u = 1 / (n * (kernel @ v))
        v = 1 / (n * (kernel.T @ u))
    return u[:, None] * kernel * v[None]


def positions(height, width):
    """Rows and columns in [0, 1]; a single row or column lies at 0."""
    line = lambda i, n: mp(i) / (n - 1) if n > 1 else mp(0)
    return [(line(i, height), line(j, width)) for i in range(height) for j in range(width)]


def graph(x, setting):
    n, k, places = len(x), setting["k"], positions(setting["height"], setting["width"])
    unit = np.stack([row / norm(row) for row in x])
    far = [[sum((s - t) ** 2 for s, t in zip(p, q)) for q in places] for p in places]
    cost = 1 - unit @ unit.T + mp(setting["lambda_pos"]) * np.array(far, dtype=object)
    cost = cost / (cost.sum() / n**2 + mp(1e-8))
    plan = sinkhorn(cost, mp(setting["eps"]), setting["iters"])
    adjacency = (plan + plan.T) / 2 + mp(setting["self_loop_alpha"]) * eye(n)
    index, weight = [], []
    for row in adjacency:
        order = sorted(range(n), key=lambda j: -row[j])
        apart = min(1 - row[order[r + 1]] / row[order[r]] for r in range(min(k, n - 1)))
        assert apart > mp("1e-6"), "two weights are too close to be told apart in float32: take another seed"
        index.append(order[:k])
        weight.append([row[j] / (sum(row[j] for j in order[:k]) + mp(1e-12)) for j in order[:k]])
    return {"cost": cost, "adjacency": adjacency, "edge_index": np.array(index), "edge_weight": np.array(weight, dtype=object)}


def supcon(z, labels, temperature):
    """Mean over the anchors that have a positive of −mean over positives of log softmax of the similarities."""
    unit = np.stack([row / norm(row) for row in z])
    similarity, terms = unit @ unit.T / temperature, []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            total = gmpy2.log(sum(gmpy2.exp(similarity[i, j]) for j in others))
            terms.append(sum(total - similarity[i, j] for j in positives) / len(positives))
    return sum(terms, mp(0)) / len(terms) if terms else mp(0)


def triplet(anchor, positive, negative, margin):
    terms = [max(mp(0), norm(a - p) - norm(a - n) + margin) for a, p, n in zip(anchor, positive, negative)]
    return sum(terms) / len(terms)


def cotap(p, q, tau1, tau2):
    """Loss and gradient by the double sum; the count is a constant to the gradient."""
    n = len(p)
    penalty = lambda x: 1 - 2 * x / tau2 if x < 0 else max(mp(0), 1 - x / tau2) ** 2
    slope = lambda x: -2 / tau2 if x < 0 else -2 / tau2 * max(mp(0), 1 - x / tau2)
    loss, gradient = mp(0), exact(np.zeros(n))
    for i in range(n):
        count = sum(1 for j in range(n) if q[j] >= q[i] and p[j] >= p[i])
        below = [j for j in range(n) if q[j] < q[i]]
        s = sum((penalty(p[i] - p[j]) for j in below), mp(0)) / count
        weight = max(mp(0), q[i] - tau1) / n
        loss += weight * s / (1 + s)
        for j in below:
            pull = weight / (1 + s) ** 2 / count * slope(p[i] - p[j])
            gradient[i], gradient[j] = gradient[i] + pull, gradient[j] - pull
    return loss, gradient


def alignments(table, how, images, parts):
    return [align(table[i * parts:(i + 1) * parts, i * parts:(i + 1) * parts], how) for i in range(images)]


def align(block, how):
    parts = range(len(block))
    if how == "hungarian":
        return list(min(permutations(parts), key=lambda order: sum(block[p, q] for p, q in zip(parts, order))))
    nearest = [min(parts, key=lambda q: block[p, q]) for p in parts]
    if how == "nearest":
        return nearest
    back = [min(parts, key=lambda p: block[p, q]) for q in parts]
    out = {p: nearest[p] for p in parts if back[nearest[p]] == p}
    for _, p, q in sorted((block[p, q], p, q) for p in parts for q in parts):
        if p not in out and q not in out.values():
            out[p] = q
    return [out[p] for p in parts]


def hardest(table, labels, parts, row):
    own = labels[row // parts]
    return min((q for q in range(len(table)) if labels[q // parts] != own), key=lambda q: table[row, q], default=None)


def telling_margin(table, match, labels, parts):
    """A margin at which somewhat more than half of the hinges are active."""
    gaps = []
    for row in range(len(table)):
        aligned = row // parts * parts + match[row // parts][row % parts]
        gaps.append(table[row, hardest(table, labels, parts, row)] - table[row, aligned])
    return round(max(0.01, float(sorted(gaps)[len(gaps) * 3 // 5])), 3)


def part_contrast(table, match, labels, parts, margin):
    """Loss and its derivative with respect to the table of distances."""
    rows = [(r, hardest(table, labels, parts, r)) for r in range(len(table))]
    rows = [(r, q) for r, q in rows if q is not None]
    loss, cotangent = mp(0), table * 0
    for row, negative in rows:
        aligned = row // parts * parts + match[row // parts][row % parts]
        hinge = table[row, aligned] - table[row, negative] + margin
        if hinge > 0:
            loss += hinge / len(rows)
            cotangent[row, aligned] += mp(1) / len(rows)
            cotangent[row, negative] -= mp(1) / len(rows)
    return loss, cotangent


def classification(logits, labels):
    (n, classes), labels = logits.shape, [int(label) for label in labels]
    probability = np.stack([softmax(row) for row in logits])
    order = [sorted(range(classes), key=lambda c: -row[c]) for row in logits]
    first = [o[0] for o in order]
    nll = sum(-gmpy2.log(probability[i, labels[i]]) for i in range(n)) / n
    f1 = []
    for c in range(classes):
        hits = sum(1 for i in range(n) if first[i] == c == labels[i])
        both = sum(1 for i in range(n) if first[i] == c) + sum(1 for i in range(n) if labels[i] == c)
        f1.append(mp(2 * hits) / both if both else mp(0))
    ece = mp(0)
    for b in range(15):
        inside = [i for i in range(n) if mp(b) / 15 < probability[i, first[i]] <= mp(b + 1) / 15]
        if inside:
            ece += abs(sum((first[i] == labels[i]) - probability[i, first[i]] for i in inside)) / n
    one = lambda v: np.array([v], dtype=object)
    return {"top1": one(mp(sum(f == l for f, l in zip(first, labels))) / n),
            "top5": one(mp(sum(l in o[:5] for o, l in zip(order, labels))) / n),
            "macro_f1": one(sum(f1) / classes), "nll": one(nll), "ece15": one(ece)}


def retrieval(embeddings, labels):
    n, labels = len(labels), [int(label) for label in labels]
    unit = np.stack([row / norm(row) for row in embeddings])
    cosine = unit @ unit.T
    r1, r4, precisions = 0, 0, []
    for i in range(n):
        order = sorted((j for j in range(n) if j != i), key=lambda j: -cosine[i, j])
        hit = [labels[j] == labels[i] for j in order]
        r1, r4, relevant = r1 + hit[0], r4 + any(hit[:4]), sum(hit)
        if relevant:
            precisions.append(sum(mp(sum(hit[:r + 1])) / (r + 1) for r in range(relevant) if hit[r]) / relevant)
    one = lambda v: np.array([v], dtype=object)
    return {"recall_at_1": one(mp(r1) / n), "recall_at_4": one(mp(r4) / n), "map_at_r": one(sum(precisions) / len(precisions))}
