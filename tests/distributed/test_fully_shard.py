# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A model sharded by torch's `fully_shard` over two processes, some of which see no pictures, is the whole model."""

import pytest
import torch

from . import sharded
from .parts import assert_close, chosen_cases, launch

# One of each kind; the others take the file beyond half a minute on a slow core.
QUICK = {
    *(f"{stage}-mixed" for stage in sharded.STAGES), "coarse-none", "language-mixed", "ten-steps", "accumulated",
    "early-layer-clip", "sizes-checkpointing", "sizes-language", "half", "packed", "evaluation",
}  # fmt: skip
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sharded.CASES]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, request):
    """All cases in one launch: importing transformers takes longer than they do."""
    folder = tmp_path_factory.mktemp("sharded")
    return folder, *launch("tests.distributed.sharded", folder, *chosen_cases(request))


@pytest.mark.parametrize("name", NAMES)
def test_sharded_over_two_processes(name, two_processes):
    folder, _, output = two_processes
    errors = [path.read_text() for path in folder.glob(f"{name}.*.error")]
    assert (folder / f"{name}.pt").exists(), "\n".join(errors) or f"did not come so far:\n{output}"
    found, expected = torch.load(folder / f"{name}.pt"), sharded.run(sharded.CASES[name])
    # In half precision products of other shapes are rounded otherwise.
    half = sharded.CASES[name].autocast or sharded.CASES[name].half
    losses, gradients = (2e-3, 2e-1) if half else (1e-5, 1e-5)
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=losses, atol=0)
    torch.testing.assert_close(found["evaluation"], expected["evaluation"], rtol=losses, atol=0)
    for ours, theirs in zip(found["gradients"], expected["gradients"], strict=True):
        assert_close(ours, theirs, gradients)


def test_the_launch_ends_well(two_processes):
    _, status, output = two_processes
    assert status == 0, output
