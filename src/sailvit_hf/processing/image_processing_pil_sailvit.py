# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""SAILViT's image processor on PIL and NumPy; it needs no torchvision."""

from typing import Any

import numpy as np
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling


class SAILViTImageProcessorPil(PilBackend):
    r"""
    Prepare pictures for SAILViT as published with SAIL-VL2: convert to RGB, resize to 448x448 without keeping the
    aspect ratio (bicubic), rescale to [0, 1], normalise with ImageNet's mean and standard deviation.

    For Apple's AIMv2 preprocessing pass `image_mean` and `image_std` of CLIP, `size={"shortest_edge": 448}`,
    `do_center_crop=True` and `crop_size={"height": 448, "width": 448}`.

    Returns `pixel_values` of shape `(pictures, 3, height, width)`, float32.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 448, "width": 448}
    crop_size = {"height": 448, "width": 448}
    default_to_square = True
    do_convert_rgb = True
    do_resize = True
    do_center_crop = False
    do_rescale = True
    do_normalize = True
    model_input_names = ["pixel_values"]

    def _preprocess(
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size: Any,
        resample: Any,
        do_center_crop: bool,
        crop_size: Any,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | list[float] | None,
        image_std: float | list[float] | None,
        return_tensors: Any,
        **kwargs: Any,
    ) -> BatchFeature:
        shaped = []
        for image in images:
            if do_resize and image.shape[-2:] != (size.height, size.width):
                image = self.resize(image=image, size=size, resample=resample)
            if do_center_crop:
                image = self.center_crop(image, crop_size)
            shaped.append(image)
        # One fused multiply-add over pictures of the same shape, instead of two passes over each.
        scale, shift = _scale_and_shift(do_rescale, rescale_factor, do_normalize, image_mean, image_std)
        same = len({image.shape for image in shaped}) == 1
        arrays = [np.stack(shaped)] if same else shaped
        pixel_values: Any = [array.astype(np.float32) * scale + shift for array in arrays]
        if same:
            pixel_values = pixel_values[0]
        return BatchFeature(data={"pixel_values": pixel_values}, tensor_type=return_tensors)


def _scale_and_shift(
    do_rescale: bool, rescale_factor: float, do_normalize: bool, mean: Any, std: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The affine map of rescaling and normalising, as float32 arrays of shape (channels or 1, 1, 1)."""
    scale, shift = np.ones(1), np.zeros(1)
    if do_rescale:
        scale = scale * rescale_factor
    if do_normalize:
        mean, std = np.atleast_1d(np.asarray(mean, dtype=float)), np.atleast_1d(np.asarray(std, dtype=float))
        scale, shift = scale / std, shift - mean / std
    return scale.astype(np.float32)[:, None, None], shift.astype(np.float32)[:, None, None]


SAILViTImageProcessorPil.register_for_auto_class("AutoImageProcessor")

__all__ = ["SAILViTImageProcessorPil"]
