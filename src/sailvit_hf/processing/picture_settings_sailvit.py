# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What SAILViT's two image processors share: settings, input, what follows from a size, the order of the steps."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.processing_utils import ImagesKwargs

from .picture_inputs_sailvit import decoded, from_array, open_picture
from .tiling_sailvit import choose_grids, resized_size

# JPEGs are decoded at a half, a quarter or an eighth only if that is as many times the size that is wanted.
_DRAFT_MARGIN = 2


class SAILViTImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """
    min_tiles (`int`, *optional*, defaults to 1): Least number of tiles that a picture is cut into.
    max_tiles (`int`, *optional*, defaults to 1): Largest number of tiles of a grid; 1 leaves pictures whole.
    use_thumbnail (`bool`, *optional*, defaults to `True`): Whether a picture that is cut comes as a whole, too.
    use_msac (`bool`, *optional*, defaults to `False`): Whether a second grid is cut, whose cuts lie elsewhere.
    size_divisor (`int`, *optional*, defaults to 28): What sides are multiples of, if `size` is in pixels.
    background (`str` or three `int`, *optional*, defaults to `"white"`): What transparent parts show.
    fast_resize (`bool`, *optional*, defaults to `False`): Whether torch resizes 8-bit pictures, instead of Pillow.
    draft_jpeg (`bool`, *optional*, defaults to `False`): Whether large JPEG files are decoded at a smaller scale.
    """

    min_tiles: int
    max_tiles: int
    use_thumbnail: bool
    use_msac: bool
    size_divisor: int
    background: str | tuple[int, int, int] | list[int]
    fast_resize: bool
    draft_jpeg: bool


