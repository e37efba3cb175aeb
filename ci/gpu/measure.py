#!/usr/bin/env python3
"""Measures on a card what docs/LIMITS.md and issue reports quote, beside PyTorch in the same call.

    python3 ci/gpu/measure.py [--bin target/gpu] [--peer PYTHON] [--device cuda] [--out DIR] [PART ...]

Parts, in this order; without names all of them:
    card          what the machine says it has
    tests         the tests that want a card; one that found none counts as failed
    verify        oracle files and backbones on the device, the shipped ones and those of ../shared where it is
    kernels       value and gradient of the kernels, A B A B against PyTorch
    steps         training steps, A B A B against PyTorch with channels-last and bfloat16 autocast
    determinism   steps by deterministic algorithms over steps by cuDNN's fastest, A B A B; both of this build
    repeat        one trial twice: the digests of the weights must agree
    grid          the run of ci/gpu/soylocal.toml: times of all methods, memory, waiting, hours for `ufg-full`

`ci/gpu/build` makes what is run. Everything is also written to OUT/measured.md and OUT/*.csv. `--small` takes sizes that a CPU or
an emulated card finishes, to try the script. Exit codes: 0 measured (targets may be missed: they are told), 1 a part failed,
2 usage, 3 something is not there.
"""

import argparse
import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "ci" / "peers"

# Ratio of medians, ours over PyTorch's.
KERNELS = {"spd_log 512": 0.2, "bw_distance 64": 0.2, "sinkhorn 64": 0.5, "cotap 2401": 0.05}
STEPS = {("resnet50", 64, 224): 1.0, ("resnet50", 32, 448): 1.0}
SMALL_KERNELS = {"cotap 2401": 0.05}
SMALL_STEPS = {("resnet18", 2, 64): 1.0}
BESIDE_TRIPLET = 1.35
WAITING = 0.05
# Training images of the nine datasets that `ufg-full` trains on, its epochs and seeds.
FULL_IMAGES, FULL_EPOCHS, FULL_SEEDS = 24_367, 100, 3


class Failed(Exception):
    """A part that could not be measured, or went wrong."""


class Report:
    """What is said, on the terminal and in a file."""

    def __init__(self, folder):
        self.folder = folder
        self.file = open(folder / "measured.md", "a", encoding="utf-8")

    def say(self, text=""):
        print(text, flush=True)
        print(text, file=self.file, flush=True)

    def table(self, name, header, rows):
        """A table, as CSV too."""
        with open(self.folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        self.say("| " + " | ".join(header) + " |")
        self.say("|" + "---|" * len(header))
        for row in rows:
            self.say("| " + " | ".join(str(cell) for cell in row) + " |")
        self.say()


def run(command, **more):
    """Standard output of a command; its error output goes to ours."""
    environment = {**os.environ, "PYTHONPATH": str(PEERS)}
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT, **more)
    if done.returncode != 0:
        raise Failed(f"exit {done.returncode}: {' '.join(str(part) for part in command)}\n{done.stdout[-2000:]}")
    return done.stdout


def times(text):
    """`work,median_ms,…` lines: medians by work."""
    rows = csv.DictReader(text.splitlines())
    return {row["work"]: float(row["median_ms"]) for row in rows}


def in_turn(ours, peer, rounds):
    """Medians over the rounds of two commands that run in turn, by work."""
    found = {"ours": {}, "peer": {}}
    for _ in range(rounds):
        for side, command in [("ours", ours), ("peer", peer)]:
            for work, median in times(run(command)).items():
                found[side].setdefault(work, []).append(median)
    return {side: {work: statistics.median(all_) for work, all_ in works.items()} for side, works in found.items()}


def verdict(ratio, bar):
    return f"{bar} met" if ratio <= bar else f"{bar} missed"


