# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Data sets of conversations to train on, from any place and layout: by index, or as a stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SailvitError
from .formats import FORMATS, RowError, to_conversation
from .images import ImageError, image_size
from .reading import row_place
from .sources import Place, Slot, file_slots, find_place, open_with_datasets, picture_root, read_in_order

Row = dict[str, Any]
"""`messages`, `images`, `id`, `where` (what messages call it) and `image_root` (for `load_image`; perhaps None)."""


class UnusableRowError(SailvitError):
    """A row that cannot be trained on; `reason` says why in two or three words."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Reader:
    """Turns rows as they are stored into conversations.

    Args:
        format: see `formats.to_conversation`.
        image_root: the folder that relative paths of pictures start from and that none may leave.
    """

    format: str = "auto"
    image_root: str | None = None

    def __call__(self, where: str, load: Callable[[], Any]) -> Row:
        """One conversation.

        Raises:
            UnusableRowError: it cannot be trained on; the message begins with where it stands.
        """
        try:
            messages, images, own = to_conversation(load(), self.format)
        except RowError as error:
            raise UnusableRowError(f"{where}: {error}", error.reason) from error
        return {"messages": messages, "images": images, "id": own, "where": where, "image_root": self.image_root}


class Conversations(Sequence):
    """Conversations by index, read when they are asked for; pictures are named, not opened.

    Made by `load_conversations`. What it keeps in memory are the places of the rows in their files, or a memory-mapped
    `datasets.Dataset`, so that it can be handed to the workers of a data loader, forked or spawned.
    """

    column_names = ("messages", "images", "id", "where", "image_root")

    def __init__(self, rows: Any, reader: Reader, label: str, place: Place | None = None) -> None:
        self.rows, self.reader, self.label, self.place = rows, reader, label, place

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        if isinstance(self.rows, PackedSlots):
            slot = self.rows[index]
            return self.reader(slot.label, slot.read)
        row = self.rows[index].to_pylist()[0]
        return self.reader(row_place(self.label, index + 1, row), lambda: row)

    def readers(self) -> Iterator[Callable[[], Row]]:
        """What reads each row, in order; of rows that `datasets` reads the first only: they may be long."""
        if isinstance(self.rows, PackedSlots):
            for slot, read in read_in_order(self.rows):
                yield partial(self.reader, slot.label, read)
        else:
            yield partial(self.__getitem__, 0)

    def where(self, index: int) -> str:
        """What messages call a row."""
        packed = isinstance(self.rows, PackedSlots)
        return self.rows[index].label if packed else f"{self.label}, row {index + 1}"


class PackedSlots(Sequence):
    """Slots in one block of memory: a list of as many objects would be copied by every worker that looks at it."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        self.files: list[str] = []
        content, ends = bytearray(), []
        for slot in slots:
            if not self.files or self.files[-1] != slot.file:
                self.files.append(slot.file)
            content += json.dumps([len(self.files) - 1, slot.label, slot.spans, slot.key]).encode()
            ends.append(len(content))
        self.content, self.ends = bytes(content), np.array([0, *ends], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: Any) -> Any:
        file, label, spans, key = json.loads(self.content[self.ends[index] : self.ends[index + 1]])
        return Slot(self.files[file], label, tuple(tuple(span) for span in spans), key)


def load_conversations(
    path: str | Path,
    *,
    format: str = "auto",
    image_root: str | Path | None = None,
    split: str = "train",
    name: str | None = None,
    revision: str | None = None,
) -> Conversations:
    """Conversations by index; see `read_entries` for the arguments.

    Of JSON files and tars every row is read once here; of others, which may be long, the first. Pictures are opened in
    training, but for those of the first row that has any: a wrong `image_root` shows now.

    Raises:
        UnusableRowError: a row cannot be trained on; the message says where it stands, why, and how many others.
        SailvitError: there is no such data set, or it is empty.
    """
    place, reader = _find(path, format, image_root)
    if place.has_slots:
        rows: Any = PackedSlots(slot for file in place.files for slot in file_slots(file, name=place.called(file)))
    else:
        rows = open_with_datasets(place, split=split, name=name, revision=revision, streaming=False)
        rows = rows.with_format("arrow")
    if not len(rows):
        raise SailvitError(f"{place.name} holds no conversation: write one a line, or name another split")
    loaded = Conversations(rows, reader, f"{place.name} ({split})", place)
    _check(loaded)
    return loaded


def _check(rows: Conversations) -> None:
    first: UnusableRowError | None = None
    bad, pictures = 0, True
    for read in rows.readers():
        try:
            row = read()
        except UnusableRowError as error:
            first, bad = first or error, bad + 1
            continue
        if row["images"] and pictures:
            check_pictures(row)
            pictures = False
    if first is not None:
        more = f" ({bad - 1} more rows cannot be used)" if bad > 1 else ""
        raise UnusableRowError(f"{first}{more}", first.reason) from first


def check_pictures(row: Row) -> None:
    """Make sure that the pictures of a row can be found and opened.

    Raises:
        SailvitError: one cannot; the sentence begins with where the row stands.
    """
    for picture in row["images"]:
        try:
            image_size(picture, row["image_root"])
        except ImageError as error:
            raise SailvitError(f"{row['where']}: {error}") from error


def _find(path: str | Path, format: str, image_root: str | Path | None) -> tuple[Place, Reader]:
    if format != "auto" and format not in FORMATS:
        raise SailvitError(f"there is no layout {format}: choose auto, {', '.join(FORMATS)}")
    place = find_place(path)
    return place, Reader(format, str(picture_root(place, image_root)))
