# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Samples that cannot be used: counted, reported once, and replaced by others, so that training goes on."""

import math
import random
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from PIL import Image
from transformers.utils import logging

from ..errors import SailvitError
from .skipped import OVERLONG_SAMPLE, UNREADABLE_SAMPLE, SkippedCounts

logger = logging.get_logger(__name__)

# What reading a sample raises when its picture is broken, gone or too large; anything else is a defect, not bad data.
UNREADABLE = (OSError, SyntaxError, EOFError, Image.DecompressionBombError, SailvitError)
# A share of fewer samples than these says nothing: one bad picture among the first ten is not ten per cent.
FEWEST = 200
# So many standard deviations above the limit are no chance; fewer would be one, in hundreds of workers.
CHANCE = 4.0
# Of so many over-long samples it is kept which they are and why; of more only what tells them from the others.
MOST_REMEMBERED = 10_000
# So many unusable samples one after the other mean that there are no others.
MOST_IN_A_ROW = 2000


class OverlongSampleError(SailvitError):
    """A sample with more tokens than allowed; `drop`: whether it is to be replaced by another."""

    def __init__(self, message: str, drop: bool = False) -> None:
        super().__init__(message)
        self.drop = drop


class UnreadableSamplesError(SailvitError):
    """More samples are unreadable than the limit allows."""


def too_many(bad: int, asked: int, limit: float) -> bool:
    """Whether so many unreadable ones of the samples asked for say that more than this share of all are unreadable."""
    allowed = limit * max(asked, FEWEST)
    return bad > allowed + CHANCE * math.sqrt(allowed)


class FaultLog:
    """Counts and reports the samples that cannot be used, each once.

    The limit holds in each process and each worker of a data loader for itself; a resumed run counts on from what all
    of them had found.

    Args:
        limit: share of the samples that may be unreadable: of all, if their number is known, and of those asked for so
            far, once they are so many more that it is no chance (`too_many`). Over-long ones that are to be dropped do
            not count.
        size: number of different samples, if it is known.

    Attributes:
        bad, overlong: what is wrong with each sample met in this process, by its key; of over-long ones
            after the first 10,000 it is not said what.
        asked: how many samples this process was asked for.
    """

    def __init__(self, limit: float = 0.01, size: int | None = None) -> None:
        self.limit, self.size = limit, size
        self.bad: dict[Hashable, str] = {}
        self.overlong: dict[Hashable, str] = {}
        self.asked = 0
        self._news: dict[str, Any] = {"asked": 0, "bad": [], "overlong": []}

    def news(self) -> dict[str, Any]:
        """What was counted since this was asked last, as JSON, for `restore`."""
        news, self._news = self._news, {"asked": 0, "bad": [], "overlong": []}
        return news

    def restore(self, asked: int, bad: Mapping[Hashable, str], overlong: Mapping[Hashable, str]) -> None:
        """Begin with what other logs have found."""
        self.asked, self.bad, self.overlong = asked, dict(bad), dict(overlong)

    def ask(self) -> None:
        """Count a sample that was asked for."""
        self.asked += 1
        self._news["asked"] += 1

    def knows(self, key: Hashable) -> bool:
        """Whether the sample was met before."""
        return key in self.bad or key in self.overlong

    def kind(self, key: Hashable) -> int:
        """`OVERLONG_SAMPLE` or `UNREADABLE_SAMPLE`, of one met before."""
        return OVERLONG_SAMPLE if key in self.overlong else UNREADABLE_SAMPLE

    def meet(self, key: Hashable, name: str, error: BaseException) -> None:
        """Count and report a sample.

        Raises:
            UnreadableSamplesError: there are more than the limit allows; the sentence lists them.
            OverlongSampleError: the error itself, if such samples are not to be dropped.
        """
        said = " ".join(str(error).split()) or type(error).__name__
        if self.knows(key):
            return
        if isinstance(error, OverlongSampleError):
            if not error.drop:
                raise error
            few = len(self.overlong) < MOST_REMEMBERED  # they may be a large part of endless data, unlike bad ones
            self.overlong[key] = said if few else ""
            if few:
                self._news["overlong"].append([key, said])
            if len(self.overlong) == 1:
                logger.warning(f"{name} is too long and is replaced, as all such samples are: {said}")
            return
        self.bad[key] = said
        self._news["bad"].append([key, said])
        logger.warning(f"{name} cannot be read and is replaced: {said}")
        of_all = self.size is not None and len(self.bad) > self.limit * self.size
        if of_all or too_many(len(self.bad), self.asked, self.limit):
            raise UnreadableSamplesError(
                f"{len(self.bad)} samples cannot be read, more than bad_sample_limit={self.limit:g} allows "
                f"({_listed(self.bad)}): mend or remove them, or raise the limit"
            )

    def stop_if_nothing_is_left(self, in_a_row: int) -> None:
        """Raise if no sample can be used: all of a set are known as such, or very many came one after the other.

        Raises:
            UnreadableSamplesError: no sample can be used.
        """
        if in_a_row < MOST_IN_A_ROW and (self.size is None or len(self.bad) + len(self.overlong) < self.size):
            return
        if not self.bad:
            listed = _listed(self.overlong)
            raise UnreadableSamplesError(f"all samples are longer than allowed ({listed}): raise max_length")
        raise UnreadableSamplesError(
            f"no sample can be used, {len(self.bad)} cannot be read and {len(self.overlong)} are longer than allowed "
            f"({_listed({**self.bad, **self.overlong})}): mend the data, or raise max_length"
        )


