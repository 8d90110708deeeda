# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The image processor, against the published preprocessing computed plainly."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor

from sailvit_hf import SAILViTImageProcessorPil

from .backends import BACKENDS

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(100, 60), (448, 448), (31, 500)])
def test_published_preprocessing(size: tuple[int, int]) -> None:
    image = picture(*size)
    pixel_values = SAILViTImageProcessorPil()(image, return_tensors="pt")["pixel_values"]
    plain = np.asarray(image.resize((448, 448), Image.Resampling.BICUBIC), dtype=float) / 255
    expected = ((plain - MEAN) / STD).transpose(2, 0, 1)
    assert pixel_values.shape == (1, 3, 448, 448)
    assert np.abs(pixel_values[0].numpy() - expected).max() < 1e-5


def test_apples_preprocessing_can_be_asked_for() -> None:
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    processor = SAILViTImageProcessorPil(
        size={"shortest_edge": 448}, do_center_crop=True, image_mean=mean, image_std=std
    )
    image = picture(896, 448)
    pixel_values = processor(image, return_tensors="pt")["pixel_values"][0].numpy()
    middle = np.asarray(image.crop((224, 0, 672, 448)), dtype=float) / 255
    assert np.abs(pixel_values - ((middle - mean) / np.array(std)).transpose(2, 0, 1)).max() < 1e-5


def test_modes_are_converted_to_rgb() -> None:
    processor = SAILViTImageProcessorPil(size={"height": 64, "width": 64})
    gray = Image.fromarray(np.full((64, 64), 128, dtype=np.uint8))
    expected = (128 / 255 - MEAN) / STD
    for image in (gray, gray.convert("RGBA"), gray.convert("P"), gray.convert("CMYK").convert("RGB")):
        pixel_values = processor(image, return_tensors="pt")["pixel_values"][0].numpy()
        np.testing.assert_allclose(pixel_values.mean((1, 2)), expected, atol=1e-4)


def test_pictures_of_different_sizes_make_one_batch() -> None:
    processor = SAILViTImageProcessorPil(size={"height": 64, "width": 64})
    images = [picture(64, 64), picture(20, 90)]
    batch = processor(images, return_tensors="pt")["pixel_values"]
    for image, pixel_values in zip(images, batch, strict=True):
        assert torch.equal(processor(image, return_tensors="pt")["pixel_values"][0], pixel_values)


def test_saved_and_loaded(tmp_path: Path) -> None:
    if getattr(AutoImageProcessor, "is_dummy", False):
        pytest.skip(f"AutoImageProcessor of transformers {transformers.__version__} asks for torchvision")
    processor = SAILViTImageProcessorPil(size={"height": 64, "width": 64})
    processor.save_pretrained(tmp_path)
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(again) is BACKENDS[max(BACKENDS)]  # torchvision's where there is one
    again = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert isinstance(again, SAILViTImageProcessorPil)
    image = picture(90, 70)
    assert torch.equal(
        processor(image, return_tensors="pt")["pixel_values"], again(image, return_tensors="pt")["pixel_values"]
    )


def test_no_torchvision_is_needed() -> None:
    """With torchvision and flash-attn out of reach the processor still loads and works."""
    code = (
        "import sys; sys.modules['torchvision'] = sys.modules['flash_attn'] = None;"
        "from PIL import Image; from sailvit_hf import SAILViTImageProcessorPil;"
        "batch = SAILViTImageProcessorPil()(Image.new('RGB', (8, 8)), return_tensors='pt');"
        "assert batch['pixel_values'].shape == (1, 3, 448, 448)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
