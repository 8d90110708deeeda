# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Where a run stands in its data and what it could not use: beside the Trainer's state, exact to the batch.

A data loader reads ahead. So each batch brings a note of what its making found out, and what counts are the notes of
the batches that were trained on. Every process writes a file into each checkpoint; on a resume all files are read, so
that another number of processes can go on.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import skip_first_batches
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from ...data.encoding import EncodedStream, LaneSamples
from ...data.replacement import MOST_REMEMBERED, FaultLog
from ...errors import SailvitError
from ..samples import by_index

if TYPE_CHECKING:
    from ..trainer import RefinementTrainer

logger = logging.get_logger(__name__)

NOTE = "data_note"
FILES = "data_state_*.json"
_MOST_RESTARTS, _PEACE = 3, 100  # restarts of a data loader without so many batches between them


class Noting:
    """A collator whose batches bring a note.

    Args:
        collator: the batches' maker.
        samples: what they are read from; its `faults`, `skipped` and lanes are told, where it has such.
    """

    def __init__(self, collator: Callable[[list[Any]], dict[str, Any]], samples: Any) -> None:
        self.collator, self.samples = collator, samples

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        """The collator's batch with `NOTE`, a text."""
        batch = self.collator(samples)
        if not isinstance(getattr(self.samples, "faults", None), FaultLog) or not isinstance(batch, Mapping):
            return batch
        note = {**self.samples.faults.news(), "skipped": self.samples.skipped.news()}
        if isinstance(self.samples, LaneSamples):
            note["cursors"] = self.samples.cursors_of_touched()
        return {**batch, NOTE: json.dumps(note)}


