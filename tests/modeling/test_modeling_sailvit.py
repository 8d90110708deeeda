# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The ViT, against transformers' own AIMv2 from the same random weights."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForImageClassification

from sailvit_hf import SAILViTConfig, SAILViTForImageClassification, SAILViTModel

from .twins import as_aimv2, randomised

SIZES = {
    "tiny": {},
    "wide": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 2, "num_attention_heads": 8},
    "large patches": {"hidden_size": 64, "intermediate_size": 176, "image_size": 112, "patch_size": 14},
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_equals_aimv2_with_the_same_random_weights(size: str, attention: str) -> None:
    config = SAILViTConfig.preset("tiny", **SIZES[size])
    model = randomised(config)
    model.set_attn_implementation(attention)
    assert model.config._attn_implementation == attention
    twin = as_aimv2(model)
    pixel_values = torch.randn(2, 3, config.image_size, config.image_size, generator=torch.manual_seed(1))
    with torch.no_grad():
        ours, theirs = model(pixel_values).last_hidden_state, twin(pixel_values).last_hidden_state
    assert theirs.std() > 0.1  # the comparison is of something
    assert (ours - theirs).abs().max() <= 1e-5


def test_pooling_is_the_mean_of_the_final_tokens() -> None:
    model = randomised(SAILViTConfig.preset("tiny"))
    outputs = model(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(outputs.pooler_output, outputs.last_hidden_state.mean(1))


def test_hidden_states_begin_with_the_embeddings_and_end_before_the_final_norm() -> None:
    model = randomised(SAILViTConfig.preset("tiny"))
    pixel_values = torch.randn(1, 3, 64, 64)
    outputs = model(pixel_values, output_hidden_states=True)
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    torch.testing.assert_close(outputs.hidden_states[0], model.preprocessor(pixel_values))
    torch.testing.assert_close(model.trunk.post_trunk_norm(outputs.hidden_states[-1]), outputs.last_hidden_state)
    assert model(pixel_values).hidden_states is None


def test_patches_are_row_major() -> None:
    """A picture that differs in one patch only changes that patch's embedding."""
    model = randomised(SAILViTConfig.preset("tiny"))
    picture = torch.zeros(1, 3, 64, 64)
    marked = picture.clone()
    marked[..., 8:16, 24:32] = 1.0  # row 1, column 3 of an 8x8 grid
    changed = (model.preprocessor(picture) - model.preprocessor(marked)).abs().sum(-1)[0] > 0
    assert changed.nonzero().flatten().tolist() == [1 * 8 + 3]


def test_initialisation_leaves_loaded_weights_alone(tmp_path: Path) -> None:
    model = randomised(SAILViTConfig.preset("tiny"))
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, SAILViTModel)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_fresh_weights_have_the_configured_spread() -> None:
    torch.manual_seed(0)
    model = SAILViTModel(SAILViTConfig.preset("tiny", initializer_range=0.05))
    assert model.trunk.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert model.preprocessor.pos_embed.std().item() == pytest.approx(0.05, rel=0.05)
    assert torch.equal(model.trunk.post_trunk_norm.weight, torch.ones(96))


def test_a_backbone_becomes_a_classifier(tmp_path: Path) -> None:
    backbone = randomised(SAILViTConfig.preset("tiny"))
    backbone.save_pretrained(tmp_path)
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=5).eval()
    assert isinstance(classifier, SAILViTForImageClassification)
    pixel_values = torch.randn(3, 3, 64, 64)
    outputs = classifier(pixel_values, labels=torch.tensor([0, 4, 2]))
    expected = classifier.classifier(backbone(pixel_values).pooler_output)
    torch.testing.assert_close(outputs.logits, expected)
    torch.testing.assert_close(
        outputs.loss, torch.nn.functional.cross_entropy(expected, torch.tensor([0, 4, 2]))
    )


def test_the_probe_of_the_report_is_a_two_layer_mlp_on_a_frozen_backbone() -> None:
    torch.manual_seed(0)
    model = SAILViTForImageClassification(SAILViTConfig.preset("tiny", classifier_hidden_size=7, num_labels=3))
    model.freeze_backbone()
    pixel_values = torch.randn(2, 3, 64, 64)
    outputs = model(pixel_values, labels=torch.tensor([0, 2]))
    first, _, second = model.classifier
    pooled = model.sailvit(pixel_values).pooler_output
    by_hand = torch.nn.functional.gelu(pooled @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(outputs.logits, by_hand)
    outputs.loss.backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == {f"classifier.{name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias")}


def test_image_features_are_the_outputs_under_their_usual_name() -> None:
    model = randomised(SAILViTConfig.preset("tiny"))
    pixel_values = torch.randn(2, 3, 64, 64)
    features, outputs = model.get_image_features(pixel_values), model(pixel_values)
    assert torch.equal(features.pooler_output, outputs.pooler_output)
    assert torch.equal(features.last_hidden_state, outputs.last_hidden_state)


