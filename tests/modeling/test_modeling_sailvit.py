# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The ViT, against transformers' own AIMv2 from the same random weights."""

from pathlib import Path

import pytest
import torch
from transformers import Aimv2VisionConfig, Aimv2VisionModel, AutoModel, AutoModelForImageClassification

from sailvit_hf import SAILViTConfig, SAILViTForImageClassification, SAILViTModel

SIZES = {
    "tiny": {},
    "wide": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 2, "num_attention_heads": 8},
    "large patches": {"hidden_size": 64, "intermediate_size": 176, "image_size": 112, "patch_size": 14},
}


def randomised(config: SAILViTConfig) -> SAILViTModel:
    """A model whose every tensor is random: norms of one and a table of zeros would hide mistakes."""
    torch.manual_seed(0)
    model = SAILViTModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    return model


def as_aimv2(model: SAILViTModel) -> Aimv2VisionModel:
    """The same network in transformers' layout (facts of the layout, not code of ours that could share a mistake)."""
    config = model.config
    sizes = {
        name: getattr(config, name)
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    }
    sizes |= {name: getattr(config, name) for name in ("image_size", "patch_size")}
    twin = Aimv2VisionModel(Aimv2VisionConfig(**sizes, use_head=False, is_native=False)).eval()
    ours = model.state_dict()
    theirs = {
        "embeddings.patch_embed.weight": ours["preprocessor.patchifier.proj.weight"],
        "embeddings.patch_embed.bias": ours["preprocessor.patchifier.proj.bias"],
        "embeddings.rms_norm.weight": ours["preprocessor.patchifier.norm.weight"],
        "embeddings.position_embedding.weight": ours["preprocessor.pos_embed"][0],
        "rms_norm.weight": ours["trunk.post_trunk_norm.weight"],
    }
    for index in range(config.num_hidden_layers):
        block, layer = f"trunk.blocks.{index}", f"encoder.layers.{index}"
        query, key, value = ours[f"{block}.attn.qkv.weight"].chunk(3)
        theirs |= {
            f"{layer}.attention.q_proj.weight": query,
            f"{layer}.attention.k_proj.weight": key,
            f"{layer}.attention.v_proj.weight": value,
            f"{layer}.attention.out_proj.weight": ours[f"{block}.attn.proj.weight"],
            f"{layer}.ffn.gate_proj.weight": ours[f"{block}.mlp.fc1.weight"],
            f"{layer}.ffn.down_proj.weight": ours[f"{block}.mlp.fc2.weight"],
            f"{layer}.ffn.up_proj.weight": ours[f"{block}.mlp.fc3.weight"],
            f"{layer}.rms_norm1.weight": ours[f"{block}.norm_1.weight"],
            f"{layer}.rms_norm2.weight": ours[f"{block}.norm_2.weight"],
        }
    twin.load_state_dict(theirs, strict=True)
    return twin


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


def test_eager_attention_returns_weights_that_sum_to_one() -> None:
    model = randomised(SAILViTConfig.preset("tiny"))
    model.set_attn_implementation("eager")
    outputs = model(torch.randn(1, 3, 64, 64), output_attentions=True)
    assert len(outputs.attentions) == 4
    torch.testing.assert_close(outputs.attentions[0].sum(-1), torch.ones(1, 4, 64))


def test_patches_are_row_major() -> None:
    """A picture that differs in one patch only changes that patch's embedding."""
    model = randomised(SAILViTConfig.preset("tiny"))
    picture = torch.zeros(1, 3, 64, 64)
    marked = picture.clone()
    marked[..., 8:16, 24:32] = 1.0  # row 1, column 3 of an 8x8 grid
    changed = (model.preprocessor(picture) - model.preprocessor(marked)).abs().sum(-1)[0] > 0
    assert changed.nonzero().flatten().tolist() == [1 * 8 + 3]


def test_other_sizes_interpolate_the_position_table() -> None:
    model = randomised(SAILViTConfig.preset("tiny"))
    assert model.preprocessor.position_table(8, 8) is model.preprocessor.pos_embed
    with torch.no_grad():
        model.preprocessor.pos_embed.copy_(torch.arange(8.0).repeat_interleave(8)[None, :, None].expand(1, 64, 96))
        table = model.preprocessor.position_table(8, 4)[0, :, 0].view(8, 4)
    # Rows keep their values and columns, all equal in this table, stay equal.
    torch.testing.assert_close(table, torch.arange(8.0)[:, None].expand(8, 4))
    assert model(torch.zeros(1, 3, 64, 32)).last_hidden_state.shape == (1, 32, 96)


def test_a_size_without_whole_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="60x64 pixels, not a multiple of the patch size 8"):
        SAILViTModel(SAILViTConfig.preset("tiny"))(torch.zeros(1, 3, 60, 64))


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


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model = randomised(SAILViTConfig.preset("tiny")).train()
    pixel_values = torch.randn(2, 3, 64, 64)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(pixel_values).last_hidden_state.square().mean().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    plain = gradients()
    model.gradient_checkpointing_enable()
    for one, other in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(one, other)


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
