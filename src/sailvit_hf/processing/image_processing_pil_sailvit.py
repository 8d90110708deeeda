# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""SAILViT's image processor on PIL and NumPy; it needs no torchvision."""

from .versions_sailvit import check_transformers  # noqa: F401  # first, or another import fails in worse words

# isort: split
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack

from .tiling_sailvit import choose_grid, number_of_tiles

# What torch can resize as Pillow does, antialiased.
_TORCH_MODES = {PILImageResampling.BICUBIC: "bicubic", PILImageResampling.BILINEAR: "bilinear"}


class SAILViTImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """
    min_tiles (`int`, *optional*, defaults to 1): Least number of tiles that a picture is cut into.
    max_tiles (`int`, *optional*, defaults to 1): Largest number of tiles; 1 leaves pictures whole.
    use_thumbnail (`bool`, *optional*, defaults to `True`): Whether a picture that is cut comes as a whole, too.
    fast_resize (`bool`, *optional*, defaults to `False`): Whether torch resizes 8-bit pictures, instead of Pillow.
    """

    min_tiles: int
    max_tiles: int
    use_thumbnail: bool
    fast_resize: bool


class SAILViTImageProcessorPil(PilBackend):
    r"""
    Prepare pictures for SAILViT as published with SAIL-VL2: convert to RGB, resize to 448x448 without keeping the
    aspect ratio (bicubic), rescale to [0, 1], normalise with ImageNet's mean and standard deviation.

    For Apple's AIMv2 preprocessing pass `image_mean` and `image_std` of CLIP, `size={"shortest_edge": 448}`,
    `do_center_crop=True` and `crop_size={"height": 448, "width": 448}`.

    With `max_tiles` larger than one, a picture is resized to the grid of tiles that suits its aspect ratio, cut row by
    row into tiles of `size`, and followed by a thumbnail of the whole (SAIL-VL2's configuration says at most 12).

    Returns `pixel_values` of shape `(pictures, 3, height, width)`, float32; when tiling, `(tiles, 3, height, width)`
    of all pictures one after the other, and `num_tiles`, how many each picture has.
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
    min_tiles = 1
    max_tiles = 1
    use_thumbnail = True
    # Pillow's pixels are those that the published weights saw. torch's differ by two levels of 255 at most, except in
    # noise that is magnified in one direction and shrunk in the other (20 seen).
    fast_resize = False
    valid_kwargs = SAILViTImageProcessorKwargs
    model_input_names = ["pixel_values"]

    def __init__(self, **kwargs: Unpack[SAILViTImageProcessorKwargs]) -> None:
        super().__init__(**kwargs)

    def get_number_of_tiles(self, height: int, width: int, images_kwargs: dict[str, Any] | None = None) -> int:
        """How many tiles a picture of this size becomes, the thumbnail included; from the size alone.

        Args:
            images_kwargs: Settings that differ from this processor's, such as `max_tiles`.
        """
        settings = {name: getattr(self, name) for name in ("size", "min_tiles", "max_tiles", "use_thumbnail")}
        settings.update({name: value for name, value in (images_kwargs or {}).items() if name in settings})
        if settings["max_tiles"] == 1:
            return 1
        tile = _tile_size(settings["size"])
        return number_of_tiles(
            choose_grid(height, width, settings["min_tiles"], settings["max_tiles"], *tile), settings["use_thumbnail"]
        )

    def process_image(self, image: Any, do_convert_rgb: bool | None = None, **kwargs: Any) -> Any:
        """A picture as an array (C, H, W); a PIL picture that is to be RGB stays one, for Pillow to resize."""
        if isinstance(image, Image.Image) and do_convert_rgb:
            return image if image.mode == "RGB" else image.convert("RGB")
        return super().process_image(image, do_convert_rgb=do_convert_rgb, **kwargs)

    def _resized(self, image: Any, height: int, width: int, resample: Any, fast: bool) -> np.ndarray:
        """A picture in another size, as an array (C, H, W); 8-bit RGB goes the short way."""
        if _size_of(image) == (height, width):
            return _as_array(image)
        if fast and resample in _TORCH_MODES and _is_rgb(image):
            # A copy, for Pillow's memory is not to be written to, with the channels last as it has them.
            pixels = torch.from_numpy(np.array(_as_array(image))).unsqueeze(0)
            mode = _TORCH_MODES[resample]
            pixels = torch.nn.functional.interpolate(pixels, size=(height, width), mode=mode, antialias=True)
            return pixels[0].numpy()
        if isinstance(image, Image.Image):
            return _as_array(image.resize((width, height), resample))
        return self.resize(image=image, size=SizeDict(height=height, width=width), resample=resample)

    def _tiled(
        self, image: Any, size: Any, grid: tuple[int, int], thumbnail: bool, resample: Any, fast: bool
    ) -> list[np.ndarray]:
        """The tiles of a picture, (C, H, W) each, row by row, then the thumbnail."""
        (height, width), (columns, rows) = _tile_size(size), grid
        whole = self._resized(image, rows * height, columns * width, resample, fast)
        tiles = [
            whole[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
            for row in range(rows)
            for column in range(columns)
        ]
        if thumbnail and len(tiles) > 1:
            tiles.append(self._resized(image, height, width, resample, fast))
        return tiles

    def _preprocess(
        self,
        images: list[Any],
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
        min_tiles: int = 1,
        max_tiles: int = 1,
        use_thumbnail: bool = True,
        fast_resize: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        shaped: list[np.ndarray] = []
        counts = []
        if max_tiles > 1 and (not do_resize or do_center_crop):
            raise ValueError("Tiles need do_resize=True and do_center_crop=False; set these, or max_tiles=1.")
        for image in images:
            if max_tiles > 1:
                grid = choose_grid(*_size_of(image), min_tiles, max_tiles, *_tile_size(size))
                tiles = self._tiled(image, size, grid, use_thumbnail, resample, fast_resize)
            elif do_resize and size.height and size.width:
                tiles = [self._resized(image, size.height, size.width, resample, fast_resize)]
            elif do_resize:
                tiles = [self.resize(image=_as_array(image), size=size, resample=resample)]
            else:
                tiles = [_as_array(image)]
            counts.append(len(tiles))
            shaped += [self.center_crop(tile, crop_size) for tile in tiles] if do_center_crop else tiles
        scale_and_shift = _scale_and_shift(do_rescale, rescale_factor, do_normalize, image_mean, image_std)
        data: dict[str, Any] = {"pixel_values": _normalised(shaped, *scale_and_shift)}
        if max_tiles > 1:
            data["num_tiles"] = counts
        return BatchFeature(data=data, tensor_type=return_tensors)


def _size_of(image: Any) -> tuple[int, int]:
    """Height and width of a PIL picture or an array (C, H, W)."""
    return (image.height, image.width) if isinstance(image, Image.Image) else image.shape[-2:]


def _as_array(image: Any) -> np.ndarray:
    """A PIL picture in RGB, or an array (C, H, W) already, as such an array."""
    return np.moveaxis(np.asarray(image), -1, 0) if isinstance(image, Image.Image) else image


def _is_rgb(image: Any) -> bool:
    return isinstance(image, Image.Image) or (image.dtype == np.uint8 and image.shape[0] == 3)


def _tile_size(size: Any) -> tuple[int, int]:
    """Height and width of a tile.

    Raises:
        ValueError: if the size is not fixed.
    """
    size = size if isinstance(size, dict) else vars(size)
    if not (size.get("height") and size.get("width")):
        raise ValueError(f"Tiles need a size with height and width, not {size}; set both, or max_tiles=1.")
    return size["height"], size["width"]


def _normalised(images: list[np.ndarray], scale: np.ndarray, shift: np.ndarray) -> Any:
    """One multiply-add, in place, instead of two passes over each; one array if all have the same shape."""
    if len({image.shape for image in images}) != 1:
        return [image.astype(np.float32) * scale + shift for image in images]
    pixels = np.empty((len(images), *images[0].shape), dtype=np.float32)
    for place, image in zip(pixels, images, strict=True):
        np.multiply(image, scale, out=place, casting="unsafe")
        place += shift
    return pixels


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
