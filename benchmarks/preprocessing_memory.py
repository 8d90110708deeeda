# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Resident memory while pictures are prepared one after the other: it must not grow.

    python benchmarks/preprocessing_memory.py --write

JPEG files as bytes, of sizes that never come in the same order, each whole or as tiles, one or four to a call, by
Pillow and by torch in turns (and by torchvision where it is installed or `--torchvision` fetches it).
"""

import beside  # noqa: F401  # first, see there

# isort: split
import argparse
import gc
import io
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import Report, command_of, machine, peak_mib, reset_peak, versions
from tests.processing.backends import smooth
from transformers.utils import is_torchvision_available

from sailvit_hf import SAILViTImageProcessor, SAILViTImageProcessorPil

MARKS = (1_000, 2_000, 5_000, 10_000)


def resident_mib() -> float:
    """What this process holds now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def files(draw: random.Random, count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        buffer = io.BytesIO()
        smooth(draw.randint(50, 1000), draw.randint(50, 1000)).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Memory while pictures are prepared one after the other.")
    parser.add_argument("--pictures", type=int, default=MARKS[-1])
    parser.add_argument("--torchvision", action="store_true", help="fetch torchvision where there is none")
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    report = Report("preprocessing_memory.txt" if options.write else None, command_of(__file__, argv))
    report.add(machine(torch.device("cpu")))
    report.add(versions("pillow", "torchvision"))
    pil = SAILViTImageProcessorPil(size={"height": 224, "width": 224})
    ways: list[Callable[..., Any]] = [pil, lambda pictures, **more: pil(pictures, fast_resize=True, **more)]
    if is_torchvision_available():
        ways.append(SAILViTImageProcessor(size={"height": 224, "width": 224}))
    draw = random.Random(0)
    pool = files(draw, 60)
    report.add(f"{'pictures':>10} {'resident MiB':>14} {'peak MiB since the last line':>30} {'s':>8}")
    start, done = time.perf_counter(), 0
    for mark in [mark for mark in (100, *MARKS) if mark <= options.pictures]:
        reset_peak()
        while done < mark:
            pictures = draw.choices(pool, k=min(draw.choice((1, 4)), mark - done))
            draw.choice(ways)(pictures, max_tiles=draw.choice((1, 1, 6)), return_tensors="pt")
            done += len(pictures)
        gc.collect()
        seconds = time.perf_counter() - start
        report.add(f"{done:10,} {resident_mib():14.0f} {peak_mib():30.0f} {seconds:8.0f}")


if __name__ == "__main__":
    main()
