# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Data-parallel training of two processes, one of which may see no pictures, is the training of one process."""

import pytest
import torch

from . import data_parallel
from .parts import assert_close, chosen_cases, launch

# One of each kind; the others take the file beyond half a minute on a slow core.
QUICK = {
    *(f"{stage}-mixed" for stage in data_parallel.STAGES), "coarse-none", "world-never", "ten-steps",
    "ten-steps-one-by-one", "per-sample", "evaluation", "uneven-29-accumulated", "uneven-25", "packed",
    "iterable",
}  # fmt: skip
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in data_parallel.CASES]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, request):
    """All cases in one launch: importing transformers takes longer than they do."""
    folder = tmp_path_factory.mktemp("data_parallel")
    return folder, *launch("tests.distributed.data_parallel", folder, *chosen_cases(request))


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_as_one(name, two_processes, tmp_path):
    folder, _, output = two_processes
    errors = [path.read_text() for path in folder.glob(f"{name}.*.error")]
    assert (folder / f"{name}.pt").exists(), "\n".join(errors) or f"did not come so far:\n{output}"
    found, expected = torch.load(folder / f"{name}.pt"), data_parallel.run(data_parallel.CASES[name], tmp_path)[0]
    # In half precision products of other shapes are rounded otherwise.
    losses, gradients = (1e-3, 1e-1) if data_parallel.CASES[name].arguments.get("bf16") else (1e-5, 1e-5)
    assert found["samples"] == expected["samples"] > 0
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=losses, atol=0)
    torch.testing.assert_close(found["evaluation"], expected["evaluation"], rtol=losses, atol=0)
    for ours, theirs in zip(found["gradients"], expected["gradients"], strict=True):
        assert_close(ours, theirs, gradients)


def test_the_launch_ends_well(two_processes):
    _, status, output = two_processes
    assert status == 0, output
