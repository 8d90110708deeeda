# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Which packs each optimiser step takes, and which process takes which of them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from transformers.utils import logging

from ...errors import SailvitError
from ..replacement import UNREADABLE, UnreadableSamplesError, too_many
from ..streams import Pending
from .packer import Packer, SampleSize, Waiting
from .streams import IndexStream, Order, Stream

logger = logging.get_logger(__name__)

# Up to so many samples a plan is made to its end to know the number of its steps.
_PLANNED_WHOLE = 1 << 17
# Else: windows that are packed, and in which tokens are counted if that costs nothing; and what is left of doubt.
_PACKED, _COUNTED, _MARGIN = (32, 1024), (1024, 256), 0.002

# Samples that wait for each pack of a step, so that all its packs can have the same goal; and at most, for the time.
_WAITING, _MOST_WAITING = 2, 4096

_NOTHING_FITS = "not one sample of the data fits into a pack: look at the data or raise max_length"

Pack = list[Any]
Measure = Callable[[Any], SampleSize]


class RememberedSizes:
    """Measures each index of a map-style data set at most once; 8 bytes an index that was measured.

    Args:
        measure: measures an index.
        length (`int`): how many indices there are.
        tables: what is known, see `sizes.SizesTable`: of each run of indices, one after the other, an array (n, 2) of
            tokens and tiles, int32, with no tokens where it is not; or `None`.
    """

    def __init__(
        self, measure: Measure, length: int, tables: Sequence[tuple[int, np.ndarray | None]] | None = None
    ) -> None:
        self._measure = measure
        tables = [(length, None)] if tables is None else tables
        self.known = all(table is not None for _, table in tables)
        self._starts = np.cumsum([0, *(count for count, _ in tables)]).tolist()
        # Zeros that nobody wrote to are not in memory.
        self._tables = [np.zeros((count, 2), dtype=np.int32) if table is None else table for count, table in tables]

    def __call__(self, index: int) -> SampleSize:
        which = bisect_right(self._starts, index) - 1
        table, place = self._tables[which], index - self._starts[which]
        tokens, tiles = table[place].tolist()
        if not tokens:
            tokens, tiles = table[place] = self._measure(index)
        return SampleSize(tokens, tiles)

    def look_up(self, indices: np.ndarray) -> np.ndarray:
        """What is known of the sizes of some indices, (n, 2); no tokens where nothing is."""
        found = np.zeros((len(indices), 2), dtype=np.int32)
        which = np.searchsorted(self._starts, indices, side="right") - 1
        for number, table in enumerate(self._tables):
            own = which == number
            found[own] = table[indices[own] - self._starts[number]]
        return found


