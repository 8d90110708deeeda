# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The stages are the published ones and make exactly their modules trainable."""

import dataclasses

import pytest
from torch import nn

from sailvit_hf.errors import SailvitError
from sailvit_hf.modeling.vision_towers import layer_groups
from sailvit_hf.refinement import DIRECT, MODULES, STAGES, RefinementStage, get_stage, module_of

from .tiny import tiny_model


@pytest.mark.parametrize(
    "key, trains, rate, batch, epochs",
    [
        ("coarse", ("multi_modal_projector",), 2e-4, 1920, 1),
        ("fine", ("vision_tower", "multi_modal_projector"), 2e-5, 512, 1),
        ("world", MODULES, 1e-5, 512, 1),
    ],
)
def test_published_numbers(key, trains, rate, batch, epochs):
    stage = STAGES[key]
    assert (stage.trains, stage.learning_rate, stage.global_batch_size, stage.epochs) == (trains, rate, batch, epochs)
    assert "2509.14033" in stage.source


def test_order_and_comparison():
    assert list(STAGES) == ["coarse", "fine", "world"]
    assert DIRECT.trains == MODULES and DIRECT.source.startswith("ours")


def test_stages_are_values():
    with pytest.raises(TypeError):
        STAGES["coarse"] = DIRECT
    with pytest.raises(dataclasses.FrozenInstanceError):
        DIRECT.learning_rate = 1.0


@pytest.mark.parametrize("key", ["coarse", "fine", "world", "direct"])
def test_apply_sets_exactly_the_modules(key):
    model = tiny_model()
    model.requires_grad_(False)
    model.eval()
    stage = get_stage(key)
    stage.apply(model)
    found = {module_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {module_of(name) for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert found == set(stage.trains) and frozen == set(MODULES) - set(stage.trains)
    assert not model.training


@pytest.mark.parametrize(
    "name, module",
    [
        ("model.vision_tower.trunk.blocks.0.norm_1.weight", "vision_tower"),
        ("module.model.multi_modal_projector.norm.bias", "multi_modal_projector"),
        ("_orig_mod.model.language_model.layers.0.mlp.up_proj.weight", "language_model"),
        ("lm_head.weight", "language_model"),
    ],
)
def test_module_of(name, module):
    assert module_of(name) == module


def test_unknown_parameter_and_stage_are_named():
    with pytest.raises(SailvitError, match="'model.visual.weight'"):
        module_of("model.visual.weight")
    with pytest.raises(SailvitError, match="'fien'.*coarse, fine, world, direct"):
        get_stage("fien")
    with pytest.raises(SailvitError, match="at least one module"):
        RefinementStage("x", "X", (), 1e-3, 1, 1.0, "ours")
    with pytest.raises(SailvitError, match="connector"):
        RefinementStage("x", "X", ("connector",), 1e-3, 1, 1.0, "ours")


def test_a_model_without_a_trained_module_is_an_error():
    model = nn.ModuleDict({"language_model": nn.Linear(2, 2)})
    with pytest.raises(SailvitError, match="multi_modal_projector.*no parameter"):
        STAGES["coarse"].apply(model)


@pytest.mark.parametrize("tower", ["sailvit", "clip"])
def test_what_the_features_do_not_depend_on_stays_frozen(tower):
    model = tiny_model(tower=tower, layers=3, vision_feature_layer=-2)
    STAGES["fine"].apply(model)
    frozen = {name for name, p in model.model.vision_tower.named_parameters() if not p.requires_grad}
    groups = {group.name: set(group.parameter_names) for group in layer_groups(model.model.vision_tower)}
    assert frozen == groups["layer_2"] | groups["head"]
    STAGES["coarse"].apply(model)
    assert not any(p.requires_grad for p in model.model.vision_tower.parameters())


def test_clip_trains_without_the_norm_that_only_its_class_token_goes_through():
    model = tiny_model(tower="clip")
    STAGES["world"].apply(model)
    frozen = {name for name, p in model.model.vision_tower.named_parameters() if not p.requires_grad}
    assert frozen == {"post_layernorm.weight", "post_layernorm.bias"}


def test_the_first_groups_of_the_tower_can_stay_frozen():
    model = tiny_model(layers=3)
    groups = layer_groups(model.model.vision_tower)
    for count in range(5):
        STAGES["world"].apply(model, freeze_vision_layers=count)
        expected = {name for group in groups[count:] for name in group.parameter_names}
        assert {name for name, p in model.model.vision_tower.named_parameters() if p.requires_grad} == expected
        assert all(p.requires_grad for p in model.model.language_model.parameters())
    with pytest.raises(SailvitError, match="freeze_vision_layers 5 leaves nothing .* it has 5 groups .*; freeze"):
        STAGES["world"].apply(model, freeze_vision_layers=5)
    STAGES["coarse"].apply(model, freeze_vision_layers=0)
