# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The tests of the image processors, in a process that has a torchvision; see tests/torchvision_beside.py."""

import importlib.util
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import pytest

from .. import torchvision_beside

ROOT = Path(__file__).parents[2]
TESTS = [*sorted(str(path.relative_to(ROOT)) for path in Path(__file__).parent.glob("test_image_*.py")),
         "tests/processing/test_token_counts.py"]  # fmt: skip
# The common tests of older releases take classes of transformers only; those of the pinned one are what counts.
if tuple(map(int, metadata.version("transformers").split(".")[:2])) >= (5, 23):
    TESTS.append("tests/conformance/test_processing.py")


@pytest.fixture(scope="module")
def torchvision() -> None:
    if importlib.util.find_spec("torchvision") is None:
        try:
            torchvision_beside.fetched(torchvision_beside.version_beside(metadata.version("torch")))
        except torchvision_beside.FetchError as error:
            if any(os.environ.get(variable) for variable in ("SAILVIT_REQUIRE_CONFORMANCE", "CI")):
                pytest.fail(str(error), pytrace=False)
            pytest.skip(str(error))


def test_torchvisions_release_is_that_of_torch() -> None:
    assert torchvision_beside.version_beside("2.13.0+cpu") == "0.28.0"
    assert torchvision_beside.version_beside("2.9.1") == "0.24.1"


# Without what has nothing to do with torchvision and takes long: a process more, and the common tests of processors.
def test_all_tests_of_image_processors_pass_with_torchvision(torchvision: None, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.torchvision_beside",
               "-k", "not test_no_torchvision_is_needed and not SAILViTProcessorTest",
               "--tb=short", f"--junitxml={report}", *TESTS]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    skips = {case.get("name"): element.get("message") or "" for case in cases for element in case
             if element.tag == "skipped"}  # fmt: skip
    wanting = {name: said for name, said in skips.items() if re.search("torchvision|2 backends", said, re.IGNORECASE)}
    assert not wanting
    passed = {case.get("name") or "" for case in cases} - set(skips)
    # All that there are for Pillow's, and one that there is with both only.
    passed -= {name for name in passed if "AutoProcessor" in name}
    twins = {re.sub(r"\bpil\b", "torchvision", name) for name in passed if re.search(r"\[.*\bpil\b.*\]", name)}
    assert len(twins) > 50 and twins <= passed
    assert "test_the_backends_differ_by_two_levels_at_most[390-300-1]" in passed
