# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a pack plan reads: the indices of a data set, or the rows of a stream; it goes on where it stopped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ...errors import SailvitError
from ..permutation import AS_ARRAY, Permutation

Order = Callable[[int], Any]  # the indices of a pass: a sequence or an array of int, which can be sliced
_BLOCK = 4096  # indices that are asked for at once
# A streaming source's own state is asked for at every so many rows: a resumed run reads at most so many again, and
# those that came in since the oldest one that still waits.
_MARK_EVERY = 64


class Stream(Protocol):
    """Gives keys one after the other: whatever a sample is read from.

    Attributes:
        epoch (`int`): passes over the data that are complete.
    """

    epoch: int

    def read(self) -> Any:
        """The next key; `StopIteration` at the end."""

    def forget(self, oldest: int) -> None:
        """Of the keys before this number, counted from 0 in the order of reading, none is needed any more."""

    def state_dict(self, waiting: dict[int, Any]) -> dict[str, Any]:
        """Where it stands, as JSON, and what it takes to find the keys that wait, given by their numbers."""

    def load_state_dict(self, state: dict[str, Any], numbers: Sequence[int]) -> dict[int, Any]:
        """Go on from `state_dict`; the keys with these numbers."""


def shuffled(length: int, seed: int) -> Order:
    """The order of an epoch's samples: a permutation that hangs on seed and epoch alone."""

    def order(epoch: int) -> Any:
        if length > AS_ARRAY:
            return Permutation(length, [seed, epoch])
        return torch.randperm(length, generator=torch.Generator().manual_seed(seed + epoch)).numpy()

    return order


def sequential(length: int) -> Order:
    """The order of an epoch's samples: as they stand."""
    return lambda epoch: range(length)


class IndexStream:
    """The indices of a map-style data set, epoch after epoch.

    Args:
        order: gives the indices of an epoch; `shuffled`, `sequential`, or that of a mixture.
        limit (`int`, *optional*): how many indices in all; endless by default.
    """

    def __init__(self, order: Order, limit: int | None = None) -> None:
        self.order, self.limit = order, limit
        self.epoch, self._position, self._count = 0, 0, 0
        self._indices: Any = None
        self._block: list[int] = []  # the next indices, backwards

    def read(self) -> int:
        """See `Stream`."""
        if self.limit is not None and self._count >= self.limit:
            raise StopIteration
        if self._indices is None:
            self._indices = self.order(self.epoch)
            if not len(self._indices):
                raise StopIteration
        if not self._block:
            block = self._indices[self._position : self._position + _BLOCK]
            self._block = np.asarray(block)[::-1].tolist()
        index = self._block.pop()
        self._count += 1
        self._position += 1
        if self._position == len(self._indices):
            self.epoch, self._position, self._indices = self.epoch + 1, 0, None
        return index

    def forget(self, oldest: int) -> None:
        """See `Stream`."""

    def state_dict(self, waiting: dict[int, Any]) -> dict[str, Any]:
        """See `Stream`: the indices themselves."""
        return {
            "epoch": self.epoch, "position": self._position, "count": self._count, "indices": list(waiting.values())
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any], numbers: Sequence[int]) -> dict[int, Any]:
        """See `Stream`."""
        self.epoch, self._position, self._count = state["epoch"], state["position"], state["count"]
        self._indices, self._block = None, []
        return dict(zip(numbers, map(int, state["indices"]), strict=True))


class RowStream:
    """The rows of a streaming data set, again and again.

    Rows may be large, so the state holds none of them: it says where to read again. A source with `state_dict` and
    `load_state_dict` (one of `datasets`, or ours) goes there at once; another is read from the start of the epoch.

    Args:
        rows: the source; anything that can be iterated once an epoch. `set_epoch` is called if it has one.
        epochs (`int`, *optional*): how many passes; endless by default.
    """

    def __init__(self, rows: Iterable[Any], epochs: int | None = None) -> None:
        self.rows: Any = rows
        self.epochs = epochs
        self.epoch, self._count, self._begun = 0, 0, 0
        self._iterator: Iterator[Any] | None = None
        self._marks: list[dict[str, Any]] = []

    def read(self) -> Any:
        """See `Stream`."""
        while True:
            if self.epochs is not None and self.epoch >= self.epochs:
                raise StopIteration
            if self._iterator is None:
                self._begun = self._count
                self._set_epoch()
                self._iterator = iter(self.rows)
                self._mark(None)  # what the source says now is about the epoch before
            elif self._count % _MARK_EVERY == 0:
                self._mark(copy.deepcopy(self.rows.state_dict()) if hasattr(self.rows, "state_dict") else None)
            try:
                row = next(self._iterator)
            except StopIteration:
                if self._count == self._begun:
                    raise  # an epoch without rows: so would be the next one
                self.epoch, self._iterator = self.epoch + 1, None
                continue
            self._count += 1
            return row

    def forget(self, oldest: int) -> None:
        """See `Stream`."""
        while len(self._marks) > 1 and self._marks[1]["count"] <= oldest:
            del self._marks[0]

    def state_dict(self, waiting: dict[int, Any]) -> dict[str, Any]:
        """See `Stream`: a place before the oldest key, and how many rows were read."""
        oldest = min(waiting, default=self._count)
        marks = [mark for mark in self._marks if mark["count"] <= oldest]
        start = {"epoch": 0, "count": 0, "begun": 0, "source": None}
        return {"mark": copy.deepcopy(marks[-1] if marks else start), "count": self._count}

    def load_state_dict(self, state: dict[str, Any], numbers: Sequence[int]) -> dict[int, Any]:
        """See `Stream`."""
        mark, wanted = state["mark"], set(numbers)
        self.epoch, self._count, self._begun = mark["epoch"], mark["count"], mark["begun"]
        self._marks, found = [copy.deepcopy(mark)], {}
        self._set_epoch()
        if mark["source"] is not None:
            self.rows.load_state_dict(copy.deepcopy(mark["source"]))
        self._iterator = iter(self.rows)
        for _ in range(0 if mark["source"] is not None else self._count - self._begun):
            next(self._iterator, None)  # the source does not know its place
        while self._count < state["count"]:
            number = self._count
            try:
                row = self.read()
            except StopIteration:
                raise SailvitError(
                    f"the data ended at row {number}, but this run had read {state['count']}: resume it with the data "
                    "that it began with"
                ) from None
            if number in wanted:
                found[number] = row
        return found

    def _set_epoch(self) -> None:
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(self.epoch)

    def _mark(self, source: dict[str, Any] | None) -> None:
        if not self._marks or self._marks[-1]["count"] < self._count or source is None:
            mark = {"epoch": self.epoch, "count": self._count, "begun": self._begun, "source": source}
            self._marks = [other for other in self._marks if other["count"] < self._count] + [mark]
