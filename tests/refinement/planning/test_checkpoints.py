# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""How much is saved, how often, and what would be better."""

import pytest

from sailvit_hf.refinement.planning.checkpoints import Saving, saving_of
from sailvit_hf.refinement.planning.memory import Parameters
from sailvit_hf.refinement.recipes.recipe import Source, StagePlan

PARAMETERS = Parameters(
    trained={"vision_tower": 600, "multi_modal_projector": 40, "language_model": 0},
    frozen={"vision_tower": 0, "multi_modal_projector": 0, "language_model": 1000},
    largest_unit=100, outside=200, outside_trained=50,
)  # fmt: skip


def saving(state=8.0, ema=False, **arguments):
    return saving_of(StagePlan(data=[Source(messages="x.jsonl")], arguments=arguments), PARAMETERS, state, ema)


def test_bytes_of_a_checkpoint():
    assert saving().bytes == 4 * 1640 + 8 * 640
    assert saving(state=2.0).bytes == 4 * 1640 + 2 * 640
    assert saving(ema=True).bytes == 4 * 1640 + 8 * 640 + 4 * 600


def test_how_often():
    assert (saving().every(26), saving().count(26), saving().kept) == (6, 5, 2)  # what a run has by default
    steps = saving(save_steps=100, save_total_limit=None)
    assert (steps.every(17_002), steps.count(17_002), steps.kept) == (100, 171, None)
    assert (steps.every(60), steps.count(60)) == (60, 1)  # the last step is saved
    epoch = saving(save_strategy="epoch", num_train_epochs=2)
    assert (epoch.every(100), epoch.count(100)) == (50, 2)
    assert (saving(save_strategy="no").every(100), saving(save_strategy="no").count(100)) == (None, 0)


@pytest.mark.parametrize(
    ("size", "steps", "seconds", "better"),
    [(29e9, 100, 0.499, 700), (29e9, 100, 4.0, None), (29e9, 100, 2.9, 200), (29e9, 1, 299.0, 2),
     (9e8, 100, 0.5, None), (29e9, None, 0.5, None), (29e9, 0.2, 0.01, 1000), (29e9, 1000, 0.01, None)],
)  # fmt: skip
def test_five_minutes_between_two(size, steps, seconds, better):
    assert Saving(size, steps, 3).mend(1000, seconds) == better
