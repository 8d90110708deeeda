# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""SAILViT's image processor on torchvision, on any device; defined without torchvision, too, but not usable then."""

from .versions_sailvit import check_transformers  # noqa: F401  # first, or another import fails in worse words

# isort: split
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import SizeDict
from transformers.processing_utils import Unpack
from transformers.utils import requires_backends

from .picture_settings_sailvit import PictureSettings, SAILViTImageProcessorKwargs, offsets


class SAILViTImageProcessor(PictureSettings, TorchvisionBackend):
    r"""
    Prepare pictures for SAILViT as [`SAILViTImageProcessorPil`] does, with the same settings and defaults, but on
    torchvision.

    Its resizing differs from Pillow's by two levels of 255 at most (more in noise that is magnified in one direction
    and shrunk in the other), whatever `fast_resize` says. `device` (`"cuda"`) is where pictures are resized and
    normalised, and where `pixel_values` are then.

    Raises:
        ImportError: when it is made, if there is no torchvision.
    """

    def __init__(self, **kwargs: Unpack[SAILViTImageProcessorKwargs]) -> None:
        requires_backends(self, ["torchvision"])
        super().__init__(**kwargs)

    def process_image(self, image: Any, **kwargs: Any) -> torch.Tensor:
        """A picture as a tensor (C, H, W) on the device."""
        picture = super().process_image(image, **kwargs)
        full = getattr(picture, "full_size", None)
        if isinstance(picture, Image.Image):
            # A copy, for Pillow's memory is not to be written to, with the channels last as it has them.
            picture = torch.from_numpy(np.atleast_3d(np.array(picture))).permute(2, 0, 1)
        picture = picture.to(kwargs.get("device"))
        if full is not None:
            picture.full_size = full
        return picture

    def _resized(
        self, image: torch.Tensor, height: int, width: int, resample: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        if tuple(image.shape[-2:]) == (height, width):
            return image
        return self.resize(image=image, size=SizeDict(height=height, width=width), resample=resample)

    def _padded(self, image: torch.Tensor, height: int, width: int, fill: np.ndarray) -> torch.Tensor:
        (down, right), (rows, columns) = offsets(image.shape[-2:], height, width), image.shape[-2:]
        levels = torch.tensor(fill if image.is_floating_point() else np.rint(fill), device=image.device)
        whole = levels.to(image.dtype)[:, None, None].expand(len(image), height, width).contiguous()
        whole[:, down : down + rows, right : right + columns] = image
        return whole

    def _normalised(self, images: list[torch.Tensor], scale: np.ndarray, shift: np.ndarray) -> Any:
        # One multiply-add, in place, instead of two passes over each.
        device = images[0].device if images else None
        factor, term = torch.from_numpy(scale).to(device), torch.from_numpy(shift).to(device)
        if len({image.shape for image in images}) != 1:
            return [image.float() * factor + term for image in images]
        pixels = torch.empty((len(images), *images[0].shape), dtype=torch.float32, device=device)
        for place, image in zip(pixels, images, strict=True):
            place.copy_(image)
        return pixels.mul_(factor).add_(term)


SAILViTImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["SAILViTImageProcessor"]
