# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Damaged pictures by the hundred thousand: `load_image` decodes each or refuses it with a typed error.

The inputs are files of all formats that it opens, written by Pillow from the demo world's pictures, with bytes changed
at random. They are read in a process of its own, so that a crash or a hang of a C decoder is seen, counted, got over.
"""

import argparse
import io
import multiprocessing
import os
import random
import struct
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sailvit_hf.data.images import ImageError, load_image

SLOW_SECONDS = 2.0
# Without progress for so long, the process is ended: more than SLOW_SECONDS, for the machine may be busy.
HANG_SECONDS = 30.0
_INTERESTING = (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 32, 64, 127, 128, 255, 256, 257, 511, 512, 1023, 4096, 16383, 16384,
                32767, 32768, 46341, 65535, 65536, 0xFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)  # fmt: skip


def demo_pictures(count: int) -> list[Image.Image]:
    """Small pictures of the demo world, RGB."""
    from sailvit_hf.data.demo_world import DemoWorld

    return [Image.fromarray(scene.render()).resize((72, 56)) for scene in DemoWorld().scenes("train", count)]


def seed_files(pictures: list[Image.Image]) -> dict[str, bytes]:
    """Files of every format and of most ways to write it, by a name that starts with the format."""
    rgb, other = pictures[0], pictures[-1]
    gray, palette = rgb.convert("L"), rgb.quantize(32)
    alpha = rgb.copy()
    alpha.putalpha(other.convert("L"))
    sixteen = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    frames: dict[str, Any] = {"save_all": True, "append_images": pictures[1:3], "duration": 50}
    ways: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "PNG rgb": (rgb, "PNG", {"exif": exif}),
        "PNG alpha": (alpha, "PNG", {}),
        "PNG gray alpha": (alpha.convert("LA"), "PNG", {}),
        "PNG palette": (palette, "PNG", {"transparency": 3}),
        "PNG 1 bit": (gray.convert("1"), "PNG", {}),
        "PNG 16 bits": (sixteen, "PNG", {}),
        "PNG animated": (rgb, "PNG", frames),
        "JPEG baseline": (rgb, "JPEG", {"exif": exif}),
        "JPEG progressive": (rgb, "JPEG", {"progressive": True}),
        "JPEG gray": (gray, "JPEG", {"restart_marker_blocks": 2}),
        "JPEG cmyk": (rgb.convert("CMYK"), "JPEG", {}),
        "JPEG several": (rgb, "MPO", frames),
        "GIF plain": (palette, "GIF", {"interlace": 0}),
        "GIF interlaced": (palette, "GIF", {"interlace": 1, "transparency": 2, "comment": b"made up"}),
        "GIF animated": (palette, "GIF", frames),
        "WEBP lossy": (rgb, "WEBP", {"exif": exif}),
        "WEBP lossless": (rgb, "WEBP", {"lossless": True}),
        "WEBP alpha": (alpha, "WEBP", {}),
        "WEBP animated": (alpha, "WEBP", frames),
        "BMP rgb": (rgb, "BMP", {}),
        "BMP alpha": (alpha, "BMP", {}),
        "BMP palette": (palette, "BMP", {}),
        "BMP 1 bit": (gray.convert("1"), "BMP", {}),
        "TIFF plain": (rgb, "TIFF", {"exif": exif}),
        "TIFF big": (alpha, "TIFF", {"big_tiff": True}),
        "TIFF 16 bits": (sixteen, "TIFF", {}),
        "TIFF cmyk": (rgb.convert("CMYK"), "TIFF", {"compression": "packbits"}),
        "TIFF strips": (rgb, "TIFF", {"compression": "tiff_lzw", "tiffinfo": {278: 8}}),
        "TIFF several": (palette, "TIFF", {"save_all": True, "append_images": [palette]}),
    }
    for compression in ("tiff_adobe_deflate", "jpeg", "zstd", "lzma"):
        ways[f"TIFF {compression}"] = (rgb, "TIFF", {"compression": compression})
    for compression in ("group3", "group4"):
        ways[f"TIFF {compression}"] = (gray.convert("1"), "TIFF", {"compression": compression})
    files = {}
    for name, (picture, kind, options) in ways.items():
        buffer = io.BytesIO()
        try:
            picture.save(buffer, kind, **options)
        except (OSError, ValueError):  # not every build of libtiff has every compression
            continue
        files[name] = buffer.getvalue()
    return files


def mutated(files: dict[str, bytes], rng: random.Random) -> tuple[str, bytes]:
    """The name of a file and its bytes with one to eight changes; a PNG's checksums are mostly made right again."""
    name = rng.choice(list(files))
    data = bytearray(files[name])
    family = name.split()[0]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 8))):
        if not data:
            break
        # Half of the changes fall on the header, where a byte means most.
        start = rng.randrange(min(len(data), rng.choice((64, 256))) if rng.random() < 0.5 else len(data))
        rng.choice(_CHANGES)(data, start, rng, files, family)
    if family == "PNG" and rng.random() < 0.8:
        _mend_checksums(data)
    return name, bytes(data)


