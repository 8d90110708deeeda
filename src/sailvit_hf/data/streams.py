# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Conversations as streams: too many to prepare, or on the Hub; split into lanes that are read side by side.

A lane is what one worker of one process reads. The lanes of a source hold each of its rows once: whole files where
there are at least as many as lanes, else every so manieth row (rows of others are passed over unread, where their
place in a file is known).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from .reading import row_place
from .rows import Conversations, Reader, Row, _find, check_pictures
from .sources import Place, Slot, file_slots, open_with_datasets, stored_rows, told

T = TypeVar("T")
SHUFFLE_BUFFER = 256  # rows; of a stream whose rows come with their pictures they all lie in memory


class Pending(NamedTuple):
    """A row that is not read yet: where it stands, and how to read it (which may raise `UnusableRowError`)."""

    where: str
    read: Callable[[], Any]


class Source(Protocol):
    """What a stream is made of."""

    def one_pass(self, number: int, lane: int, lanes: int) -> Iterator[Pending]:
        """The rows of one lane in the pass of this number (from 0), the same ones in every run."""
        ...


class ConversationStream:
    """One source of conversations, read on the way; see `read_entries` for the arguments.

    Args:
        max_samples (`int`, *optional*): read only this many, the first ones.
        shuffle_buffer (`int`, *optional*, defaults to 256): rows that each lane draws its next one from; 0 keeps the
            order. Without `max_samples` files are shuffled, too.
        seed (`int`, *optional*, defaults to 0): of the order; every pass has another one.

    Raises:
        SailvitError: there is no such data set, or the first row (its pictures among it) cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        format: str = "auto",
        image_root: str | Path | None = None,
        split: str = "train",
        name: str | None = None,
        revision: str | None = None,
        max_samples: int | None = None,
        shuffle_buffer: int = SHUFFLE_BUFFER,
        seed: int = 0,
    ) -> None:
        self.place, self.reader = _find(path, format, image_root)
        self.label = f"{self.place.name} ({split})"
        self.max_samples, self.shuffle_buffer, self.seed = max_samples, shuffle_buffer, seed
        self.dataset: Any = None
        if not self.place.has_slots:
            self.dataset = open_with_datasets(self.place, split=split, name=name, revision=revision)
        first = next(self._rows(None, 0, 1, None), None)
        if first is not None:
            check_pictures(first.read())

    def one_pass(self, number: int, lane: int, lanes: int) -> Iterator[Pending]:
        """See `Source`."""
        rng = random.Random(f"{self.seed}/{number}")
        order = rng if self.shuffle_buffer and self.max_samples is None else None
        rows = self._rows(order, lane, lanes, self.max_samples)
        return shuffled(rows, random.Random(f"{self.seed}/{number}/{lane}/{lanes}"), self.shuffle_buffer)

    def _rows(self, order: random.Random | None, lane: int, lanes: int, most: int | None) -> Iterator[Pending]:
        if self.dataset is None:
            return _file_rows(self.place, self.reader, order, lane, lanes, most)
        return _dataset_rows(self.dataset, self.reader, self.label, order, lane, lanes, most)


def _file_rows(
    place: Place, reader: Reader, order: random.Random | None, lane: int, lanes: int, most: int | None
) -> Iterator[Pending]:
    files = list(place.files)
    if order is not None:
        order.shuffle(files)
    by_file = len(files) >= lanes and most is None
    slots: Iterator[Slot] = (s for file in (files[lane::lanes] if by_file else files) for s in file_slots(file))
    if not by_file:
        slots = islice(slots, lane, most, lanes)
    for slot in slots:
        yield Pending(slot.label, lambda slot=slot: reader(slot.label, slot.read))  # type: ignore[misc]


def _dataset_rows(
    dataset: Any, reader: Reader, label: str, order: random.Random | None, lane: int, lanes: int, most: int | None
) -> Iterator[Pending]:
    files = list(range(dataset.num_shards))
    if order is not None:
        order.shuffle(files)
    by_file = len(files) >= lanes and most is None
    # One by one: the shuffling of `datasets` itself reads several at once in threads, and waits for them at the end.
    chosen = files[lane::lanes] if by_file else files
    one_by_one = (row for i in chosen for row in stored_rows(dataset.shard(num_shards=len(files), index=i)))
    rows: Iterator[tuple[int, Any]] = enumerate(one_by_one, start=1)
    if not by_file:
        rows = islice(rows, lane, most, lanes)
    while True:
        with told(label):
            number, row = next(rows, (0, None))
        if row is None:
            return
        where = row_place(label if not by_file or lanes == 1 else f"{label}, part {lane + 1} of {lanes}", number, row)
        yield Pending(where, lambda where=where, row=row: reader(where, lambda: row))  # type: ignore[misc]


def shuffled(items: Iterable[T], rng: random.Random, buffer: int) -> Iterator[T]:
    """Each next one drawn from the next `buffer` ones."""
    held: list[T] = []
    for item in items:
        if len(held) < buffer:
            held.append(item)
            continue
        if not buffer:
            yield item
            continue
        at = rng.randrange(buffer)
        held[at], item = item, held[at]
        yield item
    rng.shuffle(held)
    yield from held


class IndexedSource:
    """A data set with indices as a source of a stream; every pass in another order.

    Args:
        rows: anything with a length and indices.
        max_samples, seed: as in `ConversationStream`; the samples are a random choice, the same in every pass.
    """

    def __init__(self, rows: Any, max_samples: int | None = None, seed: int = 0) -> None:
        self.rows, self.seed = rows, seed
        chosen = list(range(len(rows)))
        if max_samples is not None and max_samples < len(chosen):
            chosen = sorted(random.Random(f"{seed}/choice").sample(chosen, max_samples))
        self.chosen: Sequence[int] = chosen

    def one_pass(self, number: int, lane: int, lanes: int) -> Iterator[Pending]:
        """See `Source`."""
        order = list(self.chosen)
        random.Random(f"{self.seed}/{number}").shuffle(order)
        for index in order[lane::lanes]:
            where = self.rows.where(index) if isinstance(self.rows, Conversations) else f"sample {index}"
            yield Pending(where, lambda index=index: self.rows[index])  # type: ignore[misc]


class IterableSource:
    """A person's own iterable data set as a source: it must give the same rows in the same order in every process.

    A `datasets.IterableDataset` is read as it is stored, its pictures not decoded, by whole files where there are
    enough. Of others every lane reads all rows and keeps its own.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def one_pass(self, number: int, lane: int, lanes: int) -> Iterator[Pending]:
        """See `Source`."""
        rows = self.dataset
        if hasattr(rows, "set_epoch"):
            rows.set_epoch(number)
        by_file = getattr(rows, "num_shards", 0) >= lanes and hasattr(rows, "shard")
        if by_file:
            rows = rows.shard(num_shards=lanes, index=lane)
        if hasattr(rows, "num_shards") and hasattr(rows, "iter"):
            rows = stored_rows(rows) if rows.features is not None else _one_by_one(rows)
        numbered: Iterator[tuple[int, Row]] = zip(count(), rows)  # noqa: B905 - one of the two never ends
        if not by_file:
            numbered = islice(numbered, lane, None, lanes)
        for index, row in numbered:
            yield Pending(f"row {index + 1}", lambda row=row: row)  # type: ignore[misc]


def _one_by_one(dataset: Any) -> Iterator[Row]:
    """Every row in every worker of a data loader; the data set's own iterator would split them."""
    for batch in dataset.iter(batch_size=1):
        yield {key: values[0] for key, values in batch.items()}
