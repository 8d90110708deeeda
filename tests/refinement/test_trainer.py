# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The trainer's maths: what changes, what a batch's cut does not change, resuming bit for bit, clipping, precision."""

import math

import pytest
import torch

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import (
    MODULES,
    STAGES,
    CoarseAlignmentTrainer,
    FineAlignmentTrainer,
    RefinementArguments,
    RefinementTrainer,
    WorldKnowledgeTrainer,
    module_of,
)

from .tiny import collate, tiny_model, tiny_samples, tiny_trainer, weights


def changed_modules(before, after):
    """Modules of which every tensor changed, and modules of which none did."""
    same = {name: torch.equal(tensor, after[name]) for name, tensor in before.items()}
    all_changed = {m for m in MODULES if not any(same[name] for name in same if module_of(name) == m)}
    none_changed = {m for m in MODULES if all(same[name] for name in same if module_of(name) == m)}
    return all_changed, none_changed


@pytest.mark.parametrize("cls", [CoarseAlignmentTrainer, FineAlignmentTrainer, WorldKnowledgeTrainer])
def test_a_stage_changes_exactly_its_modules(cls, tmp_path):
    trainer = tiny_trainer(tmp_path, cls=cls)
    before = weights(trainer.model)
    trainer.train()
    all_changed, none_changed = changed_modules(before, weights(trainer.model))
    assert all_changed == set(cls.stage.trains) and none_changed == set(MODULES) - all_changed


def gradients(tmp_path, micro_batch, accumulation, samples):
    """Loss and gradients of the first step over the same eight samples."""
    trainer = tiny_trainer(
        tmp_path,
        samples=samples,
        max_steps=1,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=0.0,
        learning_rate=0.0,
        train_sampling_strategy="sequential",
    )
    kept = {}
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(
        lambda *_: kept.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
    )
    trainer.train()
    return trainer.history[0]["loss"], kept


@pytest.mark.parametrize("text_only", [(), (1, 4, 5, 6, 7)], ids=["pictures", "some text only"])
def test_loss_and_gradients_do_not_depend_on_the_cut(tmp_path, text_only):
    samples = tiny_samples(8, text_only=text_only)
    loss, reference = gradients(tmp_path, 8, 1, samples)
    for micro_batch in (4, 2, 1):
        other_loss, other = gradients(tmp_path, micro_batch, 8 // micro_batch, samples)
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert other.keys() == reference.keys()
        for name, gradient in reference.items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_batch_without_pictures_trains_the_language_model_only(tmp_path):
    trainer = tiny_trainer(tmp_path, samples=tiny_samples(8, text_only=range(8)), max_steps=2, weight_decay=0.0)
    before = weights(trainer.model)
    trainer.train()
    assert all(math.isfinite(entry["loss"]) for entry in trainer.history)
    assert changed_modules(before, weights(trainer.model))[1] == {"vision_tower", "multi_modal_projector"}


@pytest.mark.parametrize("at", [3, 4, 6], ids=["within an epoch", "end of an epoch", "second epoch"])
def test_resume_is_bit_exact(tmp_path, at):
    options = {"samples": tiny_samples(16), "max_steps": 8, "clip_per_module": True}  # two epochs of four steps
    whole = tiny_trainer(tmp_path / "whole", tiny_model(dropout=0.3), **options)
    whole.train()

    first = tiny_trainer(tmp_path / "parts", tiny_model(dropout=0.3), save_strategy="steps", save_steps=at, **options)
    first.train()
    torch.manual_seed(99)  # whatever the new process did before
    second = tiny_trainer(tmp_path / "parts", tiny_model(seed=5, dropout=0.3), **options)
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / f"checkpoint-{at}"))

    expected, found = weights(whole.model), weights(second.model)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [(e["step"], e["loss"]) for e in second.history] == [(e["step"], e["loss"]) for e in whole.history]
    assert second.current_lineage() == whole.current_lineage()


