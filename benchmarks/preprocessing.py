# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Preprocessing of one picture beside CLIPImageProcessorPil doing the same work, by turns, on one thread.

    python benchmarks/preprocessing.py --write

First pictures in memory, then JPEG files as bytes, decoded each time. A picture of 12 tiles is, for CLIP's processor,
one large picture and one small one: the same pixels, not cut. The torchvision backend is measured where torchvision is
installed, or with `--torchvision`, which fetches one as the tests do (tests/torchvision_beside.py).
"""

import beside  # noqa: F401  # first, see there

# isort: split
import argparse
import io
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from measuring import Report, by_turns, command_of, machine, versions
from PIL import Image
from tests.processing.backends import smooth, textured
from transformers import CLIPImageProcessorPil
from transformers.utils import is_torchvision_available

from sailvit_hf import SAILViTImageProcessor, SAILViTImageProcessorPil
from sailvit_hf.processing.tiling_sailvit import choose_grid

SIDE, MARGIN = 448, 23
CLIP = "CLIPImageProcessorPil"
SIZES = [(390, 300), (780, 600), (1300, 1000), (1950, 1500)]
FILES = [(1950, 1500), (4000, 3000)]


def ways(drafts: bool) -> dict[str, Callable[..., object]]:
    """Our ways to prepare one picture, by name; `drafts`: those of files, too."""
    pil = SAILViTImageProcessorPil()
    found: dict[str, Callable[..., object]] = {
        "ours, Pillow": pil,
        "ours, fast_resize": lambda image, **more: pil(image, fast_resize=True, **more),
    }
    if is_torchvision_available():
        found["ours, torchvision"] = SAILViTImageProcessor()
    if drafts:
        found["fast, draft_jpeg"] = lambda image, **more: pil(image, fast_resize=True, draft_jpeg=True, **more)
    return found


def works(source: Image.Image | bytes, tiles: int) -> dict[str, Callable[[], object]]:
    """CLIP's and our ways to prepare a picture or a file's bytes."""
    clip = CLIPImageProcessorPil(
        do_center_crop=False, image_mean=SAILViTImageProcessorPil.image_mean,
        image_std=SAILViTImageProcessorPil.image_std,
    )  # fmt: skip
    size = (Image.open(io.BytesIO(source)) if isinstance(source, bytes) else source).size
    columns, rows = choose_grid(size[1], size[0], 1, tiles, SIDE, SIDE)
    sizes = [(rows, columns), (1, 1)] if tiles > 1 else [(1, 1)]

    def theirs() -> None:
        image = Image.open(io.BytesIO(source)) if isinstance(source, bytes) else source
        for down, right in sizes:
            clip(image, size={"height": down * SIDE, "width": right * SIDE}, return_tensors="np")

    def ours(way: Callable[..., object]) -> Callable[[], object]:
        return lambda: way(source, max_tiles=tiles, return_tensors="np")

    return {CLIP: theirs, **{name: ours(way) for name, way in ways(isinstance(source, bytes)).items()}}


def line(title: str, found: Mapping[str, str]) -> str:
    return f"{title:22}" + "".join(f"{text:>{MARGIN}}" for text in found.values())


def timed(title: str, source: Image.Image | bytes, tiles: int, rounds: int) -> str:
    times = by_turns(works(source, tiles), rounds, warmup=2)
    medians = {name: 1000 * statistics.median(found) for name, found in times.items()}
    texts = {name: f"{found:.1f} ({medians[CLIP] / found:.1f})" for name, found in medians.items()}
    return line(title, {**texts, CLIP: f"{medians[CLIP]:.1f}"})


def differences(source: Image.Image | bytes, tiles: int) -> dict[str, str]:
    """How far each way's pixels are from those of Pillow's exact path, in levels of 255: largest, mean."""
    exact, *others = ((name, way(source, max_tiles=tiles, do_normalize=False, return_tensors="np")["pixel_values"])
                      for name, way in ways(isinstance(source, bytes)).items())  # type: ignore[index]  # fmt: skip
    gaps = {name: 255 * np.abs(pixels - exact[1]) for name, pixels in others}
    return {"": "", exact[0]: "0", **{name: f"{gap.max():.0f}, {gap.mean():.3f}" for name, gap in gaps.items()}}


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Preprocessing beside CLIPImageProcessorPil, by turns.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--torchvision", action="store_true", help="fetch torchvision where there is none")
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    report = Report("preprocessing.txt" if options.write else None, command_of(__file__, argv))
    report.add(machine(torch.device("cpu")))
    report.add(versions("pillow", "torchvision"))
    report.add(f"medians of {options.rounds} rounds by turns, in ms; in brackets how many times as fast as CLIP's")
    report.add(line("picture in memory", {name: name for name in (CLIP, *ways(False))}))
    for (width, height), tiles in [*((size, 1) for size in SIZES), (SIZES[-1], 12)]:
        title = f"{width}x{height}" + (f", {tiles} tiles" if tiles > 1 else "")
        report.add(timed(title, smooth(width, height), tiles, options.rounds))
    report.add(line("JPEG file of", {name: name for name in (CLIP, *ways(True))}))
    for width, height in FILES:
        report.add(timed(f"{width}x{height}", jpeg(textured(width, height)), 1, max(3, options.rounds // 3)))
    report.add("difference from Pillow's pixels, in levels of 255: largest, mean")
    for name, kind in (("smooth", smooth), ("textured", textured)):
        for (width, height), tiles in ((SIZES[0], 1), (SIZES[-1], 1), (SIZES[-1], 12)):
            title = f"{name} {width}x{height}" + (f", {tiles}" if tiles > 1 else "")
            report.add(line(title, differences(kind(width, height), tiles)))
    for width, height in FILES:
        report.add(line(f"JPEG {width}x{height}", differences(jpeg(textured(width, height)), 1)))


if __name__ == "__main__":
    main()
