"""The work of `cargo run -p backbones --example step_time`, with timm and PyTorch: a forward pass, and a training step with AdamW.

Prints `work,median_ms,min_ms,max_ms,peak_rss_mb`; with `-` for STEPS it runs `forward` or `train` for each such line of its input
and prints the milliseconds. With `--bf16`, as one would on a card: channels-last and autocast to bfloat16.
"""

import argparse
import sys
import time

import timm
import torch

from kernels import measure, waiter


def on_lines(works, wait):
    """Runs the work that each line of the input names and prints the milliseconds that it took."""
    for line in sys.stdin:
        start = time.perf_counter()
        works[line.strip()]()
        wait()
        print(f"{(time.perf_counter() - start) * 1e3:.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arch", help="a name of timm")
    parser.add_argument("batch", type=int)
    parser.add_argument("pixels", type=int)
    parser.add_argument("steps", help="a number, or - to wait for lines")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--bf16", action="store_true", help="channels-last, bfloat16 autocast")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    size = {"img_size": options.pixels} if options.arch.startswith("vit_") else {}
    # No classifier: the loss is taken of the features on both sides.
    network = timm.create_model(options.arch, num_classes=0, **size).to(options.device).train()
    images = torch.randn(options.batch, 3, options.pixels, options.pixels, device=options.device)
    if options.bf16:
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def features():
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=options.bf16):
            return network.forward_features(images)

    def forward():
        with torch.no_grad():
            features()

    def train():
        optimizer.zero_grad(set_to_none=True)
        features().float().square().mean().backward()
        optimizer.step()

    if options.steps == "-":
        return on_lines({"forward": forward, "train": train}, waiter(options.device))
    print("work,median_ms,min_ms,max_ms,peak_rss_mb")
    work = f"{options.arch} b{options.batch} {options.pixels}"
    wait = waiter(options.device)
    measure(f"{work} forward", forward, int(options.steps), wait)
    measure(f"{work} train step", train, int(options.steps), wait)


if __name__ == "__main__":
    main()
