# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The image processors that can be used here; `test_torchvision_backend.py` runs the tests with torchvision's, too."""

import numpy as np
from PIL import Image
from transformers.utils import is_torchvision_available

from sailvit_hf import SAILViTImageProcessor, SAILViTImageProcessorPil

BACKENDS = {"pil": SAILViTImageProcessorPil}
if is_torchvision_available():
    BACKENDS["torchvision"] = SAILViTImageProcessor


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    """As smooth as a photograph."""
    return noise(40, 30).resize((width, height), Image.Resampling.BICUBIC)


def textured(width: int, height: int) -> Image.Image:
    """Detail of all scales with the spectrum of photographs (amplitude falls as the frequency rises), in colour."""
    draw = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / max(width, height))
    waves = [np.fft.irfft2(amplitude * np.exp(2j * np.pi * draw.random(amplitude.shape)), (height, width))
             for _ in range(3)]  # fmt: skip
    levels = np.stack(waves, axis=-1)
    levels = 0.7 * levels.mean(-1, keepdims=True) + 0.3 * levels
    return Image.fromarray((45 * levels / levels.std() + 120).clip(0, 255).astype(np.uint8))
