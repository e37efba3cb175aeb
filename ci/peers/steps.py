"""Times our training step and PyTorch's in turn, step by step, so that whatever else the machine does meets both.

    python ci/peers/steps.py ARCH BATCH PIXELS ROUNDS [--work forward] [--ours BINARY ...]

All processes are alive at once and wait for their turn; who is first changes from round to round. Prints CSV: the medians, the ratio of
medians, and the median of the rounds' ratios with its 95 % interval (of order statistics). Several `--ours` compare versions.
"""

import argparse
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
# What a trial's process is started with: glibc keeps freed memory, in large pages.
KEEP = {
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_TOP_PAD_": "67108864",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class Side:
    def __init__(self, name, command, environment):
        self.name, self.times = name, []
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **environment})

    def run(self, work):
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"steps: {self.name} ended with {self.process.wait()}")
        return float(line)


def interval(values):
    """Order statistics between which the median lies with a probability of at least 95 %; None of too few values."""
    values, n = sorted(values), len(values)
    below, k = 0.0, 0
    while k < n // 2 and below + math.comb(n, k) / 2**n <= 0.025:
        below += math.comb(n, k) / 2**n
        k += 1
    return (values[k - 1], values[n - k]) if k > 0 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arch", help="a name of timm")
    parser.add_argument("batch")
    parser.add_argument("pixels")
    parser.add_argument("rounds", type=int)
    parser.add_argument("--work", choices=["train", "forward"], default="train")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--ours", nargs="+", default=["target/debug/examples/step_time"])
    options = parser.parse_args()
    of = [options.arch, options.batch, options.pixels, "-"]
    threads = {"RAYON_NUM_THREADS": options.threads, "CANDLE_NUM_THREADS": "1"}
    sides = [Side(ours, [ours, *of], {**KEEP, **threads}) for ours in options.ours]
    peer = [sys.executable, HERE / "train_step.py", *of, "--threads", options.threads]
    sides.append(Side("PyTorch", peer, {}))
    for side in sides * 2:
        side.run(options.work)
    for turn in range(options.rounds):
        for k in range(len(sides)):
            side = sides[(turn + k) % len(sides)]
            # The threads of the side before may still spin.
            time.sleep(0.3)
            side.times.append(side.run(options.work))
    peer = sides[-1]
    print("side,median_ms,peer_median_ms,ratio,ratio_of_rounds,from,to")
    for side in sides[:-1]:
        ratios = [ours / theirs for ours, theirs in zip(side.times, peer.times)]
        medians = statistics.median(side.times), statistics.median(peer.times)
        low, high = interval(ratios) or (math.nan, math.nan)
        print(
            f"{side.name},{medians[0]:.1f},{medians[1]:.1f},{medians[0] / medians[1]:.3f},"
            f"{statistics.median(ratios):.3f},{low:.3f},{high:.3f}"
        )


if __name__ == "__main__":
    main()
