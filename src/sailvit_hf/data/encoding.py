# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""From rows to encoded samples: pictures opened and checked, texts made tokens, lengths held to a limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from torch.utils.data import IterableDataset, get_worker_info

from ..errors import SailvitError
from .images import load_image
from .mixture import Part, StreamMixture
from .replacement import UNREADABLE, FaultLog, OverlongSampleError
from .skipped import SkippedCounts
from .streams import IterableSource

if TYPE_CHECKING:
    import torch

OVERLONG = ("raise", "drop")


def image_places(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many image parts messages have."""
    contents = (message["content"] for message in messages if not isinstance(message["content"], str))
    return sum(part["type"] == "image" for content in contents for part in content)


class UnfitSampleError(SailvitError):
    """A sample that the processor cannot encode."""


class MismatchedSampleError(UnfitSampleError):
    """A sample whose pictures are not as many as the places for them."""


@dataclass(frozen=True)
class Encoder:
    """Turns a row into an encoded sample.

    Args:
        processor: has `encode_conversation(messages, images, max_image_tokens=...)`.
        max_length: the longest sample in tokens, those of its pictures among them. None is ever cut: a cut could fall
            into a picture.
        overlong: whether a longer one is an error, `"raise"`, or replaced and counted, `"drop"`.
        max_image_tokens: a sample's pictures together; the tiling of the largest is lowered first.
        image_root: the folder that relative paths of pictures start from and that none may leave; a row's own
            `image_root` counts only without this.
        match_extension: refuse a picture whose name has the extension of another format than its content.
    """

    processor: Any
    max_length: int | None = None
    overlong: str = "raise"
    max_image_tokens: int | None = None
    image_root: str | Path | None = None
    match_extension: bool = True

    def __post_init__(self) -> None:
        if self.overlong not in OVERLONG:
            raise SailvitError(f"overlong samples {self.overlong!r} is not known: choose raise or drop")

    def open_images(self, row: Mapping[str, Any], name: str) -> list[Any]:
        """The pictures of a row, decoded.

        Raises:
            ImageError: one cannot be used; it names the row.
        """
        sources = row.get("images") or ()
        root = self.image_root or row.get("image_root")
        names = [name] if len(sources) == 1 else [f"{name}, picture {i}" for i in range(1, len(sources) + 1)]
        return [
            load_image(source, root, name=own, match_extension=self.match_extension)
            for source, own in zip(sources, names, strict=True)
        ]

    def __call__(self, row: Mapping[str, Any], name: str) -> dict[str, torch.Tensor]:
        """Encode one row.

        Args:
            row: `messages`, and `images` where it shows any; or an encoded sample.
            name: what messages call it, if it has no `where` and no `id`.

        Returns:
            What the processor gives: `input_ids` and `labels` of shape (L,), perhaps `pixel_values` and `num_tiles`.

        Raises:
            OverlongSampleError: it is longer than `max_length`.
            ImageError, UnfitSampleError: it cannot be used.
        """
        name = str(row.get("where") or row.get("id") or name)
        if "input_ids" in row:
            self._check_length(row, name)
            return dict(row)
        places, pictures = image_places(row["messages"]), len(row.get("images") or ())
        if places != pictures:
            raise MismatchedSampleError(
                f"{name} has {places} image parts but {pictures} pictures: give one picture for each part"
            )
        images = self.open_images(row, name)
        budget = {} if self.max_image_tokens is None else {"max_image_tokens": self.max_image_tokens}
        try:
            sample = self.processor.encode_conversation(row["messages"], images, **budget)
        except (ValueError, TemplateError) as error:  # what the chat template or the processor refuses
            # By its name: a processor that came as remote code has a class of its own.
            if type(error).__name__ == "ImageBudgetError":
                raise self._too_long(name, _one_line(error)) from error
            raise UnfitSampleError(f"{name} cannot be encoded: {_one_line(error)}") from error
        self._check_length(sample, name)
        return sample

    def _check_length(self, sample: Mapping[str, Any], name: str) -> None:
        length = len(sample["input_ids"])
        if self.max_length is not None and length > self.max_length:
            raise self._too_long(name, f"{length} tokens are more than max_length={self.max_length}")

    def _too_long(self, name: str, why: str) -> OverlongSampleError:
        mend = "leave it out, raise the limit, or set overlong_samples to drop"
        return OverlongSampleError(f"{name} is too long ({why}): {mend}", drop=self.overlong == "drop")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


class EncodedSamples(Sequence):
    """A data set of rows as one of encoded samples, by index; nothing is kept.

    Args:
        dataset: anything with a length and indices whose rows have `messages` and `images`.
        processor, max_length, overlong, max_image_tokens, image_root, match_extension: see `Encoder`.
    """

    def __init__(
        self,
        dataset: Any,
        processor: Any,
        max_length: int | None = None,
        overlong: str = "raise",
        max_image_tokens: int | None = None,
        image_root: str | Path | None = None,
        match_extension: bool = True,
    ) -> None:
        self.dataset = dataset
        self.encoder = Encoder(processor, max_length, overlong, max_image_tokens, image_root, match_extension)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        return self.encoder(self.dataset[index], f"sample {index}")

    def row_key(self, index: int) -> int:
        """A number that a sample has in every pass."""
        own = getattr(self.dataset, "row_key", None)
        return index if own is None else own(index)

    def set_epoch(self, epoch: int) -> None:
        """Hand the number of the pass on."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


@dataclass
class StreamPlace:
    """Which part of a stream a process reads, and where it begins."""

    process: int = 0
    processes: int = 1
    batch_size: int = 1
    skip_batches: int = 0


@dataclass
class _State:
    samples: int = 0
    start: int = field(default=0)


class EncodedStream(IterableDataset):
    """A stream of encoded samples without end, split over processes and the workers of their data loaders.

    Every process gets as many samples as it asks for, so that all take the same number of steps; `max_steps` says how
    many. A sample that cannot be used is replaced by the next one of its lane that can, which so comes twice. The
    order depends on the seed and on the numbers of processes and workers, and on nothing else.

    `state_dict` tells how many samples were given, and after `load_state_dict` the next iteration goes on from there;
    the rows before are passed over without being opened. That holds without workers, and in each worker of a
    `StatefulDataLoader`. The Trainer counts batches instead, see `StreamPlace.skip_batches`.

    Args:
        rows: a `StreamMixture`, or any iterable data set of rows, such as a `datasets.IterableDataset`.
        processor, max_length, overlong, max_image_tokens, image_root, match_extension: see `Encoder`.
        limit (`float`, *optional*, defaults to 0.01): share of samples that may be unreadable, see `FaultLog`.
    """

    splits_itself = True
    """It gives each process its own samples, so that nobody may split it again."""

    def __init__(
        self,
        rows: Any,
        processor: Any,
        max_length: int | None = None,
        overlong: str = "raise",
        max_image_tokens: int | None = None,
        image_root: str | Path | None = None,
        match_extension: bool = True,
        limit: float = 0.01,
    ) -> None:
        super().__init__()
        self.rows = rows if hasattr(rows, "lane") else StreamMixture([Part(IterableSource(rows))])
        self.encoder = Encoder(processor, max_length, overlong, max_image_tokens, image_root, match_extension)
        self.faults = FaultLog(limit)
        self.skipped = SkippedCounts()
        self.place = StreamPlace()
        self._state = _State()

    def state_dict(self) -> dict[str, int]:
        """How many samples were given."""
        return {"samples": self._state.samples}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Begin the next iteration after as many samples."""
        self._state = _State(start=state["samples"], samples=state["samples"])

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        place = self.place
        lane, lanes = place.process * workers + number, place.processes * workers
        # The data loader takes batches from its workers by turns.
        placeholders = len(range(number, place.skip_batches, workers)) * place.batch_size
        start, self._state = self._state.start, _State(samples=self._state.start)
        rows = self.rows.lane(lane, lanes)
        for _ in range(placeholders):
            next(rows)
            yield None
        for _ in range(start):
            next(rows)
        yield from self._encoded(rows)

    def _encoded(self, rows: Iterator[Any]) -> Iterator[dict[str, torch.Tensor]]:
        waiting = 0
        for pending in rows:
            self.faults.ask()
            try:
                sample = self.encoder(pending.read(), pending.where)
            except UNREADABLE as error:
                self.faults.meet(pending.where, pending.where, error)
                self.skipped.add(self.faults.kind(pending.where))
                waiting += 1
                self.faults.stop_if_nothing_is_left(waiting)
                continue
            for _ in range(waiting + 1):
                self._state.samples += 1
                yield dict(sample)
            waiting = 0