@pytest.mark.parametrize("norm", [True, False])
def test_intermediate_layers_are_the_blocks_outputs(norm: bool) -> None:
    model = randomised(SAILViTConfig.preset("tiny"))
    pixel_values = torch.randn(2, 3, 64, 32)
    states = model(pixel_values, output_hidden_states=True).hidden_states
    expected = [model.trunk.post_trunk_norm(state) if norm else state for state in states]
    for asked, indices in ((2, (3, 4)), ([0, -1], (1, 4)), ([2], (3,))):
        layers = model.get_intermediate_layers(pixel_values, asked, norm=norm)
        assert len(layers) == len(indices)
        for layer, index in zip(layers, indices, strict=True):
            assert torch.equal(layer, expected[index])
    (map_,) = model.get_intermediate_layers(pixel_values, [1], norm=norm, reshape=True)
    assert map_.shape == (2, 96, 8, 4)
    assert torch.equal(map_[1, :, 5, 2], expected[2][1, 5 * 4 + 2])


def test_blocks_after_the_last_layer_asked_for_do_not_run() -> None:
    model = randomised(SAILViTConfig.preset("tiny"))
    ran = []
    for index, block in enumerate(model.trunk.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    model.get_intermediate_layers(torch.zeros(1, 3, 64, 64), [0, 1])
    assert ran == [0, 1]


@pytest.mark.parametrize("layers", [0, 5, [4], [-5]])
def test_a_layer_that_is_not_there_is_refused(layers: int | list[int]) -> None:
    with pytest.raises(ValueError, match="There are 4 blocks"):
        SAILViTModel(SAILViTConfig.preset("tiny")).get_intermediate_layers(torch.zeros(1, 3, 64, 64), layers)


def test_chosen_hidden_states_alone_are_returned() -> None:
    model = randomised(SAILViTConfig.preset("tiny"))
    pixel_values = torch.randn(1, 3, 64, 64)
    every = model(pixel_values, output_hidden_states=True).hidden_states
    some = model(pixel_values, output_hidden_states=[1, -1]).hidden_states
    assert [state is None for state in some] == [True, False, True, True, False]
    assert torch.equal(some[1], every[1]) and torch.equal(some[4], every[4])


def gradients_of(model: torch.nn.Module, pixel_values: torch.Tensor, direction: torch.Tensor) -> dict:
    model.zero_grad()
    (model(pixel_values).last_hidden_state * direction).mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_parity(config: SAILViTConfig, pictures: int = 1) -> None:
    """Outputs and gradients of every tensor equal those of transformers' AIMv2 with the same weights."""
    torch.manual_seed(0)
    model = SAILViTModel(config).eval()
    twin = as_aimv2(model)
    pixel_values = torch.randn(pictures, 3, config.image_size, config.image_size)
    tokens = (config.image_size // config.patch_size) ** 2
    direction = torch.randn(pictures, tokens, config.hidden_size)
    with torch.no_grad():
        expected = twin(pixel_values).last_hidden_state
        assert expected.std() > 0.1
        assert (model(pixel_values).last_hidden_state - expected).abs().max() <= 1e-4
    ours, theirs = gradients_of(model, pixel_values, direction), gradients_of(twin, pixel_values, direction)
    for name, gradient in theirs.items():
        for part in ("q_proj", "k_proj", "v_proj"):
            if part in name:
                index, third = name.split(".")[2], "qkv".index(part[0])
                mine = ours[f"trunk.blocks.{index}.attn.qkv.weight"].chunk(3)[third]
                break
        else:
            mine = ours[in_our_layout(name)].view_as(gradient)
        scale = gradient.abs().max()
        assert scale > 0, name
        assert (mine - gradient).abs().max() <= 1e-4 * scale, name


def in_our_layout(name: str) -> str:
    pairs = {
        "embeddings.patch_embed": "preprocessor.patchifier.proj",
        "embeddings.rms_norm": "preprocessor.patchifier.norm",
        "embeddings.position_embedding.weight": "preprocessor.pos_embed",
        "encoder.layers": "trunk.blocks",
        "attention.out_proj": "attn.proj",
        "ffn.gate_proj": "mlp.fc1",
        "ffn.down_proj": "mlp.fc2",
        "ffn.up_proj": "mlp.fc3",
        "rms_norm1": "norm_1",
        "rms_norm2": "norm_2",
    }
    for theirs, ours in pairs.items():
        name = name.replace(theirs, ours)
    return name.replace("rms_norm.weight", "trunk.post_trunk_norm.weight")


def test_values_and_gradients_equal_aimv2s() -> None:
    assert_parity(SAILViTConfig.preset("tiny"), pictures=2)


@pytest.mark.parametrize("preset", ["large", "huge"])
@pytest.mark.slow
def test_values_and_gradients_equal_aimv2s_at_the_published_sizes(preset: str) -> None:
    assert_parity(SAILViTConfig.preset(preset))
