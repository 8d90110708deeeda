# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The real trainer with adapters: what changes, exact resume, several processes, whole runs."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sailvit_hf import SAILViTForConditionalGeneration
from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import DIRECT, Lineage, RefinementArguments, RefinementTrainer, get_stage
from sailvit_hf.refinement.adapters.injection import (
    ADAPTERS,
    adapted_stage,
    adapter_configs,
    add_adapters,
    has_adapters,
    lora_config,
    merge_adapters,
    refuse_quantized_pieces,
)
from sailvit_hf.refinement.adapters.plan import AdapterPlan
from sailvit_hf.refinement.assembly import load_vlm, load_vlm_in_4bit
from sailvit_hf.refinement.engine.optim import parameter_groups
from sailvit_hf.refinement.lineage import model_card
from sailvit_hf.refinement.pipeline import run_recipe
from sailvit_hf.refinement.recipes.recipe import load_recipe, parse_recipe

from .adapted import adapted_trainer, both, drawn, outputs, train
from .packed import packed_trainer
from .tiny import collate, tiny_model, tiny_samples, weights

ROOT = Path(__file__).parents[2]
DROPPING = {
    "vision_tower": AdapterPlan(rank=2, dropout=0.2),
    "language_model": AdapterPlan(rank=3, method="dora", dropout=0.2),
}


def of(*modules):
    return {name: DROPPING[name] for name in modules}


# --- what a checkpoint is -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trainer after four steps with adapters in both modules, a checkpoint after two and four."""
    trainer = adapted_trainer(tmp_path_factory.mktemp("adapted"), DROPPING)
    trainer.train()
    return trainer


def test_nothing_below_the_adapters_changes(trained):
    start, merged = tiny_model(dropout=0.1).state_dict(), merge_adapters(trained.model).state_dict()
    changed = {name for name, tensor in start.items() if not torch.equal(tensor, merged[name])}
    below = [name for name, _ in trained.model.named_parameters() if ".base_layer.weight" in name]
    adapted = {name.replace(".base_layer", "") for name in below}
    assert len(adapted) == 17
    assert changed == adapted | {name for name in start if "multi_modal_projector" in name}
    for name, parameter in trained.model.named_parameters():
        if ".base_layer." in name:
            assert torch.equal(parameter, start[name.replace(".base_layer", "")])


def test_a_checkpoint_is_whole_and_small_adapters_lie_beside_it(trained):
    folder = Path(trained.args.output_dir) / "checkpoint-4"
    trained.model.eval()
    torch.testing.assert_close(outputs(load_vlm(folder)), outputs(trained.model), rtol=0, atol=1e-5)
    names = {path.relative_to(folder).as_posix() for path in (folder / ADAPTERS).rglob("*.*")}
    assert names == {f"{ADAPTERS}/{module}/{file}" for module in DROPPING
                     for file in ("adapter_config.json", "adapter_model.safetensors")}  # fmt: skip
    assert json.loads((folder / "complete.json").read_text())["files"].keys() >= names


def test_the_lineage_tells_of_them(trained):
    lineage = Lineage.load(Path(trained.args.output_dir) / "checkpoint-4")
    told = lineage.stages[-1].arguments["adapters"]
    assert {name: (of["method"], of["rank"], of["alpha"], of["dropout"]) for name, of in told.items()} == {
        "vision_tower": ("lora", 2, 4, 0.2), "language_model": ("dora", 3, 6, 0.2),
    }  # fmt: skip
    assert "vision_tower (lora, rank 2), multi_modal_projector, language_model (dora, rank 3)" in model_card(lineage)


def test_the_next_stage_starts_from_it(trained, tmp_path):
    whole = load_vlm(Path(trained.args.output_dir) / "checkpoint-4")
    before = weights(whole)
    trainer = adapted_trainer(tmp_path, of("language_model"), whole, stage="coarse")
    assert trainer.stage.trains == ("multi_modal_projector", "language_model")
    trainer.train()
    after = merge_adapters(trainer.model).state_dict()
    assert {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])} == {
        "multi_modal_projector", "language_model",
    }  # fmt: skip


