# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Every trainable parameter is in exactly one group, with its module's rate and the right decay."""

import pytest
from torch import nn

from sailvit_hf.errors import SailvitError
from sailvit_hf.modeling.vision_towers import layer_groups
from sailvit_hf.refinement import MODULES, get_stage
from sailvit_hf.refinement.engine.optim import layer_scales, no_decay_names, parameter_groups

from ..tiny import tiny_model

RATES = dict(zip(MODULES, (1e-4, 2e-4, 3e-4), strict=True))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("stage", ["coarse", "fine", "world"])
def test_groups_cover_every_trainable_parameter_once(stage, tied):
    model = tiny_model(tied=tied)
    get_stage(stage).apply(model)
    groups = parameter_groups(model, RATES, weight_decay=0.1)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trainable) and len(set(grouped)) == len(grouped)
    assert [g["module"] for g in groups] == [m for m in get_stage(stage).trains for _ in range(2)]
    assert all(group["lr"] == RATES[group["module"]] for group in groups)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0] * len(get_stage(stage).trains)


def test_head_without_tying_belongs_to_the_language_model():
    model = tiny_model(tied=False)
    get_stage("world").apply(model)
    (owner,) = [
        group["module"]
        for group in parameter_groups(model, RATES, 0.1)
        if any(parameter is model.lm_head.weight for parameter in group["params"])
    ]
    assert owner == "language_model"


def test_what_does_not_decay():
    names = no_decay_names(tiny_model())
    assert "model.vision_tower.preprocessor.pos_embed" in names
    assert "model.vision_tower.trunk.blocks.0.norm_1.weight" in names
    assert "model.multi_modal_projector.linear_1.bias" in names
    assert "model.language_model.layers.0.input_layernorm.weight" in names
    assert "model.vision_tower.preprocessor.patchifier.proj.weight" not in names
    assert "model.vision_tower.trunk.blocks.0.attn.qkv.weight" not in names
    assert "model.language_model.embed_tokens.weight" not in names


def test_position_tables_that_are_embeddings_do_not_decay():
    tower = nn.Module()
    tower.position_embedding = nn.Embedding(4, 2)
    tower.patch_embed = nn.Linear(2, 2)
    assert no_decay_names(tower) == {"position_embedding.weight", "patch_embed.bias"}


def test_nothing_trainable_and_missing_rates_are_errors():
    model = tiny_model()
    with pytest.raises(SailvitError, match="language_model, vision_tower: trainable"):
        parameter_groups(model, {"multi_modal_projector": 1e-3}, 0.0)
    model.requires_grad_(False)
    with pytest.raises(SailvitError, match="no parameter is trainable"):
        parameter_groups(model, RATES, 0.0)


@pytest.mark.parametrize("tower", ["sailvit", "clip"])
@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("freeze", [0, 2])
@pytest.mark.parametrize("decay", [None, 0.5])
def test_any_tower_layer_and_decay_put_every_trainable_parameter_in_one_group(tower, layer, freeze, decay):
    model = tiny_model(tower=tower, layers=3, vision_feature_layer=layer)
    get_stage("world").apply(model, freeze)
    groups = parameter_groups(model, RATES, 0.1, decay)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trainable) and len(set(grouped)) == len(grouped)
    assert groups[0]["module"] == "vision_tower" and groups[0]["lr"] == RATES["vision_tower"]
    others = [group for group in groups if group["module"] != "vision_tower"]
    assert all(group["lr"] == RATES[group["module"]] for group in others) and len(others) == 4
    if decay is None:
        assert len(groups) == 6
        return
    # embeddings, three layers and, for SAILViT, the final norm; CLIP's patches do not go through its norm.
    heights = 4 - (layer == -2) + (layer == -1 and tower == "sailvit") - freeze
    rates = {group["lr"] for group in groups if group["module"] == "vision_tower"}
    assert sorted(rates, reverse=True) == [RATES["vision_tower"] * 0.5**depth for depth in range(heights)]


def test_the_rate_falls_from_the_output_to_the_input():
    """BEiT's layer-wise decay: the topmost group that trains has the full rate."""
    model = tiny_model(layers=3)
    scales = layer_scales(model, 0.5)
    tower = {name: parameter for name, parameter in model.named_parameters() if "vision_tower" in name}
    assert scales.keys() == tower.keys()
    for depth, group in enumerate(reversed(layer_groups(model.model.vision_tower))):
        assert {scales[f"model.vision_tower.{name}"] for name in group.parameter_names} == {0.5**depth}
    assert layer_scales(model, None) == {} and set(layer_scales(model, 1.0).values()) == {1.0}
    with pytest.raises(SailvitError, match="vision_tower_layer_decay is 1.5: give a number above 0"):
        layer_scales(model, 1.5)


def test_groups_say_which_rate_a_layer_has():
    model = tiny_model(layers=2)
    get_stage("fine").apply(model)
    groups = parameter_groups(model, RATES, 0.1, 0.1)
    found = {id(parameter): group for group in groups for parameter in group["params"]}
    blocks = model.model.vision_tower.trunk.blocks
    assert found[id(blocks[1].attn.qkv.weight)]["lr"] == pytest.approx(1e-5)
    assert found[id(blocks[0].attn.qkv.weight)]["lr"] == pytest.approx(1e-6)
    assert found[id(blocks[0].attn.qkv.weight)]["weight_decay"] == 0.1
    assert found[id(blocks[0].norm_1.weight)]["weight_decay"] == 0.0
    assert found[id(model.model.vision_tower.preprocessor.pos_embed)]["lr"] == pytest.approx(1e-7)
