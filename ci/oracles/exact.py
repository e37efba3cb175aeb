"""Arrays of 256-bit floating-point numbers, and matrix functions and distances on them without eigenvalues."""
import gmpy2
import numpy as np

gmpy2.get_context().precision = 256
mp = gmpy2.mpfr
ONE = mp(1)
# Newton's iterations stop when they change nothing at this size; what is left is of its square.
SMALL = mp("1e-45")


def exact(a):
    """The same numbers in high precision."""
    a = np.asarray(a)
    return np.array([mp(v if a.dtype == object else float(v)) for v in a.ravel()], dtype=object).reshape(a.shape)


def plain(a):
    """The nearest float64 numbers."""
    return np.array([float(v) for v in np.asarray(a).ravel()], dtype=np.float64).reshape(np.shape(a))


def norm(a):
    return gmpy2.sqrt(sum((v * v for v in np.ravel(a)), mp(0)))


def eye(d):
    return exact(np.eye(d))


def inverse(a):
    """Gauss-Jordan with row pivots."""
    d = len(a)
    rows = np.concatenate([a, eye(d)], axis=1)
    for c in range(d):
        p = max(range(c, d), key=lambda r: abs(rows[r, c]))
        rows[[c, p]] = rows[[p, c]]
        rows[c] = rows[c] / rows[c, c]
        for r in range(d):
            if r != c and rows[r, c] != 0:
                rows[r] = rows[r] - rows[r, c] * rows[c]
    return rows[:, d:]


class Dual:
    """A + t E with t² = 0: what a rational function or a limit of them does to A and to a small change E of A."""

    def __init__(self, a, e=None):
        self.a, self.e = a, e

    def map(self, other, a, e):
        return Dual(a, None if self.e is None or other.e is None else e())

    def __add__(self, other):
        return self.map(other, self.a + other.a, lambda: self.e + other.e)

    def __sub__(self, other):
        return self.map(other, self.a - other.a, lambda: self.e - other.e)

    def __matmul__(self, other):
        return self.map(other, self.a @ other.a, lambda: self.a @ other.e + self.e @ other.a)

    def scaled(self, s):
        return Dual(self.a * s, None if self.e is None else self.e * s)

    def inverse(self):
        i = inverse(self.a)
        return Dual(i, None if self.e is None else -(i @ self.e @ i))

    def size(self):
        return norm(self.a) + (norm(self.e) if self.e is not None else 0)

    def unit(self):
        return Dual(eye(len(self.a)), None if self.e is None else self.e * 0)


def roots(x):
    """Principal square root and its inverse (Denman and Beavers' iteration)."""
    y, z = x, x.unit()
    for _ in range(200):
        following = (y + z.inverse()).scaled(ONE / 2), (z + y.inverse()).scaled(ONE / 2)
        change = (following[0] - y).size() / following[0].size()
        y, z = following
        if change < SMALL:
            return y, z
    raise ArithmeticError("the square root did not converge")


def log(x):
    """Square roots until close to the identity, then 2 artanh((X − I)(X + I)⁻¹)."""
    doublings = 1
    while norm(x.a - eye(len(x.a))) > mp("0.02"):
        x, doublings = roots(x)[0], doublings * 2
    y = (x - x.unit()) @ (x + x.unit()).inverse()
    square, power, total, k = y @ y, y, y, 1
    while power.size() > mp("1e-80") and power.size() > 0:
        power, k = power @ square, k + 2
        total = total + power.scaled(ONE / k)
    return total.scaled(mp(2 * doublings))


def exp(x):
    """Taylor's series of X / 2^k, squared k times."""
    squarings = 12
    x = x.scaled(ONE / 2**squarings)
    term, total, k = x.unit(), x.unit(), 1
    while term.size() > mp("1e-85"):
        term, k = (term @ x).scaled(ONE / k), k + 1
        total = total + term
    for _ in range(squarings):
        total = total @ total
    return total


def both(dual):
    return dual.a, dual.e


def matrix_log(a, e):
    return both(log(Dual(a, e)))


def matrix_sqrt(a, e):
    return both(roots(Dual(a, e))[0])


def matrix_inv_sqrt(a, e):
    return both(roots(Dual(a, e))[1])


def matrix_exp(a, e):
    return both(exp(Dual(a, e)))