def test_order_of_samples_does_not_hang_on_the_global_generator(tmp_path):
    def train(seed_before):
        trainer = tiny_trainer(tmp_path, max_steps=2)
        torch.manual_seed(seed_before)
        trainer.train()
        return weights(trainer.model)

    first, second = train(0), train(1)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_learning_rates_per_module(tmp_path):
    trainer = tiny_trainer(
        tmp_path,
        language_model_learning_rate=0.0,
        multi_modal_projector_learning_rate=2e-2,
        lr_scheduler_type="constant",
        warmup_steps=0,
    )
    before = weights(trainer.model)
    trainer.train()
    assert changed_modules(before, weights(trainer.model))[1] == {"language_model"}
    last = trainer.history[-1]
    assert [last[f"learning_rate/{module}"] for module in MODULES] == [1e-2, 2e-2, 0.0]


def test_clipping_per_module(tmp_path):
    trainer = tiny_trainer(tmp_path, clip_per_module=True, max_grad_norm=1e-3, max_steps=1)
    kept = {}

    def keep(*_):
        for group in trainer.optimizer.param_groups:
            kept.setdefault(group["module"], []).extend(p.grad.norm() for p in group["params"])

    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(keep)
    trainer.train()
    for module in MODULES:
        assert torch.stack(kept[module]).norm().item() == pytest.approx(1e-3, rel=1e-3)
    norms = [trainer.history[0][f"grad_norm/{module}"] for module in MODULES]
    assert math.hypot(*norms) == pytest.approx(trainer.history[0]["grad_norm"], rel=1e-5)


def test_weights_that_train_become_fp32(tmp_path):
    tiny_trainer(tmp_path, model := tiny_model().bfloat16(), stage="coarse")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    tiny_trainer(tmp_path, model := tiny_model().bfloat16(), stage="coarse", bf16=True).train()
    assert {p.dtype for n, p in model.named_parameters() if module_of(n) == "multi_modal_projector"} == {torch.float32}
    assert {p.dtype for n, p in model.named_parameters() if module_of(n) != "multi_modal_projector"} == {
        torch.bfloat16
    }


def test_default_rate_is_the_published_one(tmp_path):
    trainer = tiny_trainer(tmp_path, stage="fine", learning_rate=None)
    assert {group["lr"] for group in trainer.create_optimizer().param_groups} == {STAGES["fine"].learning_rate}


def test_arguments_of_the_caller_are_left_alone(tmp_path):
    args = RefinementArguments(output_dir=str(tmp_path), use_cpu=True, clip_per_module=True, disable_tqdm=True)
    trainer = CoarseAlignmentTrainer(tiny_model(), args, collate, tiny_samples(4))
    assert args.learning_rate is None and args.max_grad_norm == 1.0 and args.data_seed is None
    assert trainer.args.learning_rate == 2e-4 and trainer.args.data_seed == args.seed


def test_a_loss_that_is_no_number_stops_the_training(tmp_path):
    trainer = tiny_trainer(tmp_path, learning_rate=1e30, max_grad_norm=0.0, max_steps=6)
    with pytest.raises(SailvitError, match="loss of stage 'world' is (nan|inf) at step"):
        trainer.train()


def test_a_stage_is_needed(tmp_path):
    args = RefinementArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(SailvitError, match="needs a stage"):
        RefinementTrainer(tiny_model(), args, collate)


def test_optimisers_with_groups_of_their_own_are_refused(tmp_path):
    trainer = tiny_trainer(tmp_path)
    trainer.optimizer_cls_and_kwargs = (torch.optim.AdamW, {"params": []})
    with pytest.raises(SailvitError, match="makes its own parameter groups"):
        trainer.create_optimizer()


class Damaged(list):
    """Samples of which some cannot be read."""

    bad = (5, 9)

    def __getitem__(self, index):
        if index in self.bad:
            raise OSError("image file is truncated")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_samples_cost_no_step(tmp_path, workers):
    options = {"num_train_epochs": 1.0, "max_steps": -1, "dataloader_num_workers": workers}
    trainer = tiny_trainer(tmp_path, samples=Damaged(tiny_samples(32)), bad_sample_limit=0.1, **options)
    trainer.train()
    assert trainer.state.global_step == 8
    assert trainer.current_lineage().stages[-1].data["samples"] == 32


def test_too_many_unreadable_samples_stop_the_training(tmp_path):
    trainer = tiny_trainer(tmp_path, samples=Damaged(tiny_samples(32)), num_train_epochs=1.0, max_steps=-1)
    with pytest.raises(SailvitError, match="more than bad_sample_limit=0.01 allows .sample [59]: image file is trunc"):
        trainer.train()
