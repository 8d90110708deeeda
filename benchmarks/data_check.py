# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""How fast `sailvit data check` reads a generated set, with and without decoding, and how much memory it takes.

    python benchmarks/data_check.py --samples 5000 --size 640x480 --workers 1 2
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


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


def measure(path: Path, decode: bool, workers: int) -> dict[str, float]:
    """One reading in this process: entries a second, and the peak of its memory in MiB."""
    from sailvit_hf.data.checking.check import DataCheck
    from sailvit_hf.data.reading import read_entries

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = DataCheck(decode=decode, workers=workers, samples=0).run(read_entries(path))
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if found.broken_count:
        raise SystemExit(f"{found.broken_count} broken samples, first: {found.broken[0]}")
    return {"rate": found.entries / seconds, "peak": after / 1024, "grown": (after - before) / 1024}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--pictures", type=int, help="different pictures (default: one for each sample)")
    parser.add_argument("--size", default="640x480", help="width and height of the pictures")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only-measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.only_measure:
        path, decode, workers = options.only_measure
        print(json.dumps(measure(Path(path), decode == "decode", int(workers))))
        return
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        pictures = options.samples if options.pictures is None else options.pictures
        path = generate(Path(folder), options.samples, width, height, pictures)
        megabytes = sum(os.path.getsize(file) for file in Path(folder).iterdir()) / 1e6
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; {options.samples} "
              f"samples, {pictures} JPEGs of {width}x{height}, {megabytes:.0f} MB")  # fmt: skip
        ways = [(decode, workers) for decode in (False, True) for workers in options.workers]
        results: dict[tuple[bool, int], list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(options.repeats):  # by turns, so that what else the machine does meets all
            for decode, workers in ways:
                command = [sys.executable, __file__, "--only-measure", str(path), "decode" if decode else "look",
                           str(workers)]  # fmt: skip
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                results[decode, workers].append(json.loads(done.stdout))
    for (decode, workers), runs in results.items():
        rates = [run["rate"] for run in runs]
        peak, grown = (statistics.median(run[key] for run in runs) for key in ("peak", "grown"))
        way = f"{'--decode' if decode else 'default':8} --workers {workers}"
        speed = f"{statistics.median(rates):6.0f} samples/s (best {max(rates):.0f})"
        print(f"{way}: {speed}, peak {peak:.0f} MiB, of which reading {grown:.0f}")


if __name__ == "__main__":
    main()
