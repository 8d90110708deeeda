# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Conversations as streams: too many to prepare, or on the Hub; split into lanes that are read side by side.

The lanes of a source hold each of its rows once: whole files where there are at least as many as lanes, else every so
manieth row (rows of others are passed over unread, where their place in a file is known). Each knows its place in the
files, so that it goes on from there without reading what came before.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from .permutation import seeded_order
from .reading import row_place
from .rows import Conversations, Reader, Row, _find, check_pictures
from .sources import ROWS_AT_ONCE, Place, file_slots, open_with_datasets, stored_rows, told

T = TypeVar("T")
SHUFFLE_BUFFER = 256  # rows; of a stream whose rows come with their pictures they all lie in memory


def short_digest(value: Any) -> str:
    """What tells a value that JSON can hold from others."""
    return sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Pending(NamedTuple):
    """A row that is not read yet: where it stands, and how to read it (which may raise `UnusableRowError`)."""

    where: str
    read: Callable[[], Any]


Rows = Callable[[Any], Iterator[tuple[Any, Pending]]]
"""Rows from a place (as JSON) on, each with its own place; from `None` on all."""


class Pass(Protocol):
    """The rows of one lane in one pass."""

    def __iter__(self) -> Iterator[Pending]: ...

    def __next__(self) -> Pending: ...

    def cursor(self) -> Any:
        """Where it stands, as JSON: `Source.one_pass` goes on from there."""
        ...


class Source(Protocol):
    """What a stream is made of.

    Attributes:
        identity: what a cursor hangs on, in a few signs: the same files, read in the same way, have the same.
    """

    identity: str

    def one_pass(self, number: int, lane: int, lanes: int, cursor: Any = None) -> Pass:
        """The rows of one lane in the pass of this number (from 0), the same ones in every run.

        With the `cursor` of such a pass: those that come after it.
        """
        ...


class Blocks:
    """A pass whose rows are shuffled in blocks, so that its place is that of a block and how much of it is gone.

    Going on reads one block again, however far the pass has come.

    Args:
        rows: gives the rows.
        seed: of the order within the blocks.
        size: rows of a block; 0 or 1 keeps the order.
        cursor: see `cursor()`.
    """

    def __init__(self, rows: Rows, seed: str, size: int, cursor: Any = None) -> None:
        start: tuple[int, Any, int] = (0, None, 0) if cursor is None else cursor
        self._number, self._place, self._taken = start
        self._rows, self._seed, self._size = rows(self._place), seed, max(1, size)
        self._block: list[Pending] | None = None

    def __iter__(self) -> Iterator[Pending]:
        return self

    def __next__(self) -> Pending:
        if self._block is None:
            self._block = self._read(self._number)
        if self._block and self._taken >= len(self._block):
            following = self._read(self._number + 1)
            if following:  # else the cursor stays behind the last block
                self._number, self._taken, self._block = self._number + 1, 0, following
        if self._taken >= len(self._block):
            raise StopIteration
        self._taken += 1
        return self._block[self._taken - 1]

    def _read(self, number: int) -> list[Pending]:
        block = list(islice(self._rows, self._size))
        if block:
            self._place = block[0][0]
        rows = [row for _, row in block]
        if self._size > 1:
            random.Random(f"{self._seed}/{number}").shuffle(rows)
        return rows

    def cursor(self) -> Any:
        """Number of the block, place of its first row, rows that were given of it."""
        return [self._number, self._place, self._taken]