class PackPlan:
    """Reads a stream, measures its samples, and gives the packs of one optimiser step after the other.

    The packs of a step do not depend on how many processes or micro-batches share them, only on their number. They
    come with most tiles first, so that those that are worked on at the same time are alike. At the end of a finite
    stream the last step's samples are spread over all its packs; a pack may then be empty.

    Args:
        stream: gives the keys of samples.
        measure: gives the size of a key's sample, without decoding pictures if it can.
        packer: a `Packer`; more samples wait in it than its `buffer_size` if a step has many packs: two for each, up
            to 4096.
        packs_per_step (`int`): processes times packs of a micro-batch times micro-batches of a step.
        overlong (`str`, defaults to `"raise"`): what becomes of a sample that does not fit into an empty pack:
            `"raise"` or `"drop"`. It is never cut.
        bad_sample_limit (`float`, defaults to 0.01): the share of samples that may be unreadable; they are left out.

    Raises:
        SailvitError: on reading: too many samples are unreadable, one is over-long, or none fits.
    """

    def __init__(
        self,
        stream: Stream,
        measure: Measure,
        packer: Packer,
        packs_per_step: int,
        *,
        overlong: str = "raise",
        bad_sample_limit: float = 0.01,
    ) -> None:
        if overlong not in ("raise", "drop"):
            raise SailvitError(f"over-long samples can be treated by 'raise' or 'drop', not by {overlong!r}")
        self.stream, self.measure, self.packer, self.packs_per_step = stream, measure, packer, packs_per_step
        self.buffer = max(packer.buffer_size, min(_WAITING * packs_per_step, _MOST_WAITING))
        self.overlong, self.bad_sample_limit = overlong, bad_sample_limit
        self.counts = dict.fromkeys(("read", "unreadable", "overlong", "packs", "samples", "tokens", "tiles"), 0)
        self._keys: dict[int, Any] = {}
        self._ended = False
        self._kept_in_epoch = stream.epoch
        self._reasons: list[str] = []
        self.quiet = False

    @property
    def finished(self) -> bool:
        """Whether all samples of a finite stream are in packs that were given."""
        return self._ended and not self._keys

    @property
    def efficiency(self) -> float:
        """The share of the packs' room that holds tokens, 0 to 1."""
        return self.counts["tokens"] / max(1, self.counts["packs"] * self.packer.max_tokens)

    def next_step(self) -> list[Pack] | None:
        """The packs of the next optimiser step, `packs_per_step` of them, as keys; `None` at the end of the stream."""
        packs: list[list[Waiting]] = []
        self.packer.begin_step(self.packs_per_step)
        while len(packs) < self.packs_per_step:
            while len(self.packer) < self.buffer and not self._ended:
                self._read()
            pack = self.packer.take()
            if not pack:
                break
            packs.append(pack)
        if not packs:
            return None
        self.counts["packs"] += len(packs)
        if len(packs) < self.packs_per_step:
            packs = spread(packs, self.packs_per_step, self.packer)
        packs.sort(key=lambda pack: (-sum(s.tiles for s in pack), -sum(s.tokens for s in pack)))
        for sample in (sample for pack in packs for sample in pack):
            self.counts["samples"] += 1
            self.counts["tokens"] += sample.tokens
            self.counts["tiles"] += sample.tiles
        found = [[self._keys.pop(sample.number) for sample in pack] for pack in packs]
        self.stream.forget(min(self._keys, default=self.counts["read"]))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next packs hang on, as JSON: the buffer by numbers, the stream's place, the counts."""
        waiting = {sample.number: self._keys[sample.number] for sample in self.packer.waiting}
        return {
            "settings": self._settings(),
            "counts": dict(self.counts),
            "packer": self.packer.state_dict(),
            "stream": self.stream.state_dict(waiting),
            "ended": self._ended,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`.

        Raises:
            SailvitError: it was planned otherwise.
        """
        for name, value in self._settings().items():
            if state["settings"].get(name) != value:
                raise SailvitError(
                    f"this run packed with {name} {state['settings'].get(name)}, and is to go on with {value}: set it "
                    "as before"
                )
        self.counts = dict(state["counts"])
        self.packer.load_state_dict(state["packer"])
        self._ended = state["ended"]
        keys = self.stream.load_state_dict(state["stream"], [sample.number for sample in self.packer.waiting])
        self._keys = {number: opened(key) for number, key in keys.items()}
        self._kept_in_epoch = self.stream.epoch

    def _settings(self) -> dict[str, Any]:
        packer = self.packer
        return {
            "max_length": packer.max_tokens,
            "max_tiles_per_pack": packer.max_tiles,
            "packing_buffer": packer.buffer_size,
            "packs per step (processes x batch x accumulation)": self.packs_per_step,
        }

    def _read(self) -> None:
        """Read one sample into the buffer, or leave it out."""
        try:
            key = self.stream.read()
        except StopIteration:
            self._ended = True
            return
        number = self.counts["read"]
        self.counts["read"] += 1
        try:
            key = opened(key)
            size = self.measure(key)
        except UNREADABLE as error:
            self._leave_out(number, error)
        else:
            if self.packer.fits(size):
                self.packer.add(number, size)
                self._keys[number] = key
                self._kept_in_epoch = self.stream.epoch
                return
            self._overlong(number, size)
        if self.stream.epoch > self._kept_in_epoch + 1:
            raise SailvitError(_NOTHING_FITS)

    def _overlong(self, number: int, size: SampleSize) -> None:
        room = f"{self.packer.max_tokens} tokens"
        room += "" if self.packer.max_tiles is None else f" and {self.packer.max_tiles} tiles"
        sentence = f"a sample of {size.tokens} tokens and {size.tiles} tiles does not fit into a pack of {room}"
        if self.overlong == "raise":
            raise SailvitError(f"{sentence}: raise the limits, or have such samples dropped")
        self.counts["overlong"] += 1
        if self.counts["overlong"] == 1 and not self.quiet:
            logger.warning(f"{sentence} and is left out, as will be others like it")

    def _leave_out(self, number: int, error: BaseException) -> None:
        reason = f"sample {number} in reading order: {' '.join(str(error).split()) or type(error).__name__}"
        self.counts["unreadable"] += 1
        self._reasons = [*self._reasons, reason][:10]
        if not self.quiet:
            logger.warning(f"{reason}; it is left out")
        if too_many(self.counts["unreadable"], self.counts["read"], self.bad_sample_limit):
            raise UnreadableSamplesError(
                f"{self.counts['unreadable']} samples cannot be read, more than bad_sample_limit="
                f"{self.bad_sample_limit:g} allows ({'; '.join(self._reasons)}): mend or remove them, or raise the "
                "limit"
            )


def opened(key: Any) -> Any:
    """The row, of one that is not read yet; other keys as they are."""
    return key.read() if isinstance(key, Pending) else key


def spread(packs: Sequence[Sequence[Waiting]], slots: int, packer: Packer) -> list[list[Waiting]]:
    """The samples of these packs over more packs, as evenly as the largest-first rule does; empty ones may remain."""
    result: list[list[Waiting]] = [[] for _ in range(slots)]
    tokens, tiles = [0] * slots, [0] * slots
    samples = [sample for pack in packs for sample in pack]
    for sample in sorted(samples, key=lambda sample: (-sample.tokens, -sample.tiles, sample.number)):
        place = min(range(slots), key=lambda slot: (tokens[slot], tiles[slot], slot))
        if not packer.fits(SampleSize(tokens[place] + sample.tokens, tiles[place] + sample.tiles)):
            return [list(pack) for pack in packs] + [[] for _ in range(slots - len(packs))]
        result[place].append(sample)
        tokens[place], tiles[place] = tokens[place] + sample.tokens, tiles[place] + sample.tiles
    return result


def dealt(packs: Sequence[Pack], processes: int, process: int, packs_per_batch: int) -> list[list[Pack]]:
    """One process's micro-batches of a step.

    The packs come largest first. At each turn the processes get neighbours of this order, and every other turn goes
    the other way round, so that the sums are nearly equal as well.
    """
    turns = [packs[start : start + processes] for start in range(0, len(packs), processes)]
    own = [turn[process if number % 2 == 0 else processes - 1 - process] for number, turn in enumerate(turns)]
    return [own[start : start + packs_per_batch] for start in range(0, len(own), packs_per_batch)]


class PackBatches:
    """A batch sampler: one process's micro-batches, each a list of packs, each a list of keys.

    Of the steps that a resumed run has done already it gives empty batches, which the Trainer skips without loading
    them; so nothing is planned or read a second time.

    Args:
        plan: a `PackPlan`; every process makes the same one.
        steps (`int`): optimiser steps in all.
        accumulation (`int`): micro-batches of a step.
        packs_per_batch (`int`): packs of a micro-batch.
        processes, process (`int`): how many, and which one this is.
        ahead (`int`): steps that a data loader may be ahead of the training.
        samples_per_epoch (`int`, *optional*): of a data set with a length.

    Attributes:
        last (`int`): the step after which there is nothing left, once it is known; before, `steps`.
    """

    def __init__(
        self,
        plan: PackPlan,
        steps: int,
        accumulation: int = 1,
        packs_per_batch: int = 1,
        processes: int = 1,
        process: int = 0,
        ahead: int = 1,
        samples_per_epoch: int | None = None,
    ) -> None:
        if plan.packs_per_step != accumulation * packs_per_batch * processes:
            raise ValueError("the plan's packs per step are not those of processes, batches and accumulation")
        self.plan, self.steps, self.accumulation, self.packs_per_batch = plan, steps, accumulation, packs_per_batch
        self.processes, self.process = processes, process
        self.samples_per_epoch = samples_per_epoch
        self.done, self.shows_done = 0, True
        self.last = steps
        self._states: deque[tuple[int, dict[str, Any]]] = deque(maxlen=ahead + 3)
        self._states.append((0, plan.state_dict()))

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[Pack]]:
        if self.shows_done:
            for _ in range(self.done * self.accumulation):
                yield []
        for step in range(self.done, self.steps):
            packs = self.plan.next_step()
            if packs is None:
                return
            if self.plan.finished:
                self.last = step + 1
            self._states.append((step + 1, self.plan.state_dict()))
            yield from dealt(packs, self.processes, self.process, self.packs_per_batch)
        if getattr(self.plan.stream, "limit", None) is not None and not self.plan.finished:
            logger.warning("the samples took more steps than were foreseen; the last of them are not trained on")

    def state_after(self, step: int) -> dict[str, Any]:
        """The plan's state after so many steps of training, however far the data loader has run ahead.

        Raises:
            KeyError: it was not reached, or is long past.
        """
        return {"step": step, "plan": dict(self._states)[step]}

    def counts_after(self, step: int) -> dict[str, int]:
        """`PackPlan.counts` after so many steps of training."""
        counts: dict[str, int] = self.state_after(step)["plan"]["counts"]
        return counts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_after()`."""
        self.plan.load_state_dict(state["plan"])
        self.done = state["step"]
        self.last = self.done if self.plan.finished else self.steps
        self._states.clear()
        self._states.append((self.done, self.plan.state_dict()))


def planned_steps(
    order: Order, reads: int, measure: Measure, packer: Packer, packs_per_step: int, **options: Any
) -> int:
    """How many optimiser steps it takes to train on so many samples, from sizes alone.

    Up to 2 ** 17 samples the whole plan is made, and the number is exact. Of more it is a bound, a few thousandths
    above: windows of the reading order are packed, and tokens counted in a sample of all; see docs/packing.md.

    Args:
        order: gives the indices of a pass.
        reads (`int`): samples in all.
        measure, packer, packs_per_step, options: see `PackPlan`.

    Raises:
        SailvitError: not one sample fits into a pack.
    """
    if reads <= _PLANNED_WHOLE:
        plan, steps = _plan_of_sizes(order, reads, measure, packer, packs_per_step, **options)
        if not plan.counts["packs"]:
            raise SailvitError(_NOTHING_FITS)
        return steps
    found = _windows(order, reads, _PACKED)
    indices, seen = np.concatenate(found), []

    def noted(index: int) -> SampleSize:
        seen.append(measure(index))
        return seen[-1]

    plan, _ = _plan_of_sizes(lambda epoch: indices, len(indices), noted, packer, packs_per_step, **options)
    if not plan.counts["packs"]:
        raise SailvitError(_NOTHING_FITS)
    tokens = np.array(seen)[:, 0]
    if isinstance(measure, RememberedSizes) and measure.known:
        found = _windows(order, reads, _COUNTED)
        tokens = measure.look_up(np.concatenate(found))[:, 0]
    means = np.array([window.mean() for window in np.array_split(tokens * (tokens <= packer.max_tokens), len(found))])
    # How far the mean of the windows may be from that of all: four times its standard deviation.
    doubt = 4 * float(means.std()) / math.sqrt(len(means)) / float(means.mean())
    packs = reads * float(means.mean()) * plan.counts["packs"] / plan.counts["tokens"]
    return math.ceil(packs * (1 + doubt + _MARGIN) / packs_per_step) + 1


def _plan_of_sizes(
    order: Order, reads: int, measure: Measure, packer: Packer, packs_per_step: int, **options: Any
) -> tuple[PackPlan, int]:
    """A plan that was made to its end, and its steps."""
    own = Packer(packer.max_tokens, packer.max_tiles, packer.buffer_size)
    plan = PackPlan(IndexStream(order, reads), measure, own, packs_per_step, **options)
    plan.quiet = True
    steps = 0
    while plan.next_step() is not None:
        steps += 1
    return plan, steps


def _windows(order: Order, reads: int, windows: tuple[int, int]) -> list[np.ndarray]:
    """So many evenly spaced pieces of so many indices of the reading order."""
    count, length = windows
    indices, found, epoch = order(0), [], 0
    for start in np.linspace(0, reads - length, count).astype(np.int64).tolist():
        if start // len(indices) != epoch:
            epoch = start // len(indices)
            indices = order(epoch)
        place = start % len(indices)
        found.append(np.asarray(indices[place : place + length]))
    return found
