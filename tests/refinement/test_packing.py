# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A pack teaches what its samples teach one by one: loss and every gradient; models that cannot do it are refused."""

import shutil

import pytest
import torch
import transformers

from sailvit_hf.data.packing.batch import PackCollator
from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement.packing import check_packable

from .packed import encoded_sample, language_model_sizes, padded, vision_language_model

TOLERANCE = 1e-5


def language_model(name, config_name, **changes):
    torch.manual_seed(1)
    return getattr(transformers, name)(getattr(transformers, config_name)(**changes))


LANGUAGE_MODELS = {
    "llama": lambda: language_model("LlamaForCausalLM", "LlamaConfig", **language_model_sizes()),
    "qwen2": lambda: language_model("Qwen2ForCausalLM", "Qwen2Config", **language_model_sizes()),
    "qwen3": lambda: language_model("Qwen3ForCausalLM", "Qwen3Config", **language_model_sizes()),
    "mistral, window of 7": lambda: language_model(
        "MistralForCausalLM", "MistralConfig", **language_model_sizes(sliding_window=7)
    ),
    "gemma 3, window of 7": lambda: language_model(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        **language_model_sizes(sliding_window=7, layer_types=["sliding_attention", "full_attention"]),
    ),
    "gpt2": lambda: language_model(
        "GPT2LMHeadModel",
        "GPT2Config",
        vocab_size=24, n_embd=16, n_layer=2, n_head=2, n_positions=128, initializer_range=0.2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2,
    ),
}  # fmt: skip


def samples():
    """64 tokens in all: several pictures in a sample, text alone, the shortest one."""
    generator = torch.Generator().manual_seed(1)
    sizes = ((12, 1), (24, 4), (9, 0), (2, 0), (17, 3))
    return [encoded_sample(length, tiles, generator) for length, tiles in sizes]


def loss_and_gradients(model, batch):
    model.train()
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected):
    assert abs(found[0] - expected[0]) <= TOLERANCE * abs(expected[0])
    assert set(found[1]) == set(expected[1])
    for name, gradient in expected[1].items():
        difference = (found[1][name] - gradient).abs().max().item()
        # Attention does not depend on a bias of its keys: that gradient is rounding noise.
        largest = max(gradient.abs().max().item(), 1e-3 if name.endswith(("k_proj.bias", "c_attn.bias")) else 0.0)
        assert difference <= TOLERANCE * largest, name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_packed_is_unpacked(name, attention):
    model = vision_language_model(LANGUAGE_MODELS[name](), attention)
    check_packable(model)
    own = samples()
    unpacked = loss_and_gradients(model, padded(own))
    for packs in ([own], [own[3:], own[:3]], [own[:1], [], own[1:]]):
        assert_same(loss_and_gradients(model, PackCollator()(packs)), unpacked)
    flattened = PackCollator(flatten=True)([own[:2], own[2:]])
    for key in ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"):
        del flattened[key]  # flash attention's own
    assert_same(loss_and_gradients(model, flattened), unpacked)


def test_packed_gradients_are_the_sum_of_the_samples_own():
    """One forward a sample, with nothing beside it: no padding and no pack can have helped the comparison."""
    model, own = vision_language_model(), samples()
    items = sum((sample["labels"] != -100).sum() for sample in own)
    packed = loss_and_gradients(model, {**PackCollator()([own]), "num_items_in_batch": items})
    losses, gradients = 0.0, {}
    for sample in own:
        loss, found = loss_and_gradients(model, {**padded([sample]), "num_items_in_batch": items})
        losses += loss
        gradients = {name: gradients.get(name, 0) + gradient for name, gradient in found.items()}
    assert_same(packed, (losses, gradients))


def test_text_only_packs():
    generator = torch.Generator().manual_seed(4)
    own = [encoded_sample(length, 0, generator) for length in (5, 9, 30)]
    model = vision_language_model()
    batch = PackCollator()([own])
    assert "pixel_values" not in batch
    found, expected = loss_and_gradients(model, batch), loss_and_gradients(model, padded(own))
    assert_same(found, expected)
    tower = {name: g for name, g in found[1].items() if "vision_tower" in name}
    assert tower and all(not gradient.any() for gradient in tower.values())  # zero, but there: nobody waits for it


def test_a_pack_is_kept_apart_in_evaluation_too():
    """Without gradients and outside of training a cache would switch the packs' mask off."""
    model, own = vision_language_model().eval(), samples()
    with torch.no_grad():
        logits = model(**PackCollator()([own])).logits[0]
        alone = [model(**padded([sample])).logits[0] for sample in own]
    torch.testing.assert_close(logits, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="flex attention compiles itself: needs g++")
def test_flex_attention_on_a_cpu():
    """The loss only: torch has no backward of flex attention on a CPU (see the GPU tests for the gradients)."""
    own = samples()
    with torch.no_grad():
        expected = vision_language_model().train()(**padded(own)).loss
        found = vision_language_model(attention="flex_attention").train()(**PackCollator()([own])).loss
    assert abs(found.item() - expected.item()) <= TOLERANCE * expected.item()


LEAKING = {
    "mamba": ("MambaForCausalLM", "MambaConfig", {"vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2}),
    "bloom": ("BloomForCausalLM", "BloomConfig", {"vocab_size": 24, "hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "lfm2": (
        "Lfm2ForCausalLM", "Lfm2Config", language_model_sizes(layer_types=["conv", "full_attention"])
    ),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            "vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2, "ffn_dim": 24, "num_attention_heads": 2,
            "word_embed_proj_dim": 16, "max_position_embeddings": 128, "pad_token_id": 0,
        },
    ),
    "qwen 3 next": (
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        language_model_sizes(
            layer_types=["linear_attention", "full_attention"], linear_num_value_heads=2, linear_num_key_heads=2,
            linear_key_head_dim=8, linear_value_head_dim=8, num_experts=2, num_experts_per_tok=1,
            moe_intermediate_size=8, shared_expert_intermediate_size=8,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAKING)
def test_a_language_model_that_mixes_the_samples_of_a_pack_is_refused(name):
    cls, config, sizes = LEAKING[name]
    model = vision_language_model(language_model(cls, config, **sizes), "eager").train()
    with pytest.raises(SailvitError, match=f"{cls.removesuffix('ForCausalLM')}.*does not keep the samples of a pack"):
        check_packable(model)
    assert model.training


def test_a_model_in_half_precision_is_not_refused_for_its_rounding():
    check_packable(vision_language_model().bfloat16(), lambda: torch.autocast("cpu", torch.bfloat16))
    check_packable(vision_language_model().bfloat16())