def test_peft_config_as_trl_takes_it(tmp_path):
    trainer = RefinementTrainer(
        tiny_model(), RefinementArguments(output_dir=str(tmp_path), use_cpu=True), data_collator=collate,
        train_dataset=tiny_samples(8), stage="fine", peft_config=lora_config(AdapterPlan(rank=2)),
    )  # fmt: skip
    assert list(trainer.adapters) == ["vision_tower"]
    assert trainer.stage.trains == ("vision_tower", "multi_modal_projector")


# --- exact resume -------------------------------------------------------------------------------------------------


def same_run(first, second):
    assert second.history == first.history
    expected, found = first.model.state_dict(), second.model.state_dict()
    assert not [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]


@pytest.mark.parametrize("stage, modules, arguments", [
    pytest.param("coarse", ("language_model",), {}, marks=pytest.mark.slow),
    ("fine", ("vision_tower",), {"freeze_vision_layers": 2, "vision_tower_layer_decay": 0.5, "clip_per_module": True}),
    pytest.param("fine", ("language_model",), {"vision_tower_ema": 0.9, "language_model_learning_rate": 0.02},
                 marks=pytest.mark.slow),
    ("world", ("vision_tower", "language_model"), {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}),
    pytest.param("world", ("vision_tower",), {"bf16": True, "label_smoothing_factor": 0.1}, marks=pytest.mark.slow),
], ids=["coarse", "fine-tower", "fine-language-ema", "world-both", "world-bf16"])  # fmt: skip
def test_interrupted_twice(stage, modules, arguments, tmp_path):
    plans, steps = of(*modules), {"max_steps": 6, "save_steps": 1}
    whole = adapted_trainer(tmp_path / "whole", plans, stage=stage, **steps, **arguments)
    whole.train()
    for stop, resume in ((2, None), (5, True), (None, True)):
        trainer = adapted_trainer(tmp_path / "cut", plans, stage=stage, **steps, **arguments)
        if stop is not None:
            trainer.add_callback(stop_at(stop))
        trainer.train(resume_from_checkpoint=resume)
    same_run(whole, trainer)
    names = ["model.safetensors", *(f"{ADAPTERS}/{module}/adapter_model.safetensors" for module in modules)]
    for name in names + (["vision_tower_ema/model.safetensors"] if "vision_tower_ema" in arguments else []):
        one, two = (load_file(tmp_path / run / "checkpoint-6" / name) for run in ("whole", "cut"))
        assert all(torch.equal(tensor, two[key]) for key, tensor in one.items()), name


def stop_at(step):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == step or control.should_training_stop

    return Stop()


def test_what_does_not_go_on(trained, tmp_path):
    folder = str(Path(trained.args.output_dir) / "checkpoint-2")
    with pytest.raises(SailvitError, match="was trained with other adapters of vision_tower .rank 2 there, 5 here"):
        adapted_trainer(tmp_path, both(rank=5)).train(resume_from_checkpoint=folder)
    with pytest.raises(SailvitError, match="this run has them in no module"):
        adapted_trainer(tmp_path, {}).train(resume_from_checkpoint=folder)
    with pytest.raises(SailvitError, match="weights_only=True does not go with adapters"):
        adapted_trainer(tmp_path, DROPPING).train(resume_from_checkpoint=folder, weights_only=True)
    with pytest.raises(SailvitError, match="carries adapters already"):
        adapted_trainer(tmp_path, {}, trained.model)
    adapted_trainer(tmp_path, {}).train(resume_from_checkpoint=folder, weights_only=True)  # it is a whole model


# --- the optimiser ------------------------------------------------------------------------------------------------


