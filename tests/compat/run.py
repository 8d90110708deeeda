# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Run the tests that tell versions apart with several versions of transformers, and write docs/compatibility.md.

    make compat                                        # all of SETUPS with the Python of .venv
    make compat PYTHON=python3.12 VENV=.venv-3.12      # the same with another Python; its rows are added
    .venv/bin/python -m tests.compat.run 5.17.0        # one of them

Each version gets an environment of its own in .cache/compat, which holds what differs; the rest (torch above all) is
taken from the environment that this runs in.
"""

import argparse
import json
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "compat"
RESULTS, PAGE = ROOT / "docs/results/compatibility.json", ROOT / "docs/compatibility.md"
SHOWN = ("transformers", "huggingface_hub", "datasets", "accelerate", "peft", "torch")

# Exact versions per row: the lowest that pyproject.toml allows, one between, and the highest, as in constraints.txt.
SETUPS: dict[str, dict[str, str]] = {
    "5.17.0": {"huggingface_hub": "1.5.0", "datasets": "4.8.0", "accelerate": "1.12.0", "peft": "0.20.0"},
    "5.20.2": {"huggingface_hub": "1.33.0"},
    "5.23.0": {"huggingface_hub": "2.4.0"},
}
# Column of the table -> the tests in it.
CHECKS: dict[str, tuple[str, ...]] = {
    "import": ("tests/test_import.py", "tests/modeling/test_travelling_files.py"),
    "models": (
        "tests/modeling/test_modeling_sailvit.py",
        "tests/modeling/test_modeling_sailvit_vlm.py",
        "tests/modeling/test_backbone.py",
        "tests/modeling/test_configuration_sailvit.py",
        "tests/modeling/test_vision_towers.py",
    ),
    "processors": ("tests/processing",),
    "loading": ("tests/modeling/test_loading_sailvit.py",),
    "remote code": ("tests/hub/test_remote_code.py",),
    "Hub": ("tests/hub/test_hub_server.py",),
    "hostile files": ("tests/hub/test_hostile.py",),
    "data": ("tests/data/test_encoding.py", "tests/data/test_reading.py", "tests/data/test_rows.py"),
    "training": (
        "tests/refinement/test_trainer.py",
        "tests/refinement/test_trainer_checkpoint.py",
        "tests/refinement/test_packing.py",
        "tests/refinement/test_packing_trainer.py",
        "tests/refinement/test_exact_resume.py",
        "tests/refinement/saving",
    ),
}


@dataclass(frozen=True)
class Row:
    """What one setup gave: `checks` maps a column to outcomes and their number; `skips` to reasons."""

    python: str
    machine: str
    versions: dict[str, str]
    checks: dict[str, dict[str, int]]
    skips: list[str]
    failures: list[str]
    seconds: int

    @property
    def key(self) -> tuple[list[int], list[int]]:
        """What the rows are sorted by and told apart: Python's minor version and transformers'."""
        return _numbers(self.python)[:2], _numbers(self.versions["transformers"])


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def environment(transformers: str) -> Path:
    """The Python of an environment with these versions: this one if it has them, else one in the cache, made anew."""
    pins = {"transformers": transformers, **SETUPS[transformers]}
    if all(metadata.version(package) == version for package, version in pins.items()):
        return Path(sys.executable)
    folder = CACHE / f"{sys.version_info.major}.{sys.version_info.minor}-{transformers}"
    python, mark = folder / "bin" / "python", folder / "pins.json"
    wanted = {**pins, "torch": metadata.version("torch").partition("+")[0]}
    if mark.exists() and json.loads(mark.read_text()) == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Read after the environment's own packages, which therefore win.
    (packages / "below.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
    print(f"installing {', '.join(f'{name} {version}' for name, version in pins.items())}", flush=True)
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--disable-pip-version-check", "-q"]
    done = subprocess.run(
        [*command, *(f"{name}=={version}" for name, version in wanted.items())], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"error: transformers {transformers} could not be installed:\n{done.stderr[-2000:]}")
    mark.write_text(json.dumps(wanted), encoding="utf-8")
    return python


def run(transformers: str) -> Row:
    """Run the checks with one version of transformers."""
    python = environment(transformers)
    paths = [path for tests in CHECKS.values() for path in tests if (ROOT / path).exists()]
    settings = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    variables = {**os.environ, **settings, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        report = Path(place, "report.xml")
        subprocess.run(
            [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={report}", *paths],
            cwd=ROOT, env=variables,
        )  # fmt: skip
        if not report.exists():
            raise SystemExit(f"error: the tests with transformers {transformers} did not come to their end")
        checks, skips, failures = outcomes(report)
    code = f"from importlib.metadata import version; print(*map(version, {SHOWN!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    versions = dict(zip(SHOWN, found, strict=True))
    seconds = round(time.monotonic() - start)
    return Row(platform.python_version(), platform.machine(), versions, checks, skips, failures, seconds)


def outcomes(report: Path) -> tuple[dict[str, dict[str, int]], list[str], list[str]]:
    """Outcomes by column, reasons of what was skipped, and names of what failed, from a JUnit report of pytest."""
    counts: dict[str, Counter[str]] = {}
    skips: set[str] = set()
    failures = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        where = (case.get("classname") or "").replace(".", "/")
        column = next(name for name, paths in CHECKS.items() for path in paths if where.startswith(path[:-3])
                      or where.startswith(path))  # fmt: skip
        outcome = "passed"
        for element in case:
            if element.tag in ("failure", "error"):
                outcome = "failed"
                failures.append(f"{where}::{case.get('name')}")
            elif element.tag == "skipped":
                outcome = "skipped"
                skips.add(element.get("message") or "no reason given")
        counts.setdefault(column, Counter())[outcome] += 1
    return {column: dict(count) for column, count in counts.items()}, sorted(skips), failures


def _cell(count: dict[str, int] | None) -> str:
    if not count:
        return "not run"
    failed = f"**{count['failed']} failed**, " if count.get("failed") else ""
    skipped = f", {count['skipped']} skipped" if count.get("skipped") else ""
    return f"{failed}{count.get('passed', 0)} passed{skipped}"


def ranges() -> dict[str, str]:
    """The versions that pyproject.toml asks for, by package, and Python's."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = {name: re.search(rf'"{name}([<>=][^"]*)"', text) for name in SHOWN}
    asked = {name: match.group(1) for name, match in found.items() if match}
    python = re.search(r'requires-python = "([^"]*)"', text)
    return {"Python": python.group(1) if python else "", **asked}


