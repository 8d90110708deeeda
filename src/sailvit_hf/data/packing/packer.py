# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Which samples go into one pack: on-line, two budgets at once (tokens, tiles), as many tiles in every pack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import SailvitError

# Below so many of the longest waiting sample's lengths the last places of a pack are searched for, not just taken.
_SEARCHED = 1.5
# What a tile too many or too few costs, in shares of the tokens that a tile comes with. Ours, by simulation.
_BALANCE = 0.5


class SampleSize(NamedTuple):
    """What a sample takes of a pack: `tokens`, those of its pictures included, and `tiles`."""

    tokens: int
    tiles: int


class Waiting(NamedTuple):
    """A sample in the packer's buffer: its number in the order of reading, and its size."""

    number: int
    tokens: int
    tiles: int


class Packer:
    """Puts samples into packs of at most `max_tokens` tokens and `max_tiles` tiles.

    It knows numbers and sizes, not the samples. A pack starts with the sample that has waited longest, so that none
    waits for ever; then come those that lead the pack to the buffer's own ratio of tiles to tokens; the last places
    go to the pair that leaves least room and comes nearest to that ratio. The packs that come one after the other,
    and so those of one optimiser step, hold nearly as many tiles each. No randomness: the same sizes in the same order
    give the same packs.

    Args:
        max_tokens (`int`): room of a pack in tokens.
        max_tiles (`int`, *optional*): room of a pack in tiles; no limit by default.
        buffer_size (`int`, defaults to 128): samples that wait before packs are made of them.

    Raises:
        SailvitError: a budget or the buffer is not positive.
    """

    def __init__(self, max_tokens: int, max_tiles: int | None = None, buffer_size: int = 128) -> None:
        for name, value in (("max_tokens", max_tokens), ("max_tiles", max_tiles), ("buffer_size", buffer_size)):
            if value is not None and value < 1:
                raise SailvitError(f"{name} of a pack is {value}: give 1 or more")
        self.max_tokens, self.max_tiles, self.buffer_size = max_tokens, max_tiles, buffer_size
        self.waiting: list[Waiting] = []

    @property
    def full(self) -> bool:
        """Whether the buffer holds as many samples as it may: time to take a pack."""
        return len(self.waiting) >= self.buffer_size

    def fits(self, size: SampleSize) -> bool:
        """Whether a sample of this size fits into an empty pack."""
        return size.tokens <= self.max_tokens and (self.max_tiles is None or size.tiles <= self.max_tiles)

    def add(self, number: int, size: SampleSize) -> None:
        """Let a sample wait.

        Raises:
            SailvitError: it does not fit into an empty pack.
        """
        if not self.fits(size):
            raise SailvitError(
                f"a sample of {size.tokens} tokens and {size.tiles} tiles does not fit into a pack of "
                f"{self.max_tokens} tokens and {self.max_tiles} tiles: drop it or raise the limits"
            )
        self.waiting.append(Waiting(number, size.tokens, size.tiles))

    def take(self) -> list[Waiting]:
        """One pack of the waiting samples, which then wait no longer; empty if there are none."""
        if not self.waiting:
            return []
        chosen = _Choice(self.waiting, self.max_tokens, self.max_tiles).make()
        pack = [self.waiting[place] for place in chosen]
        taken = set(chosen)
        self.waiting = [sample for place, sample in enumerate(self.waiting) if place not in taken]
        return pack

    def state_dict(self) -> dict[str, Any]:
        """The buffer, as plain numbers: `[number, tokens, tiles]` of each waiting sample."""
        return {"waiting": [list(sample) for sample in self.waiting]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.waiting = [Waiting(*map(int, sample)) for sample in state["waiting"]]


class _Choice:
    """Makes one pack."""

    def __init__(self, waiting: Sequence[Waiting], max_tokens: int, max_tiles: int | None) -> None:
        table = np.array([sample[1:] for sample in waiting], dtype=np.int64)
        self.tokens, self.tiles = table[:, 0], table[:, 1]
        self.free = np.ones(len(waiting), dtype=bool)
        self.room = max_tokens
        self.tile_room = int(self.tiles.sum()) if max_tiles is None else max_tiles
        # The goal: as many tiles a token as the samples that are there have.
        self.ratio = self.tiles.sum() / max(1, self.tokens.sum())
        # A whole number, so that neighbouring packs share it; the buffer's ratio makes up for the rounding.
        self.goal = min(self.tile_room, round(self.ratio * max_tokens))
        self.packed_tokens = self.packed_tiles = 0
        self.chosen: list[int] = []

    def make(self) -> list[int]:
        self._take(0)
        while True:
            places = np.flatnonzero(self.free & (self.tokens <= self.room) & (self.tiles <= self.tile_room))
            if not len(places):
                return self.chosen
            if self.room > _SEARCHED * self.tokens[places].max():
                tokens, tiles = self.packed_tokens + self.tokens[places], self.packed_tiles + self.tiles[places]
                self._take(int(places[np.argmin(np.abs(tiles - self.ratio * tokens))]))
            else:
                for place in self._best_pair(places):
                    self._take(place)

    def _take(self, place: int) -> None:
        self.free[place] = False
        self.chosen.append(place)
        tokens, tiles = int(self.tokens[place]), int(self.tiles[place])
        self.room, self.tile_room = self.room - tokens, self.tile_room - tiles
        self.packed_tokens, self.packed_tiles = self.packed_tokens + tokens, self.packed_tiles + tiles

    def _best_pair(self, places: np.ndarray) -> list[int]:
        """The one or two samples after which the pack is nearest to full, and to the goal."""
        tokens = np.append(self.tokens[places], 0)  # the last is nobody: a pair of one
        tiles = np.append(self.tiles[places], 0)
        room = self.room - tokens[:, None] - tokens
        tile_room = self.tile_room - tiles[:, None] - tiles
        cost = room.astype(float)
        if self.ratio:
            cost += _BALANCE / self.ratio * np.abs(self.packed_tiles + tiles[:, None] + tiles - self.goal)
        cost[(room < 0) | (tile_room < 0)] = np.inf
        np.fill_diagonal(cost, np.inf)
        first, second = np.unravel_index(np.argmin(cost), cost.shape)
        return [int(places[place]) for place in sorted((first, second)) if place < len(places)]
