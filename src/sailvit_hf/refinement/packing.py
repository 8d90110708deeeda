# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Packing in the Trainer: the loader of packs, its state in the checkpoints, and models that must not be packed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from ..data.packing.batch import PackCollator, PackedSamples
from ..data.packing.packer import Packer
from ..data.packing.plan import Measure, PackBatches, PackPlan, RememberedSizes, planned_steps
from ..data.packing.rows import PackingRows
from ..errors import SailvitError
from .stages import find_module

if TYPE_CHECKING:
    from .arguments import RefinementArguments

# How far, as a share of the largest state, a sample's states may be from those that it has alone: rounding in half
# precision; and how far they may move when the sample before it changes.
_ALONE, _MOVED = {torch.float32: 1e-4, torch.float64: 1e-6}, 1e-3
# What parameters have that torch's `fully_shard` or DeepSpeed's ZeRO-3 holds.
_SHARDED = ("device_mesh", "ds_id")


def check_packable(model: nn.Module, autocast: Callable[[], AbstractContextManager] = nullcontext) -> None:
    """Make sure that the language model keeps the samples of a pack apart.

    It is asked: a short sample must have the same states in a pack as alone, and keep them when the sample before it
    changes. Linear attention, state-space and convolution layers, ALiBi and positions of a model's own fail; most of
    these would train without a word of warning.

    Args:
        model: the vision-language model.
        autocast: the context that it trains in.

    Raises:
        SailvitError: it does not.
    """
    language_model = _language_model(model)
    training, flatten = model.training, "flash" in attention_of(model)
    rows = language_model.get_input_embeddings().num_embeddings
    draw = torch.Generator().manual_seed(0)
    before, other, sample = (torch.randint(rows, (length,), generator=draw) for length in (7, 7, 9))
    if any(hasattr(parameter, mark) for parameter in language_model.parameters() for mark in _SHARDED):
        return  # it cannot be run on its own
    model.eval()
    try:
        with torch.no_grad(), autocast():
            half = torch.is_autocast_enabled(next(language_model.parameters()).device.type)
            states = [
                _states(language_model, samples, flatten)[-len(sample) :]
                for samples in ((sample,), (before, sample), (other, sample))
            ]
    finally:
        model.train(training)
    alone, packed, moved = states
    scale = float(alone.abs().max())
    dtype = next(language_model.parameters()).dtype
    tolerance = 5e-2 if half else _ALONE.get(dtype, 5e-2)
    away, move = (float((states - packed).abs().max()) / scale for states in (alone, moved))
    if away > tolerance or move > min(tolerance, _MOVED):
        raise SailvitError(
            f"{type(language_model).__name__} with {attention_of(model)} attention does not keep the samples "
            "of a pack apart: set packing=False, or choose a language model with plain attention and position ids"
        )


def _language_model(model: nn.Module) -> Any:
    return find_module(model, "language_model", "packing")[1]


def attention_of(model: nn.Module) -> str:
    """The attention implementation of the language model."""
    return str(getattr(_language_model(model).config, "_attn_implementation", None))


def _states(language_model: Any, samples: tuple[torch.Tensor, ...], flatten: bool) -> torch.Tensor:
    device = next(language_model.parameters()).device
    batch = PackCollator(flatten=flatten)([[{"input_ids": sample, "labels": sample} for sample in samples]])
    del batch["labels"]
    batch = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    return language_model(**batch).last_hidden_state[0].float()


