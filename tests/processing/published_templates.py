# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Chat templates as language models publish them: fetched with pip inside a package that ships them, and cached.

Nothing of them is committed here.
"""

import functools
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

PACKAGE = "trl==1.16.0"
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "chat-templates"


def published(name: str) -> str:
    """The template `name`, such as `"qwen2_5"`; the test is skipped where the package cannot be had."""
    folder = _fetched()
    if isinstance(folder, str):
        pytest.skip(folder)
    return (folder / f"{name}.jinja").read_text(encoding="utf-8")


def all_published() -> list[str]:
    """The names of all templates; the test is skipped where the package cannot be had."""
    folder = _fetched()
    if isinstance(folder, str):
        pytest.skip(folder)
    return sorted(path.stem for path in folder.glob("*.jinja"))


@functools.cache
def _fetched() -> Path | str:
    """The folder of the templates, or why there is none; downloaded once for all workers and runs."""
    folder = CACHE / PACKAGE.replace("==", "-")
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / "lock"):
        if folder.is_dir():
            return folder
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
            command += ["--retries", "1", "--timeout", "15", "--no-deps", "--dest", temporary, PACKAGE]
            done = subprocess.run(command, capture_output=True, text=True)
            wheels = list(Path(temporary).glob("*.whl"))
            if done.returncode or not wheels:
                said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
                return f"pip could not download {PACKAGE}, which ships chat templates: {said[-1]}"
            unpacked = Path(temporary) / "templates"
            unpacked.mkdir()
            with zipfile.ZipFile(wheels[0]) as archive:
                for name in archive.namelist():
                    if name.startswith("trl/chat_templates/") and name.endswith(".jinja"):
                        (unpacked / Path(name).name).write_bytes(archive.read(name))
            unpacked.rename(folder)
    return folder