def card(options, report):
    if options.device == "cpu":
        model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
        report.say(f"no card: {model.group(1) if model else 'cpu'}, {os.cpu_count()} cores")
        return
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv,noheader"]
    report.say(run(query).strip() if shutil.which("nvidia-smi") else "nvidia-smi is not there")


def tests(options, report):
    binaries = sorted((options.bin / "tests").glob("*"))
    if not binaries:
        raise Failed(f"{options.bin}/tests holds no test; ci/gpu/build makes them")
    wrong = []
    for binary in binaries:
        filters = ["card"] if binary.name.endswith(("-methods", "-precision", "-algorithms")) else []
        # What cargo tells a test that runs where it was built.
        told = {"CARGO_BIN_EXE_bench": str(options.bin / "bench"), "CARGO_MANIFEST_DIR": str(ROOT / "bench")}
        done = subprocess.run([binary, "--nocapture", *filters], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **told})
        said = done.stdout + done.stderr
        (report.folder / f"{binary.name}.log").write_text(said)
        summary = [line for line in said.splitlines() if line.startswith("test result")]
        absent = "no card" in said
        report.say(f"- `{binary.name}`: {summary[-1] if summary else f'exit {done.returncode}'}{', NO CARD' if absent else ''}")
        if done.returncode != 0 or (absent and options.device != "cpu"):
            wrong.append(binary.name)
    if wrong:
        raise Failed(f"failed: {', '.join(wrong)}; see {report.folder}")


def verify(options, report):
    sets = [("shipped", [])]
    shared = ROOT.parent / "shared"
    if (shared / "oracles" / "data").is_dir() and not options.small:
        sets.append(("shared", ["--oracles", shared / "oracles" / "data", "--backbones", shared / "backbones" / "data"]))
    wrong = []
    for name, more in sets:
        dtype = ["--dtype", "f32"] if options.small else []
        command = [options.bin / "bench", "verify", "--device", options.device, "--csv", report.folder / f"verify-{name}.csv", *more, *dtype]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)
        (report.folder / f"verify-{name}.log").write_text(done.stdout + done.stderr)
        last = (done.stdout.strip().splitlines() or [""])[-1]
        report.say(f"- {name}: exit {done.returncode}; {last}")
        if done.returncode != 0:
            wrong.append(name)
    if wrong:
        raise Failed(f"outside tolerance or not computed: {', '.join(wrong)}")


def kernels(options, report):
    rows = []
    for work, bar in (SMALL_KERNELS if options.small else KERNELS).items():
        ours = [options.bin / "kernel_times", options.repeats, work, options.device]
        peer = [options.peer, PEERS / "kernels.py", "--repeats", options.repeats, "--only", work, "--device", options.device]
        found = in_turn(ours, peer, options.rounds)
        for name, median in found["peer"].items():
            own = found["ours"][name]
            rows.append([name, f"{own:.2f}", f"{median:.2f}", f"{own / median:.3f}", verdict(own / median, bar)])
    report.table("kernels", ["work", "ours, ms", "PyTorch, ms", "ratio", "target"], rows)


def steps(options, report):
    rows = []
    for (arch, batch, pixels), bar in (SMALL_STEPS if options.small else STEPS).items():
        size = [arch, batch, pixels, options.repeats]
        half = options.device != "cpu"
        for precision in ["bfloat16", "float32"] if half else ["float32"]:
            ours = [options.bin / "step_time", *size, options.device, precision]
            peer = [options.peer, PEERS / "train_step.py", *size, "--device", options.device]
            peer += ["--bf16"] if precision == "bfloat16" else []
            found = in_turn(ours, peer, options.rounds)
            for name, median in found["peer"].items():
                own = found["ours"][name]
                target = verdict(own / median, bar) if precision == "bfloat16" and "train" in name else ""
                rows.append([name, precision, f"{own:.1f}", f"{median:.1f}", f"{own / median:.3f}", target])
    report.table("steps", ["work", "precision", "ours, ms", "PyTorch, ms", "ratio", "target"], rows)