def _listed(faults: Mapping[Hashable, str]) -> str:
    named = [f"{f'sample {key}' if isinstance(key, int) else key}: {why}" for key, why in list(faults.items())[:10]]
    return "; ".join(named) + (f"; and {len(faults) - 10} more" if len(faults) > 10 else "")


class WithReplacements(Sequence):
    """A data set whose unusable samples are replaced by others of it, the same ones in every run.

    Every process still sees as many samples as it asks for, so that all take the same number of steps. In the
    processes of a data loader each counts for itself, see `FaultLog`.

    Args:
        dataset: Anything with a length and indices, such as a `datasets.Dataset` or `EncodedSamples`.
        limit (`float`, *optional*, defaults to 0.01): Share of the samples that may be unreadable, see `FaultLog`.

    Raises:
        UnreadableSamplesError: on reading, when more are unreadable; the sentence lists them.
        OverlongSampleError: on reading, where over-long samples are not to be dropped.
    """

    def __init__(self, dataset: Any, limit: float = 0.01) -> None:
        self.dataset, self.limit = dataset, limit
        self.faults = FaultLog(limit, getattr(dataset, "distinct", len(dataset)))
        self.skipped = SkippedCounts()

    @property
    def bad(self) -> dict[Hashable, str]:
        """What is wrong with each sample found unreadable in this process."""
        return self.faults.bad

    @property
    def asked(self) -> int:
        """How many samples this process was asked for."""
        return self.faults.asked

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # What else a data set can tell, its columns and fingerprint, is the wrapped one's.
        if name in ("dataset", "faults", "skipped"):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self.dataset))[index]
        self.faults.ask()
        sample = self._read(index)
        if sample is None:
            self.skipped.add(self.faults.kind(self._key(index)))
        draw, in_a_row = random.Random(index), 1
        while sample is None:
            self.faults.stop_if_nothing_is_left(in_a_row)
            sample = self._read(draw.randrange(len(self.dataset)))
            in_a_row += 1
        return sample

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Several samples, as torch's data loader asks for them where a data set can do that."""
        return [self[index] for index in indices]

    def _read(self, index: int) -> Any:
        """The sample, or `None` if it cannot be used."""
        key = self._key(index)
        if self.faults.knows(key):
            return None
        try:
            return self.dataset[index]
        except UNREADABLE as error:
            self.faults.meet(key, f"sample {index}", error)
            return None

    def _key(self, index: int) -> int:
        own = getattr(self.dataset, "row_key", None)
        return index if own is None else own(index)
