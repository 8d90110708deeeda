# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Training with several processes is training with one: shares of an uneven epoch, and what an evaluation leaves.

Where the processes do not divide an epoch, accelerate fills the last batches up with samples of its beginning, which
then count twice: an optimiser step would not be that of one process. The loss is a mean over all processes' tokens, so
shares need not be equal: here the last ones are smaller, and a process for which nothing is left gets a token that
teaches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, repeat
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler, prepare_data_loader
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler
from transformers import Trainer, TrainingArguments

from ..errors import SailvitError

IGNORED = -100
_KEPT = (
    "collate_fn", "num_workers", "pin_memory", "worker_init_fn", "multiprocessing_context", "prefetch_factor",
    "persistent_workers", "in_order", "timeout",
)  # fmt: skip


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


class PassBatches(Sampler[list[int]]):
    """One process's batches of a pass over a data set, as `EqualShares` deals them; it knows its place.

    The order is that of accelerate's sampler. Batches that a resumed run has trained on come empty, and the Trainer
    skips them: no index is made for them.

    Args:
        length: samples of a pass.
        seed: of the order; None keeps it.
        batch_size, drop_last: as of torch's `BatchSampler`.
        processes, process: how many take turns, and whose batches these are.
    """

    def __init__(
        self, length: int, seed: int | None, batch_size: int, drop_last: bool, processes: int = 1, process: int = 0
    ) -> None:
        self.length, self.seed, self.batch_size, self.drop_last = length, seed, batch_size, drop_last
        self.processes, self.process = processes, process
        self.epoch, self._passed = 0, (-1, 0)

    @property
    def sampler(self) -> PassBatches:
        """Itself: whom the Trainer and accelerate tell the epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the pass of this number."""
        self.epoch = epoch

    def pass_over(self, epoch: int, batches: int) -> None:
        """In this pass so many batches are done."""
        self._passed = epoch, batches

    @property
    def passed_over(self) -> int:
        """How many batches come empty in this pass."""
        return self._passed[1] if self._passed[0] == self.epoch else 0

    def __len__(self) -> int:
        turns, left = divmod(self.length, self.batch_size * self.processes)
        return turns + bool(left and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        done = self.passed_over
        yield from repeat([], done)
        order = None
        if self.seed is not None:
            order = torch.randperm(self.length, generator=torch.Generator().manual_seed(self.seed + self.epoch))
        for turn in range(done, len(self)):
            start = turn * self.batch_size * self.processes
            least, more = divmod(min(self.batch_size * self.processes, self.length - start), self.processes)
            first, end = (start + place * least + min(place, more) for place in (self.process, self.process + 1))
            yield list(range(first, end)) if order is None else order[first:end].tolist()


class StreamTurns(Sampler[list[int]]):
    """One process's batches of a stream, as numbers of samples: all processes take turns, without end.

    Args:
        first: samples that were given before, to all processes.
        batch_size: samples of a batch.
        processes, process: how many take turns, and whose batches these are.
    """

    def __init__(self, first: int, batch_size: int, processes: int = 1, process: int = 0) -> None:
        self.first, self.batch_size, self.processes, self.process = first, batch_size, processes, process
        self.passed_over = 0

    def pass_over(self, epoch: int, batches: int) -> None:
        """So many batches come empty before the next one; they are among the samples that were given before."""
        self.passed_over = batches

    def __iter__(self) -> Iterator[list[int]]:
        yield from repeat([], self.passed_over)
        for start in count(self.first + self.process * self.batch_size, self.batch_size * self.processes):
            yield list(range(start, start + self.batch_size))


def refuse_other_shares(args: TrainingArguments) -> None:
    """Refuse what would share out samples or tokens in another way.

    Raises:
        SailvitError: an argument would.
    """
    if args.accelerator_config.dispatch_batches:
        raise SailvitError(
            "dispatch_batches would cut batches along their first dimension, which is not that of the pictures: "
            "remove it from accelerator_config"
        )
    if args.world_size > 1 and args.accelerator_config.split_batches:
        raise SailvitError(
            "split_batches would divide per_device_train_batch_size by the processes: remove it from "
            "accelerator_config, and set the batch of a process"
        )
    if args.world_size > 1 and not args.average_tokens_across_devices:
        raise SailvitError(
            "average_tokens_across_devices=False would divide the loss by the tokens of each process, of which an "
            "uneven last step may have none: leave it at True"
        )


def placed(loader: Any) -> Any:
    """A data loader of the Trainer's, prepared by accelerate, whose batches know their place and are shared equally.

    One whose sampler is neither random nor sequential is shared equally, if it can be, and else is as it was.
    """
    whole = loader.batch_sampler
    processes = process = 0
    if isinstance(whole, BatchSamplerShard) and not whole.split_batches:
        processes, process, whole = whole.num_processes, whole.process_index, whole.batch_sampler
    sampler: Any = whole.sampler if type(whole) is BatchSampler else None
    shuffles = isinstance(sampler, SeedableRandomSampler) and not sampler.replacement
    if not shuffles and type(sampler) is not SequentialSampler or len(sampler) != len(loader.dataset):
        return share_equally(loader)
    seed = sampler.initial_seed if shuffles else None
    mine = PassBatches(len(sampler), seed, whole.batch_size, whole.drop_last, processes or 1, process)
    kept = {name: getattr(loader, name) for name in _KEPT}
    return one_process_s(DataLoader(loader.dataset, batch_sampler=mine, **kept), loader.device)


def one_process_s(loader: DataLoader[Any], device: Any) -> Any:
    """A data loader of one process's own batches, prepared by accelerate, which shares out nothing more."""
    return prepare_data_loader(
        loader, device=device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
    )


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
