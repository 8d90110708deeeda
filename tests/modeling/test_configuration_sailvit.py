# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Configurations: presets, nested models, and what a hostile file may not do."""

import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig

from sailvit_hf import SAILViTConfig, SAILViTModel, SAILViTVLMConfig


@pytest.mark.parametrize(("preset", "parameters"), [("large", 309_984_256), ("huge", 682_031_616)])
def test_presets_have_the_published_number_of_parameters(preset: str, parameters: int) -> None:
    with torch.device("meta"):
        model = SAILViTModel(SAILViTConfig.preset(preset))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert len(model.state_dict()) == 173


def test_tensor_names_are_the_published_ones() -> None:
    names = set(SAILViTModel(SAILViTConfig.preset("tiny", num_hidden_layers=1)).state_dict())
    assert names == {
        "preprocessor.patchifier.proj.weight",
        "preprocessor.patchifier.proj.bias",
        "preprocessor.patchifier.norm.weight",
        "preprocessor.pos_embed",
        "trunk.blocks.0.norm_1.weight",
        "trunk.blocks.0.attn.qkv.weight",
        "trunk.blocks.0.attn.proj.weight",
        "trunk.blocks.0.norm_2.weight",
        "trunk.blocks.0.mlp.fc1.weight",
        "trunk.blocks.0.mlp.fc2.weight",
        "trunk.blocks.0.mlp.fc3.weight",
        "trunk.post_trunk_norm.weight",
    }


def test_huge_has_the_names_and_shapes_of_the_published_index(reference_folder: Path) -> None:
    index = json.loads((reference_folder / "model.safetensors.index.json").read_text())
    prefix = "vision_model."
    published = {name.removeprefix(prefix) for name in index["weight_map"] if name.startswith(prefix)}
    with torch.device("meta"):
        model = SAILViTModel(SAILViTConfig.preset("huge"))
    assert set(model.state_dict()) == published


def test_the_published_configuration_is_read_field_by_field(reference_folder: Path) -> None:
    published = json.loads((reference_folder / "config.json").read_text())["vision_config"]
    config = SAILViTConfig.from_dict(published)
    huge = SAILViTConfig.preset("huge")
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size"):
        assert getattr(config, name) == getattr(huge, name) == published[name]


def test_a_default_configuration_is_large() -> None:
    default, large = SAILViTConfig(), SAILViTConfig.preset("large")
    assert (default.hidden_size, default.intermediate_size) == (1024, 2816)
    assert (large.hidden_size, large.intermediate_size) == (1024, 2816)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_size": 100, "num_attention_heads": 8}, "hidden_size (100) is not a multiple of num_attention_heads"),
        ({"image_size": 450}, "image_size (450) is not a multiple of patch_size (14)"),
    ],
)
def test_impossible_sizes_are_refused_with_the_cause(fields: dict, words: str) -> None:
    with pytest.raises(Exception, match="multiple of") as error:
        SAILViTConfig(**fields)
    assert words in str(error.value)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="choose one of large, huge, tiny"):
        SAILViTConfig.preset("giant")


def test_nested_configurations_survive_a_file(tmp_path: Path) -> None:
    config = SAILViTVLMConfig(
        vision_config=SAILViTConfig.preset("tiny"),
        text_config=LlamaConfig(hidden_size=32, tie_word_embeddings=True),
        image_token_id=7,
    )
    config.save_pretrained(tmp_path)
    again = SAILViTVLMConfig.from_pretrained(tmp_path)
    assert isinstance(again.vision_config, SAILViTConfig)
    assert isinstance(again.text_config, LlamaConfig)
    assert again.vision_config.hidden_size == 96
    assert again.text_config.hidden_size == 32
    assert again.tie_word_embeddings is True
    assert again.image_token_id == 7
    assert again.merge_size == 2


def test_any_vision_model_of_transformers_can_be_nested() -> None:
    config = SAILViTVLMConfig(vision_config={"model_type": "clip_vision_model", "hidden_size": 96})
    assert isinstance(config.vision_config, CLIPVisionConfig)
    assert config.vision_config.hidden_size == 96


def test_a_file_cannot_switch_on_remote_code_in_a_nested_model() -> None:
    hostile = {
        "model_type": "llama",
        "trust_remote_code": True,
        "auto_map": {"AutoModel": "evil.Model"},
        "_attn_implementation": "evil/kernel",
    }
    config = SAILViTVLMConfig(text_config=hostile, vision_config={"model_type": "sailvit", "trust_remote_code": True})
    for nested in (config.text_config, config.vision_config):
        assert not hasattr(nested, "trust_remote_code")
        assert not hasattr(nested, "auto_map")
    assert config.text_config._attn_implementation != "evil/kernel"


def test_an_unknown_nested_model_is_named() -> None:
    with pytest.raises(ValueError, match="language model's model_type is 'no_such_model'"):
        SAILViTVLMConfig(text_config={"model_type": "no_such_model"})
