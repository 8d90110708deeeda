# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Every trainable parameter is in exactly one group, with its module's rate and the right decay."""

import pytest
from torch import nn

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import MODULES, get_stage
from sailvit_hf.refinement.optim import no_decay_names, parameter_groups

from .tiny import tiny_model

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
