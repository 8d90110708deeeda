# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Two processes that are stopped and go on, as two, or as one and then as two again, train as if nothing had been."""

import json

import pytest
import torch

from tests.refinement.resumed import MODES, rows_of

from .exact_resume import STOPS, run
from .parts import assert_close, launch

QUICK = ("plain", "both")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exact")
    rows_of(folder / "data")
    return folder


@pytest.mark.parametrize(
    "modes", [QUICK, pytest.param(tuple(sorted(set(MODES) - set(QUICK))), marks=pytest.mark.slow)], ids="-".join
)
def test_two_processes_that_are_stopped_twice(modes, folder):
    status, output = launch("tests.distributed.exact_resume", folder, "twice", *modes)
    assert status == 0, output
    for mode in modes:
        for process in (0, 1):
            found = json.loads((folder / f"{mode}-{process}.json").read_text())
            assert found == {"weights": True, "logs": True, "seen": True}, (mode, process)


def samples_of_steps(*processes):
    """The samples of every optimiser step, in no order, without the filling of their batches."""

    def samples(batch):
        return [tuple(token for token in row if token) for row in batch]

    steps = zip(*processes, strict=True)
    return [sorted(row for own in step for batch in own for row in samples(batch)) for step in steps]


def seen_by_two(folder, mode, what):
    files = (folder / f"seen-{mode}-{what}-{process}.json" for process in (0, 1))
    return samples_of_steps(*(json.loads(file.read_text()) for file in files))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_two_processes_then_one_then_two(mode, folder):
    def two(what, stop=0, checkpoint=""):
        arguments = ("tests.distributed.exact_resume", folder, what, mode, str(stop), str(checkpoint))
        status, output = launch(*arguments)
        assert status == 0, output
        return seen_by_two(folder, mode, what)

    first, second = STOPS[mode]
    found = two("first", first)
    found += samples_of_steps(run(folder, mode, 1, second, str(folder / mode / f"checkpoint-{first}"), 1, 0.0).seen)
    found += two("last", 0, folder / mode / f"checkpoint-{second}")
    assert found == two("whole")
    weights, logs = torch.load(folder / f"{mode}-last.pt")
    expected, expected_logs = torch.load(folder / f"{mode}-whole.pt")
    assert_close(weights, expected, 1e-4)
    assert logs["skipped"] == expected_logs["skipped"]
    losses, expected_losses = ([entry["loss"] for entry in each["history"]] for each in (logs, expected_logs))
    torch.testing.assert_close(losses, expected_losses, rtol=1e-4, atol=0)
