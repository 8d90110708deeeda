# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Why a picture is refused: one type for each cause, so that they can be counted and told apart."""

from __future__ import annotations

from typing import ClassVar

from ...errors import SailvitError


class ImageError(SailvitError):
    """A picture that cannot be used; the message names it, says why and how to mend it.

    Attributes:
        reason (`str`): the cause in two or three words, the same for all errors of a type; made for tables.
        sample (`str`, *optional*): the name that the caller gave the picture.
    """

    reason: ClassVar[str] = "unusable"

    def __init__(self, message: str, sample: str | None = None) -> None:
        super().__init__(message)
        self.sample = sample


class ImageMissingError(ImageError):
    """Nothing to read is there."""

    reason = "missing"


class ImageAddressError(ImageMissingError):
    """An address (http, https, file and others) where a file's path belongs; nothing is ever downloaded."""

    reason = "an address"


class ImageLinkLoopError(ImageMissingError):
    """A symbolic link that leads back to itself."""

    reason = "loop of links"


class ImageNotAFileError(ImageMissingError):
    """A folder, pipe, socket or device: it has no content of a known length."""

    reason = "not a file"


class ImageUnreadableError(ImageMissingError):
    """It is there but cannot be read: permissions, or the disk."""

    reason = "unreadable"


class ImageOutsideRootError(ImageError):
    """The path, or a link on it, leads out of the folder that pictures must lie in."""

    reason = "outside the folder"


class ImageTooLargeError(ImageError):
    """The picture has more pixels than allowed (a decompression bomb)."""

    reason = "too many pixels"


class ImageFileTooLargeError(ImageTooLargeError):
    """The file has more bytes than allowed."""

    reason = "too many bytes"


class ImageFormatError(ImageError):
    """The content is not a picture that can be used."""

    reason = "not a picture"


class ImageEmptyError(ImageFormatError):
    """Zero bytes, or no pixels."""

    reason = "empty"


class ImageUnsupportedError(ImageFormatError):
    """A format that is not on the list of those opened, or colours without a meaning in RGB."""

    reason = "unsupported"


class ImageExtensionError(ImageFormatError):
    """The file's name says another format than its content; refused only where that is asked for."""

    reason = "wrong extension"


class ImageDamagedError(ImageFormatError):
    """It begins like a picture but does not decode."""

    reason = "damaged"


class ImageTruncatedError(ImageDamagedError):
    """It ends too early."""

    reason = "truncated"


class ImageValueError(ImageFormatError):
    """A value of a type, shape or range that is no picture."""

    reason = "not a picture's value"
