# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""From a file's bytes to pixels, with Pillow's limits left as they are."""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from ...errors import SailvitError
from .errors import (
    ImageDamagedError,
    ImageEmptyError,
    ImageError,
    ImageExtensionError,
    ImageFormatError,
    ImageTooLargeError,
    ImageTruncatedError,
    ImageUnsupportedError,
)

# Those that pictures on the web and in data sets come in. Pillow reads more than twice as many: some call a program
# (EPS, WMF), some are read by slow Python code, and each is one more parser for hostile bytes.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
# Pillow's own default for the size that it warns at.
MAX_PIXELS = 89_478_485
# Ours: Pillow's WebP decoder takes 16 bytes a pixel while it works, and this keeps it within 1 GB.
MAX_WEBP_PIXELS = 60_000_000
# Ours: as much as the largest picture allowed takes as an uncompressed BMP.
MAX_BYTES = 256 * 2**20
# Ours: libjpeg goes over the whole picture once a scan, and a scan may be a dozen bytes, so that a small file could
# hold it up for hours; half a nanosecond a pixel and scan. Encoders write up to about ten scans.
MAX_JPEG_SCAN_PIXELS = 2_000_000_000

# Ours: before 13, Pillow copies a GIF's comment once for each 255 bytes of it; 4 MB take 4 s and 16 MB over a minute.
MAX_GIF_COMMENT = 2**20

_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What else people take for pictures, and whether other programs do; matched at the first byte that is no space.
_OTHERS = (
    (rb"<(?:!doctype html|html|head|body|script)", "an HTML page", False),
    (rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?(?:<!doctype svg[^>]*>\s*)?<svg", "an SVG drawing", True),
    (rb"<\?xml", "an XML document", False),
    (rb"[{\[]\s*[\"{\[\]}]", "JSON text", False),
    (rb"version https://git-lfs", "a Git LFS pointer", False),
    (rb"%PDF", "a PDF document", True),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "an EPS drawing", True),
    (rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF", "a WMF drawing", True),
    (rb".{4}ftyp(?:avif|avis)", "an AVIF picture", True),
    (rb".{4}ftyp(?:heic|heix|mif1|msf1|hevc)", "a HEIC picture", True),
    (rb".{4}ftyp", "a video", False),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture", True),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture", True),
    (rb"8BPS", "a Photoshop picture", True),
    (rb"\0\0[\x01\x02]\0", "an icon", True),
    (rb"P[1-7][\s#]", "a PNM picture", True),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "an archive", False),
)