class ConversationStream:
    """One source of conversations, read on the way; see `read_entries` for the arguments.

    Args:
        max_samples (`int`, *optional*): read only this many, the first ones.
        shuffle_buffer (`int`, *optional*, defaults to 256): rows of a block that each lane shuffles; 0 keeps the
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
            saved = self.place.kind == "saved"  # in memory's reach: its rows are found by their numbers
            options: dict[str, Any] = {"split": split, "name": name, "revision": revision, "streaming": not saved}
            self.dataset = open_with_datasets(self.place, **options)
        data = _told_apart(self.place, self.dataset), getattr(self.dataset, "num_shards", None)
        self.identity = short_digest([split, name, max_samples, shuffle_buffer, seed, data])
        first = next(self._rows(None, 0, 1, None), None)
        if first is not None:
            check_pictures(first[1].read())

    def one_pass(self, number: int, lane: int, lanes: int, cursor: Any = None) -> Blocks:
        """See `Source`."""
        shuffles = self.shuffle_buffer and self.max_samples is None

        def rows(start: Any) -> Iterator[tuple[Any, Pending]]:
            order = random.Random(f"{self.seed}/{number}") if shuffles else None
            return self._rows(order, lane, lanes, self.max_samples, start)

        return Blocks(rows, f"{self.seed}/{number}/{lane}/{lanes}", self.shuffle_buffer, cursor)

    def _rows(
        self, order: random.Random | None, lane: int, lanes: int, most: int | None, start: Any = None
    ) -> Iterator[tuple[Any, Pending]]:
        if self.dataset is None:
            return _file_rows(self.place, self.reader, order, lane, lanes, most, start)
        if self.place.kind == "saved":
            return _saved_rows(self.dataset, self.reader, self.label, lane, lanes, most, start)
        return _dataset_rows(self.dataset, self.reader, self.label, order, lane, lanes, most, start)


def _told_apart(place: Place, dataset: Any) -> Any:
    """Names and sizes of a place's files; neither times nor the folder, for data may be copied. Of the Hub nothing."""
    if place.kind == "saved":
        return dataset._fingerprint
    files = sorted(Path(place.path).rglob("*.parquet")) if place.kind == "folder" else place.files
    return [(place.called(file), file.stat().st_size) for file in files]


def _lane_of(files: Sequence[T], order: random.Random | None, lane: int, lanes: int, most: int | None) -> tuple:
    """The files of a lane, and whether it reads them whole; else it reads every so manieth row of all."""
    chosen = list(files)
    if order is not None:
        order.shuffle(chosen)
    by_file = len(chosen) >= lanes and most is None
    return (chosen[lane::lanes] if by_file else chosen), by_file


def _file_rows(
    place: Place, reader: Reader, order: random.Random | None, lane: int, lanes: int, most: int | None, start: Any
) -> Iterator[tuple[Any, Pending]]:
    """Places are: number of the file, byte and rows before it in the file, rows before it in all files."""
    files, by_file = _lane_of(place.files, order, lane, lanes, most)
    first, *inside, count = start or (0, 0, 0, 0)
    for index in range(first, len(files)):
        for slot in file_slots(files[index], tuple(inside), place.called(files[index])):
            at = [index, *slot.start, count]
            count += 1
            if not by_file:
                if most is not None and count > most:
                    return
                if (count - 1) % lanes != lane:
                    continue
            yield at, Pending(slot.label, lambda slot=slot: reader(slot.label, slot.read))  # type: ignore[misc]
        inside = [0, 0]


def _dataset_rows(
    dataset: Any,
    reader: Reader,
    label: str,
    order: random.Random | None,
    lane: int,
    lanes: int,
    most: int | None,
    start: Any,
) -> Iterator[tuple[Any, Pending]]:
    """Places are: number of the file, of the row group in it, rows before it in this, rows before it in all."""
    files, by_file = _lane_of(range(dataset.num_shards), order, lane, lanes, most)
    # Else how many rows came before says nothing: the files come in another order in every pass.
    counted = dataset.num_shards == 1 or order is None and (not by_file or lanes == 1)
    *inside, count = start or (0, 0, 0, 0)
    rows = _rows_of_shards(dataset, files, *inside)
    while True:
        with told(label):
            at, row = next(rows, ([], None))
        if row is None or (most is not None and count >= most):
            return
        count += 1
        if by_file or (count - 1) % lanes == lane:
            name = label if counted else f"{label}, file {files[at[0]] + 1}, row group {at[1] + 1}"
            where = row_place(name, count if counted else at[2] + 1, row)
            pending = Pending(where, lambda where=where, row=row: reader(where, lambda: row))  # type: ignore[misc]
            yield [*at, count - 1], pending


