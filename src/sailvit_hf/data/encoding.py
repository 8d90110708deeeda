# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""From rows to encoded samples: pictures opened and checked, texts made tokens, lengths held to a limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
        processor, options: see `Encoder`.
    """

    def __init__(self, dataset: Any, processor: Any, **options: Any) -> None:
        self.dataset = dataset
        self.encoder = Encoder(processor, **options)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        return self.encoder(self.dataset[index], f"sample {index}")

    @property
    def distinct(self) -> int:
        """How many different samples there are in all passes."""
        return int(getattr(self.dataset, "distinct", len(self)))

    def row_key(self, index: int) -> int:
        """A number that a sample has in every pass."""
        own = getattr(self.dataset, "row_key", None)
        return index if own is None else own(index)

    def set_epoch(self, epoch: int) -> None:
        """Hand the number of the pass on."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


class EncodedStream(IterableDataset):
    """A stream of encoded samples without end.

    A sample that cannot be used is replaced by the next one of its lane that can, which so comes twice: everybody gets
    as many samples as are asked for. The order depends on the seed and on the number of lanes, and on nothing else.

    Iterated over, it is one lane, or one for each worker of a data loader. `state_dict` tells where it stands, and
    after `load_state_dict` the next iteration goes on from there; that holds without workers, and in each worker of a
    `StatefulDataLoader`. The `RefinementTrainer` reads it by `LaneSamples`, whose order is the same for any number of
    processes and workers.

    Args:
        rows: a `StreamMixture`, or any iterable data set of rows, such as a `datasets.IterableDataset`.
        processor, options: see `Encoder`.
        limit (`float`, *optional*, defaults to 0.01): share of samples that may be unreadable, see `FaultLog`.
    """

    def __init__(self, rows: Any, processor: Any, limit: float = 0.01, **options: Any) -> None:
        super().__init__()
        self.rows = rows if hasattr(rows, "lane") else StreamMixture([Part(IterableSource(rows))])
        self.encoder = Encoder(processor, **options)
        self.faults = FaultLog(limit)
        self.skipped = SkippedCounts()
        self._samples, self._cursor = 0, None
        self._reader: LaneReader | None = None

    def state_dict(self) -> dict[str, Any]:
        """How many samples were given, and the place in the data."""
        return {"samples": self._samples, "cursor": self._cursor if self._reader is None else self._reader.cursor()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next iteration after `state_dict`."""
        self._samples, self._cursor, self._reader = state["samples"], state["cursor"], None

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        lane, lanes = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        start, cursor = (self._samples, self._cursor) if self._reader is None else (0, None)
        self._reader, self._samples = LaneReader(self, lane, lanes, cursor), start
        while True:
            sample = self._reader(self._samples)
            self._samples += 1
            yield sample


class LaneReader:
    """The samples of one lane by their numbers: number n is the first usable one of the rows from n on.

    Numbers only rise. What lies between two of them is passed over without being opened, so that several may read the
    same lane by turns.

    Args:
        stream: whose lane it is.
        lane, lanes: see `StreamMixture.lane`.
        cursor: see `cursor()`; of a reader that was not asked for this number or a later one.
    """

    def __init__(self, stream: EncodedStream, lane: int, lanes: int, cursor: Any = None) -> None:
        self.stream = stream
        start: tuple[int, Any] = (0, None) if cursor is None else cursor
        self._at, state = start  # how many rows were taken
        self.rows = stream.rows.lane(lane, lanes, state)
        self.first, self._before, self._last = self._at, [self._at, state], -1
        self._sample: Mapping[str, Any] = {}
        self._replaced: dict[int, int] = {}

    def __call__(self, number: int) -> dict[str, Any]:
        """One sample.

        Raises:
            UnreadableSamplesError, OverlongSampleError: see `FaultLog`.
        """
        self.stream.faults.ask()
        if number >= self._at:
            for _ in range(number - self._at):
                next(self.rows)
            self._at = number
            self._before = self._here()
            self._sample = self._read()
        if number in self._replaced:
            self.stream.skipped.add(self._replaced[number])
        self._last = number
        return dict(self._sample)

    def _here(self) -> list[Any]:
        return [self._at, self.rows.state_dict()]

    def cursor(self) -> Any:
        """Where to go on for the numbers after the last one, as JSON; never behind a row that one of them needs."""
        return self._here() if self._last + 1 == self._at else self._before

    def _read(self) -> dict[str, Any]:
        faults, self._replaced = self.stream.faults, {}
        for pending in self.rows:
            self._at += 1
            try:
                return self.stream.encoder(pending.read(), pending.where)
            except UNREADABLE as error:
                faults.meet(pending.where, pending.where, error)
                self._replaced[self._at - 1] = faults.kind(pending.where)
                faults.stop_if_nothing_is_left(len(self._replaced))
        raise RuntimeError("a lane has no end")


class LaneSamples:
    """A stream by the numbers of its samples: the same ones for any number of processes and workers.

    The samples go to the lanes by turns, `chunk` at a time. Whoever reads a sample reads on in its lane; so each
    process and worker should ask for the samples of lanes of its own, and others are right, too, but slower.

    Args:
        stream: the stream; its `faults` and `skipped` are the ones that are counted in.
        lanes: how many.
        chunk: samples that a lane gives at its turn.
        cursors: of the lanes that were read before, see `cursors_of_touched`. May be exchanged before an iteration.

    Raises:
        SailvitError: the cursors are about other data.
    """

    def __init__(self, stream: EncodedStream, lanes: int, chunk: int, cursors: dict[int, Any] | None = None) -> None:
        self.stream, self.lanes, self.chunk = stream, lanes, chunk
        self.cursors = {} if cursors is None else cursors
        for _, state in self.cursors.values():  # in the main process, and not in a worker
            stream.rows.check(state)
        self.faults, self.skipped = stream.faults, stream.skipped
        self._readers: dict[int, LaneReader] = {}
        self._touched: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}  # files are open in them

    def __getitem__(self, number: int) -> dict[str, Any]:
        turn, within = divmod(number, self.chunk)
        place, lane = divmod(turn, self.lanes)
        place = place * self.chunk + within
        reader = self._readers.get(lane)
        if reader is None or place < reader.first:
            known = self.cursors.get(lane)
            cursor = known if known is not None and known[0] <= place else None
            reader = self._readers[lane] = LaneReader(self.stream, lane, self.lanes, cursor)
        self._touched.add(lane)
        return reader(place)

    def cursors_of_touched(self) -> dict[int, Any]:
        """Where the lanes stand that were read since this was asked last, as JSON."""
        touched, self._touched = self._touched, set()
        return {lane: self._readers[lane].cursor() for lane in sorted(touched)}