def determinism(options, report):
    rows = []
    for arch, batch, pixels in SMALL_STEPS if options.small else STEPS:
        for precision in ["float32"] if options.device == "cpu" else ["bfloat16", "float32"]:
            command = [options.bin / "step_time", arch, batch, pixels, options.repeats, options.device, precision]
            tried = subprocess.run([str(part) for part in [*command[:4], 1, *command[5:], "fast"]], capture_output=True, text=True, cwd=ROOT)
            refused = re.search(r'Algorithms \{ reason: "(.*)" \}', tried.stderr)
            if tried.returncode != 0 and refused:
                report.say(f"not measured, there are no fast algorithms here: {refused.group(1)}")
                return
            found = in_turn([*command, "deterministic"], [*command, "fast"], options.rounds)
            for name, own in found["ours"].items():
                fast = found["peer"][name]
                rows.append([name, precision, f"{own:.1f}", f"{fast:.1f}", f"{own / fast:.3f}"])
    report.table("determinism", ["work", "precision", "deterministic, ms", "fast, ms", "cost of determinism"], rows)
    # The same by the key of a suite: the trial runs, and its record says what it is.
    for record in carry_out(options, report, "float32", "fast", "--only", "method=ce", algorithms="fast"):
        asked = record["config"]["protocol"].get("algorithms")
        if record["status"] != "done" or asked != "fast":
            raise Failed(f"{record['trial']}: {record['status']}, algorithms {asked}")
        report.say(f"- `{record['method']}` by fast algorithms: {record['cost']['step_ms']:.1f} ms a step, {record['provenance'].get('libraries')}")


def suite(options, report, precision, algorithms):
    """The suite with a precision and algorithms, small if asked; its path."""
    text = (ROOT / "ci" / "gpu" / "soylocal.toml").read_text()
    if precision != "float32":
        text = text.replace("[protocol]\n", f'[protocol]\nprecision = "{precision}"\n')
    if algorithms != "deterministic":
        text = text.replace("[protocol]\n", f'[protocol]\nalgorithms = "{algorithms}"\n')
    if options.small:
        for key, value in {"input_size": 32, "working_size": 40, "resize": 36, "batch_size": 8, "epochs": 1, "evaluate_epochs": 1, "warmup_epochs": 0}.items():
            text = re.sub(rf"\b{key} = \d+", f"{key} = {value}", text)
        text = re.sub(r"classes = 200, train_per_class = 3, test_per_class = 3, size = 320", "classes = 4, train_per_class = 4, test_per_class = 1, size = 48", text)
        text = text.replace('timm = { name = "resnet50" }', 'resnet = { blocks = [1, 1, 1, 1], widths = [8, 8, 16, 16], stem_width = 8, strides = [1, 2, 1, 1], block = "basic" }')
    path = report.folder / f"soylocal-{precision}-{algorithms}.toml"
    path.write_text(text)
    return path


