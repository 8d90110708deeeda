# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The vision-language model: any tower, any causal language model, and the connector between them."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from sailvit_hf import SAILViTConfig, SAILViTForConditionalGeneration, SAILViTModel
from sailvit_hf.modeling.modeling_sailvit_vlm import pixel_shuffle

IMAGE_TOKEN = 5
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def sailvit() -> SAILViTModel:
    return SAILViTModel(SAILViTConfig.preset("tiny", num_hidden_layers=1))


def llama(**config: object) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **SMALL, **config))


def vlm(tower: PreTrainedModel | None = None, language: PreTrainedModel | None = None, seed: int = 0):
    torch.manual_seed(seed)
    return SAILViTForConditionalGeneration.from_parts(tower or sailvit(), language or llama(), IMAGE_TOKEN).eval()


def inputs(pictures: int = 1, text: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.manual_seed(1)
    words = torch.randint(6, 64, (1, text), generator=generator)
    placeholders = torch.full((1, 16 * pictures), IMAGE_TOKEN)
    return {
        "input_ids": torch.cat([words[:, :2], placeholders, words[:, 2:]], dim=1),
        "pixel_values": torch.randn(pictures, 3, 64, 64, generator=generator),
    }


def internvl_pixel_shuffle(features: torch.Tensor, side: int, scale: float = 0.5) -> torch.Tensor:
    """The order of operations that InternVL publishes as "v2", step by step."""
    batch, _, width = features.shape
    x = features.reshape(batch, side, side, width)
    x = x.view(batch, side, int(side * scale), int(width / scale)).permute(0, 2, 1, 3).contiguous()
    x = x.view(batch, int(side * scale), int(side * scale), int(width / (scale * scale)))
    return x.permute(0, 2, 1, 3).contiguous().flatten(1, 2)


def test_pixel_shuffle_has_the_published_order() -> None:
    features = torch.randn(2, 64, 6)
    assert torch.equal(pixel_shuffle(features, 8, 8, 2), internvl_pixel_shuffle(features, 8))


def test_pixel_shuffle_refuses_a_grid_of_odd_sides() -> None:
    with pytest.raises(ValueError, match="grid of 7x8 patches cannot be merged 2x2"):
        pixel_shuffle(torch.zeros(1, 56, 4), 7, 8, 2)


def test_the_connector_is_layernorm_linear_gelu_linear() -> None:
    projector = vlm().model.multi_modal_projector
    features = torch.randn(3, 4 * 96)
    plain = nn.functional.layer_norm(features, (384,), projector.norm.weight, projector.norm.bias)
    plain = nn.functional.gelu(plain @ projector.linear_1.weight.T + projector.linear_1.bias)
    plain = plain @ projector.linear_2.weight.T + projector.linear_2.bias
    torch.testing.assert_close(projector(features), plain)


def test_pictures_replace_their_placeholders() -> None:
    model, batch = vlm(), inputs(pictures=2)
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    features = model.get_image_features(batch["pixel_values"]).pooler_output
    assert features.shape == (2, 16, 32)
    embeddings[0, 2:34] = features.flatten(0, 1)
    expected = model.model.language_model(inputs_embeds=embeddings).last_hidden_state
    torch.testing.assert_close(model(**batch).logits, model.lm_head(expected))


def test_features_and_placeholders_must_be_as_many() -> None:
    batch = inputs()
    with pytest.raises(ValueError, match="Image features and image tokens do not match, tokens: 16, features: 32"):
        vlm()(input_ids=batch["input_ids"], pixel_values=torch.zeros(2, 3, 64, 64))


def test_text_alone_equals_the_language_model_alone() -> None:
    language = llama()
    model = vlm(language=language)
    input_ids = torch.randint(6, 64, (2, 9))
    torch.testing.assert_close(model(input_ids=input_ids).logits, language(input_ids=input_ids).logits)


def test_training_on_text_alone_gives_every_parameter_a_gradient_and_changes_none_of_the_others() -> None:
    """Data-parallel training waits for the gradient of each parameter; the pictures' must be there, and zero."""
    model = vlm().train()
    input_ids = torch.randint(6, 64, (1, 9))
    model(input_ids=input_ids, labels=input_ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if "language_model" not in name and "lm_head" not in name:
            assert not parameter.grad.any(), name
    with_pictures = model.model.language_model.get_input_embeddings().weight.grad.clone()
    model.zero_grad()
    hidden = model.model.language_model(input_ids=input_ids).last_hidden_state
    model.loss_function(logits=model.lm_head(hidden), labels=input_ids, vocab_size=64).backward()
    torch.testing.assert_close(model.model.language_model.get_input_embeddings().weight.grad, with_pictures)


def test_a_frozen_tower_keeps_no_graph_and_passes_none() -> None:
    model = vlm().train()
    model.model.vision_tower.requires_grad_(False)
    outputs = model.get_image_features(torch.randn(1, 3, 64, 64))
    assert not outputs.last_hidden_state.requires_grad
    assert outputs.pooler_output.requires_grad


def test_the_loss_is_that_of_shifted_labels_and_counts_global_items() -> None:
    model, batch = vlm(), inputs()
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, -3:] = batch["input_ids"][0, -3:]
    outputs = model(**batch, labels=labels)
    expected = nn.functional.cross_entropy(outputs.logits[0, -4:-1], labels[0, -3:])
    torch.testing.assert_close(outputs.loss, expected)
    torch.testing.assert_close(model(**batch, labels=labels, num_items_in_batch=12).loss, expected * 3 / 12)


def test_generate_equals_greedy_decoding_by_hand() -> None:
    model, batch = vlm(), inputs()
    generated = model.generate(**batch, max_new_tokens=5, do_sample=False, eos_token_id=-1, pad_token_id=0)
    input_ids = batch["input_ids"]
    for _ in range(5):
        logits = model(input_ids=input_ids, pixel_values=batch["pixel_values"]).logits[:, -1]
        input_ids = torch.cat([input_ids, logits.argmax(-1, keepdim=True)], dim=1)
    assert generated[0, -5:].tolist() == input_ids[0, -5:].tolist()


def towers() -> dict[str, PreTrainedModel]:
    sizes = {**SMALL, "image_size": 64, "patch_size": 8}
    return {
        "sailvit": sailvit(),
        "clip": CLIPVisionModel(CLIPVisionConfig(**sizes)),  # has a class token
        "siglip": SiglipVisionModel(SiglipVisionConfig(**sizes)),
    }


def languages() -> dict[str, PreTrainedModel]:
    return {
        "llama": llama(tie_word_embeddings=True),
        "qwen3": Qwen3ForCausalLM(Qwen3Config(vocab_size=64, head_dim=8, num_key_value_heads=2, **SMALL)),
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4)),
    }