class PictureSettings:
    """Everything of SAILViT's image processors but the work on pixels, which each backend does in its own way."""

    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size: Any = {"height": 448, "width": 448}
    crop_size: Any = {"height": 448, "width": 448}
    pad_size: Any = None
    default_to_square = True
    do_convert_rgb = True
    do_resize = True
    do_center_crop = False
    do_rescale = True
    do_normalize = True
    do_pad = False
    min_tiles = 1
    max_tiles = 1
    use_thumbnail = True
    use_msac = False
    # Patch times pixel shuffle, so that the connector's tokens come out even.
    size_divisor = 28
    background = "white"
    # Pillow's pixels are those that the published weights saw. torch's differ by two levels of 255 at most, except in
    # noise that is magnified in one direction and shrunk in the other (20 seen).
    fast_resize = False
    draft_jpeg = False
    valid_kwargs = SAILViTImageProcessorKwargs
    model_input_names = ["pixel_values"]

    # What follows from a size

    def get_number_of_tiles(self, height: int, width: int, images_kwargs: dict[str, Any] | None = None) -> int:
        """How many tiles a picture of this size becomes, the thumbnail included; from the size alone.

        Args:
            images_kwargs: Settings that differ from this processor's, such as `max_tiles`.

        Raises:
            ValueError: if the settings contradict each other.
        """
        settings = self._settings(images_kwargs)
        if settings["max_tiles"] == 1:
            return 1
        grids, thumbnail = _grids(height, width, settings)
        return sum(columns * rows for columns, rows in grids) + thumbnail

    def get_output_size(
        self, height: int, width: int, images_kwargs: dict[str, Any] | None = None
    ) -> tuple[int, int]:
        """Height and width in pixels of each tile that a picture of this size becomes; from the size alone.

        Args:
            images_kwargs: Settings that differ from this processor's, such as `size`.

        Raises:
            ValueError: if the settings contradict each other.
        """
        settings = self._settings(images_kwargs)
        if settings["max_tiles"] > 1:
            return _box(settings)
        if settings["do_pad"]:
            return _padded_size(settings)
        if settings["do_center_crop"]:
            return settings["crop_size"]["height"], settings["crop_size"]["width"]
        if settings["do_resize"]:
            return resized_size(height, width, settings["size"], settings["size_divisor"])
        return height, width

    def _settings(self, images_kwargs: dict[str, Any] | None) -> dict[str, Any]:
        """This processor's settings with some of them replaced, checked."""
        names = (
            "size", "crop_size", "pad_size", "default_to_square", "do_resize", "do_center_crop", "do_pad", "min_tiles",
            "max_tiles", "use_thumbnail", "use_msac", "size_divisor",
        )  # fmt: skip
        given = {name: value for name, value in (images_kwargs or {}).items() if name in names and value is not None}
        settings = {name: getattr(self, name) for name in names} | given
        if not {"size", "crop_size", "pad_size"}.isdisjoint(given):
            settings |= self._standardize_kwargs(**settings)  # type: ignore[attr-defined]
        _check(settings)
        return settings

    # Input

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Pictures in the nesting that they are given in, opened but not decoded; see `open_picture`."""
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(one) for one in image_url_or_urls]
        picture = open_picture(image_url_or_urls)
        if not isinstance(picture, (Image.Image, np.ndarray, torch.Tensor)):
            raise TypeError(f"only a single or a list of entries is supported but got type={type(picture)}")
        return picture

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """All pictures of nested lists, in order; an array or tensor of four dimensions is several."""
        opened = self.fetch_images(images)
        flat: list[Any] = []
        waiting = [opened]
        while waiting:
            one = waiting.pop()
            if isinstance(one, (list, tuple)) or getattr(one, "ndim", 0) > expected_ndims:
                waiting += reversed(list(one))
            else:
                flat.append(one)
        return flat

    def process_image(self, image: Any, **kwargs: Any) -> Any:
        """A PIL picture, decoded, or a tensor (C, H, W); RGB of 8 bits unless the settings say otherwise.

        Its attribute `full_size` is its height and width, if it was decoded at a smaller scale.
        """
        background = kwargs.get("background", self.background) if kwargs.get("do_convert_rgb") else None
        if not isinstance(image, Image.Image):
            scaled = bool(kwargs.get("do_rescale", self.do_rescale))
            return from_array(image, kwargs.get("input_data_format"), background, scaled)
        full, stored = None, image.size
        if kwargs.get("draft_jpeg") and getattr(image, "opened_here", False) and image.format in ("JPEG", "MPO"):
            self._draft(image, kwargs)
            full = stored if image.size != stored else None
        picture = decoded(image, background)
        if full is not None:
            # Landscape or portrait, as the picture is now that it is upright.
            turned = (picture.width < picture.height) != (full[0] < full[1])
            picture.full_size = full if turned else full[::-1]  # type: ignore[attr-defined]
        return picture

    def _draft(self, image: Any, kwargs: dict[str, Any]) -> None:
        """Have a JPEG decoded at a smaller scale, if that leaves twice the size that is wanted."""
        settings = self._settings(kwargs)
        if not settings["do_resize"]:
            return
        height, width = image.height, image.width
        if settings["max_tiles"] > 1:
            box, (grids, _) = _box(settings), _grids(height, width, settings)
            turned, _ = _grids(width, height, settings)
            wanted = [(rows * box[0], columns * box[1]) for columns, rows in (*grids, *turned)]
        else:
            # Which way up it is, is not known yet.
            sizes = (height, width), (width, height)
            wanted = [resized_size(*size, settings["size"], settings["size_divisor"]) for size in sizes]
        side = _DRAFT_MARGIN * max(max(size) for size in wanted)
        image.draft("RGB", (side, side))

    # The steps

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
        image_mean: Any,
        image_std: Any,
        return_tensors: Any,
        **kwargs: Any,
    ) -> BatchFeature:
        settings = {**kwargs, "do_resize": do_resize, "size": size, "do_center_crop": do_center_crop}
        settings["crop_size"] = crop_size
        _check(settings)
        kwargs["resample"] = resample
        # Padding shows the mean colour, which normalising makes zero.
        fill = 255 * np.atleast_1d(np.asarray(image_mean, dtype=float)) if settings["do_pad"] else np.zeros(1)
        shaped: list[Any] = []
        counts = []
        for image in images:
            tiles = self._tiles(image, settings, fill if do_rescale else fill / 255, kwargs)
            counts.append(len(tiles))
            shaped += tiles
        scale_and_shift = _scale_and_shift(do_rescale, rescale_factor, do_normalize, image_mean, image_std)
        data: dict[str, Any] = {"num_tiles": counts} if settings["max_tiles"] > 1 else {}
        batch = BatchFeature(data=data, tensor_type=return_tensors)
        batch["pixel_values"] = self._as_asked(self._normalised(shaped, *scale_and_shift), return_tensors)
        return batch

    def _tiles(self, image: Any, settings: dict[str, Any], fill: np.ndarray, kwargs: dict[str, Any]) -> list[Any]:
        """What a picture becomes, (C, H, W) each: itself, or its tiles row by row, then its thumbnail."""
        height, width = _size_of(image)

        def fitted(box: tuple[int, int]) -> Any:
            if not settings["do_pad"]:
                return self._resized(image, *box, **kwargs)
            inner = resized_size(height, width, {"height": box[0], "width": box[1]}, contained=True)
            return self._padded(self._resized(image, *inner, **kwargs), *box, fill)

        if settings["max_tiles"] > 1:
            high, wide = _box(settings)
            grids, thumbnail = _grids(height, width, settings)
            tiles = []
            for columns, rows in grids:
                whole = fitted((rows * high, columns * wide))
                places = [(row, column) for row in range(rows) for column in range(columns)]
                tiles += [whole[:, r * high : (r + 1) * high, c * wide : (c + 1) * wide] for r, c in places]
            return [*tiles, fitted((high, wide))] if thumbnail else tiles
        if settings["do_resize"]:
            size = resized_size(height, width, settings["size"], settings["size_divisor"], settings["do_pad"])
            made = self._resized(image, *size, **kwargs)
        else:
            made = self._resized(image, height, width, **kwargs)
        if settings["do_center_crop"]:
            made = self.center_crop(made, settings["crop_size"])  # type: ignore[attr-defined]
        return [self._padded(made, *_padded_size(settings), fill) if settings["do_pad"] else made]

    def _resized(self, image: Any, height: int, width: int, **kwargs: Any) -> Any:
        """A picture in this size, as the backend's (C, H, W); `kwargs`: `resample` and the settings of the call."""
        raise NotImplementedError

    def _padded(self, image: Any, height: int, width: int, fill: np.ndarray) -> Any:
        """A picture (C, h, w) in the middle of a larger one; `fill`: a level for each channel, or one for all."""
        raise NotImplementedError

    def _normalised(self, images: list[Any], scale: np.ndarray, shift: np.ndarray) -> Any:
        """`image * scale + shift` in float32: one array (N, C, H, W), or a list if their shapes differ."""
        raise NotImplementedError

    def _as_asked(self, pixels: Any, return_tensors: Any) -> Any:
        """Arrays or tensors as the caller wants them; a list stays one."""
        kind = getattr(return_tensors, "value", return_tensors)
        if isinstance(pixels, list):
            return [self._as_asked(each, return_tensors) for each in pixels]
        if kind == "pt" and isinstance(pixels, np.ndarray):
            return torch.from_numpy(pixels)
        return pixels.cpu().numpy() if kind == "np" and isinstance(pixels, torch.Tensor) else pixels

    # Saving

    def to_dict(self) -> dict[str, Any]:
        """The settings; where the code travels with them, that of both backends is named."""
        values: dict[str, Any] = super().to_dict()  # type: ignore[misc]
        if "AutoImageProcessor" in (values.get("auto_map") or {}):
            code = {name: f"{each.__module__.split('.')[-1]}.{each.__name__}" for name, each in backends().items()}
            values["auto_map"] = {**values["auto_map"], "AutoImageProcessor": code}
        return values


