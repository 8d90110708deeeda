# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Training with several processes is training with one: shares of an uneven epoch, and what an evaluation leaves.

Where the processes do not divide an epoch, accelerate fills the last batches up with samples of its beginning, which
then count twice: an optimiser step would not be that of one process. The loss is a mean over all processes' tokens, so
shares need not be equal: here the last ones are smaller, and a process for which nothing is left gets a token that
teaches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, Sampler
from transformers import Trainer

IGNORED = -100


class EqualShares(Sampler[list[int]]):
    """The batches of all processes by turns, as many of each; those of the last turn share what is left.

    Args:
        batches: full batches, but for the last one; with its `drop_last` an incomplete turn is left out.
        processes: how many take turns.
    """

    def __init__(self, batches: BatchSampler, processes: int) -> None:
        self.batches, self.processes = batches, processes

    @property
    def sampler(self) -> Any:
        """Where the order comes from: the Trainer and accelerate tell it the epoch."""
        return self.batches.sampler

    @property
    def drop_last(self) -> bool:
        return self.batches.drop_last

    def __len__(self) -> int:
        turns = len(self.batches) // self.processes
        left = len(self.batches) % self.processes and not self.drop_last
        return (turns + bool(left)) * self.processes

    def __iter__(self) -> Iterator[list[int]]:
        turn: list[list[int]] = []
        for batch in self.batches:
            turn.append(batch)
            if len(turn) == self.processes and len(batch) == self.batches.batch_size:
                yield from turn
                turn = []
        if turn and not self.drop_last:
            left = [index for batch in turn for index in batch]
            least, more = divmod(len(left), self.processes)
            ends = [place * least + min(place, more) for place in range(self.processes + 1)]
            yield from (left[start:end] for start, end in zip(ends, ends[1:], strict=False))


def share_equally(loader: Any) -> Any:
    """A data loader that accelerate has prepared, its batches shared by `EqualShares`; others are left as they are."""
    shard = getattr(loader, "batch_sampler", None)
    if isinstance(shard, BatchSamplerShard) and not shard.split_batches and type(shard.batch_sampler) is BatchSampler:
        shard.batch_sampler = EqualShares(shard.batch_sampler, shard.num_processes)
        shard.batch_size, shard.even_batches = None, False  # as accelerate wants it for batches of any size
    return loader


class OrNothing:
    """A collator that also takes no samples at all, and makes a batch of a token that teaches nothing."""

    def __init__(self, collator: Callable[[list[Any]], dict[str, Any]]) -> None:
        self.collator = collator

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        """The collator's batch; of no samples `input_ids`, `attention_mask` and `labels` (1, 1) int64."""
        if samples:
            return self.collator(samples)
        token = torch.zeros(1, 1, dtype=torch.long)
        return {"input_ids": token, "attention_mask": token + 1, "labels": token + IGNORED}


def forget_evaluation(trainer: Trainer) -> None:
    """Let a model that was evaluated before training become data-parallel all the same.

    accelerate marks what it prepared for an evaluation as prepared, and then hands it to the training as it is: every
    process would train a model of its own, without a word.
    """
    model, accelerator = trainer.model, trainer.accelerator
    wrapped = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or trainer.model_wrapped is not model
    if accelerator.num_processes > 1 and not wrapped and model.__dict__.pop("_is_accelerate_prepared", False):
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # else it would be wrapped in autocast twice
