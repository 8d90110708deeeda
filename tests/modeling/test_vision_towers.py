# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Any vision tower: its layers, its patches, a chosen layer, and a clear word about towers that cannot serve."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel, PreTrainedModel, SiglipConfig

from sailvit_hf import SAILViTConfig, SAILViTForImageClassification, SAILViTVLMConfig
from sailvit_hf.modeling import vision_towers
from sailvit_hf.modeling.vision_towers import (
    find_layers,
    first_layers,
    layer_groups,
    layers_run,
    native_size,
    patch_features,
    patch_sides,
    patchify,
    run_tower,
    tower_facts,
    unused_parameters,
    vision_half,
)

from .towers import LAYERS, SIZES, TOWERS, calls, tower

ALL = pytest.mark.parametrize("name", TOWERS)


def pictures(height: int = 64, width: int = 64, size: int = 2) -> torch.Tensor:
    return torch.randn(size, 3, height, width, generator=torch.Generator().manual_seed(1))


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    """Equal up to the rounding of two runs, whose memory may lie differently."""
    torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


def own_arguments(model: PreTrainedModel, pixel_values: torch.Tensor) -> dict[str, object]:
    """What transformers' own documentation gives the tower for these pictures."""
    if model.config.model_type == "siglip2_vision_model":
        from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

        side = model.config.patch_size
        patches = torch.stack([torch.from_numpy(convert_image_to_patches(p.numpy(), side)) for p in pixel_values])
        grid = [pixel_values.shape[-2] // side, pixel_values.shape[-1] // side]
        mask = torch.ones(patches.shape[:2], dtype=torch.long)
        return {
            "pixel_values": patches,
            "pixel_attention_mask": mask,
            "spatial_shapes": torch.tensor([grid] * len(pixel_values)),
        }
    native = tuple(pixel_values.shape[-2:]) == native_size(model.config)
    takes = model.config.model_type in ("siglip_vision_model", "clip_vision_model", "vit") and not native
    return {"pixel_values": pixel_values, **({"interpolate_pos_encoding": True} if takes else {})}


@ALL
def test_patch_features_are_the_towers_own_output_without_other_tokens(name: str) -> None:
    model, pixel_values = tower(name), pictures()
    with torch.no_grad():
        own = model(**own_arguments(model, pixel_values)).last_hidden_state
        features, grid = patch_features(model, pixel_values)
    leading = TOWERS[name][1]
    assert grid == (8, 8) and own.shape == (2, 64 + leading, 32)
    assert_same(features, own[:, leading:])


@ALL
def test_another_size_is_read_or_refused_in_one_sentence(name: str) -> None:
    model, pixel_values = tower(name), pictures(48, 80)
    if not TOWERS[name][2]:
        with pytest.raises(ValueError, match="The pictures are 48x80 pixels, but Aimv2VisionModel reads 64x64 only"):
            patch_features(model, pixel_values)
        return
    with torch.no_grad():
        own = model(**own_arguments(model, pixel_values)).last_hidden_state
        features, grid = patch_features(model, pixel_values)
    assert grid == (6, 10)
    assert_same(features, own[:, TOWERS[name][1] :])


@ALL
def test_a_chosen_layer_is_the_hidden_state_of_that_index(name: str) -> None:
    """Embeddings first, the last one before the final norm; it is reached without running what comes after it."""
    model, pixel_values = tower(name), pictures()
    states = model(**own_arguments(model, pixel_values), output_hidden_states=True).hidden_states
    assert len(states) == LAYERS + 1
    _, layers = find_layers(model)
    head = [group for group in layer_groups(model) if group.name == "head"]
    after = {key.rpartition(".")[0] for group in head for key in group.parameter_names}
    assert after or name == "internvl_vision"
    counts, stop = calls(
        {**{str(i): layer for i, layer in enumerate(layers)}, **{key: model.get_submodule(key) for key in after}}
    )
    for layer in (0, 1, LAYERS, -2, -LAYERS - 1):
        for key in counts:
            counts[key] = 0
        output = run_tower(model, pixel_values, layer).last_hidden_state
        assert_same(output, states[layer])
        depth = layer % (LAYERS + 1)
        assert list(counts.values()) == [int(i < depth) for i in range(LAYERS)] + [0] * len(after), layer
        features, _ = patch_features(model, pixel_values, layer)
        assert_same(features, states[layer][:, TOWERS[name][1] :])
    stop()
    again = model(**own_arguments(model, pixel_values), output_hidden_states=True)
    assert_same(again.hidden_states[-1], states[-1])  # the tower itself is whole as before


@ALL
@pytest.mark.parametrize("layer", [-1, 2])
def test_unused_parameters_are_exactly_those_without_a_gradient(name: str, layer: int) -> None:
    model = tower(name)
    patch_features(model, pictures(), layer)[0].square().sum().backward()
    without = {key for key, parameter in model.named_parameters() if parameter.grad is None}
    assert unused_parameters(model, layer) == without
    late = {key for key, _ in model.named_parameters() if f".{LAYERS - 1}." in key}
    assert late and late.isdisjoint(without) == (layer == -1)


@ALL
def test_layer_groups_hold_every_parameter_once_from_input_to_output(name: str) -> None:
    model = tower(name)
    groups = layer_groups(model)
    names = [key for group in groups for key in group.parameter_names]
    assert sorted(names) == sorted(key for key, _ in model.named_parameters()) and len(set(names)) == len(names)
    assert [g.name for g in groups[: LAYERS + 1]] == ["embeddings", *(f"layer_{i}" for i in range(LAYERS))]
    assert [g.name for g in groups[LAYERS + 1 :]] in (["head"], [])
    path, _ = find_layers(model)
    for index in range(LAYERS):
        assert all(key.startswith(f"{path}.{index}.") for key in groups[1 + index].parameter_names)
    assert any("patch" in key for key in groups[0].parameter_names)
    if len(groups) > LAYERS + 1:
        assert all(key.split(".")[0] in AFTER or "post_trunk_norm" in key for key in groups[-1].parameter_names)


AFTER = ("post_layernorm", "rms_norm", "layernorm", "norm", "head", "pooler")


def test_layer_groups_of_a_classifier_end_with_its_head() -> None:
    model = SAILViTForImageClassification(SAILViTConfig.preset("tiny", num_labels=3))
    groups = layer_groups(model)
    assert [group.name for group in groups] == ["embeddings", "layer_0", "layer_1", "layer_2", "layer_3", "head"]
    assert set(groups[-1].parameter_names) == {
        "sailvit.trunk.post_trunk_norm.weight",
        "classifier.weight",
        "classifier.bias",
    }


def test_gradients_through_a_view_are_those_of_the_hidden_state() -> None:
    whole, viewed = tower("clip_vision_model"), tower("clip_vision_model")
    whole(pictures(), output_hidden_states=True).hidden_states[2].square().sum().backward()
    run_tower(viewed, pictures(), 2).last_hidden_state.square().sum().backward()
    for (name, one), other in zip(whole.named_parameters(), viewed.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_a_view_works_with_gradient_checkpointing_and_keeps_the_towers_mode() -> None:
    model = tower("siglip_vision_model").train()
    run_tower(model, pictures(), 2).last_hidden_state.square().sum().backward()
    plain = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    run_tower(model, pictures(), 2).last_hidden_state.square().sum().backward()
    again = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-4)
    assert first_layers(model, 1).training and not first_layers(model.eval(), 1).training


def test_a_replaced_forward_of_the_tower_does_not_run_all_layers() -> None:
    """Hooks of accelerate put a `forward` on the instance, bound to the whole tower."""
    model = tower("siglip_vision_model")
    expected = run_tower(model, pictures(), 1).last_hidden_state
    model.forward = model.forward
    assert_same(run_tower(model, pictures(), 1).last_hidden_state, expected)


def test_hidden_states_are_counted_once_after_many_views() -> None:
    model = tower("siglip_vision_model")
    for _ in range(3):
        run_tower(model, pictures(), 2, output_hidden_states=True)
    assert len(run_tower(model, pictures(), output_hidden_states=True).hidden_states) == LAYERS + 1


@pytest.mark.parametrize(
    ("model_type", "leading", "trailing", "values"),
    [
        ("deit", 2, 0, {}),  # a class token and a distillation token
        ("beit", 1, 0, {"use_relative_position_bias": True}),
        ("ijepa", 0, 0, {}),
        ("yolos", 1, 5, {"image_size": [64, 64], "num_detection_tokens": 5}),  # detections behind the patches
    ],
)
def test_towers_that_are_named_nowhere(model_type: str, leading: int, trailing: int, values: dict) -> None:
    config = AutoConfig.for_model(model_type, **{**SIZES, "image_size": 64, "patch_size": 8, **values})
    model = AutoModel.from_config(config).eval()
    facts = tower_facts(model)
    assert (facts.leading, facts.trailing) == (leading, trailing)
    with torch.no_grad():
        own = model(pictures()).last_hidden_state[:, leading : leading + 64]
        assert_same(patch_features(model, pictures())[0], own)


@pytest.mark.parametrize(
    ("model_type", "values", "cause"),
    [
        ("resnet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, "no patch grid .no patch_size"),
        ("convnext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, "differ in size|no single stack"),
        (
            "swin",
            {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "image_size": 64, "window_size": 4},
            "SwinModel differ in size, as if patches were merged",
        ),
        ("pixtral", {**SIZES, "image_size": 64, "patch_size": 8}, "PixtralVisionModel gives no grid of patches"),
    ],
)
def test_a_tower_without_a_patch_grid_is_refused(model_type: str, values: dict, cause: str) -> None:
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **values))
    with pytest.raises(ValueError, match=cause) as caught:
        tower_facts(model)
    message = str(caught.value)
    assert message.endswith("choose a plain vision transformer, such as SAILViT, AIMv2, SigLIP, CLIP, DINOv2, DINOv3, "
                            "ViT or InternViT.")  # fmt: skip
    assert message.count("choose") == 1 and "\n" not in message


def test_a_layer_that_is_not_there_is_refused() -> None:
    model = tower("siglip_vision_model")
    assert [layers_run(model.config, layer) for layer in (-1, 0, 3, -2, -4)] == [3, 0, 3, 2, 0]
    for layer in (4, -5):
        with pytest.raises(ValueError, match=f"vision_feature_layer is {layer}, but a tower of 3 layers has"):
            run_tower(model, pictures(), layer)


def test_asking_the_twin_leaves_no_trace() -> None:
    """Also while another model is built without memory and in half precision."""
    model = tower("clip_vision_model")
    vision_towers._FACTS.clear()
    torch.manual_seed(5)
    expected, _ = torch.rand(3), torch.manual_seed(5)
    with torch.device("meta"), torch.inference_mode():
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            facts = tower_facts(model)
        finally:
            torch.set_default_dtype(before)
    assert torch.equal(torch.rand(3), expected)
    assert facts.leading == 1 and facts.unused == {"post_layernorm.weight", "post_layernorm.bias"}
    assert tower_facts(copy.deepcopy(model)) is facts


def test_without_a_twin_all_tokens_but_the_patches_are_taken_to_stand_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ZeRO-3, where the twin's weights would be spread over the devices."""
    model = tower("dinov2_with_registers")
    expected, _ = patch_features(model, pictures())
    monkeypatch.setattr(vision_towers, "_FACTS", {})
    monkeypatch.setattr(vision_towers, "is_deepspeed_zero3_enabled", lambda: True)
    assert_same(patch_features(model, pictures())[0], expected)
    assert vision_towers._FACTS == {}


def test_sizes_of_any_notation() -> None:
    assert patch_sides(AutoConfig.for_model("internvl_vision", patch_size=[14, 14])) == (14, 14)
    assert patch_sides(AutoConfig.for_model("dinov3_vit", patch_size=16)) == (16, 16)
    assert native_size(AutoConfig.for_model("internvl_vision", image_size=[448, 336])) == (448, 336)
    assert native_size(AutoConfig.for_model("siglip2_vision_model", num_patches=256, patch_size=16)) == (256, 256)
    assert native_size(AutoConfig.for_model("vit", image_size=224)) == (224, 224)


def test_patches_of_siglip_2_lie_as_its_image_processor_lays_them() -> None:
    from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

    picture = pictures(24, 40, 1)
    expected = convert_image_to_patches(picture[0].numpy(), 8)
    assert torch.equal(patchify(picture, 8, 8)[0], torch.from_numpy(expected))
    assert torch.equal(patchify(pictures(27, 41, 1)[:, :, :24, :40], 8, 8), patchify(pictures(27, 41, 1), 8, 8))


def test_pictures_are_cast_to_the_towers_dtype() -> None:
    for name in TOWERS:
        features, _ = patch_features(tower(name).to(torch.bfloat16), pictures())
        assert features.dtype == torch.bfloat16, name


def test_of_a_contrastive_pair_the_vision_half_is_taken() -> None:
    vision = {**SIZES, "image_size": 64, "patch_size": 8}
    text = {**SIZES, "vocab_size": 64, "max_position_embeddings": 8}
    pair = CLIPModel(CLIPConfig(vision_config=vision, text_config=text))
    assert vision_half(pair) is pair.vision_model
    assert vision_half(pair.vision_model) is pair.vision_model
    assert isinstance(pair.vision_model, nn.Module)
    for config in (pair.config, SiglipConfig(vision_config=vision, text_config=text)):
        kept = SAILViTVLMConfig(vision_config=config).vision_config
        assert kept is vision_half(config) and kept.hidden_size == 32
        again = SAILViTVLMConfig(vision_config=config.to_dict()).vision_config
        assert again.model_type == kept.model_type and again.hidden_size == 32
