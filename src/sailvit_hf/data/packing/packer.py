# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Which samples go into one pack: on-line, two budgets at once (tokens, tiles), as many tiles in every pack."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...errors import SailvitError

# With room for no more than so many samples of the waiting ones' mean length the last places of a pack are searched
# for; before, one of the oldest is just taken. With more, the search uses up the samples that are easy to pack.
_SEARCHED = 3
# The last three places: one of so many of the oldest, one of at most so many of all that wait, one of all. Bounds, so
# that a larger buffer does not make a pack much dearer.
_OLDEST, _LOOKED_AT = 16, 128
# What a tile too few costs, in tokens of room; one too many costs more, for the fullest pack is who all wait for.
_MISSING, _TOO_MANY = 150, 2000
# What a tile too many or too few costs, in shares of the tokens that a tile comes with, where no good three are found.
_BALANCE = 0.5
# How far the tiles that wait may be from their share of those read lately, and of how many samples lately is.
_SURPLUS, _LATELY = 0.1, 1 << 14
_TOKENS, _PLACES = 28, 20  # bits of tokens, and of a place in the buffer, with tiles in one sortable number


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
    waits for ever; then come those of the oldest that lead the pack to its goal, a number of tiles; the last three
    places go to those of all that fill it up and meet the goal. The goal is a whole number next to what a full pack of
    the samples read lately would have, the same for all packs of a step as far as the buffer allows; in other steps it
    is the other neighbour, which makes up for the rounding. So the packs of one optimiser step hold as many tiles
    each. No randomness: the same sizes in the same order give the same packs.

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
        self._table, self._count = np.empty((buffer_size + 1, 3), dtype=np.int64), 0
        self._lately = [0, 0, 0]  # samples, tokens, tiles
        self._goal: int | None = None
        self._packs = 1

    def __len__(self) -> int:
        """How many samples wait."""
        return self._count

    @property
    def waiting(self) -> list[Waiting]:
        """The samples in the buffer, the oldest first."""
        return [Waiting(*sample) for sample in self._table[: self._count].tolist()]

    @property
    def full(self) -> bool:
        """Whether the buffer holds as many samples as it may: time to take a pack."""
        return self._count >= self.buffer_size

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
        if self._count == len(self._table):
            self._table = np.concatenate([self._table, np.empty_like(self._table)])
        self._table[self._count] = number, size.tokens, size.tiles
        self._count += 1
        if self._lately[0] >= _LATELY:
            self._lately = [value // 2 for value in self._lately]
        self._lately = [self._lately[0] + 1, self._lately[1] + size.tokens, self._lately[2] + size.tiles]

    def begin_step(self, packs: int) -> None:
        """So many packs that come now are worked on at the same time: they get a common goal."""
        self._goal, self._packs = None, packs

    def take(self) -> list[Waiting]:
        """One pack of the waiting samples, which then wait no longer; empty if there are none."""
        if not self._count:
            return []
        table = self._table[: self._count]
        chosen = _Choice(table, self.max_tokens, self.max_tiles, self._next_goal(table)).make()
        pack = [Waiting(*sample) for sample in table[chosen].tolist()]
        free = np.ones(self._count, dtype=bool)
        free[chosen] = False
        self._count -= len(chosen)
        self._table[: self._count] = table[free]
        return pack

    def _next_goal(self, table: np.ndarray) -> int:
        """How many tiles a pack is to have."""
        waiting_tokens, waiting_tiles = table[:, 1:].sum(0).tolist()
        _, tokens, tiles = self._lately
        share = tiles / max(1, tokens)
        surplus, most = waiting_tiles - share * waiting_tokens, _SURPLUS * waiting_tiles
        exact = share * self.max_tokens
        if self._goal is None or abs(surplus) > most:
            wanted = round(exact + surplus / max(self._packs, waiting_tokens / self.max_tokens))
            self._goal = min(max(wanted, int(exact)), int(exact) + 1)
        return self._goal

    def state_dict(self) -> dict[str, Any]:
        """The buffer, as plain numbers: `[number, tokens, tiles]` of each waiting sample; and what the goal is of."""
        return {"waiting": self._table[: self._count].tolist(), "lately": list(self._lately), "goal": self._goal}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        waiting = state["waiting"]
        self._count = len(waiting)
        self._table = np.empty((max(self.buffer_size, self._count) + 1, 3), dtype=np.int64)
        self._table[: self._count] = np.array(waiting, dtype=np.int64).reshape(-1, 3)
        sums = self._table[: self._count, 1:].sum(0).tolist()
        # States of older versions do not have the rest.
        self._lately, self._goal = list(state.get("lately", [self._count, *sums])), state.get("goal")


class _Choice:
    """Makes one pack of the samples of a table of number, tokens and tiles."""

    def __init__(self, table: np.ndarray, max_tokens: int, max_tiles: int | None, goal: int) -> None:
        self.tokens, self.tiles = table[:, 1], table[:, 2]
        self.free = np.ones(len(table), dtype=bool)
        self.room = max_tokens
        self.tile_room = int(self.tiles.sum()) if max_tiles is None else max_tiles
        self.goal = min(self.tile_room, goal)
        # With fewer tiles allowed than a full pack has, it is not full; else the goal is for a full one.
        self.limited = goal > self.tile_room
        self.ratio = self.tiles.sum() / max(1, self.tokens.sum()) if self.limited else goal / max_tokens
        self.mean = self.tokens.mean()
        self.packed_tokens = self.packed_tiles = 0
        self.chosen: list[int] = []

    def make(self) -> list[int]:
        """The places of the chosen samples in the table."""
        self._take(0)
        while True:
            places = np.flatnonzero(self.free & (self.tokens <= self.room) & (self.tiles <= self.tile_room))
            if not len(places):
                return self.chosen
            if self.room > _SEARCHED * self.mean:
                # One that leads past the goal could not be made up for at the end.
                within = places[self.packed_tiles + self.tiles[places] <= self.goal]
                places = (within if len(within) else places)[:_OLDEST]
                tokens, tiles = self.packed_tokens + self.tokens[places], self.packed_tiles + self.tiles[places]
                self._take(int(places[np.argmin(np.abs(tiles - self.ratio * tokens))]))
            else:
                three = None if self.limited else self._best_three(places)
                for place in three or self._best_pair(places[:: -(-len(places) // _LOOKED_AT)]):
                    self._take(place)

    def _take(self, place: int) -> None:
        self.free[place] = False
        self.chosen.append(place)
        tokens, tiles = int(self.tokens[place]), int(self.tiles[place])
        self.room, self.tile_room = self.room - tokens, self.tile_room - tiles
        self.packed_tokens, self.packed_tiles = self.packed_tokens + tokens, self.packed_tiles + tiles

    def _best_three(self, places: np.ndarray) -> list[int]:
        """Up to three samples after which the pack is nearest to full, with the goal's tiles or nearly; or none."""
        count = len(places)  # that place is nobody: for two, or one
        tokens, tiles = np.append(self.tokens[places], 0), np.append(self.tiles[places], 0)
        # Nobody first: of equals the two win, and the short ones stay for when they are needed.
        third = np.append(count, np.arange(min(count, _OLDEST)))[:, None]
        first = np.append(np.arange(0, count, -(-count // _LOOKED_AT)), count)
        room = self.room - tokens[third] - tokens[first]
        room[(third == first) & (third < count)] = -1
        needed = self.goal - self.packed_tiles - tiles[third] - tiles[first]
        # Sorted by tiles, tokens and place: no two are equal, so that any way of sorting gives the same.
        keys = np.sort((tiles << _TOKENS | tokens) << _PLACES | np.arange(count + 1))
        order = keys & ((1 << _PLACES) - 1)
        best, found = np.inf, []
        for more, cost in ((0, 0), (-1, _MISSING), (-2, 2 * _MISSING), (-3, 3 * _MISSING), (1, _TOO_MANY)):
            if best <= cost:
                break
            # The longest sample of just the tiles that are needed for which there is room.
            wanted = ((needed + more << _TOKENS) + room + 1) << _PLACES
            at = np.searchsorted(keys, wanted) - 1
            second = order[at]
            possible = (room >= 0) & (at >= 0) & (tiles[second] == needed + more)
            possible &= (second == count) | ((second != first) & (second != third))
            left = np.where(possible, room - tokens[second] + cost, np.inf)
            row, column = np.unravel_index(np.argmin(left), left.shape)
            if left[row, column] < best and self.goal + more <= self.packed_tiles + self.tile_room:
                best = left[row, column]
                found = [third[row, 0], first[column], second[row, column]]
        return sorted({int(places[place]) for place in found if place < count})

    def _best_pair(self, places: np.ndarray) -> list[int]:
        """The one or two samples after which the pack is nearest to full, and to the goal."""
        tokens = np.append(self.tokens[places], 0)  # the last is nobody: a pair of one
        tiles = np.append(self.tiles[places], 0)
        room = self.room - tokens[:, None] - tokens
        tile_room = self.tile_room - tiles[:, None] - tiles
        cost = room.astype(float)
        if self.ratio:
            more = self.packed_tiles + tiles[:, None] + tiles - self.goal
            cost += _BALANCE / self.ratio * np.where(more > 0, 8 * more, -more)
        cost[(room < 0) | (tile_room < 0)] = np.inf
        np.fill_diagonal(cost, np.inf)
        first, second = np.unravel_index(np.argmin(cost), cost.shape)
        return [int(places[place]) for place in sorted((first, second)) if place < len(places)]
