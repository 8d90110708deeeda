# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What the samples of a data set are to a pack plan: how to find, measure and encode them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset

from ...errors import SailvitError
from ..encoding import EncodedSamples, EncodedStream, Encoder, MismatchedSampleError
from ..images import image_size
from ..mixture import LaneRows, Mixture
from ..replacement import WithReplacements
from ..sizes import load_table
from .packer import SampleSize
from .streams import IndexStream, Order, RowStream, Stream, sequential, shuffled

_NOT_ENCODED = "packing needs to know the samples' lengths: give the trainer a processor, or encoded samples"


def encoded_size(sample: Mapping[str, Any]) -> SampleSize:
    """The size of an encoded sample."""
    if sample.get("num_tiles") is not None:
        tiles = int(sum(sample["num_tiles"]))
    else:
        tiles = 0 if sample.get("pixel_values") is None else len(sample["pixel_values"])
    return SampleSize(len(sample["input_ids"]), tiles)


def row_size(encoder: Encoder, row: Mapping[str, Any], name: str) -> SampleSize:
    """What `encoder(row, name)` takes of a pack, from its text and the headers of its pictures.

    Raises:
        ImageError, MismatchedSampleError: its pictures cannot be used.
    """
    parts = [p for m in row["messages"] if not isinstance(m["content"], str) for p in m["content"]]
    if not hasattr(encoder.processor, "count_tokens") or any(part["type"] == "video" for part in parts):
        return encoded_size(encoder(row, name))  # nothing cheaper is known
    name = str(row.get("where") or row.get("id") or name)
    sources, places = row.get("images") or (), sum(part["type"] == "image" for part in parts)
    if places != len(sources):
        raise MismatchedSampleError(
            f"{name} has {places} image parts but {len(sources)} pictures: give one picture for each part"
        )
    root = encoder.image_root or row.get("image_root")
    sizes = [image_size(source, root, name=name, match_extension=encoder.match_extension) for source in sources]
    budget = {} if encoder.max_image_tokens is None else {"max_image_tokens": encoder.max_image_tokens}
    size = encoder.processor.count_tokens(row["messages"], sizes, **budget)
    return SampleSize(size.total, size.tiles)


class PackingRows:
    """The samples of a data set, as a pack plan and the workers of a data loader need them.

    A key is an index where there are any, of a mixture the sample's number in all its parts, and else the row itself.

    Args:
        dataset: map-style or iterable, of encoded samples, or `EncodedSamples` or `EncodedStream`; in
            `WithReplacements` or not: a pack does without a sample that cannot be read.

    Attributes:
        length (`int`, *optional*): samples of one pass.
        keys (`int`, *optional*): keys that there are, where they are indices.
    """

    def __init__(self, dataset: Any) -> None:
        if isinstance(dataset, WithReplacements):
            dataset = dataset.dataset
        self.encoder: Encoder | None = None
        if isinstance(dataset, EncodedSamples | EncodedStream):
            self.encoder = dataset.encoder
            dataset = dataset.rows if isinstance(dataset, EncodedStream) else dataset.dataset
        self._order: Order | None = None
        self.length: int | None = None
        self.keys: int | None = None
        self._stream: Any = None
        if isinstance(dataset, Mixture):
            self._rows: Any = _Parts(dataset)
            self.length, self.keys, self._order = len(dataset), len(self._rows), self._rows.order
        elif hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
            self._rows = dataset
            self.length = self.keys = len(dataset)
            if self.encoder is None and len(dataset) and "input_ids" not in dataset[0]:
                raise SailvitError(_NOT_ENCODED)
        else:
            self._rows, self._stream = None, dataset

    def __getstate__(self) -> dict[str, Any]:
        # Streams are read in the main process, and may not be picklable.
        return {**self.__dict__, "_stream": None, "_order": None}

    def order(self, strategy: str, seed: int) -> Order:
        """The indices of each pass; a mixture has its own order, all others that of the Trainer's sampling strategy.

        Raises:
            SailvitError: the strategy chooses by length.
        """
        if strategy not in ("random", "sequential"):
            raise SailvitError(
                f"train_sampling_strategy {strategy!r} chooses by length, as the packer does: use 'random' or "
                "'sequential' with packing"
            )
        if self._order is not None:
            return self._order
        assert self.length is not None
        return sequential(self.length) if strategy == "sequential" else shuffled(self.length, seed)

    def size_tables(self) -> list[tuple[int, Any]] | None:
        """What is known of the samples' sizes beforehand; see `RememberedSizes`."""
        return [(len(part), load_table(part, self.encoder)) for part in self.parts()]

    def parts(self) -> list[Any]:
        """The data sets that the keys go through, one after the other."""
        if isinstance(self._rows, _Parts):
            return [part.dataset for part in self._rows.mixture.parts]
        return list(self._rows.datasets) if isinstance(self._rows, ConcatDataset) else [self._rows]

    def stream(self, order: Order | None = None, limit: int | None = None) -> Stream:
        """Gives the keys, those of a map-style data set in this order and up to this limit."""
        if order is not None:
            return IndexStream(order, limit)
        return RowStream(LaneRows(self._stream) if hasattr(self._stream, "lane") else self._stream)

    def measure(self, key: Any) -> SampleSize:
        """The size of a sample, from its texts and the headers of its pictures where it is not encoded yet."""
        row = self._row(key)
        if "input_ids" in row:
            return encoded_size(row)
        return row_size(self._needed_encoder(), row, self._name(key))

    def encode(self, key: Any) -> Mapping[str, Any]:
        """The encoded sample."""
        row = self._row(key)
        return row if "input_ids" in row else self._needed_encoder()(row, self._name(key))

    def _row(self, key: Any) -> Any:
        return key if self._rows is None else self._rows[key]

    def _name(self, key: Any) -> str:
        return "a sample of the stream" if self._rows is None else f"sample {key}"

    def _needed_encoder(self) -> Encoder:
        if self.encoder is None:
            raise RuntimeError(_NOT_ENCODED)
        return self.encoder


class _Parts(Sequence):
    """All parts of a mixture, one after the other: a sample has the same number in every pass."""

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture
        self.ends = np.cumsum([len(part.dataset) for part in mixture.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: Any) -> Any:
        part = int(np.searchsorted(self.ends, index, side="right"))
        dataset = self.mixture.parts[part].dataset
        return dataset[int(index) - int(self.ends[part]) + len(dataset)]

    def order(self, epoch: int) -> _PassOfParts:
        """The numbers of the samples of a pass."""
        return _PassOfParts(self.mixture.samples_of_pass(epoch), np.append(0, self.ends))


class _PassOfParts(Sequence):
    """The samples of a mixture's pass as numbers in all its parts."""

    def __init__(self, samples: Any, starts: np.ndarray) -> None:
        self.samples, self.starts = samples, starts

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, places: Any) -> Any:
        part, row = self.samples[places].T
        return self.starts[part] + row