def test_groups_by_module_and_height():
    model = drawn(tiny_model(), vision_tower=AdapterPlan(rank=2), language_model=AdapterPlan(rank=2, method="dora"))
    rates = {"vision_tower": 1.0, "multi_modal_projector": 2.0, "language_model": 3.0}
    groups = parameter_groups(model, rates, 0.1, vision_tower_layer_decay=0.5)
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    told = {(g["module"], g["lr"], g["weight_decay"]): {by_id[id(p)] for p in g["params"]} for g in groups}
    assert set(told) == {
        ("vision_tower", 1.0, 0.1), ("vision_tower", 0.5, 0.1),
        ("multi_modal_projector", 2.0, 0.1), ("multi_modal_projector", 2.0, 0.0),
        ("language_model", 3.0, 0.1), ("language_model", 3.0, 0.0),
    }  # fmt: skip
    assert all("lora_magnitude_vector" in name for name in told["language_model", 3.0, 0.0])
    assert all(".blocks.0." in name for name in told["vision_tower", 0.5, 0.1])


@pytest.mark.parametrize("tower", ["sailvit", "clip"])
def test_every_adapter_learns_when_activations_are_computed_again(tower, tmp_path):
    """Also the reentrant way, which needs an input with gradients, and pictures have none."""
    kwargs = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    model = tiny_model(tower=tower)
    trainer = adapted_trainer(tmp_path, of("vision_tower"), model, stage="fine", max_steps=2, **kwargs)
    before = {name: p.clone() for name, p in model.named_parameters() if "lora_B" in name}
    trainer.train()
    after = dict(model.named_parameters())
    assert before and not [name for name, tensor in before.items() if torch.equal(tensor, after[name])]


def test_quantised_weights_are_not_spread(monkeypatch):
    class Sharding:
        is_fsdp_enabled, is_deepspeed_enabled, model = True, False, tiny_model()

    refuse_quantized_pieces(Sharding)
    monkeypatch.setattr("sailvit_hf.refinement.adapters.injection.is_quantized", lambda module: True)
    with pytest.raises(SailvitError, match="load_in_4bit keeps the weights in one piece, without FSDP or DeepSpeed"):
        refuse_quantized_pieces(Sharding)


def test_packing(tmp_path):
    """Packs are what they are; the adapters sit below them."""
    cls = partial(RefinementTrainer, peft_config={name: lora_config(plan) for name, plan in DROPPING.items()})
    steps = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = packed_trainer(tmp_path / "whole", cls=cls, **steps)
    whole.train()
    cut = packed_trainer(tmp_path / "cut", cls=cls, **steps)
    cut.add_callback(stop_at(2))
    cut.train()
    cut = packed_trainer(tmp_path / "cut", cls=cls, **steps)
    cut.train(resume_from_checkpoint=True)
    same_run(whole, cut)
    assert not has_adapters(load_vlm(tmp_path / "cut" / "checkpoint-4"))


# --- several processes --------------------------------------------------------------------------------------------


