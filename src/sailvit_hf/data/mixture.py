# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Several data sets as one: by index, or as a stream; the same samples in the same order for the same seed."""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from ..errors import SailvitError
from .permutation import AS_ARRAY, seeded_order
from .streams import Pending, Source, short_digest

_DRAWS_AT_ONCE = 256


@dataclass(frozen=True)
class Part:
    """A data set of a mixture.

    Attributes:
        dataset: anything with a length and indices; for a `StreamMixture` a `streams.Source`.
        weight: its share of the samples, relative to the others'. Either all parts have one or none.
        max_samples: at most so many of its samples are used at all, chosen by the seed.
        epochs: how often its samples come in one pass over the mixture; half of them, if it is 0.5.
    """

    dataset: Any
    weight: float | None = None
    max_samples: int | None = None
    epochs: float | None = None

    def __post_init__(self) -> None:
        for name in ("weight", "max_samples", "epochs"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SailvitError(f"{name} is {value}: give more than 0, or leave the source out")


def check_weights(parts: Sequence[Part]) -> None:
    """Refuse a mixture of which some parts have weights and some none.

    Raises:
        SailvitError: it is one, or has no parts.
    """
    if not parts:
        raise SailvitError("the mixture is empty: give at least one source")
    if len({part.weight is None for part in parts}) > 1:
        raise SailvitError("some sources have a weight and some have none: give one to all, or to none")


def pass_sizes(available: Sequence[float], weights: Sequence[float | None], samples: int | None = None) -> list[int]:
    """How many samples of each part a pass of a `Mixture` holds.

    Args:
        available: how many of each part can be used, times its `epochs`.
        weights: of each part; either all have one or none.
        samples: of the pass, if that is given.

    Raises:
        SailvitError: there are more parts than samples.
    """
    if samples is not None:
        if samples < len(weights):
            raise SailvitError(f"samples is {samples}: give one at least for each of {len(weights)} sources")
        summed = np.cumsum([0.0, *(weight or 1.0 for weight in weights)])
        ends = np.rint(summed / summed[-1] * (samples - len(weights))).astype(np.int64)
        return [1 + int(size) for size in np.diff(ends)]
    sizes = list(available)
    if weights[0] is not None:
        total = sum(weight or 0.0 for weight in weights)
        shares = [(weight or 0.0) / total for weight in weights]
        longest = min(size / share for size, share in zip(sizes, shares, strict=True))
        sizes = [longest * share for share in shares]
    # A little more than the quotient may come of dividing and multiplying.
    return [max(1, math.floor(size + 1e-6)) for size in sizes]


class Mixture(Sequence):
    """Data sets with indices as one data set: an index into them, nothing is copied.

    Without weights, a pass holds every sample of every part `epochs` times (once, if not given). With weights, it is
    as long as it can be without a part's samples coming more than `epochs` times, and every part has its share of it;
    what is left over of a part comes in the next passes, before anything comes again.

    `set_epoch` goes to another pass, in worker processes that live on as well.

    Args:
        parts: what it is made of.
        seed: of the order and of all choices.
        samples: how many samples a pass holds, each part by its weight; a small part comes again, `epochs` has no say.

    Raises:
        SailvitError: no parts, an empty one, or weights for some only.
    """

    def __init__(self, parts: Sequence[Part], seed: int = 0, samples: int | None = None) -> None:
        check_weights(parts)
        self.parts, self.seed, self.samples = list(parts), seed, samples
        self._chosen = [self._choose(number, part) for number, part in enumerate(parts)]
        self._sizes = self._sizes_of_a_pass()
        self._offsets = np.cumsum([0, *(len(part.dataset) for part in parts)])
        # Shared between processes: a worker that lives for several passes is told so.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._index: tuple[int, Any] | None = None

    def _choose(self, number: int, part: Part) -> Any:
        length = len(part.dataset)
        if not length:
            raise SailvitError(f"source {number + 1} of the mixture is empty: leave it out")
        if part.max_samples is None or part.max_samples >= length:
            return range(length)
        rng = np.random.default_rng([self.seed, number, 0])
        return np.sort(rng.choice(length, part.max_samples, replace=False))

    def _sizes_of_a_pass(self) -> list[int]:
        available = [
            len(chosen) * (1.0 if part.epochs is None else part.epochs)
            for chosen, part in zip(self._chosen, self.parts, strict=True)
        ]
        return pass_sizes(available, [part.weight for part in self.parts], self.samples)

    @property
    def sizes(self) -> list[int]:
        """How many samples of each part a pass holds."""
        return list(self._sizes)

    @property
    def distinct(self) -> int:
        """How many different samples there are in all passes."""
        return sum(map(len, self._chosen))

    def __len__(self) -> int:
        return sum(self._sizes)

    def set_epoch(self, epoch: int) -> None:
        """Go to the pass of this number, from 0."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """The number of the pass."""
        return int(self._epoch)

    def samples_of_pass(self, epoch: int) -> MixturePass:
        """Part and index in it of the samples of a pass, worked out when they are asked for."""
        return MixturePass(self._chosen, self._sizes, self.seed, epoch)

    def index_of_pass(self, epoch: int) -> np.ndarray:
        """Part and index in it of every sample of a pass, (samples, 2) int64."""
        return self.samples_of_pass(epoch)[:]

    def where(self, index: int) -> tuple[int, int]:
        """Part and index in it of a sample of this pass."""
        if self._index is None or self._index[0] != self.epoch:
            samples = self.samples_of_pass(self.epoch)
            self._index = (self.epoch, samples[:] if len(samples) <= AS_ARRAY else samples)
        part, row = self._index[1][range(len(self))[index]]
        return int(part), int(row)

    def row_key(self, index: int) -> int:
        """A number that a sample has in every pass."""
        part, row = self.where(index)
        return int(self._offsets[part]) + row

    def __getitem__(self, index: Any) -> Any:
        part, row = self.where(index)
        return self.parts[part].dataset[row]


class MixturePass(Sequence):
    """Which samples a pass over a `Mixture` holds, in its order; nothing is kept of a long one.

    A part's samples are an endless row of shuffled rounds, of which every pass takes the next piece.

    Args:
        chosen: the indices of each part that are used at all.
        sizes: how many samples of each part the pass holds.
        seed, epoch: what the order hangs on.
    """

    def __init__(self, chosen: Sequence[Any], sizes: Sequence[int], seed: int, epoch: int) -> None:
        self.chosen, self.sizes, self.seed, self.epoch = chosen, sizes, seed, epoch
        self._ends = np.cumsum(sizes)
        self._order = seeded_order(len(self), [seed, epoch])
        self._rounds: dict[tuple[int, int], Any] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, places: Any) -> Any:
        """Part and index in it: (n, 2) int64 of a slice or an array of places, (2,) of one."""
        numbers = np.atleast_1d(self._order[places])
        parts = np.searchsorted(self._ends, numbers, side="right")
        rows = np.empty_like(numbers)
        for part in np.unique(parts).tolist():
            own = np.flatnonzero(parts == part)
            start = self.epoch * self.sizes[part] - (int(self._ends[part]) - self.sizes[part])
            rounds, inside = np.divmod(numbers[own] + start, len(self.chosen[part]))
            if (rounds == rounds[0]).all():
                rows[own] = self._row(part, int(rounds[0]), inside)
                continue
            # By rounds, of which a small part has very many in a long pass.
            by_round = np.argsort(rounds, kind="stable")
            which, starts = np.unique(rounds[by_round], return_index=True)
            for number, now in zip(which.tolist(), np.split(by_round, starts[1:]), strict=True):
                rows[own[now]] = self._row(part, number, inside[now])
        found = np.stack([parts, rows], axis=1)
        return found if isinstance(places, slice) or np.ndim(places) else found[0]

    def _row(self, part: int, which: int, places: np.ndarray) -> Any:
        chosen = self.chosen[part]
        if (part, which) not in self._rounds:
            self._rounds[part, which] = seeded_order(len(chosen), [self.seed, part, 1, which])
        rows = self._rounds[part, which][places]
        return rows if isinstance(chosen, range) else chosen[rows]


class StreamMixture:
    """Streams, and data sets with indices as such, as one endless stream.

    Each lane draws the source of every sample by weight (equal ones, if none are given) and takes that source's next
    row. A source whose `epochs` passes are over is drawn no more; when all are over, everything begins again: how long
    training is says `max_steps`. A source with fewer rows than lanes is read whole in each.

    Args:
        parts: their data sets are sources; `max_samples` is the sources' own matter.
        seed: of the draws.
    """

    def __init__(self, parts: Sequence[Part], seed: int = 0) -> None:
        check_weights(parts)
        for part in parts:
            if part.max_samples is not None:
                raise SailvitError("max_samples of a stream is given to the stream: ConversationStream(max_samples=)")
            if part.epochs is not None and part.epochs != int(part.epochs):
                raise SailvitError(f"epochs of a stream is {part.epochs}: give a whole number")
        self.parts, self.seed = list(parts), seed
        self._data = short_digest([seed, *(part.dataset.identity for part in parts)])

    def check(self, state: Any) -> None:
        """Make sure that the state of a lane is about these data.

        Raises:
            SailvitError: files came, went or changed their size, or they are read in another way.
        """
        if state is not None and state.get("data", self._data) != self._data:
            raise SailvitError(
                "the streams of this run are not those that it began with (files, their sizes, split, name, seed, "
                "max_samples or shuffle_buffer): put them back, or begin the stage anew"
            )

    def lane(self, lane: int, lanes: int, state: Any = None) -> Lane:
        """The rows of one lane, without end; with the `state_dict` of such a lane those that come after it."""
        return Lane(self, lane, lanes, state)


class Lane(Iterator[Pending]):
    """The rows of one lane of a `StreamMixture`, without end; it knows its place, and goes on from it.

    What is drawn next hangs on the number of draws before, so that the place is a few numbers for each source.

    Raises:
        SailvitError: the state is about other data; on reading, there are no rows at all.
    """

    def __init__(self, mixture: StreamMixture, lane: int, lanes: int, state: Any = None) -> None:
        mixture.check(state)
        self.mixture, self.lane, self.lanes = mixture, lane, lanes
        self._weights = [1.0 if part.weight is None else part.weight for part in mixture.parts]
        self._drawn: int = 0 if state is None else state["drawn"]
        self._first: int = 0 if state is None else state["first"]
        self._luck: tuple[int, list[float]] = -1, []
        self._begin([None] * len(mixture.parts) if state is None else state["sources"])

    def _begin(self, sources: Sequence[Any]) -> None:
        self._sources = [
            _Passes(part.dataset, part.epochs, self._first, self.lane, self.lanes, state)
            for part, state in zip(self.mixture.parts, sources, strict=True)
        ]
        self._alive = [number for number, source in enumerate(self._sources) if not source.over]

    def __next__(self) -> Pending:
        while True:
            if not self._alive:
                self._first += max(int(part.epochs or 1) for part in self.mixture.parts)
                self._begin([None] * len(self._sources))
            number = self._draw()
            row = next(self._sources[number], None)
            if row is not None:
                # Sources may have files of the same name, and what cannot be used is counted by where it stands.
                return row if len(self._sources) == 1 else row._replace(where=f"source {number + 1}, {row.where}")
            self._alive.remove(number)

    def _draw(self) -> int:
        block, place = divmod(self._drawn, _DRAWS_AT_ONCE)
        if self._luck[0] != block:
            rng = random.Random(f"{self.mixture.seed}/{self.lane}/{self.lanes}/{block}")
            self._luck = block, [rng.random() for _ in range(_DRAWS_AT_ONCE)]
        self._drawn += 1
        ends = list(accumulate(self._weights[number] for number in self._alive))
        return self._alive[bisect(ends, self._luck[1][place] * ends[-1], hi=len(ends) - 1)]

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as JSON."""
        sources = [source.state() for source in self._sources]
        return {"data": self.mixture._data, "drawn": self._drawn, "first": self._first, "sources": sources}


class _Passes(Iterator[Pending]):
    """The rows of one source, pass after pass; a lane for which a pass has none reads it whole."""

    def __init__(self, source: Source, epochs: float | None, first: int, lane: int, lanes: int, state: Any) -> None:
        self.source, self.last = source, None if epochs is None else first + int(epochs)
        start: tuple[int, bool, bool, Any] = (first, False, False, None) if state is None else state
        self.number, self.found, self.whole, cursor = start
        self.lanes = lane, lanes
        self._rows = None if self.over else self._open(cursor)

    @property
    def over(self) -> bool:
        return self.last is not None and self.number >= self.last

    def _open(self, cursor: Any = None) -> Any:
        return self.source.one_pass(self.number, *((0, 1) if self.whole else self.lanes), cursor)

    def __next__(self) -> Pending:
        while self._rows is not None:
            row = next(self._rows, None)
            if row is not None:
                self.found = True
                return row
            if not self.found and self.whole:
                raise SailvitError("a stream holds no rows: name another file or split")
            if self.found:
                self.number, self.found, self.whole = self.number + 1, False, False
            else:
                self.whole = True
            self._rows = None if self.over else self._open()
        raise StopIteration

    def state(self) -> list[Any]:
        return [self.number, self.found, self.whole, None if self._rows is None else self._rows.cursor()]


class LaneRows:
    """All rows of a mixture of streams, as an iterable that knows its place."""

    def __init__(self, mixture: StreamMixture) -> None:
        self.mixture = mixture
        self._lane: Lane | None = None
        self._state: dict[str, Any] | None = None

    def __iter__(self) -> Lane:
        self._lane, self._state = self.mixture.lane(0, 1, self._state), None
        return self._lane

    def state_dict(self) -> dict[str, Any] | None:
        """Where the last iteration stands, as JSON."""
        return self._state if self._lane is None else self._lane.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next iteration there."""
        self._lane, self._state = None, state
