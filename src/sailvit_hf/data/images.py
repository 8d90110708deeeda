# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures from anywhere: decoded within Pillow's limits, or refused with a sentence that says which and why."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, ImageFile

from .pictures.colours import background_colour, from_array, is_tensor, to_rgb, upright, upright_size
from .pictures.decoding import (
    FORMATS,
    MAX_BYTES,
    MAX_PIXELS,
    check_extension,
    check_pixels,
    decode,
    decoder_errors,
    open_bytes,
)
from .pictures.errors import (
    ImageAddressError,
    ImageDamagedError,
    ImageEmptyError,
    ImageError,
    ImageExtensionError,
    ImageFileTooLargeError,
    ImageFormatError,
    ImageLinkLoopError,
    ImageMissingError,
    ImageNotAFileError,
    ImageOutsideRootError,
    ImageTooLargeError,
    ImageTruncatedError,
    ImageUnreadableError,
    ImageUnsupportedError,
    ImageValueError,
)
from .pictures.sources import path_of, read_file, read_source, resolve_path, shown

if TYPE_CHECKING:
    import torch

    ImageSource: TypeAlias = (
        str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Mapping[str, Any]
        | Image.Image | np.ndarray | torch.Tensor
    )  # fmt: skip

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "ImageAddressError",
    "ImageDamagedError",
    "ImageEmptyError",
    "ImageError",
    "ImageExtensionError",
    "ImageFileTooLargeError",
    "ImageFormatError",
    "ImageLinkLoopError",
    "ImageMissingError",
    "ImageNotAFileError",
    "ImageOutsideRootError",
    "ImageTooLargeError",
    "ImageTruncatedError",
    "ImageUnreadableError",
    "ImageUnsupportedError",
    "ImageValueError",
    "check_image",
    "image_size",
    "load_image",
    "resolve_image_path",
    "to_rgb",
]


def load_image(
    source: ImageSource,
    root: str | Path | None = None,
    *,
    name: str | None = None,
    background: str | tuple[int, int, int] = "white",
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] = FORMATS,
    match_extension: bool = False,
) -> Image.Image:
    """Read one picture; of an animated one, the first frame.

    Args:
        source: a path; a file's content as bytes, base64 text or data URI; a binary file open for reading, from where
            it stands; a dictionary with `"bytes"` or `"path"` as `datasets` gives it; a Pillow picture, at the frame
            it stands at; a NumPy array or torch tensor of shape (H, W), (H, W, C) or (C, H, W), see `from_array`.
            Addresses (http, https, file) are refused.
        root (`str` or `Path`, *optional*): the folder that a relative path starts from and that no path may leave,
            through links neither. Without it paths start from the current folder and may lead anywhere.
        name (`str`, *optional*): what messages call the picture, such as a sample's id.
        background (`str` or three `int`, *optional*, defaults to `"white"`): what transparent parts show.
        max_bytes (`int`, *optional*, defaults to 256 MiB): the longest file.
        max_pixels (`int`, *optional*, defaults to 89,478,485): the largest picture; Pillow's `Image.MAX_IMAGE_PIXELS`
            holds as well if it is lower, and 60,000,000 for WebP, whose decoder needs most memory.
        formats (sequence of `str`, *optional*): Pillow's names of the file formats that are opened; by default
            PNG, JPEG, GIF, WebP, BMP and TIFF. The content decides, not the file's name.
        match_extension (`bool`, *optional*, defaults to `False`): refuse a file whose name has the extension of
            another format than its content. Data sets are full of them, and they decode as well as others.

    Returns:
        `PIL.Image.Image` in mode RGB, turned upright as its EXIF data say.

    Raises:
        ImageError: its subclass says why the picture cannot be used; its `sample` is `name`.
        SailvitError: `background` is no colour.
    """
    background_colour(background)
    label = shown(source, name)
    try:
        if isinstance(source, Image.Image):
            _check_opened(source, label, max_pixels, formats)
            image = source
        elif isinstance(source, np.ndarray) or is_tensor(source):
            image = from_array(source, label)
            check_pixels(image.size, label, max_pixels)
        else:
            path = path_of(source) if match_extension else None
            image = decode(read_source(source, root, label, max_bytes), label, formats, max_pixels, path)
        with decoder_errors(label):
            image.load()
            image = upright(image)
        return to_rgb(image, background, label)
    except ImageError as error:
        error.sample = name
        raise


def check_image(
    source: str | Path,
    root: str | Path | None = None,
    *,
    name: str | None = None,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] = FORMATS,
    match_extension: bool = False,
) -> Path:
    """Make sure that a file is a picture without decoding it (header, and checksums where the format has them).

    Args:
        source (`str` or `Path`): the file.
        root, name, max_bytes, max_pixels, formats, match_extension (*optional*): as in `load_image`.

    Returns:
        `Path`: the file's absolute path, links followed.

    Raises:
        ImageError: as `load_image`.
    """
    label = shown(source, name)
    try:
        path = resolve_path(source, root, label)
        content = read_file(path, label, max_bytes)
        image = open_bytes(content, label, formats, max_pixels)
        if match_extension:
            check_extension(image, str(source), label)
        with decoder_errors(label, content):
            image.verify()
    except ImageError as error:
        error.sample = name
        raise
    return path


def image_size(
    source: ImageSource,
    root: str | Path | None = None,
    *,
    name: str | None = None,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] = FORMATS,
    match_extension: bool = False,
) -> tuple[int, int]:
    """The size that `load_image` would give, turned upright, from the header alone.

    Args:
        source, root, name, max_bytes, max_pixels, formats, match_extension (*optional*): as in `load_image`.

    Returns:
        Height and width in pixels. Of an animation whose first frame is larger than its screen, the screen's.

    Raises:
        ImageError: as `load_image`, but for what only decoding finds out.
    """
    label = shown(source, name)
    try:
        if isinstance(source, np.ndarray) or is_tensor(source):
            image = from_array(source, label)
            check_pixels(image.size, label, max_pixels)
        elif isinstance(source, Image.Image):
            _check_opened(source, label, max_pixels, formats)
            image = source
        else:
            content = read_source(source, root, label, max_bytes)
            image = open_bytes(content, label, formats, max_pixels)
            path = path_of(source) if match_extension else None
            if path is not None:
                check_extension(image, path, label)
            # A PNG's data may follow its pixels, so that Pillow would decode these to look.
            if image.format == "PNG" and b"eXIf" not in content and b"exif" not in content:
                return image.height, image.width
        return upright_size(image)
    except ImageError as error:
        error.sample = name
        raise


def resolve_image_path(source: str | Path, root: str | Path | None = None) -> Path:
    """The absolute path of an existing regular file, symbolic links followed.

    Raises:
        ImageMissingError: no such file, not a file, a loop of links, or an address (each its own subclass).
        ImageOutsideRootError: it does not lie in `root`.
    """
    return resolve_path(source, root, shown(source))


def _check_opened(image: Image.Image, label: str, max_pixels: int, formats: Sequence[str]) -> None:
    check_pixels(image.size, label, max_pixels)
    # Somebody else opened it, but it is here that it would be decoded, by a program for some formats. MPO is JPEG.
    allowed = (*formats, "MPO", None)
    if isinstance(image, ImageFile.ImageFile) and image.tile and image.format not in allowed:
        raise ImageUnsupportedError(f"{label} is of the format {image.format}: convert it to PNG, JPEG or WebP")
