# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""How many samples were left out, over all processes of a data loader."""

import torch
from torch.utils.data import get_worker_info

UNREADABLE_SAMPLE, OVERLONG_SAMPLE = 0, 1
_WORKERS = 256  # each counts in a row of its own, so that none has to wait for another; more share them


class SkippedCounts:
    """Counts of unreadable and of over-long samples, in memory that a data loader's processes share with its owner.

    A sample counts each time that another takes its place. What the processes have read ahead is counted, too.
    """

    def __init__(self) -> None:
        self._table = torch.zeros(_WORKERS, 2, dtype=torch.int64).share_memory_()
        self._fresh = [0, 0]

    def add(self, kind: int = UNREADABLE_SAMPLE) -> None:
        """Count a sample."""
        worker = get_worker_info()
        self._table[0 if worker is None else 1 + worker.id % (_WORKERS - 1), kind] += 1
        self._fresh[kind] += 1

    def news(self) -> list[int]:
        """What this process has counted since this was asked last: unreadable samples, over-long samples."""
        fresh, self._fresh = self._fresh, [0, 0]
        return fresh

    def totals(self) -> tuple[int, int]:
        """Unreadable samples, over-long samples."""
        unreadable, overlong = self._table.sum(0).tolist()
        return unreadable, overlong


def skipped_samples(dataset: object) -> tuple[int, int]:
    """What a data set, and those that it wraps as `dataset`, have counted in their `skipped`; zeros without counts."""
    unreadable = overlong = 0
    while dataset is not None:
        own = getattr(dataset, "__dict__", {})
        if isinstance(own.get("skipped"), SkippedCounts):
            totals = own["skipped"].totals()
            unreadable, overlong = unreadable + totals[0], overlong + totals[1]
        dataset = own.get("dataset")
    return unreadable, overlong
