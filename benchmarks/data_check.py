# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""How fast `sailvit data check` reads a generated set, with and without decoding, and how much memory it takes.

    python benchmarks/data_check.py --write
    python benchmarks/data_check.py --samples 1000000 --pictures 0 --workers 1 --repeats 1
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def generate(folder: Path, samples: int, width: int, height: int, pictures: int) -> Path:
    """A JSONL file of as many samples, each with one JPEG of noise that is smooth enough to be a photo's size."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(pictures):
        coarse = rng.integers(0, 256, (max(1, height // 16), max(1, width // 16), 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.jpg", quality=85)
    path = folder / "data.jsonl"
    with path.open("w") as file:
        for number in range(samples):
            words = " ".join(f"word{i}" for i in rng.integers(0, 1000, int(rng.integers(5, 120))))
            turns = [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"What is {number}?"}]},
                {"role": "assistant", "content": words},
            ]
            images = [f"{number % pictures}.jpg"] if pictures else []
            if not pictures:
                turns[0]["content"] = f"What is {number}?"
            file.write(json.dumps({"messages": turns, "images": images}) + "\n")
    return path


def peak_kib() -> int:
    """Peak of this process's memory (Linux). `getrusage` would tell the parent's, of before the child's own begins."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def measure(path: Path, decode: bool, workers: int) -> dict[str, float]:
    """One reading in this process: entries a second, and the peak of its memory in MiB."""
    from sailvit_hf.data.checking.check import DataCheck
    from sailvit_hf.data.reading import read_entries

    before = peak_kib()
    start = time.perf_counter()
    found = DataCheck(decode=decode, workers=workers, samples=0).run(read_entries(path))
    seconds = time.perf_counter() - start
    after = peak_kib()
    if found.broken_count:
        raise SystemExit(f"{found.broken_count} broken samples, first: {found.broken[0]}")
    return {"rate": found.entries / seconds, "peak": after / 1024, "grown": (after - before) / 1024}


def compare(report: Any, samples: int, pictures: int | None, size: str, workers: list[int], repeats: int) -> None:
    """Read one generated set in all ways, by turns, so that what else the machine does meets all."""
    width, height = map(int, size.split("x"))
    pictures = samples if pictures is None else pictures
    ways = [(decode, count) for decode in (False, True) for count in workers]
    results: dict[tuple[bool, int], list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        path = generate(Path(folder), samples, width, height, pictures)
        megabytes = sum(os.path.getsize(file) for file in Path(folder).iterdir()) / 1e6
        report.add(f"{samples} samples, {pictures} JPEGs of {width}x{height}, {megabytes:.0f} MB")
        for _ in range(repeats):
            for decode, count in ways:
                command = [sys.executable, __file__, "--only-measure", str(path), "decode" if decode else "look",
                           str(count)]  # fmt: skip
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                results[decode, count].append(json.loads(done.stdout))
    for (decode, count), runs in results.items():
        rates = [run["rate"] for run in runs]
        peak, grown = (statistics.median(run[key] for run in runs) for key in ("peak", "grown"))
        way = f"{'--decode' if decode else 'default':8} --workers {count}"
        speed = f"{statistics.median(rates):6.0f} samples/s ({min(rates):.0f} to {max(rates):.0f})"
        report.add(f"{way}: {speed}, peak {peak:.0f} MiB, of which reading {grown:.0f}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[5000, 800])
    parser.add_argument("--size", nargs="+", default=["320x240", "1280x960"], help="of the pictures of each set")
    parser.add_argument("--pictures", type=int, help="different pictures (default: one for each sample)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/data_check.txt")
    parser.add_argument("--only-measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.only_measure:
        path, decode, workers = options.only_measure
        print(json.dumps(measure(Path(path), decode == "decode", int(workers))))
        return
    import torch
    from measuring import Report, command_of, machine, versions  # not above: a reading is measured without torch

    report = Report("data_check.txt" if options.write else None, command_of(__file__, argv))
    report.add(machine(torch.device("cpu")))
    report.add(versions("pillow"))
    for samples, size in zip(options.samples, options.size):  # noqa: B905 - one set suffices for one number of samples
        report.add()
        compare(report, samples, options.pictures, size, options.workers, options.repeats)


if __name__ == "__main__":
    main()
