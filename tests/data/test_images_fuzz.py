# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A few hundred of the inputs of benchmarks/fuzz_pictures.py, and that the script sees what it looks for."""

import importlib
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sailvit_hf.data.images import ImageError, load_image


@pytest.fixture(scope="module")
def fuzz():
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    yield importlib.import_module("fuzz_pictures")
    sys.path.pop(0)
    for name in ("fuzz_pictures", "measuring"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def files(fuzz):
    return fuzz.seed_files(fuzz.demo_pictures(4))


def test_the_files_are_good_ones(files):
    kinds = Counter(name.split()[0] for name in files)
    assert set(kinds) == {"PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"} and len(files) >= 30
    for name, content in files.items():
        turned = name in ("PNG rgb", "JPEG baseline", "WEBP lossy", "TIFF plain")
        assert load_image(content).size == ((56, 72) if turned else (72, 56)), name


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_end_in_typed_errors_only(fuzz, files):
    start = fuzz.peak_mib()
    found = list(fuzz.outcomes(files, range(600), seed=1))
    counts = Counter(outcome.what for outcome in found)
    assert not [outcome for outcome in found if not outcome.what.isidentifier()]
    assert max(outcome.cpu_seconds for outcome in found) < fuzz.SLOW_SECONDS
    assert fuzz.peak_mib() - start < 1024
    # Neither does everything break nor nothing: the inputs are worth something.
    assert 60 < counts["decoded"] < 400 and counts["ImageTruncatedError"] > 30 and counts["ImageDamagedError"] > 60


@pytest.mark.filterwarnings("ignore")
def test_random_bytes_behind_a_signature():
    rng = random.Random(0)
    for start in (
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"RIFF\x40\0\0\0WEBP",
        b"BM",
        b"II*\0",
        b"MM\0*",
    ):
        for length in (0, 1, 7, 60, 300):
            with pytest.raises(ImageError):
                load_image(start + rng.randbytes(length))


def test_an_input_is_the_same_every_time(fuzz, files):
    first = [fuzz.mutated(files, random.Random(f"1/{number}")) for number in range(50)]
    assert first == [fuzz.mutated(files, random.Random(f"1/{number}")) for number in range(50)]
    assert sum(content == files[name] for name, content in first) < 10


def _crash_at_3_hang_at_5(pipe, files, numbers, seed, keep):
    for number in numbers:
        if number == 3:
            os.abort()
        if number == 5:
            time.sleep(60)
        pipe.send((number, "PNG", "decoded", 0.0, 1.0))
    pipe.send((1.0, 2.0))


def test_crashes_and_hangs_are_counted_and_got_over(fuzz, files, monkeypatch, tmp_path):
    monkeypatch.setattr(fuzz, "work", _crash_at_3_hang_at_5)
    monkeypatch.setattr(fuzz, "HANG_SECONDS", 5.0)
    totals = fuzz.run(files, 8, 0, tmp_path, time.monotonic() + 60)
    counts = Counter(what for _, what in totals.counts.elements())
    assert totals.inputs == 8 and counts["decoded"] == 6 and counts["CRASH (-6)"] == 1
    assert sum(count for what, count in counts.items() if what.startswith("HANG")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.bin", "5.bin"]


def test_the_command(fuzz, capsys):
    fuzz.main(["--inputs", "60"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("60 inputs in ") and lines[-1] == "crashes, hangs, untyped errors: 0"
    (row,) = [line.split() for line in lines if line.startswith("decoded")]
    assert int(row[-1]) == sum(map(int, row[1:-1])) > 0
