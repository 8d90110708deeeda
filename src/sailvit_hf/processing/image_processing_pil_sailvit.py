# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""SAILViT's image processor on PIL and NumPy; it needs no torchvision."""

from .versions_sailvit import check_transformers  # noqa: F401  # first, or another import fails in worse words

# isort: split
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.processing_utils import Unpack

from .picture_settings_sailvit import PictureSettings, SAILViTImageProcessorKwargs, offsets

# What torch can resize as Pillow does, antialiased.
_TORCH_MODES = {PILImageResampling.BICUBIC: "bicubic", PILImageResampling.BILINEAR: "bilinear"}


class SAILViTImageProcessorPil(PictureSettings, PilBackend):
    r"""
    Prepare pictures for SAILViT as published with SAIL-VL2: convert to RGB, resize to 448x448 without keeping the
    aspect ratio (bicubic), rescale to [0, 1], normalise with ImageNet's mean and standard deviation.

    For Apple's AIMv2 preprocessing pass `image_mean` and `image_std` of CLIP, `size={"shortest_edge": 448}`,
    `do_center_crop=True` and `crop_size={"height": 448, "width": 448}`. `do_pad=True` keeps the aspect ratio: the
    picture is scaled to fit into `size` (or, resized otherwise, stands in `pad_size`), in the middle, on the mean
    colour. `size={"min_pixels": ..., "max_pixels": ...}` keeps pictures near their own size, in multiples of
    `size_divisor`.

    With `max_tiles` larger than one, a picture is resized to the grid of tiles that suits its aspect ratio, cut row by
    row into tiles of `size`, and followed by a thumbnail of the whole (SAIL-VL2's configuration says at most 12).
    `use_msac` adds a second grid, whose cuts lie elsewhere, between tiles and thumbnail.

    A picture is a path, a file's content as bytes or base64 text, a PIL picture, an array or a tensor: (H, W),
    (H, W, C) or (C, H, W), levels from 0 to 255 or, if `do_rescale`, floats within [0, 1].

    Returns `pixel_values` of shape `(pictures, 3, height, width)`, float32, or a list of `(3, height, width)` if sizes
    differ; when tiling, `(tiles, 3, height, width)` of all pictures one after the other, and `num_tiles`, how many
    each picture has.
    """

    def __init__(self, **kwargs: Unpack[SAILViTImageProcessorKwargs]) -> None:
        super().__init__(**kwargs)

    def process_image(self, image: Any, **kwargs: Any) -> Any:
        """A PIL picture in RGB, for Pillow to resize, or an array (C, H, W)."""
        picture = super().process_image(image, **kwargs)
        if isinstance(picture, torch.Tensor):
            return (picture.float() if picture.dtype == torch.bfloat16 else picture).cpu().numpy()
        return picture if picture.mode == "RGB" else np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)

    def _resized(
        self, image: Any, height: int, width: int, resample: Any = None, fast_resize: bool = False, **kwargs: Any
    ) -> np.ndarray:
        """A picture in another size, as an array (C, H, W); 8-bit RGB goes the short way."""
        is_picture = isinstance(image, Image.Image)
        if ((image.height, image.width) if is_picture else image.shape[-2:]) == (height, width):
            return _as_array(image)
        if fast_resize and resample in _TORCH_MODES and (is_picture or _is_rgb(image)):
            # A copy, for Pillow's memory is not to be written to, with the channels last as it has them.
            pixels = torch.from_numpy(np.array(_as_array(image))).unsqueeze(0)
            mode = _TORCH_MODES[resample]
            pixels = torch.nn.functional.interpolate(pixels, size=(height, width), mode=mode, antialias=True)
            return pixels[0].numpy()
        if is_picture:
            return _as_array(image.resize((width, height), resample))
        return self.resize(image=image, size=SizeDict(height=height, width=width), resample=resample)

    def _padded(self, image: np.ndarray, height: int, width: int, fill: np.ndarray) -> np.ndarray:
        (down, right), (rows, columns) = offsets(image.shape[-2:], height, width), image.shape[-2:]
        levels = np.rint(fill) if image.dtype == np.uint8 else fill
        whole = np.empty((len(image), height, width), dtype=image.dtype)
        whole[:] = levels[:, None, None]
        whole[:, down : down + rows, right : right + columns] = image
        return whole

    def _normalised(self, images: list[np.ndarray], scale: np.ndarray, shift: np.ndarray) -> Any:
        # One multiply-add, in place, instead of two passes over each.
        if len({image.shape for image in images}) != 1:
            return [image.astype(np.float32) * scale + shift for image in images]
        pixels = np.empty((len(images), *images[0].shape), dtype=np.float32)
        for place, image in zip(pixels, images, strict=True):
            np.multiply(image, scale, out=place, casting="unsafe")
            place += shift
        return pixels


def _as_array(image: Any) -> np.ndarray:
    """A PIL picture in RGB, or an array (C, H, W) already, as such an array."""
    return np.moveaxis(np.asarray(image), -1, 0) if isinstance(image, Image.Image) else image


def _is_rgb(image: np.ndarray) -> bool:
    return image.dtype == np.uint8 and image.shape[0] == 3


SAILViTImageProcessorPil.register_for_auto_class("AutoImageProcessor")

__all__ = ["SAILViTImageProcessorPil"]