_Change = Callable[[bytearray, int, random.Random, dict[str, bytes], str], None]


def _flip(data: bytearray, start: int, rng: random.Random, *_: Any) -> None:
    data[start] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, start: int, rng: random.Random, *_: Any) -> None:
    data[start] = rng.choice((0, 1, 127, 128, 254, 255, rng.randrange(256)))


def _number(data: bytearray, start: int, rng: random.Random, *_: Any) -> None:
    size = rng.choice((2, 4))
    number = rng.choice(_INTERESTING) & (256**size - 1)
    data[start : start + size] = number.to_bytes(size, rng.choice(("little", "big")))


def _noise(data: bytearray, start: int, rng: random.Random, *_: Any) -> None:
    length = rng.choice((2, 8, 64))
    data[start : start + length] = rng.randbytes(min(length, len(data) - start))


def _delete(data: bytearray, start: int, rng: random.Random, *_: Any) -> None:
    del data[start : start + rng.choice((1, 2, 4, 16, 256))]


def _double(data: bytearray, start: int, rng: random.Random, *_: Any) -> None:
    data[start:start] = data[start : start + rng.choice((1, 4, 32, 512))] * rng.choice((1, 1, 2, 50))


def _cut(data: bytearray, start: int, *_: Any) -> None:
    del data[start:]


def _splice(data: bytearray, start: int, rng: random.Random, files: dict[str, bytes], family: str) -> None:
    other = rng.choice([content for name, content in files.items() if name.startswith(family)])
    begin = rng.randrange(len(other))
    piece = other[begin : begin + rng.choice((8, 64, 1024))]
    data[start : start + (len(piece) if rng.random() < 0.5 else 0)] = piece


_CHANGES: tuple[_Change, ...] = (_flip, _byte, _byte, _number, _number, _noise, _delete, _double, _cut, _splice)


def _mend_checksums(data: bytearray) -> None:
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4


class Outcome(NamedTuple):
    """What became of one input."""

    number: int
    family: str
    what: str
    cpu_seconds: float


def outcomes(files: dict[str, bytes], numbers: range, seed: int, keep: Path | None = None) -> Iterator[Outcome]:
    """Load the inputs of these numbers, one after the other; the same number and seed are the same input."""
    for number in numbers:
        name, data = mutated(files, random.Random(f"{seed}/{number}"))
        start = time.process_time()
        try:
            image = load_image(data, name=f"input {number}")
            what = "decoded" if image.mode == "RGB" and min(image.size) > 0 else f"UNTYPED: {image}"
        except ImageError as error:
            text = str(error)
            what = type(error).__name__ if text.startswith(f"input {number} ") and "\n" not in text else "BAD MESSAGE"
        except BaseException as error:  # what must never happen, and is counted
            if isinstance(error, KeyboardInterrupt):
                raise
            what = f"UNTYPED: {type(error).__name__}"
        seconds = time.process_time() - start
        if keep is not None and (seconds > SLOW_SECONDS or not what.isidentifier()):
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{number}.bin").write_bytes(data)
        yield Outcome(number, name.split()[0], what, seconds)