def _rows_of_shards(
    dataset: Any, shards: Sequence[int], first: int, group: int, skip: int
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """The rows of these shards and where each stands; of Parquet the row groups before the first are not opened."""
    total = dataset.num_shards
    for number in range(first, len(shards)):
        # One by one: the shuffling of `datasets` itself reads several at once in threads, and waits at the end.
        shard = dataset.shard(num_shards=total, index=shards[number])
        if hasattr(shard, "reshard"):
            shard = shard.reshard()
        for part in range(group, shard.num_shards):
            rows = stored_rows(shard.shard(num_shards=shard.num_shards, index=part), skip=skip)
            for place, row in enumerate(rows, start=skip):
                yield [number, part, place], row
            skip = 0
        group = 0


def _saved_rows(
    dataset: Any, reader: Reader, label: str, lane: int, lanes: int, most: int | None, start: Any
) -> Iterator[tuple[Any, Pending]]:
    """Places are row numbers; those of other lanes are not read."""
    numbers = range(lane if start is None else start, min(len(dataset), most or len(dataset)), lanes)
    rows = dataset.with_format("arrow")
    for begin in range(0, len(numbers), ROWS_AT_ONCE):
        some = numbers[begin : begin + ROWS_AT_ONCE]
        with told(label):
            found = rows[some].to_pylist()
        for number, row in zip(some, found, strict=True):
            where = row_place(label, number + 1, row)
            yield number, Pending(where, lambda where=where, row=row: reader(where, lambda: row))  # type: ignore[misc]


class _Counted:
    """A pass without blocks, whose cursor is the number of rows that were given."""

    def __init__(self, rows: Iterator[Pending], taken: int) -> None:
        self._rows, self._taken = rows, taken

    def __iter__(self) -> Iterator[Pending]:
        return self

    def __next__(self) -> Pending:
        row = next(self._rows)
        self._taken += 1
        return row

    def cursor(self) -> int:
        return self._taken


class IndexedSource:
    """A data set with indices as a source of a stream; every pass in another order.

    Args:
        rows: anything with a length and indices.
        max_samples, seed: as in `ConversationStream`; the samples are a random choice, the same in every pass.
    """

    def __init__(self, rows: Any, max_samples: int | None = None, seed: int = 0) -> None:
        self.rows, self.seed = rows, seed
        place = getattr(rows, "place", None)
        data = None if place is None else _told_apart(place, rows.rows)
        self.identity = short_digest([len(rows), max_samples, seed, data])
        self.chosen: Any = range(len(rows))
        if max_samples is not None and max_samples < len(rows):
            self.chosen = sorted(random.Random(f"{seed}/choice").sample(self.chosen, max_samples))
        self._order: tuple[int, Any] | None = None

    def one_pass(self, number: int, lane: int, lanes: int, cursor: Any = None) -> _Counted:
        """See `Source`."""
        if self._order is None or self._order[0] != number:  # all lanes of a process share it
            self._order = number, seeded_order(len(self.chosen), [self.seed, number])
        order, taken = self._order[1], cursor or 0
        places = range(lane, len(order), lanes)[taken:]
        return _Counted((self._pending(self.chosen[int(order[place])]) for place in places), taken)

    def _pending(self, index: int) -> Pending:
        where = self.rows.where(index) if isinstance(self.rows, Conversations) else f"sample {index}"
        return Pending(where, lambda: self.rows[index])


class IterableSource:
    """A person's own iterable data set as a source: it must give the same rows in the same order in every process.

    A `datasets.IterableDataset` is read as it is stored, its pictures not decoded, by whole files where there are
    enough. Of others every lane reads all rows and keeps its own. Going on passes over the rows that were given.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.identity = str(getattr(dataset, "num_shards", ""))

    def one_pass(self, number: int, lane: int, lanes: int, cursor: Any = None) -> _Counted:
        """See `Source`."""
        rows, by_file = self.dataset, False
        if hasattr(rows, "num_shards") and hasattr(rows, "shard"):
            by_file = rows.num_shards >= lanes
            # One of its own in any case: other lanes may be in another pass.
            rows = rows.shard(num_shards=lanes, index=lane) if by_file else rows.shard(num_shards=1, index=0)
        if hasattr(rows, "set_epoch"):
            rows.set_epoch(number)
        if hasattr(rows, "num_shards") and hasattr(rows, "iter"):
            rows = stored_rows(rows) if rows.features is not None else _one_by_one(rows)
        numbered: Iterator[tuple[int, Row]] = zip(count(), rows)  # noqa: B905 - one of the two never ends
        taken = cursor or 0
        numbered = islice(numbered, taken, None) if by_file else islice(numbered, lane + taken * lanes, None, lanes)
        made = (Pending(f"row {index + 1}", lambda row=row: row) for index, row in numbered)  # type: ignore[misc]
        return _Counted(made, taken)


def _one_by_one(dataset: Any) -> Iterator[Row]:
    """Every row in every worker of a data loader; the data set's own iterator would split them."""
    for batch in dataset.iter(batch_size=1):
        yield {key: values[0] for key, values in batch.items()}
