# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures as people have them (paths, bytes, base64, any mode or array) to upright RGB of 8 bits, within limits.

Data sets that nobody vouches for are read by `sailvit_hf.data.images`, which refuses more and says which sample it
was; this part travels with checkpoints.
"""

import base64
import binascii
import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError
from transformers.image_utils import infer_channel_dimension_format, load_image

# Those that pictures come in. Pillow reads more: some call a program, each is one more parser for hostile bytes.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_REMEDY = "give a path, a file's bytes, base64 text, a PIL picture, an array or a tensor."


def open_picture(source: Any) -> Any:
    """A PIL picture from a path, a file's content as bytes or base64 (data URI or plain), or a row of `datasets`.

    Only its header is read; its size is checked against Pillow's limit (`Image.MAX_IMAGE_PIXELS`). An address
    (http, https) is fetched as transformers does. What is a picture already is given back.

    Raises:
        ValueError: it is none of these, there is no such file, or its content is no picture or too large.
    """
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return load_image(source)
    if isinstance(source, (str, os.PathLike)):
        content = _content(os.fsdecode(source))
    elif isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
    else:
        return source
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"A picture is too large ({error}); make it smaller.") from error
    except Exception as error:  # plugins raise whatever damaged bytes make of them
        # Pillow's own words for what it does not know tell an object's place in memory.
        said = "of no known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ValueError(f"A picture of {len(content)} bytes is none that can be read ({said}); {_REMEDY}") from error
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and picture.width * picture.height > limit:
        size = f"{picture.width} x {picture.height} pixels, allowed {limit}"
        raise ValueError(f"A picture is too large ({size}); make it smaller.")
    picture.opened_here = True  # type: ignore[attr-defined]  # nobody else holds it: it may be decoded as suits us
    return picture


def _content(text: str) -> bytes:
    """A file's bytes, from its path or from text that holds them."""
    is_data = text.startswith("data:")
    if not is_data:
        if os.path.isfile(text):  # and no device or pipe
            with open(text, "rb") as file:
                return file.read()
        if len(text) < 40:  # the smallest pictures take more than this
            raise ValueError(f"There is no file {text!r}; {_REMEDY}")
    encoded = text.partition(",")[2] if is_data else text
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        raise ValueError(f"{shown!r} is neither a file nor base64 text; {_REMEDY}") from error


def decoded(picture: Image.Image, background: str | tuple[int, int, int] | None) -> Image.Image:
    """A picture decoded (of an animated one the frame it stands at), turned upright as its EXIF data say.

    Args:
        background: A colour's name or its three levels: the picture comes in RGB, and transparent parts show it.
            Samples of 16 bits keep their high byte. `None`: the picture keeps its mode.

    Raises:
        ValueError: it is damaged, or has samples whose range is not known.
    """
    try:
        picture.load()
    except Exception as error:  # see above
        raise ValueError(f"A picture is damaged ({error}); replace it.") from error
    try:
        if picture.getexif().get(0x0112, 1) != 1:
            picture = ImageOps.exif_transpose(picture)
    except Exception:  # the pixels are good, and EXIF blocks are broken in many ways
        pass
    if background is None or (picture.mode == "RGB" and not _alpha(picture)):
        return picture
    return _rgb(picture, background)


def _alpha(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or picture.info.get("transparency") is not None


def _rgb(picture: Image.Image, background: str | tuple[int, int, int]) -> Image.Image:
    if picture.mode in _SIXTEEN_BIT or (picture.mode == "I" and picture.format == "PNG"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F", "LAB"):
        raise ValueError(f"A picture has the mode {picture.mode}, whose range is not known; convert it to RGB.")
    if not _alpha(picture):
        return picture.convert("RGB")
    if picture.mode == "La":
        picture = picture.convert("LA")
    below = Image.new("RGBA", picture.size, (*_colour(background), 255))
    below.alpha_composite(picture.convert("RGBA"))
    return below.convert("RGB")


def _colour(background: str | tuple[int, int, int]) -> tuple[int, int, int]:
    """Three levels from 0 to 255; `ValueError` if it is no colour."""
    levels = ImageColor.getrgb(background) if isinstance(background, str) else tuple(background)
    if len(levels) != 3 or not all(0 <= level <= 255 for level in levels):
        raise ValueError(f"The background {background!r} is no opaque colour; name one, or give three levels.")
    return int(levels[0]), int(levels[1]), int(levels[2])


def from_array(
    value: Any, input_data_format: Any, background: str | tuple[int, int, int] | None, scaled: bool
) -> torch.Tensor:
    """A picture as a tensor (C, H, W), from an array or tensor (H, W), (H, W, C) or (C, H, W), C 1, 3 or 4.

    Args:
        input_data_format: Where the channels are, `"channels_first"` or `"channels_last"`; `None` to find out, first
            if both are possible.
        background: As in `decoded`.
        scaled: Whether levels from 0 to 255 are wanted, as uint8: floats within [0, 1] and booleans are scaled,
            uint16 keeps its high byte, other numbers lie within 0 to 255. Otherwise numbers stay as they are.

    Raises:
        ValueError: another shape or range.
    """
    if isinstance(value, np.ndarray):
        # torch takes neither memory that may not be written to nor backward strides.
        usable = value.flags.writeable and min(value.strides, default=1) > 0
        value = torch.from_numpy(value if usable else value.copy())
    value = value.detach()
    if value.ndim == 2:
        value, input_data_format = value[None], "channels_first"
    if input_data_format is None:
        input_data_format = infer_channel_dimension_format(value, num_channels=(1, 3, 4))
    if getattr(input_data_format, "value", input_data_format) == "channels_last":
        value = value.permute(2, 0, 1)
    if min(value.shape) < 1:
        raise ValueError(f"A picture has no pixels (shape {tuple(value.shape)}); give one that has.")
    if scaled:
        value = _levels(value)
    if background is None or len(value) == 3:
        return value
    return value.expand(3, -1, -1) if len(value) == 1 else _on_background(value, background)


def _levels(value: torch.Tensor) -> torch.Tensor:
    if value.dtype == torch.uint8:
        return value
    if value.dtype == torch.bool:
        return value.to(torch.uint8) * 255
    if value.dtype == torch.uint16:
        return (value.to(torch.int32) >> 8).to(torch.uint8)
    low, high = value.min().item(), value.max().item()
    if not (low >= 0 and high <= 255):  # so that nan is refused, too
        raise ValueError(f"A picture has values from {low} to {high}; scale them to [0, 1], or give uint8.")
    if not value.is_floating_point():
        return value.to(torch.uint8)
    value = value.float()  # in half precision levels would be missed
    return (value * 255 if high <= 1 else value).round().to(torch.uint8)


def _on_background(value: torch.Tensor, background: str | tuple[int, int, int]) -> torch.Tensor:
    top = 1.0 if value.is_floating_point() else 255.0
    alpha = value[3:].float() / top
    below = torch.tensor(_colour(background), dtype=torch.float32, device=value.device)[:, None, None] * (top / 255)
    mixed = value[:3].float() * alpha + below * (1 - alpha)
    return mixed.to(value.dtype) if value.is_floating_point() else mixed.round().to(value.dtype)


__all__ = ["FORMATS", "decoded", "from_array", "open_picture"]
