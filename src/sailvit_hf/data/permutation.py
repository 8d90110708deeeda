# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Orders that hang on a key alone; those of many samples are worked out place by place and take no memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Up to so many samples an order is an array, that of numpy; 8 MB.
AS_ARRAY = 1 << 20
_ROUNDS = 6


class Permutation(Sequence):
    """The numbers from 0 to `length - 1` in an order that hangs on the key.

    A Feistel network over the numbers of an even number of bits (Luby and Rackoff 1988), in which a number that is too
    large goes round again (Black and Rogaway 2002): any place can be asked for, and nothing is kept.

    Args:
        length (`int`): how many numbers, fewer than 2 ** 62.
        key: whole numbers from 0.
    """

    def __init__(self, length: int, key: Sequence[int]) -> None:
        self._length = length
        self._bits = np.uint64(max(1, -(-max(1, length - 1).bit_length() // 2)))
        self._keys = np.random.SeedSequence(list(key)).generate_state(2 * _ROUNDS, np.uint64).reshape(_ROUNDS, 2)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, places: Any) -> Any:
        """The numbers at some places, int64: of a slice, an array (n,) of places from 0, or one."""
        if isinstance(places, slice):
            places = np.arange(*places.indices(self._length))
        elif not np.ndim(places):
            places = range(self._length)[places]
        found = self._mixed(np.atleast_1d(np.asarray(places, dtype=np.uint64)))
        while (outside := np.flatnonzero(found >= self._length)).size:
            found[outside] = self._mixed(found[outside])
        return found.astype(np.int64) if np.ndim(places) else int(found[0])

    def _mixed(self, numbers: np.ndarray) -> np.ndarray:
        mask = np.uint64((1 << int(self._bits)) - 1)
        left, right = numbers >> self._bits, numbers & mask
        for add, times in self._keys:
            mixed = (right + add) * (times | np.uint64(1))
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ (mixed >> np.uint64(32) & mask)
        return (left << self._bits) | right


def seeded_order(length: int, key: Sequence[int]) -> Any:
    """An order of the numbers from 0 to `length - 1`: an array, or for many of them a `Permutation`."""
    if length > AS_ARRAY:
        return Permutation(length, key)
    return np.random.default_rng(list(key)).permutation(length)
