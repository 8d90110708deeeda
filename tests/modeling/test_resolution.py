# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Any resolution: the position table at other grids, and padded pictures in one batch."""

import pytest
import torch
from torch.nn import functional as F

from sailvit_hf import SAILViTBackbone, SAILViTConfig, SAILViTForImageClassification, SAILViTModel
from sailvit_hf.modeling.modeling_sailvit import SAILViTPreprocessor

from .twins import randomised


@pytest.fixture(scope="module")
def model() -> SAILViTModel:
    return randomised(SAILViTConfig.preset("tiny"))


def resized(preprocessor: SAILViTPreprocessor, rows: int, columns: int) -> torch.Tensor:
    """The table as torch's own antialiased bicubic resize gives it."""
    side = preprocessor.grid_size
    table = preprocessor.pos_embed.detach().view(1, side, side, -1).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=(rows, columns), mode="bicubic", antialias=True, align_corners=False)
    return table.permute(0, 2, 3, 1).flatten(1, 2)


@pytest.mark.parametrize(("rows", "columns"), [(8, 9), (4, 7), (1, 1), (16, 4), (25, 5), (3, 32), (64, 64)])
def test_other_grids_equal_torchs_antialiased_bicubic_resize(model: SAILViTModel, rows: int, columns: int) -> None:
    table = model.preprocessor.position_table(rows, columns)
    assert (table - resized(model.preprocessor, rows, columns)).abs().max() <= 1e-5
    pixel_values = torch.randn(2, 3, rows * 8, columns * 8)
    with torch.no_grad():
        embedded = model.preprocessor(pixel_values)
        by_hand = model.preprocessor.patchifier(pixel_values) + resized(model.preprocessor, rows, columns)
        assert (embedded - by_hand).abs().max() <= 1e-5
        assert model(pixel_values).last_hidden_state.shape == (2, rows * columns, 96)


def test_the_native_grid_is_the_table_itself(model: SAILViTModel) -> None:
    assert model.preprocessor.position_table(8, 8) is model.preprocessor.pos_embed
    # Turned on its side a grid has as many patches as the native one, and other positions.
    assert not torch.equal(model.preprocessor.position_table(4, 16), model.preprocessor.pos_embed)


def test_interpolation_is_in_fp32_under_autocast_and_in_a_half_precision_model(model: SAILViTModel) -> None:
    with torch.no_grad():
        expected = model.preprocessor.position_table(5, 11)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(model.preprocessor.position_table(5, 11), expected)
        half = randomised(SAILViTConfig.preset("tiny")).bfloat16().preprocessor
        table = half.position_table(5, 11)
        assert table.dtype == torch.bfloat16
        assert torch.equal(table, resized(half.float(), 5, 11).bfloat16())


def test_the_table_learns_at_every_resolution(model: SAILViTModel) -> None:
    directions = torch.randn(1, 15, 96)

    def gradient(table: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad((table * directions).sum(), model.preprocessor.pos_embed)[0]

    side = model.preprocessor.grid_size
    table = model.preprocessor.pos_embed.view(1, side, side, -1).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=(3, 5), mode="bicubic", antialias=True).permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(gradient(model.preprocessor.position_table(3, 5)), gradient(table))


def padded() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Pictures of three sizes, one batch of them, and its mask; the padding is not zero, as it must not matter."""
    generator = torch.manual_seed(0)
    sizes = [(8, 8), (3, 5), (6, 2)]
    pictures = [torch.randn(3, 8 * rows, 8 * columns, generator=generator) for rows, columns in sizes]
    batch = torch.full((3, 3, 64, 64), 7.0)
    mask = torch.zeros(3, 8, 8, dtype=torch.bool)
    for index, (picture, (rows, columns)) in enumerate(zip(pictures, sizes, strict=True)):
        batch[index, :, : 8 * rows, : 8 * columns] = picture
        mask[index, :rows, :columns] = True
    return pictures, batch, mask


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_padded_picture_has_the_features_it_has_alone(model: SAILViTModel, attention: str) -> None:
    model.set_attn_implementation(attention)
    pictures, batch, mask = padded()
    with torch.no_grad():
        together = model(batch, patch_attention_mask=mask)
        for index, picture in enumerate(pictures):
            alone = model(picture[None])
            mine = together.last_hidden_state[index][mask[index].flatten()]
            torch.testing.assert_close(mine, alone.last_hidden_state[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(together.pooler_output[index], alone.pooler_output[0], atol=1e-5, rtol=1e-5)


def test_a_mask_without_padding_changes_nothing(model: SAILViTModel) -> None:
    pixel_values = torch.randn(2, 3, 64, 64)
    mask = torch.ones(2, 8, 8)
    with torch.no_grad():
        assert torch.equal(model.preprocessor(pixel_values, mask.bool()), model.preprocessor(pixel_values))
        masked, plain = model(pixel_values, patch_attention_mask=mask), model(pixel_values)
    torch.testing.assert_close(masked.last_hidden_state, plain.last_hidden_state, atol=1e-5, rtol=1e-5)


def test_a_picture_without_patches_fills_a_batch_without_spoiling_it(model: SAILViTModel) -> None:
    pixel_values, mask = torch.randn(2, 3, 64, 64), torch.ones(2, 8, 8, dtype=torch.bool)
    mask[1] = False
    pixel_values.requires_grad_()
    outputs = model(pixel_values, patch_attention_mask=mask)
    outputs.pooler_output.square().sum().backward()
    assert torch.isfinite(outputs.last_hidden_state).all()
    assert torch.equal(outputs.pooler_output[1], torch.zeros(96))
    assert pixel_values.grad[0].any() and not pixel_values.grad[1].any()


def test_backbone_and_classifier_take_the_mask_too() -> None:
    _, batch, mask = padded()
    backbone = SAILViTBackbone(SAILViTConfig.preset("tiny")).eval()
    classifier = SAILViTForImageClassification(SAILViTConfig.preset("tiny")).eval()
    other = torch.where(mask.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None], batch, -3.0)
    with torch.no_grad():
        maps = [backbone(x, patch_attention_mask=mask).feature_maps[0] for x in (batch, other)]
        logits = [classifier(x, patch_attention_mask=mask).logits for x in (batch, other)]
    inside = mask[:, None].expand_as(maps[0])
    torch.testing.assert_close(maps[0][inside], maps[1][inside])
    torch.testing.assert_close(logits[0], logits[1])


def test_a_mask_of_another_shape_is_refused(model: SAILViTModel) -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 64\), but the pictures have \(1, 8, 8\) patches"):
        model(torch.zeros(1, 3, 64, 64), patch_attention_mask=torch.ones(1, 64))
