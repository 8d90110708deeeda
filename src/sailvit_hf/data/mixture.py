# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Several data sets as one: by index, or as a stream; the same samples in the same order for the same seed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import SailvitError
from .streams import Pending, Source


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


class Mixture(Sequence):
    """Data sets with indices as one data set: an index into them, nothing is copied.

    Without weights, a pass holds every sample of every part `epochs` times (once, if not given). With weights, it is
    as long as it can be without a part's samples coming more than `epochs` times, and every part has its share of it;
    what is left over of a part comes in the next passes, before anything comes again.

    `set_epoch` goes to another pass, in worker processes that live on as well.

    Args:
        parts: what it is made of.
        seed: of the order and of all choices.

    Raises:
        SailvitError: no parts, an empty one, or weights for some only.
    """

    def __init__(self, parts: Sequence[Part], seed: int = 0) -> None:
        check_weights(parts)
        self.parts, self.seed = list(parts), seed
        self._chosen = [self._choose(number, part) for number, part in enumerate(parts)]
        self._sizes = self._sizes_of_a_pass()
        self._offsets = np.cumsum([0, *(len(part.dataset) for part in parts)])
        # Shared between processes: a worker that lives for several passes is told so.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._index: tuple[int, np.ndarray] | None = None

    def _choose(self, number: int, part: Part) -> np.ndarray:
        length = len(part.dataset)
        if not length:
            raise SailvitError(f"source {number + 1} of the mixture is empty: leave it out")
        if part.max_samples is None or part.max_samples >= length:
            return np.arange(length)
        rng = np.random.default_rng([self.seed, number, 0])
        return np.sort(rng.choice(length, part.max_samples, replace=False))

    def _sizes_of_a_pass(self) -> list[int]:
        available = [
            len(chosen) * (1.0 if part.epochs is None else part.epochs)
            for chosen, part in zip(self._chosen, self.parts, strict=True)
        ]
        weights = [part.weight for part in self.parts]
        if weights[0] is not None:
            total = sum(weight or 0.0 for weight in weights)
            shares = [(weight or 0.0) / total for weight in weights]
            longest = min(size / share for size, share in zip(available, shares, strict=True))
            available = [longest * share for share in shares]
        # A little more than the quotient may come of dividing and multiplying.
        return [max(1, math.floor(size + 1e-6)) for size in available]

    @property
    def sizes(self) -> list[int]:
        """How many samples of each part a pass holds."""
        return list(self._sizes)

    def __len__(self) -> int:
        return sum(self._sizes)

    def set_epoch(self, epoch: int) -> None:
        """Go to the pass of this number, from 0."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """The number of the pass."""
        return int(self._epoch)

    def index_of_pass(self, epoch: int) -> np.ndarray:
        """Part and index in it of every sample of a pass, (samples, 2) int64."""
        pieces = []
        for number, (chosen, size) in enumerate(zip(self._chosen, self._sizes, strict=True)):
            # The part's samples as an endless row of shuffled rounds, of which every pass takes the next piece.
            start, piece = epoch * size, np.empty(0, dtype=np.int64)
            first, last = start // len(chosen), (start + size - 1) // len(chosen)
            for which in range(first, last + 1):
                piece = np.append(piece, np.random.default_rng([self.seed, number, 1, which]).permutation(chosen))
            piece = piece[start - first * len(chosen) :][:size]
            pieces.append(np.stack([np.full(size, number), piece], axis=1))
        whole = np.concatenate(pieces)
        return np.random.default_rng([self.seed, epoch]).permutation(whole)

    def where(self, index: int) -> tuple[int, int]:
        """Part and index in it of a sample of this pass."""
        if self._index is None or self._index[0] != self.epoch:
            self._index = (self.epoch, self.index_of_pass(self.epoch))
        part, row = self._index[1][range(len(self))[index]]
        return int(part), int(row)

    def row_key(self, index: int) -> int:
        """A number that a sample has in every pass."""
        part, row = self.where(index)
        return int(self._offsets[part]) + row

    def __getitem__(self, index: Any) -> Any:
        part, row = self.where(index)
        return self.parts[part].dataset[row]


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

    def lane(self, lane: int, lanes: int) -> Iterator[Pending]:
        """The rows of one lane, without end.

        Raises:
            SailvitError: there are no rows at all.
        """
        rng = random.Random(f"{self.seed}/{lane}/{lanes}")
        weights = [1.0 if part.weight is None else part.weight for part in self.parts]
        first_pass = 0
        while True:
            passes = [_passes(part.dataset, part.epochs, first_pass, lane, lanes) for part in self.parts]
            alive = list(range(len(passes)))
            while alive:
                (number,) = rng.choices(alive, [weights[which] for which in alive])
                row = next(passes[number], None)
                if row is None:
                    alive.remove(number)
                else:
                    yield row
            first_pass += max(int(part.epochs or 1) for part in self.parts)


def _passes(source: Source, epochs: float | None, first: int, lane: int, lanes: int) -> Iterator[Pending]:
    number = first
    while epochs is None or number < first + epochs:
        row = None
        for row in source.one_pass(number, lane, lanes):
            yield row
        if row is None:
            for row in source.one_pass(number, 0, 1):
                yield row
        if row is None:
            raise SailvitError("a stream holds no rows: name another file or split")
        number += 1
