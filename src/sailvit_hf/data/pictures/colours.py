# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""From any of Pillow's modes, arrays and tensors to upright RGB of 8 bits."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from ...errors import SailvitError
from .decoding import decoder_errors
from .errors import ImageEmptyError, ImageUnsupportedError, ImageValueError

# Orientations of EXIF (tag 0x0112) and what undoes them.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# Conversions that need several copies of the picture go over it in strips of about this many pixels.
_STRIP_PIXELS = 2**20


def background_colour(background: str | tuple[int, int, int]) -> tuple[int, int, int]:
    """Three levels from 0 to 255, from them or from a name that Pillow knows (`"white"`, `"#7f7f7f"`)."""
    try:
        levels = ImageColor.getrgb(background) if isinstance(background, str) else tuple(background)
        red, green, blue = (int(level) for level in levels[:3])
    except (ValueError, TypeError) as error:
        raise SailvitError(f"the background {background!r} is no colour: name one, or give three levels") from error
    if not all(0 <= level <= 255 for level in (red, green, blue)) or len(levels) != 3:
        raise SailvitError(f"the background {background!r} is no opaque colour: give three levels from 0 to 255")
    return red, green, blue


def to_rgb(
    image: Image.Image, background: str | tuple[int, int, int] = "white", label: str = "the picture"
) -> Image.Image:
    """The picture in mode RGB.

    Transparent parts show the background. Samples of 16 bits keep their high byte, which is what Pillow does to those
    in colour. CMYK becomes RGB by Pillow's plain formula, without colour profiles.

    Args:
        image (`PIL.Image.Image`): any mode; it is not changed.
        background (`str` or three `int`, *optional*, defaults to `"white"`): a colour's name or its levels.
        label (`str`, *optional*): what messages call the picture.

    Returns:
        `PIL.Image.Image`: the same object if it is a plain RGB picture already.

    Raises:
        ImageUnsupportedError: 32-bit samples (their range is not known) or Lab colours.
        ImageDamagedError: it does not decode.
    """
    colour = background_colour(background)
    with decoder_errors(label):
        image.load()
        sixteen = image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format == "PNG")
        if image.mode in ("I", "F") and not sixteen:
            raise ImageUnsupportedError(
                f"{label} has samples of 32 bits, whose range is not known: scale them to 8 bits"
            )
        if image.mode == "LAB":
            raise ImageUnsupportedError(f"{label} is in Lab colours: convert it to RGB")
        if sixteen:
            return _in_strips(image, lambda strip: _from_sixteen_bits(strip, colour))
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or _has_transparent_colour(image):
            return _in_strips(image, lambda strip: _on_background(strip, colour))
        if image.mode == "RGB":
            return image if type(image) is Image.Image else image.copy()
        return image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF data say, in its own mode; damaged EXIF data say nothing."""
    turn = _TURNS.get(_orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    # Without the EXIF data, or the next reader would turn it again.
    turned.info = {key: value for key, value in image.info.items() if key == "transparency"}
    turned.format = image.format
    return turned


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of what `upright` gives, without decoding anything."""
    width, height = image.size
    orientation = _orientation(image)
    if image.format == "TIFF" and getattr(image, "tile", None):
        # Pillow turns these itself when it decodes them, and newer versions tell the turned size before.
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height, orientation = tags[256], tags[257], tags.get(_ORIENTATION, 1)
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # the pixels are good, and EXIF blocks are broken in many ways
        return 1
    return orientation if isinstance(orientation, int) else 1


def is_tensor(value: Any) -> bool:
    """Whether it is a torch tensor; torch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def from_array(value: Any, label: str) -> Image.Image:
    """A picture from a NumPy array or torch tensor.

    Args:
        value: shape (H, W), (H, W, C) or (C, H, W), C from 1 to 4 (gray, gray and alpha, RGB, RGBA). If both readings
            fit, an array's channels are last and a tensor's first. Booleans are black and white, floats lie within
            [0, 1], uint16 spans 16 bits, other integers lie within 0 to 255.
        label (`str`): what messages call the picture.

    Raises:
        ImageValueError: another shape, type or range.
        ImageEmptyError: no pixels.
    """
    first = is_tensor(value)
    if first:
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    given = tuple(value.shape)
    if value.size == 0:
        raise ImageEmptyError(f"{label} is an array of shape {given}, without pixels: give a picture")
    if value.ndim == 3 and (order := _channels_last(given, first)) is not None:
        value = value if order else value.transpose(1, 2, 0)
        value = value[..., 0] if value.shape[-1] == 1 else value
    elif value.ndim != 2:
        raise ImageValueError(f"{label} is an array of shape {given}: give (H, W), (H, W, C) or (C, H, W), C 1 to 4")
    mode = "L" if value.ndim == 2 else _CHANNELS[value.shape[-1]]
    return Image.frombytes(mode, (value.shape[1], value.shape[0]), np.ascontiguousarray(_levels(value, label)).data)


def _channels_last(shape: tuple[int, ...], tensor: bool) -> bool | None:
    """Whether the channels come last, None if there are none."""
    for axis in (0, -1) if tensor else (-1, 0):
        if shape[axis] in (1, 3, 4):
            return axis == -1
    # Gray with alpha is rare: a picture two pixels high or wide is as likely.
    for axis in (0, -1) if tensor else (-1, 0):
        if shape[axis] == 2:
            return axis == -1
    return None


def _levels(array: np.ndarray, label: str) -> np.ndarray:
    """The values as uint8, of the same shape."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise ImageValueError(f"{label} is an array of {array.dtype}: give uint8, or floats within [0, 1]")
    top = 1 if array.dtype.kind == "f" else 255
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= top):  # so that nan is refused, too
        raise ImageValueError(
            f"{label} is an array of {array.dtype} from {low} to {high}: scale it to [0, {top}], or give uint8"
        )
    # In the array's own type half precision would miss levels.
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8) if top == 1 else array.astype(np.uint8)


def _has_transparent_colour(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "P", "RGB") and image.info.get("transparency") is not None


def _in_strips(image: Image.Image, convert: Any) -> Image.Image:
    rows = max(1, _STRIP_PIXELS // image.width)
    if image.height <= rows:
        return convert(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        whole.paste(convert(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return whole


def _on_background(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    below = Image.new("RGBA", image.size, (*colour, 255))
    below.alpha_composite(image.convert("RGBA"))
    return below.convert("RGB")


def _from_sixteen_bits(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    samples = np.asarray(image)
    levels = np.repeat((samples >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        levels[samples == transparent] = colour
    return Image.fromarray(levels)
