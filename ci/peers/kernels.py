"""The work of `cargo run -p kernels --example kernel_times`, written in PyTorch as its users would write it.

Prints `work,median_ms,min_ms,max_ms,peak_rss_mb`, one line a work. Inputs are drawn as in the example.
"""

import argparse
import math
import time

import torch


def peak_mb():
    """Peak resident memory of this process in MB."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def waiter(device):
    """What waits until the device has done its work."""
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


def measure(name, work, repeats, wait=lambda: None):
    work()
    wait()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        wait()
        times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    print(f"{name},{times[len(times) // 2]:.2f},{times[0]:.2f},{times[-1]:.2f},{peak_mb():.0f}", flush=True)


def samples(n, d):
    """Covariances of 2d Gaussian samples, plus 1e-4 I."""
    x = torch.randn(n, d, 2 * d)
    return x @ x.mT / (2 * d) + 1e-4 * torch.eye(d, device=x.device)


def of_spectrum(matrix, function):
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * function(values).unsqueeze(-2)) @ vectors.mT


def spd_log(a):
    def work():
        x = a.clone().requires_grad_()
        of_spectrum(x, torch.log).square().sum().backward()

    return work


def sinkhorn(batch, n, eps, iterations):
    cost, weight = torch.rand(batch, n, n), torch.rand(batch, n, n)

    def work():
        c = cost.clone().requires_grad_()
        kernel, marginal = -c / eps, -math.log(n)
        u = v = torch.zeros(batch, n, device=c.device)
        for _ in range(iterations):
            u = marginal - torch.logsumexp(kernel + v[:, None, :], dim=2)
            v = marginal - torch.logsumexp(kernel + u[:, :, None], dim=1)
        plan = torch.exp(u[:, :, None] + kernel + v[:, None, :])
        (plan * weight).sum().backward()

    return work


def cotap(n, tau1, tau2):
    student, q = torch.randn(n).tanh(), torch.randn(n).tanh()

    def work():
        p = student.clone().requires_grad_()
        x = p[:, None] - p[None, :]
        penalty = torch.where(x < 0, 1 - 2 * x / tau2, (1 - x / tau2).clamp(min=0).square())
        lower = q[None, :] < q[:, None]
        count = ((q[None, :] >= q[:, None]) & (p[None, :] >= p[:, None])).sum(dim=1)
        s = (penalty * lower).sum(dim=1) / count
        ((q - tau1).clamp(min=0) * s / (1 + s)).mean().backward()

    return work


def bures_wasserstein(a, b):
    def trace(m):
        return m.diagonal(dim1=-2, dim2=-1).sum(dim=-1)

    def work():
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        root = of_spectrum(x, torch.sqrt)
        middle = root[:, None] @ y[None] @ root[:, None]
        values = torch.linalg.eigvalsh((middle + middle.mT) / 2).clamp(min=1e-12)
        squared = trace(x)[:, None] + trace(y)[None] - 2 * values.sqrt().sum(dim=-1)
        squared.clamp(min=1e-12).sqrt().sum().backward()

    return work


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="part of a work's name")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    torch.set_default_device(options.device)
    works = {
        "spd_log 512x64x64 fwd+bwd": lambda: spd_log(samples(512, 64)),
        "sinkhorn 64x196x196 it20 fwd+bwd": lambda: sinkhorn(64, 196, 0.1, 20),
        "cotap 2401 fwd+bwd": lambda: cotap(2401, -0.2, 0.5),
        "bw_distance 64x64 d64 fwd+bwd": lambda: bures_wasserstein(samples(64, 64), samples(64, 64)),
    }
    print("work,median_ms,min_ms,max_ms,peak_rss_mb")
    for name, prepare in works.items():
        if options.only in name:
            measure(name, prepare(), options.repeats, waiter(options.device))


if __name__ == "__main__":
    main()
