# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What the trainer does not compute, by value: all logits; checkpointing, Liger, compiled blocks, bf16."""

import sys
import types

import pytest
import torch

from sailvit_hf.errors import SailvitError
from sailvit_hf.modeling import loss_sailvit
from sailvit_hf.refinement import MODULES, module_of
from sailvit_hf.refinement.engine.engine_trainer import apply_liger
from sailvit_hf.refinement.stages import find_module

from ..tiny import VOCABULARY, collate, tiny_model, tiny_samples, tiny_trainer, weights


def trained(tmp_path, **arguments):
    trainer = tiny_trainer(tmp_path, **arguments)
    trainer.train()
    return trainer


def same_weights(one, other, **tolerance):
    for name, tensor in weights(one.model).items():
        torch.testing.assert_close(weights(other.model)[name], tensor, **tolerance)


# --- the loss ---------------------------------------------------------------------------------------------------


class Rows(list):
    heads = ()


@pytest.fixture
def logits_made(monkeypatch):
    """Rows of logits of each product with a head, of models whose head is registered in `heads`."""
    rows = Rows()
    linear = torch.nn.functional.linear

    def counted(states, weight, bias=None):
        if weight.data_ptr() in rows.heads:
            rows.append(states.shape[:-1].numel())
        return linear(states, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    monkeypatch.setattr(loss_sailvit, "chunk_length", lambda *_: 5)
    return rows


def test_training_makes_logits_where_labels_are(tmp_path, logits_made):
    samples = tiny_samples(4)
    learnt = sum(sample["answer"] for sample in samples)
    options = {"samples": samples, "max_steps": 1, "learning_rate": 0.0}
    models = [tiny_model(), tiny_model()]
    logits_made.heads = [model.lm_head.weight.data_ptr() for model in models]
    ours = trained(tmp_path, model=models[0], **options)
    assert sum(logits_made) == learnt and max(logits_made) == 5
    logits_made.clear()
    plain = trained(tmp_path, model=models[1], chunked_loss=False, **options)
    assert logits_made == [48]
    assert ours.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=1e-6)
    assert ours.history[0]["grad_norm"] == pytest.approx(plain.history[0]["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_label_smoothing_moves_the_labels(tmp_path, accumulation):
    """The Trainer's own smoothing would compare each position with its own token for a model it does not know."""
    samples = tiny_samples(8)
    options = {
        "samples": samples,
        "max_steps": 1,
        "label_smoothing_factor": 0.1,
        "learning_rate": 0.0,
        "per_device_train_batch_size": 8 // accumulation,
        "gradient_accumulation_steps": accumulation,
    }
    model, batch = tiny_model(), collate(samples)
    logits = model(**{**batch, "labels": None}).logits[:, :-1].flatten(0, 1)
    labels = batch["labels"][:, 1:].flatten()
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1).item()
    for chunked in (True, False):
        trainer = trained(tmp_path, chunked_loss=chunked, **options)
        assert trainer.history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_evaluation_gives_logits_to_who_asks(tmp_path, logits_made):
    samples = tiny_samples(4)
    trainer = tiny_trainer(tmp_path, samples=samples, per_device_eval_batch_size=4)
    logits_made.heads = [trainer.model.lm_head.weight.data_ptr()]
    loss_only = trainer.evaluate(samples)["eval_loss"]
    assert sum(logits_made) == sum(sample["answer"] for sample in samples)
    logits_made.clear()
    found = trainer.predict(samples)
    logits = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
    assert logits.shape == (4, 12, VOCABULARY) and logits_made == [48]
    assert found.metrics["test_loss"] == pytest.approx(loss_only, rel=1e-6)


def test_a_loss_of_ones_own_gets_logits(tmp_path):
    seen = []

    def own(outputs, labels, num_items_in_batch=None):
        seen.append(outputs.logits.shape)
        return outputs.logits.float().square().mean()

    trainer = tiny_trainer(tmp_path, max_steps=1)
    trainer.compute_loss_func = own
    trainer.train()
    assert seen == [(4, 12, VOCABULARY)]


# --- checkpointing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modules", [["vision_tower"], ["language_model"], ["vision_tower", "language_model"]])
def test_checkpointing_of_some_modules(tmp_path, modules):
    plain = trained(tmp_path, max_steps=2)
    ours = trained(tmp_path, max_steps=2, gradient_checkpointing_modules=modules)
    same_weights(ours, plain, rtol=1e-5, atol=1e-6)
    for name in MODULES:
        _, module = find_module(ours.model, name, "the test")
        flags = [part.gradient_checkpointing for part in module.modules() if hasattr(part, "gradient_checkpointing")]
        assert any(flags) == (name in modules), name


def test_checkpointing_computes_again_what_was_named(tmp_path, monkeypatch):
    runs = {}
    model = tiny_model()
    for name in MODULES:
        _, module = find_module(model, name, "the test")
        part = next(part for part in module.modules() if isinstance(part, torch.nn.Linear))
        part.register_forward_hook(lambda *_, name=name: runs.update({name: runs.get(name, 0) + 1}))
    options = {"max_steps": 1, "monitoring": False, "gradient_checkpointing_modules": ["multi_modal_projector"]}
    tiny_trainer(tmp_path, model, **options).train()
    assert runs == {"vision_tower": 1, "multi_modal_projector": 2, "language_model": 1}


def test_only_known_modules_are_checkpointed(tmp_path):
    trainer = tiny_trainer(tmp_path, gradient_checkpointing_modules=["tower"])
    with pytest.raises(SailvitError, match=r"names \['tower'\]: choose out of vision_tower, multi_modal_projector"):
        trainer.train()


# --- kernels and compilation ------------------------------------------------------------------------------------


def test_liger_goes_to_the_language_model(tmp_path, monkeypatch):
    calls = []
    stand_in = types.ModuleType("liger_kernel.transformers")
    stand_in._apply_liger_kernel_to_instance = lambda model, **options: calls.append((model, options))
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", stand_in)
    model = tiny_model()
    apply_liger(model, {"rope": False, "fused_linear_cross_entropy": True})
    ((found, options),) = calls
    assert found is model.model.language_model and found.config.model_type == "llama"
    assert options == {"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False}
    trainer = tiny_trainer(tmp_path, model, use_liger_kernel=True, liger_kernel_config={"rope": True}, max_steps=1)
    trainer.train()  # transformers' own call would have been the third
    assert len(calls) == 2 and calls[1][0] is model.model.language_model and calls[1][1]["rope"]


def test_without_liger_there_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(SailvitError, match="needs the package liger-kernel and a GPU: pip install liger-kernel"):
        apply_liger(tiny_model())
    with pytest.raises(SailvitError, match="needs a model with a language_model"):
        apply_liger(torch.nn.Linear(1, 1))


@pytest.mark.slow
def test_blocks_are_compiled_one_by_one(tmp_path):
    plain = trained(tmp_path, max_steps=2)
    try:
        ours = trained(tmp_path, max_steps=2, torch_compile_regions=True, torch_compile_backend="aot_eager")
        assert ours.model_wrapped is not ours.model
        inner = ours.model_wrapped.model.vision_tower.trunk.blocks
        assert all(type(block).__name__ == "OptimizedModule" for block in inner)
        same_weights(ours, plain, rtol=1e-4, atol=1e-5)
    finally:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(True)
        torch._dynamo.reset()


# --- precision --------------------------------------------------------------------------------------------------


def test_bf16_keeps_what_trains_in_fp32(tmp_path):
    """Under autocast on the CPU: the frozen tower in bf16, what trains and its optimiser's state in fp32."""
    model = tiny_model().bfloat16()
    seen = {}
    model.model.vision_tower.trunk.blocks[0].register_forward_hook(
        lambda module, inputs, output: seen.update(tower=(output[0].dtype, output[0].requires_grad))
    )
    model.model.multi_modal_projector.register_forward_hook(
        lambda module, inputs, output: seen.update(connector=(output.dtype, output.requires_grad))
    )
    trainer = tiny_trainer(tmp_path, model, stage="coarse", bf16=True, max_steps=2)
    before = weights(model)
    trainer.train()
    assert seen == {"tower": (torch.bfloat16, False), "connector": (torch.bfloat16, True)}
    for name, parameter in model.named_parameters():
        trains = module_of(name) == "multi_modal_projector"
        assert parameter.dtype == (torch.float32 if trains else torch.bfloat16)
        assert torch.equal(before[name], parameter) != trains
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    assert states and {state.dtype for state in states if torch.is_tensor(state)} == {torch.float32}
    exact = trained(tmp_path / "exact", stage="coarse", max_steps=2)
    assert trainer.history[0]["loss"] == pytest.approx(exact.history[0]["loss"], rel=2e-2)
