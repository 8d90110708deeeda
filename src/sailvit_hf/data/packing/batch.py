# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""From packs of samples to a training batch in which no sample sees another, and what each learnt token weighs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...errors import SailvitError
from ..loss_weighting import IGNORE_INDEX, check_weighting, loss_weights
from ..replacement import UNREADABLE, FaultLog
from ..skipped import SkippedCounts
from .rows import encoded_size

EncodedSample = Mapping[str, Any]


class PackCollator:
    """Makes a batch of packs; transformers' own masks then keep the samples of a pack apart.

    There is no `attention_mask`: from position ids that start again at each sample, transformers builds the block mask
    of sdpa, eager and flex attention, and the lengths of flash attention. It does so only without a cache, hence
    `use_cache` is off in evaluation, too.

    Args:
        weighting (`str`, defaults to `"token"`): see `loss_weights`.
        flatten (`bool`, defaults to `False`): put all packs into one row and tell flash attention where the samples
            are; it tells samples apart in a single row only.
    """

    def __init__(self, weighting: str = "token", flatten: bool = False) -> None:
        self.weighting, self.flatten = check_weighting(weighting), flatten

    def __call__(self, packs: Sequence[Sequence[EncodedSample]]) -> dict[str, Any]:
        """Collate packs.

        Args:
            packs: lists of encoded samples: `input_ids` and `labels` (L,), and those with pictures `pixel_values`
                (tiles, 3, H, W), or a list of (3, H, W). A pack without samples becomes a token that teaches nothing.

        Returns:
            `input_ids`, `position_ids`, `labels` (packs, longest pack) int64, or (1, all tokens); `pixel_values` of
            all, absent without pictures; `use_cache`; `loss_weights` float32 if tokens weigh differently; with
            `flatten` also `cu_seq_lens_q`, `cu_seq_lens_k` (samples + 1,) int32 and `max_length_q`, `max_length_k`.
        """
        rows = [[_pieces(sample, self.weighting) for sample in pack] or [_blank()] for pack in packs]
        if self.flatten:
            rows = [[piece for row in rows for piece in row]]
        longest = max(sum(len(piece["input_ids"]) for piece in row) for row in rows)
        lines = [_joined(row, longest) for row in rows]
        batch: dict[str, Any] = {name: torch.stack([line[name] for line in lines]) for name in lines[0]}
        weights = batch.pop("loss_weights")
        if self.weighting != "token":
            batch["loss_weights"] = weights
        pictures = [sample["pixel_values"] for pack in packs for sample in pack if _has_pictures(sample)]
        if pictures:
            batch["pixel_values"] = _all_tiles(pictures)
        batch["use_cache"] = False
        if self.flatten:
            lengths = torch.tensor([len(piece["input_ids"]) for piece in rows[0]])
            ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
            batch |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
            batch |= dict.fromkeys(("max_length_q", "max_length_k"), int(lengths.max()))
        return batch


def _pieces(sample: EncodedSample, weighting: str) -> dict[str, torch.Tensor]:
    ids, labels = torch.as_tensor(sample["input_ids"]), torch.as_tensor(sample["labels"]).clone()
    labels[0] = IGNORE_INDEX  # the sample before it does not predict it
    return {
        "input_ids": ids,
        "position_ids": torch.arange(len(ids)),
        "labels": labels,
        "loss_weights": loss_weights(labels, weighting),
    }


def _blank(length: int = 1) -> dict[str, torch.Tensor]:
    """Filling: a sample of its own, that nobody learns from."""
    zeros = torch.zeros(length, dtype=torch.long)
    return {
        "input_ids": zeros,
        "position_ids": torch.arange(length),
        "labels": torch.full((length,), IGNORE_INDEX),
        "loss_weights": torch.zeros(length),
    }


def _joined(row: list[dict[str, torch.Tensor]], length: int) -> dict[str, torch.Tensor]:
    missing = length - sum(len(piece["input_ids"]) for piece in row)
    row = row + [_blank(missing)] if missing else row
    return {name: torch.cat([piece[name] for piece in row]) for name in row[0]}


def _has_pictures(sample: EncodedSample) -> bool:
    pixels = sample.get("pixel_values")
    return pixels is not None and len(pixels) > 0


def _all_tiles(pictures: list[Any]) -> Any:
    """One tensor of all tiles, or a list where they differ in size."""
    tiles = [tile for picture in pictures for tile in picture]
    if len({tile.shape for tile in tiles}) > 1:
        return tiles
    return torch.stack(tiles)


class PackedSamples:
    """A map-style data set of packs: a list of keys gives the list of their encoded samples.

    A sample whose picture turns out to be broken here, behind a sound header, leaves its place empty. In the processes
    of a data loader each counts for itself.

    Args:
        encode: gives the encoded sample of a key.
        max_tokens (`int`): room of a pack.
        length (`int`, *optional*): of the data set behind it, in samples, if it has one.
        bad_sample_limit (`float`, defaults to 0.01): the share of samples that may be unreadable.
    """

    def __init__(
        self,
        encode: Callable[[Any], EncodedSample],
        max_tokens: int,
        length: int | None = None,
        bad_sample_limit: float = 0.01,
    ) -> None:
        self.encode, self.max_tokens, self._length = encode, max_tokens, length
        self.faults = FaultLog(bad_sample_limit)
        self.skipped = SkippedCounts()

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("a stream of packs has no length")
        return self._length

    def __getitem__(self, pack: Sequence[Any]) -> list[EncodedSample]:
        """The samples of a pack.

        Raises:
            SailvitError: too many samples are unreadable, or they are longer than was told when they were packed.
        """
        found = [sample for sample in map(self._read, pack) if sample is not None]
        for _ in range(len(pack) - len(found)):
            self.skipped.add()
        tokens = sum(encoded_size(sample).tokens for sample in found)
        if tokens > self.max_tokens:
            raise SailvitError(
                f"the samples of a pack have {tokens} tokens, more than the {self.max_tokens} that were measured "
                "before: their sizes and their encoding come from different settings"
            )
        return found

    def _read(self, key: Any) -> EncodedSample | None:
        self.faults.ask()
        name = key if isinstance(key, int) else len(self.faults.bad)
        try:
            return None if isinstance(key, int) and self.faults.knows(key) else self.encode(key)
        except UNREADABLE as error:
            self.faults.meet(name, f"sample {name}", error)
            return None
