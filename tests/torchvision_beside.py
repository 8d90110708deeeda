# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A pytest plugin: a torchvision to import, where the installed torch has none that fits it.

    python -m pytest -p tests.torchvision_beside tests/processing

torchvision's wheels on the package index are built for the torch beside them there; a CPU build of torch cannot load
their compiled part. The rest, all that image processors use, is Python on torch. So the wheel is fetched with pip
(cached, nothing of it is committed or installed), and the operations of its compiled part are declared without being
there. Where a working torchvision is installed, that one is used.

An importable torchvision changes what `AutoImageProcessor` chooses, so tests want it in a process of its own:
`tests/processing/test_torchvision_backend.py` runs them so.
"""

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from filelock import FileLock

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "torchvision"
# Those that torchvision's Python files register something for when they are imported.
_OPERATIONS = ("nms", "qnms", "roi_align", "_roi_align_backward", "roi_pool", "_roi_pool_backward", "ps_roi_align",
               "_ps_roi_align_backward", "ps_roi_pool", "_ps_roi_pool_backward", "deform_conv2d",
               "_deform_conv2d_backward")  # fmt: skip
_kept = []  # the declarations last as long as this object


class FetchError(Exception):
    """No torchvision could be had; one sentence says why."""


def version_beside(torch_version: str) -> str:
    """torchvision's version of the same release: torch 2.N goes with 0.(N + 15)."""
    _, minor, patch = torch_version.partition("+")[0].split(".")[:3]
    return f"0.{int(minor) + 15}.{patch}"


def fetched(version: str) -> Path:
    """The folder that holds the package, downloaded once for all workers and runs.

    Raises:
        FetchError: pip could not download it.
    """
    folder = CACHE / f"{version}-{sys.version_info.major}.{sys.version_info.minor}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f"{folder.name}.lock"):
        if not folder.is_dir():
            _download(version, folder)
    return folder


def _download(version: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--retries", "2", "--timeout", "20", "--dest", temporary, "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run([*command, f"torchvision=={version}"], capture_output=True, text=True)
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
            raise FetchError(f"pip could not download torchvision {version}: {said[-1]}")
        unpacked = Path(temporary) / "site"
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(unpacked)
        unpacked.rename(folder)


def make_importable() -> None:
    """Have `import torchvision` work in this process.

    Raises:
        FetchError: there is none installed, and none can be fetched.
    """
    if importlib.util.find_spec("torchvision") is not None:
        return
    folder = fetched(version_beside(metadata.version("torch")))
    # Last, so that nothing else comes from there.
    sys.path.append(str(folder))
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    _kept.append(library)
    for name in _OPERATIONS:
        library.define(f"{name}(Tensor x) -> Tensor")
    import torchvision  # noqa: F401


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Before any test file imports transformers, which looks for torchvision once."""
    make_importable()
