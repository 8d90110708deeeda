# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What can be told of one picture while a data set is checked: its size, format and digest, or why it is refused."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..images import ImageError, load_image
from ..pictures.colours import is_tensor, upright_size
from ..pictures.decoding import FORMATS, MAX_BYTES, MAX_PIXELS, check_extension, decoder_errors, open_bytes
from ..pictures.errors import ImageExtensionError
from ..pictures.sources import path_of, read_source, shown

THUMBNAIL_SIDE = 224
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# What a format ends with, for files that are read but not decoded.
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}


class Picture(NamedTuple):
    """One picture of a sample.

    Attributes:
        digest (`int`): of the file's content, 8 bytes.
        file (`int`): of the path, 8 bytes; 0 for a picture that has no file of its own.
        format (`str`): Pillow's name of the format; `"pixels"` for one that came decoded.
        height, width (`int`): in pixels, turned as its EXIF data say.
        wrong_extension (`str`): what is wrong with its name, empty if nothing is.
    """

    digest: int
    file: int
    format: str
    height: int
    width: int
    wrong_extension: str


def digest_of(content: bytes) -> int:
    """The first 8 bytes of a BLAKE2 digest: a million of them collide by chance once in thirty million sets."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def digest_of_path(path: str) -> int:
    """The same for `a.png` and `./a.png`."""
    return digest_of(os.path.normpath(path).encode("utf-8", "surrogatepass"))


class PictureReader:
    """Looks at pictures without decoding them, and decodes where that is asked for or the file looks cut.

    Without decoding, the header, the length, PNG's checksums and the end mark that PNG and JPEG have are checked. A
    file of those two formats without its mark is decoded, because some programs write more behind it.

    Args:
        decode (`bool`): Decode every picture.
        match_extension (`bool`, *optional*, defaults to `True`): Refuse a file whose name has the extension of another
            format, as training does unless told otherwise.
        kept (`int`, *optional*, defaults to 50,000): Files whose result is remembered, for sets that show a picture in
            several samples.
    """

    def __init__(self, decode: bool = False, match_extension: bool = True, kept: int = 50_000) -> None:
        self.decode, self.match_extension, self.kept = decode, match_extension, kept
        self._known: dict[tuple[str, str], Picture | ImageError] = {}

    def read_all(self, sources: Sequence[Any], root: str | Path | None = None) -> list[Picture] | ImageError:
        """The pictures of one sample, or the first error among them; `root` as in `load_image`."""
        found = []
        for number, source in enumerate(sources, start=1):
            name = f"picture {number}" if path_of(source) is None else None
            picture = self.read(source, root, name)
            if isinstance(picture, ImageError):
                return picture
            found.append(picture)
        return found

    def read(self, source: Any, root: str | Path | None = None, name: str | None = None) -> Picture | ImageError:
        """One picture, or why it is refused."""
        if isinstance(source, Mapping) and source.get("bytes") is None and source.get("path") is not None:
            source = source["path"]
        is_file = isinstance(source, (str, Path)) and path_of(source) is not None
        key = (str(root), str(source)) if is_file else None
        if key is not None and key in self._known:
            return self._known[key]
        picture: Picture | ImageError
        try:
            picture = self._read(source, root, name)
        except ImageError as error:
            picture = error.with_traceback(None)
        if key is not None:
            if len(self._known) >= self.kept:
                self._known.clear()
            self._known[key] = picture
        return picture

    def _read(self, source: Any, root: str | Path | None, name: str | None) -> Picture:
        label, path = shown(source, name), path_of(source)
        if isinstance(source, (Image.Image, np.ndarray)) or is_tensor(source):
            image = load_image(source, root, name=name)
            return Picture(digest_of(image.tobytes()), 0, "pixels", image.height, image.width, "")
        content = read_source(source, root, label, MAX_BYTES)
        image = open_bytes(content, label, FORMATS, MAX_PIXELS)
        kind = image.format or "unknown"
        wrong = ""
        if path is not None:
            try:
                check_extension(image, path, label)
            except ImageExtensionError as error:
                if self.match_extension:
                    raise
                wrong = str(error)
        height, width = _upright_size(image, content)
        if self.decode or _looks_cut(kind, content):
            if kind in ("JPEG", "MPO"):
                _decode_small(image, content, label)
            else:
                height, width = load_image(content, name=label).size[::-1]
        elif kind == "PNG":  # the only format with checksums, and the only one that Pillow verifies
            image = open_bytes(content, label, FORMATS, MAX_PIXELS)  # anew, since it may have been read for its turn
            with decoder_errors(label, content):
                image.verify()
        in_memory = isinstance(source, Mapping) and source.get("bytes") is not None
        file = 0 if path is None or in_memory else digest_of_path(path)
        # Only the later of two opened pictures knows that an MPO is a JPEG with further ones behind it.
        return Picture(digest_of(content), file, "JPEG" if kind == "MPO" else kind, height, width, wrong)


def thumbnail(source: Any, root: str | Path | None, name: str) -> bytes:
    """A small JPEG of the picture, at most `THUMBNAIL_SIDE` pixels a side.

    Raises:
        ImageError: it cannot be decoded.
    """
    if not (isinstance(source, (Image.Image, np.ndarray)) or is_tensor(source)):
        label = shown(source, name)
        source = open_bytes(read_source(source, root, label, MAX_BYTES), label, FORMATS, MAX_PIXELS)
        # A JPEG decodes at a half, quarter or eighth of its size; twice what is needed hides that.
        source.draft(source.mode, (2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))
        name = label
    image = load_image(source, root, name=name)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _decode_small(image: Image.Image, content: bytes, label: str) -> None:
    """Decode a JPEG at an eighth of its size: all of the file is read, and most of the arithmetic left out."""
    with decoder_errors(label, content):
        image.draft(image.mode, (1, 1))
        image.load()


def _looks_cut(kind: str, content: bytes) -> bool:
    mark = _ENDS.get(kind)
    if mark is not None:
        return mark not in content[-1000:]
    if kind == "WEBP":
        return int.from_bytes(content[4:8], "little") + 8 > len(content)
    if kind == "GIF":
        return b";" not in content[-2:]
    return True  # the others are rare and say nowhere where they end


def _upright_size(image: Image.Image, content: bytes) -> tuple[int, int]:
    """(height, width) after the turn that `load_image` makes, as `image_size` gives it."""
    # A PNG's data may follow its pixels, so that Pillow would decode these to look.
    may_turn = image.format != "PNG" or b"eXIf" in content or b"exif" in content
    return upright_size(image) if may_turn else (image.height, image.width)
