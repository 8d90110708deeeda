# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The average of the vision tower: its numbers, what is saved, resuming bit for bit."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from sailvit_hf import SAILViTModel
from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import Lineage, RefinementTrainer
from sailvit_hf.refinement.engine.ema import EMA_FOLDER, VisionTowerEma

from ..tiny import tiny_model, tiny_samples, tiny_trainer

OPTIONS = {"max_steps": 6, "vision_tower_ema": 0.75, "monitoring": False}


def average_of(trainer):
    return {name: tensor.clone() for name, tensor in trainer.ema.average.state_dict().items()}


def test_the_average_by_hand(tmp_path):
    trainer = tiny_trainer(tmp_path, **OPTIONS)
    expected = {}
    trainer.create_optimizer()

    def follow(*_):
        for name, tensor in trainer.model.model.vision_tower.state_dict().items():
            expected[name] = tensor * 0.25 + expected[name] * 0.75 if name in expected else tensor.clone()

    trainer.optimizer.register_step_post_hook(follow)
    trainer.train()
    found = average_of(trainer)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7)
    tower = trainer.model.model.vision_tower.state_dict()
    assert not any(torch.equal(found[name], tower[name]) for name in found)


def test_saved_beside_the_weights_and_resumed_bit_for_bit(tmp_path):
    whole = tiny_trainer(tmp_path / "whole", **OPTIONS)
    whole.train()
    tiny_trainer(tmp_path / "parts", save_strategy="steps", save_steps=3, **OPTIONS).train()
    checkpoint = tmp_path / "parts" / "checkpoint-3"
    saved = SAILViTModel.from_pretrained(checkpoint / EMA_FOLDER)
    for resume in (str(checkpoint), True):
        if resume is True:  # the last one is of step 6: go on from that of step 3
            shutil.rmtree(tmp_path / "parts" / "checkpoint-6", ignore_errors=True)
        second = tiny_trainer(tmp_path / "parts", tiny_model(seed=5), **OPTIONS)
        second.train(resume_from_checkpoint=resume)
        expected, found = average_of(whole), average_of(second)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        assert not any(torch.equal(saved.state_dict()[name], found[name]) for name in found)
    second.save_model(str(tmp_path / "final"))
    final = SAILViTModel.from_pretrained(tmp_path / "final" / EMA_FOLDER)
    assert all(torch.equal(final.state_dict()[name], found[name]) for name in found)


def test_a_checkpoint_without_an_average_is_one_sentence(tmp_path):
    options = {**OPTIONS, "save_strategy": "steps", "save_steps": 3}
    tiny_trainer(tmp_path, **{**options, "vision_tower_ema": None}).train()
    with pytest.raises(SailvitError, match="checkpoint-3 has no average of the vision tower .vision_tower_ema.: "):
        tiny_trainer(tmp_path, **OPTIONS).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_what_it_refuses(tmp_path):
    with pytest.raises(SailvitError, match="vision_tower_ema is 1.5: give a number between 0 and 1"):
        VisionTowerEma(tiny_model().model.vision_tower, 1.5)
    with pytest.raises(SailvitError, match="vision_tower_ema is set, but the vision tower does not train"):
        VisionTowerEma(tiny_model().model.vision_tower.requires_grad_(False), 0.5)
    with pytest.raises(SailvitError, match="vision_tower_ema is set, but stage 'coarse' does not train"):
        tiny_trainer(tmp_path, stage="coarse", samples=tiny_samples(4), **OPTIONS)


class WorseAndWorse(RefinementTrainer):
    stage = "world"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, eval_dataset=tiny_samples(4))

    def _determine_best_metric(self, metrics, trial):
        metrics["eval_loss"] = float(self.state.global_step)
        return super()._determine_best_metric(metrics, trial)


def test_the_average_and_the_record_are_those_of_the_best_checkpoint(tmp_path):
    trainer = tiny_trainer(
        tmp_path, cls=WorseAndWorse, **OPTIONS, save_strategy="steps", save_steps=2, eval_strategy="steps",
        eval_steps=2, load_best_model_at_end=True,
    )  # fmt: skip
    trainer.train()
    best = tmp_path / "checkpoint-2"
    assert trainer.state.best_model_checkpoint == str(best)
    trainer.save_model(str(tmp_path / "final"))
    for name in ("model.safetensors", f"{EMA_FOLDER}/model.safetensors"):
        found, expected = load_file(tmp_path / "final" / name), load_file(best / name)
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items()), name
    record, then = (Lineage.load(tmp_path / run).stages[-1] for run in ("final", "checkpoint-2"))
    assert (record.steps, record.max_steps, record.samples_seen) == (2, 6, 8)
    logged = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert record.metrics == then.metrics == {"eval_loss": logged[0]["eval_loss"]}
    assert record.train_loss == then.train_loss and record.final_loss == trainer.history[1]["loss"]
    assert Lineage.load(tmp_path / "checkpoint-6").stages[-1].steps == 6