def packed_loader(
    dataset: Any, args: RefinementArguments, flatten: bool, asked_steps: int, checkpoint: str | None = None
) -> DataLoader[Any]:
    """The loader of one process's packs; its batch sampler is a `PackBatches`.

    Args:
        dataset: see `PackingRows`.
        args: the run's arguments.
        flatten: see `PackCollator`.
        asked_steps: optimiser steps; if not positive, as many as `num_train_epochs` takes.
        checkpoint: which the run goes on from; it knows how many that was.

    Raises:
        SailvitError: the number of steps cannot be known, or the arguments contradict each other.
    """
    if args.max_length is None:
        raise SailvitError("packing needs the length of a pack: set max_length, such as 8192")
    rows = PackingRows(dataset)
    packer = Packer(args.max_length, args.max_tiles_per_pack, args.packing_buffer)
    accumulation, batch = args.gradient_accumulation_steps, args.per_device_train_batch_size
    per_step = accumulation * batch * args.world_size
    options: dict[str, Any] = {
        "overlong": args.overlong_samples,
        "bad_sample_limit": args.bad_sample_limit,
    }
    measure: Measure = rows.measure
    steps, order, limit = asked_steps, None, None
    if rows.length is not None and rows.keys is not None:
        order = rows.order(args.train_sampling_strategy, args.seed if args.data_seed is None else args.data_seed)
        measure = RememberedSizes(measure, rows.keys, rows.size_tables())
        if steps <= 0:
            limit = round(args.num_train_epochs * rows.length)
            steps = _steps_before(checkpoint, limit, per_step) or planned_steps(
                order, limit, measure, packer, per_step, **options
            )
    elif steps <= 0:
        raise SailvitError(
            "how many steps a stream takes is not known before its samples are packed: set max_steps, or give a data "
            "set with a length"
        )
    plan = PackPlan(rows.stream(order, limit), measure, packer, per_step, **options)
    workers = args.dataloader_num_workers
    ahead = 1 - (-workers * (args.dataloader_prefetch_factor or 2) // accumulation)
    batches = PackBatches(plan, steps, accumulation, batch, args.world_size, args.process_index, ahead, rows.length)
    batches.shows_done = not args.ignore_data_skip
    return DataLoader(
        PackedSamples(rows.encode, args.max_length, rows.length, args.bad_sample_limit),
        batch_sampler=batches,
        collate_fn=PackCollator(args.loss_weighting, flatten),
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor if workers else None,
    )


def _steps_before(checkpoint: str | None, reads: int, per_step: int) -> int | None:
    """The number of steps that a checkpoint's run had foreseen for as many samples."""
    if checkpoint is None:
        return None
    state = json.loads((Path(checkpoint) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    saved = state.get("stateful_callbacks", {}).get(PackingState.__name__, {}).get("attributes", {})
    return saved.get("steps") if saved.get("for") == [reads, per_step] else None


class PackingState(TrainerCallback, ExportableState):
    """Keeps the packer's buffer and place in the data in `trainer_state.json`, and takes them from there.

    Every process makes the same plan, so one state is enough for all.
    """

    def __init__(self) -> None:
        self._batches: PackBatches | None = None
        self._step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._batches, self._step = kwargs["train_dataloader"].batch_sampler, state.global_step
        if not state.global_step:
            return
        saved = state.stateful_callbacks.get(type(self).__name__)
        if not saved or not saved["attributes"]["plan"]:
            raise SailvitError(
                "the checkpoint was made without packing, so its place in the data is unknown: set packing=False, or "
                "begin the stage anew with train(..., weights_only=True)"
            )
        self._batches.load_state_dict({"step": state.global_step, "plan": json.loads(saved["attributes"]["plan"])})

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The number of steps is a bound if the samples are many: the step that takes the last of them is the last.
        if self._batches is not None and state.global_step + 1 == self._batches.last:
            state.max_steps = self._batches.last

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step = state.global_step
        if self._batches is not None and self._batches.samples_per_epoch:
            # The Trainer takes the whole run for an epoch: how many packs an epoch makes is not fixed.
            state.epoch = self._batches.counts_after(self._step)["samples"] / self._batches.samples_per_epoch

    def state(self) -> dict[str, Any]:
        """What the Trainer writes: JSON in a line, for lists of numbers would take a line a number."""
        batches = self._batches
        if batches is None:
            return {"args": {}, "attributes": {"plan": None}}
        plan = json.dumps(batches.state_after(self._step)["plan"])
        foreseen = [getattr(batches.plan.stream, "limit", None), batches.plan.packs_per_step]
        return {"args": {}, "attributes": {"plan": plan, "steps": batches.steps, "for": foreseen}}