class DataState:
    """The place of a run in its data, in one process.

    Attributes:
        samples (`int`): of a stream: how many all processes together were given.
        lanes, chunk (`int`): of a stream, see `LaneSamples`; 0 until they are known.
        cursors: of the lanes.
        asked, unreadable, overlong (`int`): samples that this process was asked for; those that others replaced.
    """

    def __init__(self, trainer: RefinementTrainer) -> None:
        self._trainer = trainer
        self._reset()

    def _reset(self) -> None:
        self.samples = self.lanes = self.chunk = 0
        self.cursors: dict[int, Any] = {}
        self.asked = self.unreadable = self.overlong = 0
        self._met: dict[str, dict[Any, str]] = {"bad": {}, "overlong": {}}
        self._known: dict[str, set[Any]] = {"bad": set(), "overlong": set()}
        self._all_asked = 0
        self._given: Any = None
        self._current: Any = None
        self._taken = self._first_step = self._restarts = self._last_restart = 0
        self._touched: set[int] | None = None

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write this process's file of a checkpoint."""
        args = self._trainer.args
        # What was known at a resume is written by the first process alone.
        news = {name: list(each.items()) for name, each in self._met.items()}
        if args.process_index:
            news = {name: [item for item in each if item[0] not in self._known[name]] for name, each in news.items()}
        met = {name: each[:MOST_REMEMBERED] for name, each in news.items()}
        cursors = {lane: at for lane, at in self.cursors.items() if self._touched is None or lane in self._touched}
        state = {
            "samples": self.samples, "lanes": self.lanes, "chunk": self.chunk, "cursors": cursors, "asked": self.asked,
            "unreadable": self.unreadable, "overlong": self.overlong, "met": met, "processes": args.world_size,
            "length": self._length(), "step_samples": self._step_samples(),
        }  # fmt: skip
        path = Path(folder, FILES.replace("*", str(args.process_index)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(state), encoding="utf-8")

    def resume(self, folder: str | Path | None) -> None:
        """Begin anew, or go on from a checkpoint of any number of processes.

        Raises:
            SailvitError: a file of it is missing or no JSON, the data set has another length than it had, or a step
                takes another number of samples where the place is a number of steps.
        """
        self._reset()
        if folder is None:
            return
        files = sorted(Path(folder).glob(FILES))
        if not files:
            self._guess(Path(folder))
            return
        try:
            states = [json.loads(file.read_text(encoding="utf-8")) for file in files]
            if len(states) != states[0]["processes"]:
                raise ValueError(f"{len(states)} of {states[0]['processes']} files are there")
        except (ValueError, KeyError, TypeError) as error:
            raise SailvitError(
                f"the place in the data of {folder} cannot be read ({error}): remove it, or resume from another one"
            ) from error
        length = states[0].get("length", self._length())
        if length != self._length():
            raise SailvitError(
                f"the data set of {folder} had {length} samples and now has {self._length()}, so the place "
                "in it is lost: resume with the data that it began with, or begin the stage anew with train(..., "
                "weights_only=True)"
            )
        self._check_step(folder, states[0].get("step_samples"))
        for name in ("samples", "lanes", "chunk"):
            setattr(self, name, states[0][name])
        for state in states:
            self._all_asked += state["asked"]
            for name, met in self._met.items():
                met.update(state["met"][name])
            for lane, cursor in ((int(lane), cursor) for lane, cursor in state["cursors"].items()):
                if lane not in self.cursors or cursor[0] > self.cursors[lane][0]:
                    self.cursors[lane] = cursor
        self._known = {name: set(met) for name, met in self._met.items()}
        if self._trainer.args.process_index:
            self._touched = set()  # the others' lanes are written by the first process
        else:
            for name in ("asked", "unreadable", "overlong"):
                setattr(self, name, sum(state[name] for state in states))

    def _length(self) -> int | None:
        """Samples of a data set with a length."""
        dataset = self._trainer.train_dataset
        return len(dataset) if by_index(dataset) else None

    def _step_samples(self) -> int:
        """Samples of an optimiser step over all processes."""
        return int(self._trainer.get_total_train_batch_size(self._trainer.args))

    def _check_step(self, folder: str | Path, before: int | None) -> None:
        """Refuse other steps than before where the place is counted in them; older checkpoints do not tell theirs."""
        counts_samples = self._trainer.args.packing or isinstance(self._trainer.train_dataset, EncodedStream)
        now = self._step_samples()
        if counts_samples or before in (None, now):
            return
        raise SailvitError(
            f"a step of {folder} took {before} samples (batch x accumulation x processes) and would now take {now}, "
            f"so the place in the data is lost: set global_batch_size to {before}, or begin the stage anew with "
            "train(..., weights_only=True)"
        )

    def _guess(self, folder: Path) -> None:
        """The place of a stream from the steps: all that is known of a checkpoint of an older version."""
        steps, args = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME)).global_step, self._trainer.args
        self.samples = steps * args.gradient_accumulation_steps * args.train_batch_size * args.world_size
        if isinstance(self._trainer.train_dataset, EncodedStream) and not args.packing:
            logger.warning(
                f"{folder} does not tell the place of its stream, as those of older versions: as many rows are passed "
                "over as were seen, and the order may be another one than before."
            )

    # --- the data loader -----------------------------------------------------------------------------------------

    def source(self, dataset: Any) -> Any:
        """What batches are made of: the data set, or a stream by the numbers of its samples."""
        faults = getattr(dataset, "faults", None)
        if isinstance(faults, FaultLog):
            faults.restore(self._all_asked, self._met["bad"], self._met["overlong"])
        if not isinstance(dataset, EncodedStream):
            return dataset
        args = self._trainer.args
        self.lanes = self.lanes or args.stream_lanes or args.world_size * max(1, args.dataloader_num_workers)
        self.chunk = self.chunk or args.train_batch_size
        return LaneSamples(dataset, self.lanes, self.chunk, self.cursors)

    def follow(self, batches: Iterator[Any]) -> Iterator[dict[str, Any]]:
        """The batches without their notes, which are kept; if a worker dies, those of a new loader that goes on."""
        if batches is not self._given:
            self._given = self._current = batches
            self._last_restart -= self._taken  # as counted from the beginning of this pass
            self._taken, self._first_step = 0, self._trainer.state.global_step
        while True:
            try:
                with _alarmed():
                    batch = next(self._current)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                self._restart(error)
                continue
            self._taken += 1
            self._keep(batch.pop(NOTE, None) if isinstance(batch, dict) else None)
            yield batch

    def _keep(self, note: str | None) -> None:
        if note is None:
            return
        found, args = json.loads(note), self._trainer.args
        self.asked += found["asked"]
        self.unreadable += found["skipped"][0]
        self.overlong += found["skipped"][1]
        for name, met in self._met.items():
            if len(met) - len(self._known[name]) < MOST_REMEMBERED:
                met.update(found[name])
        if "cursors" in found:
            self.samples += args.train_batch_size * args.world_size
            new = {int(lane): cursor for lane, cursor in found["cursors"].items()}
            self.cursors.update(new)
            if self._touched is not None:
                self._touched.update(new)

    def _restart(self, error: Exception) -> None:
        """Go on after a worker has died, if it did, with a new loader from the place after the last batch."""
        loader = self._trainer.callback_handler.train_dataloader
        sampler: Any = getattr(loader, "batch_sampler", None)
        said = " ".join(str(error).split())
        dead = "DataLoader worker (pid" in said
        if isinstance(error, OSError | EOFError):  # what fetching from it says, if that comes first
            dead = self._trainer.args.dataloader_num_workers > 0 and "in DataLoader worker process" not in said
        if not dead or not hasattr(sampler, "passed_over") and not hasattr(sampler, "state_after"):
            raise error
        self._restarts = self._restarts + 1 if self._taken - self._last_restart < _PEACE else 1
        self._last_restart = self._taken
        if self._restarts > _MOST_RESTARTS:
            raise SailvitError(
                f"workers of the data loader died {self._restarts} times in a row ({said}): look for what kills "
                "them, such as too little memory, or use fewer"
            ) from error
        logger.warning(f"A worker of the data loader died, and the loader starts again: {said}")
        # The Trainer holds on to a plain iterator, and a loader whose workers persist to its own: the other workers
        # would stay, and the next pass would ask the dead one.
        plain = getattr(loader, "base_dataloader", loader)
        for iterator in (self._current, getattr(plain, "_iterator", None)):
            getattr(iterator, "_shutdown_workers", lambda: None)()
        if hasattr(plain, "_iterator"):
            plain._iterator = None
        self._current = None
        if hasattr(sampler, "epoch"):  # the Trainer tells a resumed pass to another loader, which skips
            loader.set_epoch(sampler.epoch)
        try:
            with torch.random.fork_rng(devices=[]):  # a loader draws a seed: training must not notice
                following = iter(skip_first_batches(loader, self._place_of(sampler)))
                self._current = chain(list(islice(following, 1)), following)
        except (RuntimeError, OSError, EOFError) as again:
            self._restart(again)

    def _place_of(self, sampler: Any) -> int:
        """How many batches a new iteration begins with that were trained on."""
        if hasattr(sampler, "passed_over"):
            return int(sampler.passed_over + self._taken)
        args, step = self._trainer.args, self._trainer.state.global_step
        sampler.load_state_dict(sampler.state_after(step))
        within = self._taken - (step - self._first_step) * args.gradient_accumulation_steps
        return within + (step * args.gradient_accumulation_steps if sampler.shows_done else 0)


_alarm: Any = None


@contextmanager
def _alarmed() -> Iterator[None]:
    """Let torch notice that a worker is dead here, where a batch is fetched, and nowhere else.

    Its handler of SIGCHLD raises wherever the main thread happens to be, perhaps in the middle of an optimiser step.
    """
    global _alarm
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    if before is None or _is_torch_s(before):
        before = signal.SIG_DFL
    try:
        if _alarm is not None:
            signal.signal(signal.SIGCHLD, _alarm)
            _alarm(signal.SIGCHLD, None)
        yield
    finally:
        if _is_torch_s(after := signal.getsignal(signal.SIGCHLD)):
            _alarm = after
            signal.signal(signal.SIGCHLD, before)


def _is_torch_s(handler: Any) -> bool:
    return str(getattr(handler, "__module__", "")).startswith("torch.utils.data")
