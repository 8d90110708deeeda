# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' own common tests, at the installed version: fetched with pip, cached, imported as a package.

Its source distribution carries them; wheels do not. Nothing of it is committed here. Modules that the common tests
import and the distribution lacks come from `stand_ins.py`.
"""

import functools
import importlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
import transformers
from filelock import FileLock

from . import stand_ins

PACKAGE = "transformers_common_tests"
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "transformers-tests"

# Where the common tests look for what their distribution lacks, and what stands in for it.
STAND_INS = {
    f"{PACKAGE}.exporters.test_export": ["ExportTesterMixin"],
    f"{PACKAGE}.generation.test_utils": ["GenerationTesterMixin"],
    f"{PACKAGE}.utils.test_configuration_utils": ["config_common_kwargs"],
    "fetch_hub_objects_for_ci": ["url_to_local_path"],
}


class FetchError(Exception):
    """The common tests could not be had; one sentence says why."""


def common_tests(name: str) -> ModuleType:
    """Import one module of the common tests, such as `"test_modeling_common"`.

    Where they cannot be fetched, the test module that asks is skipped with the reason; it fails instead when
    `SAILVIT_REQUIRE_CONFORMANCE` or `CI` is set, so that nobody takes an unreachable index for conformance.
    """
    problem = ""
    try:
        _make_package(_fetched(transformers.__version__))
    except FetchError as error:
        problem = str(error)
    if problem and any(os.environ.get(variable) for variable in ("SAILVIT_REQUIRE_CONFORMANCE", "CI")):
        pytest.fail(problem, pytrace=False)
    if problem:
        pytest.skip(problem, allow_module_level=True)
    return importlib.import_module(f"{PACKAGE}.{name}")


@functools.cache
def _fetched(version: str) -> Path:
    """The folder of the common tests of `version`, downloaded once for all workers and runs."""
    folder = CACHE / version
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f"{version}.lock"):
        if folder.is_dir():
            return folder
        # The workers of one run do not each wait for an index that the first of them could not reach.
        run, failure = os.environ.get("PYTEST_XDIST_TESTRUNUID", ""), CACHE / f"{version}.failed"
        if run and failure.is_file() and failure.read_text().startswith(run):
            raise FetchError(failure.read_text()[len(run) :])
        try:
            _download(version, folder)
        except FetchError as error:
            failure.write_text(f"{run}{error}")
            raise
        failure.unlink(missing_ok=True)
    return folder


def _download(version: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--retries", "2", "--timeout", "20", "--dest", temporary, "--no-deps"]
        command += ["--no-binary", "transformers", f"transformers=={version}"]
        if importlib.util.find_spec("setuptools"):
            # pip reads an sdist's metadata by building it; an environment just for that takes the longer part.
            command.append("--no-build-isolation")
        done = subprocess.run(command, capture_output=True, text=True)
        archives = list(Path(temporary).glob("*.tar.gz"))
        if done.returncode or not archives:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
            raise FetchError(f"pip could not download the source distribution of transformers {version}: {said[-1]}")
        unpacked = Path(temporary) / "tests"
        unpacked.mkdir()
        # Some of them look for the package's own file beside them.
        (unpacked / "__init__.py").touch()
        with tarfile.open(archives[0]) as archive:
            for member in archive:
                path = Path(member.name)
                if path.parts[1:-1] == ("tests",) and path.suffix == ".py" and (source := archive.extractfile(member)):
                    (unpacked / path.name).write_bytes(source.read())
        unpacked.rename(folder)


def _make_package(folder: Path) -> None:
    if PACKAGE in sys.modules:
        return
    for name, path in ((PACKAGE, [str(folder)]), *((name, []) for name in STAND_INS)):
        parents = name.split(".")[:-1]
        for end in range(1, len(parents) + 1):
            _add_module(".".join(parents[:end]), [])
        _add_module(name, path)
    for name, contents in STAND_INS.items():
        for content in contents:
            setattr(sys.modules[name], content, getattr(stand_ins, content))


def _add_module(name: str, path: list[str]) -> None:
    if name not in sys.modules:
        module = ModuleType(name)
        module.__path__ = path
        sys.modules[name] = module
