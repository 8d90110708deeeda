# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Preprocessing of one picture beside CLIPImageProcessorPil doing the same work, by turns, on one thread.

    python benchmarks/preprocessing.py --write

A picture of 12 tiles is, for CLIP's processor, one large picture and one small one: the same pixels, not cut.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import torch
from measuring import Report, by_turns, command_of, machine, versions
from PIL import Image
from transformers import CLIPImageProcessorPil

from sailvit_hf import SAILViTImageProcessorPil
from sailvit_hf.processing.tiling_sailvit import choose_grid

SIDE = 448
CLIP, EXACT, FAST = "CLIPImageProcessorPil", "ours, Pillow", "ours, fast_resize"
SIZES = [(390, 300), (780, 600), (1300, 1000), (1950, 1500)]


def picture(width: int, height: int) -> Image.Image:
    """A smooth picture, as a photograph is."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def works(image: Image.Image, tiles: int) -> dict[str, Callable[[], object]]:
    """The three ways to prepare one picture."""
    ours, clip = SAILViTImageProcessorPil(), CLIPImageProcessorPil(
        do_center_crop=False, image_mean=SAILViTImageProcessorPil.image_mean,
        image_std=SAILViTImageProcessorPil.image_std,
    )  # fmt: skip
    columns, rows = choose_grid(image.height, image.width, 1, tiles, SIDE, SIDE)
    sizes = [(rows, columns), (1, 1)] if tiles > 1 else [(1, 1)]

    def theirs() -> None:
        for down, right in sizes:
            clip(image, size={"height": down * SIDE, "width": right * SIDE}, return_tensors="np")

    return {
        CLIP: theirs,
        EXACT: lambda: ours(image, max_tiles=tiles, return_tensors="np"),
        FAST: lambda: ours(image, max_tiles=tiles, fast_resize=True, return_tensors="np"),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Preprocessing beside CLIPImageProcessorPil, by turns.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    report = Report("preprocessing.txt" if options.write else None, command_of(__file__, argv))
    report.add(machine(torch.device("cpu")))
    report.add(versions("pillow"))
    report.add(f"medians of {options.rounds} rounds by turns, in ms; in brackets how many times as fast as CLIP's")
    report.add(f"{'picture':22} {CLIP:>22} {EXACT:>20} {FAST:>22}")
    for (width, height), tiles in [*((size, 1) for size in SIZES), (SIZES[-1], 12)]:
        times = by_turns(works(picture(width, height), tiles), options.rounds, warmup=2)
        medians = {name: 1000 * statistics.median(found) for name, found in times.items()}
        exact, fast = (f"{medians[name]:.1f} ({medians[CLIP] / medians[name]:.1f})" for name in (EXACT, FAST))
        title = f"{width}x{height}" + (f", {tiles} tiles" if tiles > 1 else "")
        report.add(f"{title:22} {medians[CLIP]:22.1f} {exact:>20} {fast:>22}")


if __name__ == "__main__":
    main()
