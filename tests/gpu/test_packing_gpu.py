# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Packs on a GPU: flex attention's gradients, and variable-length flash attention in bf16 (`pytest -m gpu`)."""

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import is_flash_attn_2_available

from sailvit_hf.data.packing.batch import PackCollator
from sailvit_hf.refinement.packing import check_packable
from tests.refinement.packed import encoded_sample, language_model_sizes, padded, vision_language_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
# Flash attention computes in bf16, whose rounding is 2 ** -8; several sums of it follow each other.
FLASH_TOLERANCE = 5e-2


@pytest.fixture(autouse=True)
def true_fp32(monkeypatch):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    yield
    torch.set_float32_matmul_precision(before)


def model_on_gpu(attention):
    sizes = language_model_sizes(hidden_size=128, head_dim=64, intermediate_size=192, initializer_range=0.05)
    torch.manual_seed(1)
    return vision_language_model(Qwen3ForCausalLM(Qwen3Config(**sizes)), attention).cuda().train()


def samples():
    generator = torch.Generator().manual_seed(1)
    return [encoded_sample(n, tiles, generator) for n, tiles in ((12, 1), (24, 4), (9, 0), (2, 0), (81, 3))]


def loss_and_gradients(model, batch, autocast=False):
    model.zero_grad()
    batch = {key: value.cuda() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        loss = model(**batch).loss
    loss.backward()
    return loss.item(), {name: p.grad.float().clone() for name, p in model.named_parameters() if p.grad is not None}


def largest_difference(found, expected):
    return max(
        ((found[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-8)).item()
        for name, gradient in expected.items()
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flex_attention"])
def test_packed_is_unpacked_in_fp32(attention):
    expected = loss_and_gradients(model_on_gpu("sdpa"), padded(samples()))
    found = loss_and_gradients(model_on_gpu(attention), PackCollator()([samples()]))
    assert abs(found[0] - expected[0]) <= 1e-5 * expected[0]
    assert largest_difference(found[1], expected[1]) <= 1e-5


@pytest.mark.skipif(not is_flash_attn_2_available(), reason="flash-attn is not installed")
def test_flash_attention_in_bf16():
    expected = loss_and_gradients(model_on_gpu("sdpa"), padded(samples()), autocast=True)
    model = model_on_gpu("flash_attention_2")
    check_packable(model, lambda: torch.autocast("cuda", torch.bfloat16))
    found = loss_and_gradients(model, PackCollator(flatten=True)([samples()[:2], samples()[2:]]), autocast=True)
    assert abs(found[0] - expected[0]) <= 1e-2 * expected[0]
    assert largest_difference(found[1], expected[1]) <= FLASH_TOLERANCE


@pytest.mark.skipif(not is_flash_attn_2_available(), reason="flash-attn is not installed")
def test_flash_attention_keeps_samples_apart():
    """Another first sample must not change the second one's states by a bit."""
    own = samples()
    model = model_on_gpu("flash_attention_2").eval().bfloat16()
    states = []
    for first in (own[0], {**own[0], "input_ids": own[0]["input_ids"].flip(0)}):
        batch = PackCollator(flatten=True)([[first], [own[2]]])
        batch = {key: value.cuda() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
        batch["pixel_values"] = batch["pixel_values"].bfloat16()
        with torch.no_grad():
            states.append(model(**batch).logits[0, len(own[0]["input_ids"]) :])
    assert torch.equal(*states)