def backends() -> dict[str, type]:
    """The image processors by backend: `AutoImageProcessor` takes the one whose backend is there.

    It is because of these two imports that the code of both is saved with a checkpoint of one.
    """
    from .image_processing_pil_sailvit import SAILViTImageProcessorPil
    from .image_processing_sailvit import SAILViTImageProcessor

    return {"torchvision": SAILViTImageProcessor, "pil": SAILViTImageProcessorPil}


def _size_of(image: Any) -> tuple[int, int]:
    """Height and width of a picture, as it was before it was decoded at a smaller scale."""
    full = getattr(image, "full_size", None)
    if full is not None:
        return full
    return (image.height, image.width) if isinstance(image, Image.Image) else tuple(image.shape[-2:])


def _box(settings: dict[str, Any]) -> tuple[int, int]:
    """Height and width of a tile."""
    return settings["size"]["height"], settings["size"]["width"]


def _grids(height: int, width: int, settings: dict[str, Any]) -> tuple[tuple[tuple[int, int], ...], bool]:
    least, most = settings["min_tiles"], settings["max_tiles"]
    return choose_grids(height, width, least, most, *_box(settings), settings["use_thumbnail"], settings["use_msac"])


def _padded_size(settings: dict[str, Any]) -> tuple[int, int]:
    wanted = settings["pad_size"] or settings["size"]
    return wanted["height"], wanted["width"]


def _fixed(size: Any) -> bool:
    return bool(size) and bool(size.get("height") and size.get("width"))


def _check(settings: dict[str, Any]) -> None:
    """Raise a `ValueError` with one sentence if the settings contradict each other."""
    if settings["max_tiles"] < 1 or not 1 <= settings["min_tiles"] <= settings["max_tiles"]:
        raise ValueError(
            f"min_tiles is {settings['min_tiles']} and max_tiles {settings['max_tiles']}; give 1 <= min_tiles <= "
            "max_tiles."
        )
    if settings["max_tiles"] > 1:
        if not settings["do_resize"] or settings["do_center_crop"] or settings["pad_size"]:
            raise ValueError(
                "Tiles need do_resize=True, do_center_crop=False and pad_size=None; set these, or max_tiles=1."
            )
        if not _fixed(settings["size"]):
            shown = dict(settings["size"])
            raise ValueError(f"Tiles need a size with height and width, not {shown}; set both, or max_tiles=1.")
    if settings["do_pad"] and settings["do_center_crop"]:
        raise ValueError("do_pad shows the whole picture and do_center_crop cuts it; set one of them to False.")
    if settings["do_pad"] and not _fixed(settings["pad_size"] or settings["size"]):
        raise ValueError("do_pad needs to know the size to pad to; give pad_size with height and width.")


def offsets(shape: Any, height: int, width: int) -> tuple[int, int]:
    """Rows above and columns left of a picture of this shape (height, width) in the middle of a larger one."""
    if shape[0] > height or shape[1] > width:
        raise ValueError(
            f"A picture of {shape[0]} x {shape[1]} pixels does not fit into pad_size {height} x {width}; give a "
            "larger one, or resize."
        )
    return (height - shape[0]) // 2, (width - shape[1]) // 2


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


__all__ = ["PictureSettings", "SAILViTImageProcessorKwargs", "backends", "offsets"]