def begins_like_a_picture(data: bytes) -> bool:
    """Whether the first bytes are those of one of `FORMATS`."""
    return data.startswith(_SIGNATURES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def open_bytes(data: bytes, label: str, formats: Sequence[str], max_pixels: int) -> Image.Image:
    """Open a picture without decoding it; its size is checked.

    Raises:
        ImageError: it is no picture of these formats, or too large.
        SailvitError: Pillow reads no such format.
    """
    _check_formats(formats)
    if not data:
        raise ImageEmptyError(f"{label} is empty (zero bytes): replace it with the picture")
    if data.startswith(b"GIF8") and _gif_comment(data) > MAX_GIF_COMMENT:
        raise ImageTooLargeError(
            f"{label} is a GIF with a comment of megabytes, made to take long: replace the picture"
        )
    with decoder_errors(label, data):
        image = Image.open(io.BytesIO(data), formats=list(formats))
    check_pixels(image.size, label, min(max_pixels, MAX_WEBP_PIXELS) if image.format == "WEBP" else max_pixels)
    scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 1
    if scans * image.width * image.height > MAX_JPEG_SCAN_PIXELS:
        raise ImageTooLargeError(f"{label} is a JPEG of {scans} scans, made to take long: replace the picture")
    return image


def decode(data: bytes, label: str, formats: Sequence[str], max_pixels: int, path: str | None) -> Image.Image:
    """Open and decode a picture, in its own mode; `path`: if given, its extension must be the content's."""
    image = open_bytes(data, label, formats, max_pixels)
    if path is not None:
        check_extension(image, path, label)
    with decoder_errors(label, data):
        image.load()
    # Only decoding tells the size of a few files (a GIF's frame beyond its screen).
    check_pixels(image.size, label, max_pixels)
    return image


def check_extension(image: Image.Image, path: str, label: str) -> None:
    """Refuse a file whose name has the extension of another format; one that is no picture's says nothing."""
    extension = os.path.splitext(path)[1].lower()
    said = Image.registered_extensions().get(extension)
    # MPO is a JPEG with further pictures behind it.
    if said is not None and said != image.format and {said, image.format} != {"JPEG", "MPO"}:
        raise ImageExtensionError(f"{label} is a {image.format} file in spite of its name: rename or convert it")


def _check_formats(formats: Sequence[str]) -> None:
    if formats is not FORMATS:
        Image.init()
        if unknown := sorted({name.upper() for name in formats} - set(Image.OPEN)):
            raise SailvitError(f"this Pillow does not read {', '.join(unknown)}: choose from {', '.join(FORMATS)}")


def _gif_comment(data: bytes) -> int:
    """The bytes of comments before a GIF's first frame (GIF89a specification, sections 15 to 24)."""
    if len(data) <= MAX_GIF_COMMENT:
        return 0
    # The screen's descriptor, then its colours, three bytes each, if there are any.
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    total = 0
    while data[at : at + 1] == b"!":
        is_comment = data[at + 1 : at + 2] == b"\xfe"
        at += 2
        while at < len(data) and (length := data[at]):
            total += length if is_comment else 0
            at += 1 + length
        at += 1
    return total


def check_pixels(size: tuple[int, int], label: str, max_pixels: int) -> None:
    """Refuse a picture with more pixels than `max_pixels` or Pillow's limit, or with none."""
    width, height = size
    # Pillow's own limit is a warning up to twice this size, and somebody may have switched it off.
    limit = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    if width * height > limit:
        raise ImageTooLargeError(f"{label} has too many pixels ({width} x {height}, allowed {limit}): make it smaller")
    if min(width, height) < 1:
        raise ImageEmptyError(f"{label} has no pixels ({width} x {height}): replace the picture")


@contextmanager
def decoder_errors(label: str, data: bytes = b"") -> Iterator[None]:
    """Whatever Pillow raises within, as an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise ImageTooLargeError(f"{label} has too many pixels (allowed {limit}): make it smaller") from error
    except MemoryError as error:
        raise ImageTooLargeError(f"{label} does not fit into memory: make it smaller") from error
    except UnidentifiedImageError as error:
        raise _unidentified(label, data) from error
    except Exception as error:  # plugins raise whatever damaged bytes make of them, down to TypeError
        said = " ".join(str(error).split())[:200] or type(error).__name__
        if _is_cut(data, said):
            said = f"it ends too early, {said}"
            raise ImageTruncatedError(f"{label} is damaged ({said}): replace the picture") from error
        raise ImageDamagedError(f"{label} is damaged ({said}): replace the picture") from error


def _unidentified(label: str, data: bytes) -> ImageFormatError:
    head = data[:1000].removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, kind, is_picture in _OTHERS:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            error = ImageUnsupportedError if is_picture else ImageFormatError
            return error(f"{label} is not an image file but {kind}: replace it with a PNG, JPEG or WebP picture")
    if begins_like_a_picture(data):
        if _is_cut(data, ""):
            return ImageTruncatedError(f"{label} is damaged (it ends too early): replace the picture")
        return ImageDamagedError(f"{label} is damaged (its header makes no sense): replace the picture")
    return ImageFormatError(f"{label} is not an image file: replace it with a PNG, JPEG or WebP picture")


def _is_cut(data: bytes, said: str) -> bool:
    """Whether a file that does not decode ends before its format says."""
    if re.search(r"truncated|unexpected end|not enough (?:image )?data", said, re.IGNORECASE):
        return True
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-1000:]
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[-1000:]
    if data.startswith(b"GIF8"):
        return b";" not in data[-2:]
    if data[:4] == b"RIFF" and len(data) >= 8:
        return bool(struct.unpack("<I", data[4:8])[0] + 8 > len(data))
    if data[:2] == b"BM" and len(data) >= 6:
        return bool(struct.unpack("<I", data[2:6])[0] > len(data))
    return False
