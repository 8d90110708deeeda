# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Configurations of models that are not there."""

import json

import pytest
import torch
import yaml

from sailvit_hf import SAILViTForConditionalGeneration
from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement.planning.parts import KNOWN, model_config
from sailvit_hf.refinement.recipes.recipe import load_recipe, parse_recipe

from ..tiny import tiny_model

STAGES = {"coarse": {"samples": 1000, "data": {"dataset": {"path": "some/data"}}}}


def recipe(start, **more):
    return parse_recipe({"name": "test", "output_dir": "runs/test", "start": start, "stages": STAGES, **more})


def parameters(config):
    with torch.device("meta"):
        return sum(p.numel() for p in SAILViTForConditionalGeneration(config).parameters())


def test_the_published_pair():
    start = {"vision_tower": "apple/aimv2-huge-patch14-448", "language_model": "Qwen/Qwen3-1.7B"}
    config, tiles = model_config(recipe({**start, "pictures": {"max_tiles": 10}}))
    # Tower and connector as in the published index (682,031,616 + 16,793,600), and Qwen3-1.7B with one tied table.
    assert parameters(config) == 682_031_616 + 16_793_600 + 1_720_574_976
    assert tiles == 10
    assert model_config(recipe(start))[1] == 1


# What the models' cards say, in billions.
@pytest.mark.parametrize(
    ("name", "billions"),
    [("Qwen/Qwen3-0.6B", 0.6), ("Qwen/Qwen3-1.7B", 1.7), ("Qwen/Qwen3-4B", 4.0), ("Qwen/Qwen3-8B", 8.2),
     ("Qwen/Qwen2.5-0.5B-Instruct", 0.49), ("Qwen/Qwen2.5-1.5B-Instruct", 1.54), ("Qwen/Qwen2.5-7B-Instruct", 7.61),
     ("HuggingFaceTB/SmolLM2-135M", 0.135), ("HuggingFaceTB/SmolLM2-360M", 0.362),
     ("HuggingFaceTB/SmolLM2-1.7B", 1.71)],
)  # fmt: skip
def test_known_language_models_have_as_many_parameters_as_their_cards_say(name, billions):
    config, _ = model_config(recipe({"vision_tower": "apple/aimv2-large-patch14-448", "language_model": name}))
    with torch.device("meta"):
        model = SAILViTForConditionalGeneration(config)
    found = sum(p.numel() for n, p in model.named_parameters() if "language_model" in n or "lm_head" in n)
    assert found == pytest.approx(billions * 1e9, rel=0.05)


def test_every_known_model_is_tested_above():
    assert len(KNOWN) == 10


def test_a_local_checkpoint_is_read(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "vlm")
    config, tiles = model_config(recipe({"model": str(tmp_path / "vlm")}))
    assert parameters(config) == sum(p.numel() for p in model.parameters())
    assert tiles == 1
    said = {"image_processor": {"max_tiles": 7}}
    (tmp_path / "vlm" / "processor_config.json").write_text(json.dumps(said), encoding="utf-8")
    assert model_config(recipe({"model": str(tmp_path / "vlm")}))[1] == 7


def write(folder, name, output_dir, start):
    folder.mkdir(exist_ok=True)
    values = {"name": "test", "output_dir": output_dir, "start": start, "stages": STAGES}
    path = folder / name
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_what_an_earlier_recipe_will_have_made(tmp_path):
    start = {"vision_tower": "apple/aimv2-large-patch14-448", "language_model": "HuggingFaceTB/SmolLM2-135M"}
    first = write(tmp_path / "large", "coarse.yaml", "runs/never/coarse", {**start, "pictures": {"max_tiles": 9}})
    (tmp_path / "large" / "notes.yaml").write_text("- no recipe", encoding="utf-8")
    second = write(tmp_path / "large", "fine.yaml", "runs/never/fine", {"model": "runs/never/coarse/coarse"})
    third = write(tmp_path / "large", "world.yaml", "runs/never/world", {"model": "runs/never/fine/fine"})
    wanted = parameters(model_config(load_recipe(first), first)[0])
    for path in (second, third):
        config, tiles = model_config(load_recipe(path), path)
        assert (parameters(config), tiles) == (wanted, 9)
    other = {"vision_tower": "runs/never/world/backbone", "language_model": "Qwen/Qwen3-0.6B"}
    target = write(tmp_path / "mllm", "large.yaml", "runs/never/mllm", other)
    config, _ = model_config(load_recipe(target), target)
    assert (config.vision_config.hidden_size, config.text_config.hidden_size) == (1024, 1024)


@pytest.mark.parametrize(
    ("start", "key"),
    [({"model": "runs/nowhere/coarse"}, "start.model"),
     ({"vision_tower": "nobody/tower", "language_model": "Qwen/Qwen3-0.6B"}, "start.vision_tower"),
     ({"vision_tower": "apple/aimv2-huge-patch14-448", "language_model": "nobody/words"}, "start.language_model")],
)  # fmt: skip
def test_a_model_that_nobody_knows(start, key, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SailvitError, match=f"{key}: the sizes of .* are not known here"):
        model_config(recipe(start))