def trial_records(folder):
    with open(folder / "records.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def carry_out(options, report, precision, name, *more, algorithms="deterministic"):
    """Runs the suite into a fresh folder; its records."""
    folder = report.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    command = [options.bin / "bench", "--suite", suite(options, report, precision, algorithms), "--device", options.device, "--out", folder, *more]
    run(command, stderr=subprocess.DEVNULL)
    return trial_records(folder)


def repeat(options, report):
    precisions = ["float32"] if options.device == "cpu" else ["float32", "bfloat16"]
    for precision in precisions:
        digests, clocks = [], []
        for turn in range(2):
            start = time.monotonic()
            records = carry_out(options, report, precision, f"repeat-{precision}-{turn}", "--only", "method=pac-mcl-bw|dsot")
            clocks.append(time.monotonic() - start)
            digests.append({record["method"]: record["weights"] for record in records})
        report.say(f"- {precision}: {'the same weights twice' if digests[0] == digests[1] else 'OTHER WEIGHTS THE SECOND TIME'}: {digests[0]}")
        if digests[0] != digests[1]:
            raise Failed(f"not repeatable in {precision}: {digests}")


def grid(options, report):
    precisions = ["float32"] if options.device == "cpu" else ["bfloat16", "float32"]
    for precision in precisions:
        start = time.monotonic()
        records = carry_out(options, report, precision, f"grid-{precision}")
        seconds = time.monotonic() - start
        undone = [record["trial"] for record in records if record["status"] != "done"]
        if undone:
            raise Failed(f"not done: {', '.join(undone)}; see {report.folder}/grid-{precision}")
        costs = {record["method"]: record["cost"] for record in records}
        triplet = costs["triplet"]["step_ms"]
        rows, hours = [], 0.0
        for method, cost in costs.items():
            hour = FULL_IMAGES * FULL_EPOCHS * FULL_SEEDS / cost["images_per_s"] / 3600
            hours += hour
            shown = "" if options.small else f"{hour:.1f}"
            waiting = cost.get("input_wait_share")
            rows.append([
                method, f"{cost['step_ms']:.1f}", f"{cost['step_ms'] / triplet:.2f}", f"{cost['images_per_s']:.0f}",
                f"{cost.get('peak_device_memory_mb') or 0:.0f}", "" if waiting is None else f"{100 * waiting:.1f}", shown,
            ])  # fmt: skip
        header = ["method", "step, ms", "over triplet", "images/s", "peak device memory, MiB", "waiting, %", "hours in ufg-full"]
        report.say(f"{precision}, {seconds:.0f} s for all:")
        report.table(f"grid-{precision}", header, rows)
        if options.small:
            continue
        report.say(f"training of the whole of `ufg-full` on one such device: about {hours:.0f} hours, evaluation left out")
        beside = costs["pac-mcl-bw"]["step_ms"] / triplet
        report.say(f"- pac-mcl-bw beside triplet: {beside:.2f}, {verdict(beside, BESIDE_TRIPLET)}")
        waits = [cost["input_wait_share"] for cost in costs.values() if cost.get("input_wait_share") is not None]
        if waits:
            report.say(f"- largest share of waiting: {100 * max(waits):.1f} %, {verdict(max(waits), WAITING)}")


PARTS = {"card": card, "tests": tests, "verify": verify, "kernels": kernels, "steps": steps, "determinism": determinism, "repeat": repeat, "grid": grid}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--bin", type=Path, default=ROOT / "target" / "gpu", help="what ci/gpu/build made")
    parser.add_argument("--peer", default=sys.executable, help="a Python with torch and timm")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "target" / "measured", help="folder for tables and logs")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of A B")
    parser.add_argument("--repeats", type=int, default=10, help="repeats in a process")
    parser.add_argument("--small", action="store_true", help="sizes to try the script with")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part `{unknown[0]}`; there are {', '.join(PARTS)}")
    options.bin, options.out = options.bin.resolve(), options.out.resolve()
    parts = [part for part in PARTS if not options.parts or part in options.parts]
    if not (options.bin / "bench").is_file():
        print(f"measure: {options.bin} holds no `bench`; ci/gpu/build makes it", file=sys.stderr)
        return 3
    if {"kernels", "steps"} & set(parts) and subprocess.run([options.peer, "-c", "import torch, timm"], capture_output=True).returncode != 0:
        print(f"measure: {options.peer} has no torch and timm; ci/peers/README.md says how to install them", file=sys.stderr)
        return 3
    options.out.mkdir(parents=True, exist_ok=True)
    report = Report(options.out)
    failed = []
    for part in parts:
        report.say(f"\n## {part}\n")
        try:
            PARTS[part](options, report)
        except (Failed, KeyError, OSError) as error:
            report.say(f"**{part} failed**: {type(error).__name__} {error}")
            failed.append(part)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
