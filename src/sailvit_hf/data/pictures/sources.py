# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Where pictures come from: paths (kept within a folder), bytes, base64, dictionaries of `datasets`, open files."""

from __future__ import annotations

import base64
import binascii
import errno
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from .decoding import begins_like_a_picture
from .errors import (
    ImageAddressError,
    ImageEmptyError,
    ImageError,
    ImageFileTooLargeError,
    ImageLinkLoopError,
    ImageMissingError,
    ImageNotAFileError,
    ImageOutsideRootError,
    ImageUnreadableError,
    ImageValueError,
)

# "://" also stands in the chained addresses of fsspec, such as zip://a.png::https://example.org/b.zip.
_ADDRESS = re.compile(r"(?:file:|[^/]*?://)", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
# Shorter text is taken for a path; the smallest pictures take more than this.
_BASE64_MINIMUM = 40


def shown(source: Any, name: str | None = None) -> str:
    """What a message calls a picture: its path, its name, or both."""
    text = path_of(source)
    if name is not None:
        text = name if text is None or text == name else f"{name} ({text})"
    if text is None:
        return "the picture"
    # A message stays one line, whatever a data set calls its pictures.
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= 200 else f"{text[:97]} ... {text[-98:]}"


def path_of(source: Any) -> str | None:
    """The path that a source is or has, as it was given."""
    path = source.get("path") if isinstance(source, Mapping) else source
    if isinstance(path, str) and (path[:5].lower() == "data:" or _begins_like_base64(path)):
        return None
    return str(path) if isinstance(path, (str, os.PathLike)) else None


def read_source(source: Any, root: str | Path | None, label: str, max_bytes: int) -> bytes:
    """The content of a picture's file, from wherever it is; at most `max_bytes`."""
    if isinstance(source, Mapping):
        source = _from_row(source, label)
    if isinstance(source, str):
        content = _from_text(source, root, label, max_bytes)
        source = source if content is None else content
    if isinstance(source, (str, os.PathLike)):
        return read_file(resolve_path(source, root, label), label, max_bytes)
    if hasattr(source, "read"):
        source = _from_reader(source, label, max_bytes)
    if not isinstance(source, (bytes, bytearray, memoryview)):
        raise ImageValueError(f"{label} is given as {type(source).__name__}: give a path, bytes, or an open picture")
    content = bytes(source)
    _check_length(len(content), label, max_bytes)
    return content


def resolve_path(source: str | os.PathLike[str], root: str | Path | None, label: str) -> Path:
    """The absolute path of an existing regular file, symbolic links followed; nothing is opened."""
    text = os.fspath(source)
    if not isinstance(text, str):
        raise ImageValueError(f"{label} is given as a path of bytes: give it as text")
    if _ADDRESS.match(text):
        raise ImageAddressError(f"{label} is an address, not a file: download the picture and give its path")
    base = os.path.realpath(os.curdir if root is None else root)
    try:
        path = Path(os.path.realpath(os.path.join(base, text)))
        # Before anything is asked about the file itself: what lies outside is none of our business.
        if root is not None and not path.is_relative_to(base):
            raise ImageOutsideRootError(
                f"{label} lies outside {base}: move it there, or name a folder that holds all pictures"
            )
        mode = os.stat(path).st_mode
    except ImageError:  # a ValueError, too
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        wanted = f"looked for {path}" if len(str(path)) <= 500 else "a very long path"
        raise ImageMissingError(
            f"{label} does not exist ({wanted}): mend the path or put the picture there"
        ) from error
    except (OSError, ValueError) as error:
        raise _unreachable(error, label) from error
    _check_regular(mode, label)
    return path


def read_file(path: Path, label: str, max_bytes: int) -> bytes:
    """The content of a regular file, and of nothing else even if it is swapped after `resolve_path`."""
    try:
        # Non-blocking: opening a pipe that nobody writes to would wait for ever.
        flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
        with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags)) as file:
            status = os.fstat(file.fileno())
            _check_regular(status.st_mode, label)
            _check_length(status.st_size, label, max_bytes)
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise _unreachable(error, label) from error
    _check_length(len(content), label, max_bytes)
    return content


def _unreachable(error: Exception, label: str) -> ImageMissingError:
    code = getattr(error, "errno", None)
    if code == errno.ELOOP:
        return ImageLinkLoopError(f"{label} is a loop of symbolic links: replace the link with the picture")
    if code in (errno.EACCES, errno.EPERM):
        return ImageUnreadableError(f"{label} may not be read: change the file's permissions")
    if isinstance(error, ValueError) or code == errno.ENAMETOOLONG:  # a null byte, or too long
        said = getattr(error, "strerror", None) or error
        return ImageMissingError(f"{label} cannot be a path ({said}): give the path of a picture")
    return ImageUnreadableError(f"{label} cannot be read ({error}): copy the picture to a disk that works")


def _check_regular(mode: int, label: str) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise ImageNotAFileError(f"{label} is not a file but {kind}: give the path of a picture")


def _check_length(length: int, label: str, max_bytes: int) -> None:
    if length > max_bytes:
        raise ImageFileTooLargeError(
            f"{label} has more than {max_bytes} bytes: make the picture smaller, or raise max_bytes"
        )


def _from_row(row: Mapping[str, Any], label: str) -> Any:
    if row.get("bytes") is not None:
        return row["bytes"]
    if row.get("path") is None:
        raise ImageMissingError(f'{label} has neither "bytes" nor a "path": give one of them')
    return row["path"]


def _from_reader(file: Any, label: str, max_bytes: int) -> Any:
    try:
        return file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: closed, or text that does not decode
        raise ImageUnreadableError(f"{label} cannot be read ({error}): open the file again, as bytes") from error


def _from_text(text: str, root: str | Path | None, label: str, max_bytes: int) -> bytes | None:
    """The bytes that a text holds, or None if it is a path."""
    if len(text) > 4 * max_bytes + 1000:  # percent signs triple, line ends of base64 add little
        _check_length(len(text), label, max_bytes)
    if text[:5].lower() == "data:":
        head, comma, body = text.partition(",")
        if not comma:
            raise ImageValueError(f"{label} is a data URI without a comma: write data:image/png;base64,...")
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(body)
        content = _decoded(body)
        if content is None:
            raise ImageValueError(f"{label} is not valid base64: encode the picture's bytes again")
        if not content:
            raise ImageEmptyError(f"{label} is empty (zero bytes): put the picture's bytes into the data URI")
        return content
    if not text:
        raise ImageMissingError(f"{label} is an empty text: give the path of a picture")
    content = _from_base64(text)
    if content is None or (len(text) < 4096 and os.path.exists(os.path.join(root or os.curdir, text))):
        return None
    return content


def _from_base64(text: str) -> bytes | None:
    """The bytes of a base64 text that holds a picture. It has no dot, which a picture's path does have."""
    return _decoded(text) if _begins_like_base64(text) and _BASE64.fullmatch(text) else None


def _begins_like_base64(text: str) -> bool:
    start = _decoded(text[:24]) if len(text) >= _BASE64_MINIMUM and "." not in text[:_BASE64_MINIMUM] else None
    return start is not None and begins_like_a_picture(start)


def _decoded(text: str) -> bytes | None:
    packed = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