def page(rows: Sequence[Row]) -> str:
    """The Markdown of docs/compatibility.md."""
    asked = "\n".join(f"| {name} | `{versions}` |" for name, versions in ranges().items())
    header = ["Python", *SHOWN, *CHECKS, "seconds"]
    table = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for row in rows:
        counts = [_cell(row.checks.get(name)) for name in CHECKS]
        cells = [row.python, *(row.versions[name] for name in SHOWN), *counts, str(row.seconds)]
        table.append(f"| {' | '.join(cells)} |")
    skipped = [
        f"- transformers {row.versions['transformers']}, Python {row.python}: {reason}"
        for row in rows for reason in row.skips
    ]  # fmt: skip
    return f"""<!-- Written by `make compat` (tests/compat/run.py); do not edit. -->
# Versions

What `pip` is asked for:

| package | versions |
|---|---|
{asked}

A checkpoint says so itself, also where this package is not installed: with an older transformers, loading the
configuration, the model or the processor ends with one sentence that names the range and the command that mends it;
with transformers 6 or newer, the same range comes as a warning and loading goes on. The files that travel with a
checkpoint import from transformers only names of a list that a test keeps (`tests/modeling/test_travelling_files.py`).

## Tried

Each row is one environment in which these tests ran (`tests/compat/run.py` names them): the lowest versions allowed,
some between, and the highest.

{chr(10).join(table)}

Skipped there:

{chr(10).join(skipped) or "- nothing"}

## Known differences

- Without torchvision, `from transformers import AutoImageProcessor` of transformers 5.17 gives a class that cannot be
  used. The same name from `transformers.models.auto.image_processing_auto` works, and so does `AutoProcessor`.
- A language model or vision tower needs a transformers that knows its `model_type`, which may be newer than the lowest
  version here.
- transformers 5.17 marks the assistant's tokens of a chat with pictures at the wrong places
  (`return_assistant_tokens_mask`); `SAILViTProcessor` marks them itself.
"""


def stored() -> list[Row]:
    """The rows of earlier runs."""
    values: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    return [Row(**row) for row in values]


def store(row: Row) -> None:
    """Add a row to the results, in place of the one of the same versions, and write the page anew."""
    rows = {str(kept.key): kept for kept in stored()}
    rows[str(row.key)] = row
    ordered = sorted(rows.values(), key=lambda row: row.key)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps([asdict(kept) for kept in ordered], indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(ordered), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the setups that were named, or all; write the results; 1 if a test failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("transformers", nargs="*", choices=[*SETUPS, []], help="versions (default: all)")
    parser.add_argument("--page", action="store_true", help="run nothing: write the page from the stored results")
    options = parser.parse_args(argv)
    wanted = [] if options.page else options.transformers or list(SETUPS)
    new = []
    for version in wanted:
        new.append(run(version))
        store(new[-1])
    for row in new:
        failed = [*row.failures] or ["all passed"]
        print(f"transformers {row.versions['transformers']}, Python {row.python}: {', '.join(failed)}")
    if options.page:
        PAGE.write_text(page(stored()), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
    return int(any(row.failures for row in new))


if __name__ == "__main__":
    sys.exit(main())