def torchrun(*arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "tests.refinement.adapted"]
    done = subprocess.run(
        [sys.executable, *command, *map(str, arguments)],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_of_which_one_sees_no_pictures(tmp_path):
    train(tmp_path / "one", 8)
    torchrun(tmp_path / "two", 4)
    for name in ("model.safetensors", f"{ADAPTERS}/vision_tower/adapter_model.safetensors"):
        expected, found = (load_file(tmp_path / run / "checkpoint-3" / name) for run in ("one", "two"))
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_sharded_weights_are_merged_as_a_whole(tmp_path):
    """`fully_shard` over two processes, saved without anyone having gathered them before."""
    torchrun(tmp_path / "sharded", "shard")
    model = drawn(tiny_model(tied=False), **both(method="dora"))
    expected = merge_adapters(model).state_dict()
    found = SAILViTForConditionalGeneration.from_pretrained(tmp_path / "sharded").state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    assert (tmp_path / "sharded" / ADAPTERS / "language_model" / "adapter_model.safetensors").exists()


# --- a run --------------------------------------------------------------------------------------------------------


def test_a_recipe(tiny_recipe, tmp_path):
    recipe = tiny_recipe(tmp_path / "run", evaluation=None, report=False)
    del recipe["stages"]["world"]
    recipe["stages"]["coarse"]["adapters"] = {"vision_tower": {"rank": 2, "targets": ["qkv", "proj"]}}
    recipe["stages"]["fine"]["adapters"] = {"language_model": {"method": "dora", "rank": 4, "dropout": 0.1}}
    run_recipe(parse_recipe(recipe))
    states = ("start", "coarse", "fine")
    start, coarse, fine = (load_file(tmp_path / "run" / state / "model.safetensors") for state in states)
    changed = {name for name in start if not torch.equal(start[name], coarse[name])}
    assert {name.split(".")[-2] for name in changed if "vision_tower" in name} == {"qkv", "proj"}
    assert not [name for name in changed if "language_model" in name]
    assert {name.split(".")[1] for name in start if not torch.equal(coarse[name], fine[name])} == {
        "vision_tower", "multi_modal_projector", "language_model",
    }  # fmt: skip
    backbone = load_file(tmp_path / "run" / "backbone" / "model.safetensors")
    assert all(torch.equal(tensor, fine[f"model.vision_tower.{name}"]) for name, tensor in backbone.items())
    first, second = Lineage.load(tmp_path / "run" / "fine").stages
    assert (first.trains, second.trains) == (
        ("vision_tower", "multi_modal_projector"), ("vision_tower", "multi_modal_projector", "language_model"),
    )  # fmt: skip
    assert [list(record.arguments["adapters"]) for record in (first, second)] == [["vision_tower"], ["language_model"]]


@pytest.mark.parametrize("adapters, message", [
    ({"language_model": {"rank": 0}}, "stages.fine.adapters.language_model.rank must be at least 1, not 0"),
    ({"language_model": {"method": "qlora"}}, "method must be one of lora, dora, rslora, not qlora"),
    ({"language_model": {"alpha": -1}}, "alpha must be greater than 0"),
    ({"vision_tower": {"dropout": 1}}, "dropout must be at least 0 and less than 1"),
    ({"vision_tower": {"load_in_4bit": True}}, "load_in_4bit is for the language model only"),
    ({"multi_modal_projector": {"rank": 2}}, "Unknown key stages.fine.adapters.multi_modal_projector"),
    ({"vision_tower": {"target": ["qkv"]}}, "did you mean stages.fine.adapters.vision_tower.targets"),
    ({"vision_tower": {"targets": "qkv"}}, "stages.fine.adapters.vision_tower.targets must be a list"),
])  # fmt: skip
def test_mistakes_in_a_recipe(adapters, message, tiny_recipe, tmp_path):
    recipe = tiny_recipe(tmp_path)
    recipe["stages"]["fine"]["adapters"] = adapters
    with pytest.raises(SailvitError, match=message):
        parse_recipe(recipe)


def test_targets_that_do_not_exist_show_before_anything_trains(tiny_recipe, tmp_path):
    recipe = tiny_recipe(tmp_path / "run", evaluation=None, report=False)
    recipe["stages"]["world"]["adapters"] = {"language_model": {"targets": ["w_pack"]}}
    with pytest.raises(SailvitError, match="no linear layer of language_model .* is called w_pack"):
        run_recipe(parse_recipe(recipe))
    assert not (tmp_path / "run" / "coarse").exists()


# --- four bits ----------------------------------------------------------------------------------------------------


def in_4bit(folder):
    model = load_vlm_in_4bit(folder, RefinementArguments(output_dir=str(folder), use_cpu=True))
    for layer in model.modules():
        layer.support_avx512bf16_for_cpu = False  # its kernel wants larger layers than these
    return model


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_four_bits_below_the_adapters(method, tmp_path):
    """On a CPU, which bitsandbytes can do: training, exact resume, and a whole checkpoint of what was trained."""
    pytest.importorskip("bitsandbytes")
    tiny_model(tied=False).save_pretrained(tmp_path / "base")
    plans = {"language_model": AdapterPlan(method=method, rank=4, dropout=0.1, targets=["q_proj", "up_proj"])}
    trainer = adapted_trainer(tmp_path / "run", plans, in_4bit(tmp_path / "base"))
    layer = trainer.model.model.language_model.layers[0]
    assert layer.self_attn.q_proj.base_layer.weight.dtype == layer.self_attn.o_proj.weight.dtype == torch.uint8
    trainer.train()
    whole = load_vlm(tmp_path / "run" / "checkpoint-4")
    trainer.model.eval()
    torch.testing.assert_close(outputs(whole), outputs(trainer.model), rtol=0, atol=1e-5)
    assert "quantization_config" not in json.loads((tmp_path / "run" / "checkpoint-4" / "config.json").read_text())
    again = adapted_trainer(tmp_path / "run", plans, in_4bit(tmp_path / "base"))
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    same_run(trainer, again)
    if method == "dora":
        return  # so small a change is rounded away by four bits: the model below is the same again
    merged = adapted_trainer(tmp_path / "run", plans, in_4bit(tmp_path / "run" / "checkpoint-2"))
    with pytest.raises(SailvitError, match="were not trained on this model"):
        merged.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


def test_four_bits_in_a_run(tiny_recipe, tmp_path):
    pytest.importorskip("bitsandbytes")
    recipe = tiny_recipe(tmp_path / "run", evaluation=None, report=False)
    recipe["stages"] = {"world": recipe["stages"]["world"]}
    recipe["stages"]["world"]["adapters"] = {"language_model": {"rank": 2, "load_in_4bit": True}}
    run_recipe(parse_recipe(recipe))
    start, world = (load_file(tmp_path / "run" / state / "model.safetensors") for state in ("start", "world"))
    assert {name: tensor.shape for name, tensor in start.items()} == {name: t.shape for name, t in world.items()}
    assert {tensor.dtype for tensor in world.values()} == {torch.float32}
    norms = [name for name in start if "language_model" in name and "norm" in name]
    assert norms and all(torch.equal(start[name], world[name]) for name in norms)


def test_the_shipped_recipe(tmp_path):
    recipe = load_recipe(ROOT / "recipes" / "qlora.yaml")
    assert {key: list(plan.adapters.given()) for key, plan in recipe.stages.items()} == {
        "coarse": [], "fine": ["vision_tower"], "world": ["vision_tower", "language_model"],
    }  # fmt: skip
    assert recipe.stages["world"].adapters.language_model == AdapterPlan(
        rank=64, alpha=16.0, dropout=0.1, load_in_4bit=True
    )
    for key, plan in recipe.stages.items():
        arguments = RefinementArguments(output_dir=str(tmp_path), use_cpu=True, **plan.arguments)
        stage = adapted_stage(get_stage(key), plan.adapters.given())
        assert list(arguments.module_learning_rates(stage)) == list(stage.trains)


def test_four_bits_need_adapters(tmp_path):
    pytest.importorskip("bitsandbytes")
    tiny_model().save_pretrained(tmp_path)
    model = in_4bit(tmp_path)
    DIRECT.apply(model)
    with pytest.raises(SailvitError, match="weights of language_model are quantised: it can only train through"):
        add_adapters(model, adapter_configs({"vision_tower": lora_config(AdapterPlan())}, DIRECT), 0)


def test_four_bits_without_bitsandbytes(tmp_path, monkeypatch):
    monkeypatch.setattr("sailvit_hf.refinement.assembly.is_bitsandbytes_available", lambda: False)
    with pytest.raises(SailvitError, match="load_in_4bit needs the package bitsandbytes: pip install bitsandbytes"):
        load_vlm_in_4bit(tmp_path, RefinementArguments(output_dir=str(tmp_path), use_cpu=True))