def difference(f, x, step):
    """Gradient of the number f(x) by central differences; an infinite entry stands still."""
    out = np.zeros(x.shape, dtype=object)
    for at in np.ndindex(x.shape):
        out[at] = mp(0)
        if gmpy2.is_finite(x[at]):
            ends = []
            for sign in (1, -1):
                moved = x.copy()
                moved[at] = moved[at] + sign * step
                ends.append(f(moved))
            out[at] = (ends[0] - ends[1]) / (2 * step)
    return out


def same(i, j, a, b):
    return bool(np.all(a[i] == b[j]))


def checked(total, a, b, grad_a, grad_b, step):
    """Compares the gradient with a central difference along one symmetric direction of both inputs."""
    rng = np.random.default_rng(7)
    direction = [exact(v + v.transpose(0, 2, 1)) for v in (rng.standard_normal(a.shape), rng.standard_normal(b.shape))]
    ends = [total(a + s * step * direction[0], b + s * step * direction[1]) for s in (1, -1)]
    want = (ends[0] - ends[1]) / (2 * step)
    got = (grad_a * direction[0]).sum() + (grad_b * direction[1]).sum()
    assert abs(got - want) <= mp("1e-25") * (norm(grad_a) + norm(grad_b)), f"gradient {got} is not {want}"


def le_distances(a, b, g, check=None):
    """‖log A − log B‖ of all pairs and the gradients of Σ g δ; a pair at distance 0 contributes 0."""
    la, lb = [log(Dual(x)).a for x in a], [log(Dual(x)).a for x in b]
    pairs = list(np.ndindex(g.shape))
    dist = {(i, j): mp(0) if same(i, j, a, b) else norm(la[i] - lb[j]) for i, j in pairs}
    ca, cb = np.zeros(a.shape, dtype=object) + mp(0), np.zeros(b.shape, dtype=object) + mp(0)
    for i, j in pairs:
        if dist[i, j] > 0:
            pull = (la[i] - lb[j]) * (g[i, j] / dist[i, j])
            ca[i], cb[j] = ca[i] + pull, cb[j] - pull
    grad_a = np.stack([log(Dual(x, e)).e for x, e in zip(a, ca)])
    grad_b = np.stack([log(Dual(x, e)).e for x, e in zip(b, cb)])
    if check is not None and all(dist[p] > 0 for p in pairs):
        checked(lambda x, y: (le_distances_only(x, y) * g).sum(), a, b, grad_a, grad_b, check)
    return table(dist, g.shape), grad_a, grad_b


def le_distances_only(a, b):
    la, lb = [log(Dual(x)).a for x in a], [log(Dual(x)).a for x in b]
    return np.array([[norm(x - y) for y in lb] for x in la], dtype=object)


def bw_distances(a, b, g, check=None):
    """√(tr A + tr B − 2 tr (AB)^½) of all pairs and the gradients of Σ g δ, ∂δ²/∂A = I − A⁻¹(AB)^½."""
    pairs = list(np.ndindex(g.shape))
    inverses = [inverse(x) for x in a], [inverse(x) for x in b]
    dist, grad_a, grad_b = {}, a * 0, b * 0
    for i, j in pairs:
        if same(i, j, a, b):
            dist[i, j] = mp(0)
            continue
        root = roots(Dual(a[i] @ b[j]))[0].a
        dist[i, j] = gmpy2.sqrt(a[i].trace() + b[j].trace() - 2 * root.trace())
        half = g[i, j] / (2 * dist[i, j])
        grad_a[i] = grad_a[i] + half * (eye(len(root)) - inverses[0][i] @ root)
        grad_b[j] = grad_b[j] + half * (eye(len(root)) - inverses[1][j] @ root.T)
    if check is not None and all(dist[p] > 0 for p in pairs):
        checked(lambda x, y: (bw_distances_only(x, y) * g).sum(), a, b, grad_a, grad_b, check)
    return table(dist, g.shape), grad_a, grad_b


def bw_distances_only(a, b):
    one = lambda x, y: gmpy2.sqrt(x.trace() + y.trace() - 2 * roots(Dual(x @ y))[0].a.trace())
    return np.array([[one(x, y) for y in b] for x in a], dtype=object)


def table(dist, shape):
    return np.array([dist[at] for at in np.ndindex(shape)], dtype=object).reshape(shape)
