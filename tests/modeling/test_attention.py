# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Attention kernels and memory: equal outputs, weights, gradient checkpointing, the seam for packing."""

import shutil

import pytest
import torch

from sailvit_hf import SAILViTConfig

from .twins import randomised

# Largest difference from the eager kernel in fp32, of features whose standard deviation is one fifth.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
KERNELS = [
    "sdpa",
    pytest.param(
        "flex_attention",
        marks=pytest.mark.skipif(shutil.which("g++") is None, reason="flex attention compiles itself: needs g++"),
    ),
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_kernels_agree_with_eager(kernel: str, dtype: torch.dtype) -> None:
    model = randomised(SAILViTConfig.preset("tiny", num_hidden_layers=2))
    pixel_values = torch.randn(2, 3, 64, 40)
    mask = torch.ones(2, 8, 5, dtype=torch.bool)
    mask[1, 6:] = False
    with torch.no_grad():
        model.set_attn_implementation("eager")
        expected = model(pixel_values, patch_attention_mask=mask).last_hidden_state
        model.set_attn_implementation(kernel)
        model.to(dtype)
        features = model(pixel_values, patch_attention_mask=mask).last_hidden_state
    assert features.dtype == dtype
    assert expected[mask.flatten(1)].std() > 0.1
    assert (features.float() - expected)[mask.flatten(1)].abs().max() <= TOLERANCES[dtype]


def test_eager_attention_returns_weights_that_sum_to_one() -> None:
    model = randomised(SAILViTConfig.preset("tiny"))
    model.set_attn_implementation("eager")
    outputs = model(torch.randn(1, 3, 64, 64), output_attentions=True)
    assert len(outputs.attentions) == 4
    torch.testing.assert_close(outputs.attentions[0].sum(-1), torch.ones(1, 4, 64))
    assert model(torch.randn(1, 3, 64, 64)).attentions is None


def test_a_kernel_without_weights_says_so_and_returns_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import sdpa_attention

    said = []
    monkeypatch.setattr(sdpa_attention.logger, "warning_once", said.append)
    model = randomised(SAILViTConfig.preset("tiny"))
    model.set_attn_implementation("sdpa")
    assert not model(torch.randn(1, 3, 64, 64), output_attentions=True).attentions
    assert "set your attention to `eager`" in said[0]


def test_an_unknown_kernel_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no_such_kernel"):
        randomised(SAILViTConfig.preset("tiny")).set_attn_implementation("no_such_kernel")


def test_arguments_of_variable_length_attention_reach_the_kernel() -> None:
    """The seam for packing: whatever the model does not know travels to the attention function."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    seen = []

    def spy(module, query, key, value, attention_mask, cu_seq_lens_q=None, **kwargs):
        seen.append(cu_seq_lens_q)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("spy", spy)
    model = randomised(SAILViTConfig.preset("tiny"))
    model.set_attn_implementation("spy")
    lengths = torch.tensor([0, 64])
    model(torch.randn(1, 3, 64, 64), cu_seq_lens_q=lengths)
    assert len(seen) == 4 and all(each is lengths for each in seen)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    model = randomised(SAILViTConfig.preset("tiny")).train()
    pixel_values = torch.randn(2, 3, 64, 64)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(pixel_values).last_hidden_state.square().mean().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    plain = gradients()
    calls = []
    for block in model.trunk.blocks:
        block.norm_1.register_forward_hook(lambda *_: calls.append(1))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    for one, other in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(one, other)
    assert len(calls) == 2 * 4  # each block ran twice
