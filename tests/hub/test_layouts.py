# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The tables of names, against the models themselves and against the published index."""

import json

import pytest
import torch
from transformers import Aimv2VisionModel, Qwen3Config

from sailvit_hf import SAILViTConfig, SAILViTForConditionalGeneration, SAILViTModel, SAILViTVLMConfig
from sailvit_hf.errors import SailvitError
from sailvit_hf.hub.layouts import (
    LAYOUTS,
    Tensor,
    check,
    config_of_shapes,
    find_vision_tower,
    vision_tensors,
)
from sailvit_hf.hub.mllm import read_whole_model, sail_vl2_config
from sailvit_hf.hub.sources import Source
from sailvit_hf.hub.vision_targets import aimv2_config
from sailvit_hf.hub.weights import Slice, StoredTensor
from tests.hub.tiny import timm_weights

PARAMETERS = {"large": 309_984_256, "huge": 682_031_616}


def shapes(model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def wanted_shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def stored(tensors, path, dtype="BF16") -> dict[str, StoredTensor]:
    """What a file with such tensors would hold."""
    sizes = {name: torch.Size(tensor.shape).numel() * 2 for name, tensor in tensors.items()}
    return {name: StoredTensor(tensor.shape, Slice(path, 0, sizes[name], dtype)) for name, tensor in tensors.items()}


@pytest.mark.parametrize("preset", ["large", "huge", "tiny"])
@pytest.mark.parametrize("biases", [{}, {"qkv_bias": True, "use_bias": True}])
def test_names_and_shapes_are_the_models_own(preset, biases):
    config = SAILViTConfig.preset(preset, **biases)
    with torch.device("meta"):
        assert wanted_shapes(vision_tensors("sailvit", config)) == shapes(SAILViTModel(config))
        assert wanted_shapes(vision_tensors("aimv2", config)) == shapes(Aimv2VisionModel(aimv2_config(config)))
    elements = [sum(torch.Size(t.shape).numel() for t in vision_tensors(name, config).values()) for name in LAYOUTS]
    assert len({*elements}) == 1
    if preset in PARAMETERS and not biases:
        assert elements[0] == PARAMETERS[preset]


def test_names_of_timm():
    config = SAILViTConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    expected = {name: tuple(tensor.shape) for name, tensor in timm_weights().items()}
    assert wanted_shapes(vision_tensors("timm", config)) == expected


def test_one_kind_of_bias_only():
    config = SAILViTConfig.preset("tiny", qkv_bias=True)
    with torch.device("meta"):
        assert wanted_shapes(vision_tensors("sailvit", config)) == shapes(SAILViTModel(config))
    assert "blocks.0.attn.qkv.bias" in vision_tensors("timm", config)
    with pytest.raises(SailvitError, match="qkv_bias is True and use_bias False"):
        vision_tensors("aimv2", config)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prefix", ["", "vision_model.", "model.vision_tower."])
def test_towers_are_found_and_measured(layout, prefix, tmp_path):
    config = SAILViTConfig.preset("huge", num_hidden_layers=3, qkv_bias=True, use_bias=True)
    tensors = vision_tensors(layout, config, prefix)
    names = [*tensors, "language_model.model.layers.0.mlp.up_proj.weight", "mlp1.0.weight"]
    assert find_vision_tower(names) == (layout, prefix)
    fields = config_of_shapes(layout, prefix, stored(tensors, tmp_path))
    assert {name: getattr(config, name) for name in fields} == fields and fields["num_attention_heads"] == 12


def test_other_towers_are_not_taken_for_ours():
    clip = ["vision_model.embeddings.position_embedding.weight", "vision_model.encoder.layers.0.mlp.fc1.weight"]
    dinov2 = ["embeddings.cls_token", "encoder.layer.0.attention.attention.query.weight"]
    timm_vit = ["pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"]
    for names in (clip, dinov2, timm_vit, []):
        assert find_vision_tower(names) is None


def test_the_check_names_all_that_is_wrong(tmp_path):
    wanted = vision_tensors("sailvit", SAILViTConfig.preset("tiny"))
    found = stored(wanted, tmp_path)
    del found["preprocessor.pos_embed"]
    found["trunk.post_trunk_norm.weight"] = StoredTensor((97,), Slice(tmp_path, 0, 0, "F32"))
    with pytest.raises(SailvitError) as error:
        check(wanted, found, ["preprocessor.pos_embd"], "SAILViT")
    for part in (
        "missing: preprocessor.pos_embed;",
        "unexpected: preprocessor.pos_embd;",
        "misshapen: trunk.post_trunk_norm.weight is 97 instead of 96;",
    ):
        assert part in str(error.value)
    with pytest.raises(SailvitError, match="missing: .* and 27 more"):
        check(wanted, {}, [], "SAILViT")


RENAMED = {
    "vision_model.": "model.vision_tower.",
    "mlp1.0.": "model.multi_modal_projector.norm.",
    "mlp1.1.": "model.multi_modal_projector.linear_1.",
    "mlp1.3.": "model.multi_modal_projector.linear_2.",
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
}


@pytest.fixture(scope="module")
def published(reference_folder):
    """SAIL-VL2-2B as its index and configuration tell it, with the shapes of our model's tensors, without weights."""
    names = json.loads((reference_folder / "model.safetensors.index.json").read_text())["weight_map"]
    config = json.loads((reference_folder / "config.json").read_text())
    text = Qwen3Config(**config["llm_config"])
    with torch.device("meta"):
        vision = SAILViTConfig.preset("huge")
        ours = shapes(SAILViTForConditionalGeneration(SAILViTVLMConfig(vision_config=vision, text_config=text)))
    tensors = {}
    for name in names:
        prefix = next(prefix for prefix in RENAMED if name.startswith(prefix))
        tensors[name] = Tensor(ours[RENAMED[prefix] + name.removeprefix(prefix)], ())
    held = stored(tensors, reference_folder)
    source = Source("SAIL-VL2-2B", reference_folder, None, held, *find_vision_tower(names))
    assert source.config == config and (source.layout, source.prefix) == ("sailvit", "vision_model.")
    return source


@pytest.fixture
def weightless(monkeypatch):
    """The head is compared with the embeddings by value, which nobody has here: say that they are equal."""
    monkeypatch.setattr("sailvit_hf.hub.mllm.same_bytes", lambda *given: True)


def test_every_name_and_shape_of_the_published_model(published, weightless):
    """490 tensors, 5,461,130,240 bytes: nothing is missing, unexpected or misshapen, and ours are our class's."""
    model, wanted = read_whole_model(published, "sail-vl2", image_token_id=151671)
    assert wanted.keys() == published.tensors.keys() and len(wanted) == 490
    assert sum(2 * torch.Size(tensor.shape).numel() for tensor in wanted.values()) == 5_461_130_240
    vision = [name for name in wanted if name.startswith("vision_model.")]
    assert len(vision) == 173
    assert sum(torch.Size(wanted[name].shape).numel() for name in vision) == PARAMETERS["huge"]
    assert model.tied and model.config.image_token_id == 151671 and model.config.vision_feature_layer == -1

    with torch.device("meta"):
        expected = shapes(SAILViTForConditionalGeneration(model.config))
    assert wanted_shapes(model.tensors("sailvit-vlm", with_head=True)) == expected
    assert expected.keys() - wanted_shapes(model.tensors("sailvit-vlm", with_head=False)).keys() == {"lm_head.weight"}
    assert wanted_shapes(model.tensors("sail-vl2")) == wanted_shapes(wanted)


def test_the_published_configuration_comes_back(published, weightless):
    model, _ = read_whole_model(published, "sail-vl2", image_token_id=151671)
    back = json.loads(json.dumps(sail_vl2_config(model.config, "bfloat16")))
    original = published.config
    assert {"llm_config", "vision_config", "auto_map"} < back.keys() <= original.keys()
    for key, value in back.items():
        if key not in ("llm_config", "vision_config", "auto_map"):
            assert value == original[key], key
    assert all(name.endswith(f"--{original['auto_map'][key]}") for key, name in back["auto_map"].items())
    assert all(original["vision_config"][key] == value for key, value in back["vision_config"].items())
    text, not_theirs = original["llm_config"], {"layer_types", "_name_or_path"}
    assert all(text[key] == value for key, value in back["llm_config"].items() if key not in not_theirs)
    said = ("vocab_size", "rope_theta", "tie_word_embeddings", "head_dim", "eos_token_id", "architectures")
    assert all(back["llm_config"][key] == text[key] for key in said)