def peak_mib() -> float:
    """Peak of this process's resident memory in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def work(pipe: Any, files: dict[str, bytes], numbers: range, seed: int, keep: Path | None) -> None:
    """Send the outcome of each input as it comes, then the peak of memory before and after."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff's C code writes a line for every fault
    load_image(next(iter(files.values())))
    before = peak_mib()
    for outcome in outcomes(files, numbers, seed, keep):
        pipe.send((*outcome, peak_mib() if outcome.number % 50 == 0 else 0.0))
    pipe.send((before, peak_mib()))


class Totals:
    """All outcomes, the slowest input and the peak of memory."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.slow = 0
        self.slowest = Outcome(-1, "", "", 0.0)
        self.before = self.peak = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.counts[outcome.family, outcome.what] += 1
        self.slow += outcome.cpu_seconds > SLOW_SECONDS
        self.slowest = max(self.slowest, outcome, key=lambda each: each.cpu_seconds)

    @property
    def inputs(self) -> int:
        """How many were counted."""
        return sum(self.counts.values())


def run(files: dict[str, bytes], inputs: int, seed: int, keep: Path | None, deadline: float) -> Totals:
    """All inputs, or as many as there is time for; a crash or hang costs one input and a new process."""
    context = multiprocessing.get_context("spawn")
    totals, first = Totals(), 0
    while first < inputs:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(theirs, files, range(first, inputs), seed, keep), daemon=True)
        process.start()
        theirs.close()
        failure = None
        try:
            while ours.poll(HANG_SECONDS):
                message = ours.recv()
                if len(message) == 2:
                    totals.before, totals.peak = message[0], max(totals.peak, message[1])
                    break
                totals.add(Outcome(*message[:4]))
                totals.peak = max(totals.peak, message[4])
                first = message[0] + 1
                if time.monotonic() > deadline:
                    break
            else:
                failure = "HANG"
        except EOFError:
            failure = "CRASH"
        process.join(1.0)  # a crash has its own exit status
        process.kill()
        process.join()
        if failure is None:
            break
        name, data = mutated(files, random.Random(f"{seed}/{first}"))
        totals.add(Outcome(first, name.split()[0], f"{failure} ({process.exitcode})", 0.0))
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{first}.bin").write_bytes(data)
        first += 1
    return totals


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    from measuring import Report, command_of, machine, versions
    from torch import device

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so long")
    parser.add_argument("--keep", type=Path, help="a folder for inputs that crash, hang or end in another error")
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/fuzz_pictures.txt")
    options = parser.parse_args(arguments)
    report = Report("fuzz_pictures.txt" if options.write else None, command_of(__file__, arguments))
    report.add(machine(device("cpu")))
    report.add(versions("pillow"))
    files = seed_files(demo_pictures(4))
    sizes = sorted(map(len, files.values()))
    report.add(f"{len(files)} files of {sizes[0]} to {sizes[-1]} bytes, changed at random")
    start = time.monotonic()
    totals = run(files, options.inputs, options.seed, options.keep, start + 60 * options.minutes)
    seconds = time.monotonic() - start
    report.add(f"{totals.inputs} inputs in {seconds:.0f} s: {totals.inputs / seconds:.0f} a second, changes included")
    for line in _table(totals.counts):
        report.add(line)
    worst = totals.slowest
    report.add(f"slowest: input {worst.number} ({worst.family}, {worst.what}), {worst.cpu_seconds:.3f} s of processor")
    report.add(f"slower than {SLOW_SECONDS:.0f} s of processor: {totals.slow}")
    report.add(f"peak of memory: {totals.peak:.0f} MiB, before the first input {totals.before:.0f} MiB")
    wrong = sum(count for (_, what), count in totals.counts.items() if not what.isidentifier())
    report.add(f"crashes, hangs, untyped errors: {wrong}")


def _table(counts: Counter[tuple[str, str]]) -> Iterator[str]:
    families = sorted({family for family, _ in counts})
    yield f"{'outcome':24}" + "".join(f"{family:>8}" for family in families) + f"{'all':>9}"
    for what in sorted({what for _, what in counts}, key=lambda each: (each != "decoded", each)):
        row = [counts[family, what] for family in families]
        yield f"{what:24}" + "".join(f"{count:8}" for count in row) + f"{sum(row):9}"


if __name__ == "__main__":
    main()
