# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Samples that cannot be read: counted, reported once, and replaced by others, so that training goes on."""

import random
from collections.abc import Sequence
from typing import Any

from PIL import Image
from transformers.utils import logging

from ..errors import SailvitError

logger = logging.get_logger(__name__)

# What reading a sample raises when its picture is broken, gone or too large; anything else is a defect, not bad data.
UNREADABLE = (OSError, SyntaxError, EOFError, Image.DecompressionBombError, SailvitError)
# A share of fewer samples than these says nothing: one bad picture among the first ten is not ten per cent.
FEWEST = 200


class WithReplacements(Sequence):
    """A data set whose unreadable samples are replaced by others of it, the same ones in every run.

    Every process still sees as many samples as it asks for, so that all take the same number of steps. In the
    processes of a data loader each counts for itself.

    Args:
        dataset: Anything with a length and indices, such as a `datasets.Dataset`.
        limit (`float`, *optional*, defaults to 0.01): Share of the samples asked for so far (counted as at least
            200, or all of a smaller set) that may be unreadable.

    Raises:
        SailvitError: on reading, when more are unreadable; the sentence lists them.
    """

    def __init__(self, dataset: Any, limit: float = 0.01) -> None:
        self.dataset, self.limit = dataset, limit
        self.bad: dict[int, str] = {}
        self.asked = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # What else a data set can tell, its columns and fingerprint, is the wrapped one's.
        if name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self.dataset))[index]
        self.asked += 1
        sample = self._read(index)
        draw = random.Random(index)
        while sample is None:
            sample = self._read(draw.randrange(len(self.dataset)))
        return sample

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Several samples, as torch's data loader asks for them where a data set can do that."""
        return [self[index] for index in indices]

    def _read(self, index: int) -> Any:
        """The sample, or `None` if it cannot be read."""
        if index in self.bad:
            return None
        try:
            return self.dataset[index]
        except UNREADABLE as error:
            self.bad[index] = " ".join(str(error).split()) or type(error).__name__
        logger.warning(f"sample {index} cannot be read and is replaced: {self.bad[index]}")
        allowed = self.limit * max(self.asked, min(FEWEST, len(self.dataset)))
        if len(self.bad) > allowed or len(self.bad) == len(self.dataset):
            listed = "; ".join(f"sample {number}: {why}" for number, why in list(self.bad.items())[:10])
            more = f"; and {len(self.bad) - 10} more" if len(self.bad) > 10 else ""
            raise UnreadableSamplesError(
                f"{len(self.bad)} samples cannot be read, more than bad_sample_limit={self.limit:g} allows ({listed}"
                f"{more}): mend or remove them, or raise the limit"
            )
        return None


class UnreadableSamplesError(SailvitError):
    """More samples are unreadable than the limit allows."""