@pytest.mark.parametrize("tower", ["sailvit", "clip", "siglip"])
@pytest.mark.parametrize("language", ["llama", "qwen3", "gpt2"])
def test_any_tower_and_any_language_model_learn_and_come_back_from_disk(
    tower: str, language: str, tmp_path: Path
) -> None:
    model = vlm(towers()[tower], languages()[language]).train()
    batch = inputs()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert all(p.grad.any() for p in model.model.multi_modal_projector.parameters())
    assert model.model.vision_tower.get_input_embeddings().weight.grad.any()
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert isinstance(again, SAILViTForConditionalGeneration)
    assert (again(**batch).logits - model(**batch).logits).abs().max() <= 1e-5
    tied = model.config.tie_word_embeddings
    assert (again.lm_head.weight is again.get_input_embeddings().weight) == tied


def test_a_class_token_is_left_out() -> None:
    model = vlm(towers()["clip"])
    pixel_values = torch.randn(1, 3, 64, 64)
    outputs = model.get_image_features(pixel_values)
    assert outputs.last_hidden_state.shape[1] == 65
    patches = pixel_shuffle(outputs.last_hidden_state[:, 1:], 8, 8, 2)
    torch.testing.assert_close(outputs.pooler_output, model.model.multi_modal_projector(patches))


def test_parts_are_shared_not_copied() -> None:
    tower, language = sailvit(), llama()
    model = vlm(tower, language)
    assert model.model.vision_tower is tower
    assert model.lm_head is language.lm_head


def test_a_token_without_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match="image_token_id is 64, but the language model has 64 embeddings"):
        SAILViTForConditionalGeneration.from_parts(sailvit(), llama(), image_token_id=64)


def test_a_model_without_head_is_refused() -> None:
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        SAILViTForConditionalGeneration.from_parts(sailvit(), llama().model, IMAGE_TOKEN)
