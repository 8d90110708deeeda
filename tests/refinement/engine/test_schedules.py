# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Warm-up and weight decay of each module."""

import pytest
import torch
from transformers import SchedulerType, get_scheduler

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import MODULES
from sailvit_hf.refinement.engine.schedules import warmup_steps

from ..tiny import tiny_trainer


def rates_of(trainer):
    """The rates at each optimiser step, by module."""
    found = {module: [] for module in MODULES}
    trainer.create_optimizer()

    def note(*_):
        for module in MODULES:
            found[module].append(next(g["lr"] for g in trainer.optimizer.param_groups if g["module"] == module))

    trainer.optimizer.register_step_pre_hook(note)
    trainer.train()
    return found


def expected(warmup, total, rate):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
    scheduler = get_scheduler("cosine", optimizer, warmup, total)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_each_module_has_its_own_warm_up(tmp_path):
    options = {"max_steps": 8, "warmup_steps": 2, "vision_tower_warmup_steps": 4, "language_model_warmup_steps": 0.1,
               "multi_modal_projector_learning_rate": 2e-2, "monitoring": False}  # fmt: skip
    trainer = tiny_trainer(tmp_path, **options)
    found = rates_of(trainer)
    assert found["vision_tower"] == pytest.approx(expected(4, 8, 1e-2))
    assert found["multi_modal_projector"] == pytest.approx(expected(2, 8, 2e-2))
    assert found["language_model"] == pytest.approx(expected(1, 8, 1e-2))
    logged = [entry["learning_rate/multi_modal_projector"] for entry in trainer.history]
    assert logged == pytest.approx(expected(2, 8, 2e-2))
    assert [entry["learning_rate"] for entry in trainer.history] == pytest.approx(expected(4, 8, 1e-2))


def test_resuming_goes_on_in_the_warm_up(tmp_path):
    options = {"max_steps": 6, "warmup_steps": 1, "vision_tower_warmup_steps": 4, "monitoring": False}
    whole = rates_of(tiny_trainer(tmp_path / "whole", **options))
    tiny_trainer(tmp_path / "parts", save_strategy="steps", save_steps=2, **options).train()
    second = tiny_trainer(tmp_path / "parts", **options)
    noted = []
    second.create_optimizer()
    second.optimizer.register_step_pre_hook(lambda *_: noted.append(second.optimizer.param_groups[0]["lr"]))
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    assert noted == whole["vision_tower"][2:]


def test_steps_and_shares():
    assert [warmup_steps(value, 50) for value in (0, 0.03, 1, 7)] == [0, 2, 1, 7]
    with pytest.raises(SailvitError, match="a warm-up of -1 steps: give 0 or more"):
        warmup_steps(-1, 50)


def test_a_schedule_that_looks_at_the_loss_has_none(tmp_path):
    trainer = tiny_trainer(tmp_path, vision_tower_warmup_steps=2)
    trainer.args.lr_scheduler_type = SchedulerType.REDUCE_ON_PLATEAU
    trainer.create_optimizer()
    with pytest.raises(SailvitError, match="has no warm-up by module: choose another, such as cosine"):
        trainer.create_scheduler(10)


def test_weight_decay_of_each_module(tmp_path):
    trainer = tiny_trainer(tmp_path, weight_decay=0.05, vision_tower_weight_decay=0.1, language_model_weight_decay=0.0)
    found = {}
    for group in trainer.create_optimizer().param_groups:
        found.setdefault(group["module"], []).append(group["weight_decay"])
    assert found == {"vision_tower": [0.1, 0.0], "multi_modal_projector": [0.05, 0.0], "language_model": [0.0, 0.0]}
    grouped = [id(p) for group in trainer.optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in trainer.model.parameters() if p.requires_grad)


@pytest.mark.parametrize("what", ["warmup_steps", "weight_decay"])
def test_options_of_a_module_that_does_not_train_are_refused(what, tmp_path):
    with pytest.raises(SailvitError, match=f"vision_tower_{what} is set, but stage 'coarse' does not train"):
        tiny_trainer(tmp_path, stage="coarse", **{f"vision_tower_{what}": 1.0})
