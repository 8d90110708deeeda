# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Sentences about what a table of a plan does not hold."""

from types import SimpleNamespace

import pytest

from sailvit_hf.refinement.planning.checkpoints import Saving
from sailvit_hf.refinement.planning.notes import stage_notes
from sailvit_hf.refinement.planning.plan import Answer, Batch, StageAnswer


def notes(packs, seconds, size=0.0, packing=True):
    answer = Answer(512, Batch(512, 1, packs // 512, packs), 932, seconds * 932 / 86_400, {}, "ddp")
    nothing = SimpleNamespace()
    stage = StageAnswer(
        "coarse", "", (), nothing, nothing, nothing, 1.0, nothing, (), Saving(size, 100, 3), (answer,)
    )  # fmt: skip
    return stage_notes(stage, packing)


def test_gpus_that_would_wait_for_packs():
    (note,) = notes(2048, 0.976)
    assert note.startswith(
        "coarse on 512 GPUs: to plan the 2,048 packs of a step takes a core of each process 1.3 s "
        "(benchmarks/results/rehearsal.txt), and the GPUs 0.98 s to train on them: planning bounds the time, 1.3 times"
    )
    assert note.endswith("(global_batch_size), of which one costs less: 0.42 ms at 512 and 0.63 ms at 2,048")
    assert notes(2048, 1.3) == notes(512, 0.22) == notes(2048, 0.976, packing=False) == []


@pytest.mark.parametrize(("seconds", "said"), [(0.499, True), (2.99, True), (3.01, False)])
def test_checkpoints_that_come_too_often(seconds, said):
    found = notes(512, seconds, 29.03e9)
    assert bool(found) == said
    if seconds == 0.499:
        assert found == ["coarse on 512 GPUs: 29.0 GB are saved every 50 s: "
                         "--set stages.coarse.arguments.save_steps=700"]  # fmt: skip
