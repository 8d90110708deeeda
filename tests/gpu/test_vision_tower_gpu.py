# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The encoder on a GPU: kernels in bf16, torch.compile, and timm's model with the same weights (`pytest -m gpu`)."""

import pytest
import torch
from torch.nn import functional as F
from transformers.utils import is_flash_attn_2_available

from sailvit_hf import SAILViTConfig, SAILViTModel
from sailvit_hf.hub.convert import convert_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
# Heads of 128 channels, as in the published sizes; few layers, so that rounding does not pile up.
SIZES = {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 2, "image_size": 224, "patch_size": 14}


def build(kernel: str, dtype: torch.dtype, **changes: int) -> SAILViTModel:
    torch.manual_seed(0)
    model = SAILViTModel(SAILViTConfig.preset("tiny", **{**SIZES, **changes})).eval()
    model.set_attn_implementation(kernel)
    return model.to("cuda", dtype)


def pictures(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.manual_seed(0)).cuda()


@pytest.fixture(autouse=True)
def true_fp32(monkeypatch):
    """No TF32: it would hide a mistake of the third digit."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("size", [(224, 224), (112, 280)])
@pytest.mark.parametrize(
    "kernel",
    [
        "eager",
        "flex_attention",
        pytest.param(
            "flash_attention_2",
            marks=pytest.mark.skipif(not is_flash_attn_2_available(), reason="flash-attn is not installed"),
        ),
    ],
)
def test_kernels_agree_with_sdpa_in_bf16(kernel: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        exact = build("sdpa", torch.float32)(pictures(*size)).last_hidden_state
        sdpa = build("sdpa", torch.bfloat16)(pictures(*size)).last_hidden_state.float()
        other = build(kernel, torch.bfloat16)(pictures(*size)).last_hidden_state.float()
    assert F.cosine_similarity(other, sdpa, dim=-1).min() > 0.999
    # No further from fp32 than sdpa is, but for a margin: the two round differently.
    assert (other - exact).abs().mean() <= 1.25 * (sdpa - exact).abs().mean()


@pytest.mark.skipif(not is_flash_attn_2_available(), reason="flash-attn is not installed")
def test_flash_attention_leaves_padding_out() -> None:
    mask = torch.ones(2, 16, 16, dtype=torch.bool, device="cuda")
    mask[1, 9:], mask[1, :, 11:] = False, False
    with torch.no_grad():
        sdpa = build("sdpa", torch.bfloat16)(pictures(224, 224), patch_attention_mask=mask).last_hidden_state
        flash = build("flash_attention_2", torch.bfloat16)(
            pictures(224, 224), patch_attention_mask=mask
        ).last_hidden_state
    assert F.cosine_similarity(flash.float(), sdpa.float(), dim=-1)[mask.flatten(1)].min() > 0.999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_forward_and_gradients_equal_eager(dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    model = build("sdpa", dtype)
    compiled = torch.compile(model, fullgraph=True)
    limit = 1e-4 if dtype == torch.float32 else 5e-2

    def gradients(network: torch.nn.Module, size: tuple[int, int]) -> list[torch.Tensor]:
        model.zero_grad()
        features = network(pictures(*size)).last_hidden_state.float()
        # Along random directions: the square of normed features is the same whatever the weights are.
        (features * torch.randn(features.shape, generator=torch.manual_seed(1)).cuda()).sum().backward()
        return [parameter.grad.float().clone() for parameter in model.parameters()]

    for size in ((224, 224), (112, 280)):
        with torch.no_grad():
            found, expected = compiled(pictures(*size)), model(pictures(*size))
        difference = (found.last_hidden_state - expected.last_hidden_state).abs().max()
        assert difference <= limit * expected.last_hidden_state.abs().max()
        for one, other in zip(gradients(compiled, size), gradients(model, size), strict=True):
            assert (one - other).norm() <= limit * other.norm()


def test_timm_computes_the_same_from_the_same_weights(tmp_path) -> None:
    """timm's aimv2_large_patch14_448, by value: converted, loaded by timm, 24 layers in fp32."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = SAILViTModel(SAILViTConfig.preset("large")).eval()
    model.save_pretrained(tmp_path / "ours")
    convert_checkpoint(tmp_path / "ours", tmp_path / "timm", "timm")
    twin = timm.create_model(
        "aimv2_large_patch14_448",
        pretrained=False,
        num_classes=0,
        checkpoint_path=str(tmp_path / "timm" / "model.safetensors"),
    )
    with torch.no_grad():
        ours = model.cuda()(pictures(448, 448)).last_hidden_state
        theirs = twin.eval().cuda().forward_features(pictures(448, 448))
    assert ours.std() > 0.5
    assert (ours - theirs).abs().max() <= 1e-4
