# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""All entries of a data set in order, those that cannot be used among them: what a check of a data set reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SailvitError
from .formats import FORMATS, RowError, to_conversation
from .sources import Place, file_slots, find_place, open_with_datasets, picture_root, stored_rows, told


@dataclass(frozen=True)
class Entry:
    """A conversation and where it stands.

    Attributes:
        where: such as "train.jsonl, line 12".
        messages: `{"role", "content"}`, the content as parts of type `text` or `image`.
        images: a source for `load_image` for each image part, not opened yet.
        id: the entry's own name, if it has one.
        root: the folder that relative paths in `images` start from and that none may leave, for `load_image`.
    """

    where: str
    messages: list[dict[str, Any]]
    images: list[Any]
    id: str | None = None
    root: str | None = None


@dataclass(frozen=True)
class BrokenEntry:
    """An entry that cannot be used: where it stands, the reason in two or three words, and in a sentence."""

    where: str
    reason: str
    message: str


def read_entries(
    path: str | Path,
    *,
    format: str = "auto",
    image_root: str | Path | None = None,
    split: str = "train",
    name: str | None = None,
    revision: str | None = None,
    streaming: bool = True,
) -> Iterator[Entry | BrokenEntry]:
    """Read a data set once, in order, one entry at a time; no picture is opened.

    Args:
        path (`str` or `Path`): a JSONL or JSON file, Parquet, a WebDataset tar, a folder or pattern of these, a folder
            that `Dataset.save_to_disk` wrote, or a Hub id.
        format (`str`, *optional*, defaults to `"auto"`): the layout of the rows, see `formats.to_conversation`.
        image_root (`str` or `Path`, *optional*): the folder that relative paths of pictures start from; by default
            the one that the file lies in, and for the Hub the cache.
        split, name, revision (*optional*): of a data set on the Hub or a saved one.
        streaming (`bool`, *optional*, defaults to `True`): read on the way; `False` lets `datasets` fetch and prepare
            everything first.

    Yields:
        `Entry` or `BrokenEntry`. A file of which nothing more can be read is one broken entry.

    Raises:
        SailvitError: there is no such data set, or no such layout.
    """
    if format != "auto" and format not in FORMATS:
        raise SailvitError(f"there is no layout {format}: choose auto, {', '.join(FORMATS)}")
    place = find_place(path)
    folder = str(picture_root(place, image_root))
    for where, row in _rows(place, split, name, revision, streaming):
        if isinstance(row, BrokenEntry):
            yield row
            continue
        try:
            if isinstance(row, RowError):
                raise row
            messages, images, own = to_conversation(row, format)
        except RowError as error:
            yield BrokenEntry(where, error.reason, str(error))
        else:
            yield Entry(where, messages, images, own, folder)


def _rows(
    place: Place, split: str, name: str | None, revision: str | None, streaming: bool
) -> Iterator[tuple[str, Any]]:
    """Every row with its place; a file that cannot be read, or not further, is a `BrokenEntry`."""
    if place.has_slots:
        for file in place.files:
            try:
                for slot in file_slots(file, name=place.called(file)):
                    try:
                        row = slot.read()
                    except RowError as error:
                        row = error
                    yield slot.label, row
            except SailvitError as error:
                yield place.called(file), BrokenEntry(place.called(file), "unreadable file", str(error))
        return
    options: dict[str, Any] = {"split": split, "name": name, "revision": revision, "streaming": streaming}
    parts: list[tuple[Path, ...]] = [(file,) for file in place.files] or [()]
    for part in parts:
        label = part[0].name if part else f"{place.name} ({split})"
        number = 0
        try:
            dataset = open_with_datasets(place, files=part or None, **options)
        except SailvitError as error:
            if len(place.files) < 2:
                raise
            yield label, BrokenEntry(label, "unreadable file", str(error))
            continue
        rows = stored_rows(dataset)
        while True:
            try:
                with told(label):
                    row = next(rows, None)
            except SailvitError as error:
                yield label, BrokenEntry(label, "unreadable file", f"after {number} rows: {error}")
                break
            if row is None:
                break
            number += 1
            yield row_place(label, number, row), row


def row_place(label: str, number: int, row: Any) -> str:
    """Where a row stands: a sample of a tar (on the Hub) has a name, the others a number."""
    key = row.get("__key__") if isinstance(row, dict) else None
    return f"{label}, row {number}" if key is None else f"{label}, sample {key}"
