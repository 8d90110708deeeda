# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures from files: opened with PIL's limits kept, refused with a sentence that says why."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import SailvitError


class ImageError(SailvitError):
    """A picture that cannot be used."""


class ImageMissingError(ImageError):
    """No file is there."""


class ImageFormatError(ImageError):
    """The file is not an image that PIL reads, or it is damaged."""


class ImageTooLargeError(ImageError):
    """The picture has more pixels than PIL's limit against decompression bombs allows."""


class ImageOutsideRootError(ImageError):
    """The path leads out of the folder that pictures must lie in."""


def load_image(source: str | Path | bytes | Image.Image, root: str | Path | None = None) -> Image.Image:
    """Read one picture.

    Args:
        source (`str`, `Path`, `bytes` or `PIL.Image.Image`): a file, a file's content, or an open picture.
        root (`str` or `Path`, *optional*): the folder that a relative path starts from and that no path may leave.

    Returns:
        `PIL.Image.Image` in mode RGB, turned upright as its EXIF data say, transparent parts on white.

    Raises:
        ImageError: missing, not an image, too large, or outside `root` (each its own subclass).
    """
    if isinstance(source, Image.Image):
        return to_rgb(source)
    path = None if isinstance(source, bytes) else resolve_image_path(source, root)
    shown = "the picture" if path is None else str(source)
    with _typed_errors(shown), Image.open(path or io.BytesIO(source)) as image:  # type: ignore[arg-type]
        return to_rgb(ImageOps.exif_transpose(image))


def check_image(source: str | Path, root: str | Path | None = None) -> Path:
    """Make sure that a file is a picture without decoding it (header, and checksums where the format has them).

    Args:
        source (`str` or `Path`): the file.
        root (`str` or `Path`, *optional*): as in `load_image`.

    Returns:
        `Path`: the file's absolute path.

    Raises:
        ImageError: as `load_image`.
    """
    path = resolve_image_path(source, root)
    with _typed_errors(str(source)), Image.open(path) as image:
        image.verify()
    return path


def resolve_image_path(source: str | Path, root: str | Path | None = None) -> Path:
    """The absolute path of an existing file, symbolic links followed.

    Raises:
        ImageMissingError: no such file.
        ImageOutsideRootError: it does not lie in `root`.
    """
    text = str(source)
    if "://" in text:
        raise ImageMissingError(f"{text} is an address, not a file: download the picture and give its path")
    base = Path.cwd() if root is None else Path(root).resolve()
    try:
        path = (base / text).resolve()
        is_file, is_there = path.is_file(), path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, a loop of links
        raise ImageMissingError(f"{text[:80]!r} cannot be a path ({error}): give the path of a picture") from error
    if root is not None and not path.is_relative_to(base):
        raise ImageOutsideRootError(
            f"{text} lies outside {base}: move it there, or name a folder that holds all pictures"
        )
    if not is_file:
        found = "is not a file" if is_there else "does not exist"
        raise ImageMissingError(f"{text} {found} (looked for {path}): mend the path or put the picture there")
    return path


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB; transparent parts become white, 16-bit gray is scaled to 8 bits."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image if type(image) is Image.Image else image.copy()
    if image.mode.startswith("I;16"):  # PIL itself would cut it off at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("RGB")
    return image.convert("RGB")


@contextmanager
def _typed_errors(shown: str) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise ImageTooLargeError(f"{shown} has too many pixels (PIL warns above {limit}): make it smaller") from error
    except UnidentifiedImageError as error:
        raise ImageFormatError(f"{shown} is not an image file: replace it with a PNG, JPEG or WebP picture") from error
    except PermissionError as error:
        raise ImageMissingError(f"{shown} may not be read: change the file's permissions") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what PIL raises for damaged files
        raise ImageFormatError(f"{shown} is damaged ({error}): replace the picture") from error
