# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a training run shows of itself: speed, use of the machine, waiting for data, drift of the vision tower.

All of it goes into the Trainer's log, and so to every integration of `report_to`, under the names of `MEASURED`.
"""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from ..data.skipped import skipped_samples
from ..modeling.vision_towers import patch_features
from .flops import ModelFlops, Work, peak_flops
from .stages import vision_tower_of

logger = logging.get_logger(__name__)

# Log entries that hang on the machine and the moment, not on the training: two equal runs differ in them.
MEASURED = (
    "samples_per_second",
    "text_tokens_per_second",
    "visual_tokens_per_second",
    "tflops_per_device",
    "mfu",
    "memory_gib",
    "data_wait",
    "skipped_samples",
    "overlong_samples",
)
DRIFT_FILE = "feature_drift.tensors"  # written by safetensors, and named so that nobody takes it for the weights
DRIFT_PICTURES = 4  # few: it is looked at seldom, and every patch of them counts


class BatchCounts:
    """Counts what training batches hold; tensors of an accelerator are read when the totals are asked for only.

    Args:
        image_token_id (`int`, *optional*): the placeholder of a picture's tokens.
        flops (`ModelFlops`, *optional*): knows the patches of a picture.
        room (`int`, *optional*): tokens that a batch could hold; by default as many as it has places.
    """

    def __init__(self, image_token_id: int | None, flops: ModelFlops | None, room: int | None = None) -> None:
        self._image_token_id, self._flops = -1 if image_token_id is None else image_token_id, flops
        self._room = room
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._sums: torch.Tensor | None = None  # samples, tokens, pairs, learnt, visual
        self._pictures = [0, 0, 0]  # patches, positions, pairs of positions
        self.places = 0

    def add(self, batch: Mapping[str, Any]) -> None:
        """Count a batch: padded rows, or packs, in which `position_ids` begin anew with every sample."""
        input_ids = batch.get("input_ids")
        if not isinstance(input_ids, torch.Tensor) or input_ids.ndim != 2:
            return
        sums = torch.stack([*_sequences(batch), _learnt(batch), (input_ids == self._image_token_id).sum()])
        self._sums = sums if self._sums is None else self._sums + sums
        self.places += input_ids.numel() if self._room is None else self._room
        pictures = batch.get("pixel_values")
        if self._flops is not None and pictures is not None:
            found = self._flops.pictures(pictures)
            self._pictures = [old + new for old, new in zip(self._pictures, found, strict=True)]

    def totals(self) -> tuple[float, Work]:
        """Samples, and the work they are."""
        if self._sums is None:
            return 0.0, Work()
        samples, tokens, pairs, learnt, visual = self._sums.tolist()
        return float(samples), Work(tokens, pairs, learnt, visual, *self._pictures)


def _sequences(batch: Mapping[str, Any]) -> list[torch.Tensor]:
    """Samples, real tokens, and the sum of the squares of the samples' lengths."""
    input_ids, mask, positions = batch["input_ids"], batch.get("attention_mask"), batch.get("position_ids")
    real = mask.bool() if mask is not None and mask.shape == input_ids.shape else torch.ones_like(input_ids).bool()
    if positions is not None and positions.shape == input_ids.shape:
        if mask is None:  # a pack ends with zeros where it is not full
            real = input_ids.ne(0).long().flip(1).cumsum(1).flip(1) > 0
        # Positions 0 to n-1 add up to n(n-1)/2, for every sample of a pack.
        tokens = real.sum()
        return [((positions == 0) & real).sum(), tokens, 2 * (positions * real).sum() + tokens]
    lengths = real.sum(1)
    return [(lengths > 0).sum(), lengths.sum(), lengths.square().sum()]


def _learnt(batch: Mapping[str, Any]) -> torch.Tensor:
    """Tokens that have a label: the first of a row is never predicted."""
    if isinstance(batch.get("shift_labels"), torch.Tensor):
        return (batch["shift_labels"] != -100).sum()
    labels = batch.get("labels")
    return (labels[:, 1:] != -100).sum() if labels is not None else batch["input_ids"].new_zeros(()).sum()


def peak_memory_gib(device: torch.device) -> float:
    """Peak of memory so far: allocated on a GPU; resident of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


class FeatureDrift:
    """How far a vision tower's features are from those at the start of the stage.

    The drift is |F - F0| / |F0| (Frobenius norms; ours), with F the patch features, as the connector reads them, of
    the first few pictures of the training, and F0 those that the tower gave before its first step.

    Args:
        tower: the vision tower.
        layer: the output that the connector reads, see `vision_feature_layer`.
        autocast: a context manager to run it in.
    """

    def __init__(self, tower: Any, layer: int, autocast: Callable[[], Any]) -> None:
        self._tower, self._layer, self._autocast = tower, layer, autocast
        self._pictures: list[torch.Tensor] = []
        self._reference: list[torch.Tensor] = []

    def __bool__(self) -> bool:
        return bool(self._reference)

    def begin(self, pixel_values: Any) -> None:
        """Take the first pictures of a batch, and the features that the tower gives for them now.

        Nothing happens with a tower whose weights are sharded: all processes would have to run it together.
        """
        if any(hasattr(parameter, "device_mesh") for parameter in self._tower.parameters()):
            return
        self._pictures = [picture.detach().float().cpu().clone() for picture in pixel_values[:DRIFT_PICTURES]]
        self._reference = self._features()

    def forget(self) -> None:
        """Be as before `begin`."""
        self._pictures, self._reference = [], []

    @torch.no_grad()
    def _features(self) -> list[torch.Tensor]:
        training, device = self._tower.training, next(self._tower.parameters()).device
        self._tower.eval()  # dropout would make it random, and draw from the training's generator
        try:
            with self._autocast():
                found = [patch_features(self._tower, p[None].to(device), self._layer)[0] for p in self._pictures]
            return [features[0].float().cpu() for features in found]
        finally:
            self._tower.train(training)

    def measure(self) -> float:
        """The drift now."""
        pairs = list(zip(self._features(), self._reference, strict=True))
        moved = sum((now - before).square().sum().item() for now, before in pairs)
        return float((moved / sum(before.square().sum().item() for _, before in pairs)) ** 0.5)

    def save(self, folder: str | os.PathLike) -> None:
        """Write pictures and first features into a checkpoint, for who resumes from it."""
        named = {"picture": self._pictures, "features": self._reference}
        tensors = {f"{name}_{i}": t.contiguous() for name, many in named.items() for i, t in enumerate(many)}
        save_file(tensors, Path(folder) / DRIFT_FILE)

    def load(self, folder: str | os.PathLike) -> None:
        """Read what `save` wrote into a checkpoint, if it did."""
        path = Path(folder) / DRIFT_FILE
        if path.is_file():
            tensors = load_file(path)
            count = len(tensors) // 2
            self._pictures = [tensors[f"picture_{index}"] for index in range(count)]
            self._reference = [tensors[f"features_{index}"] for index in range(count)]


class Monitor(TrainerCallback):
    """Measures a training between two log entries.

    It hears of batches from the trainer's `get_batch_samples` and of everything else through callbacks; `take` gives
    the numbers to the trainer's `log`. All processes take part: they put their numbers together at each log entry.

    Args:
        gather: gives a tensor (n,) of every process as (processes * n,) to all.
        device: where the training runs.
        image_token_id: the placeholder of a picture's tokens.
        flops: FLOPs of the model; without it no TFLOP/s are told.
        peak: FLOP/s that a device could do; without it no MFU is told.
        drift: of the vision tower, in the first process, where it trains.
        drift_every: measure it at every so many log entries.
        first: whether this is the first process.
        room: tokens that a batch could hold, see `BatchCounts`.
        norms: whether to tell the norm of each module's gradients.
    """

    def __init__(
        self,
        gather: Callable[[torch.Tensor], torch.Tensor],
        device: torch.device,
        image_token_id: int | None = None,
        flops: ModelFlops | None = None,
        peak: float | None = None,
        drift: FeatureDrift | None = None,
        drift_every: int = 5,
        first: bool = True,
        room: int | None = None,
        norms: bool = True,
    ) -> None:
        self._gather, self._device, self._first = gather, device, first
        self._flops, self._peak, self._norms_wanted = flops, peak, norms
        self.drift, self._drift_every = drift, drift_every
        self.counts = BatchCounts(image_token_id, flops, room)
        self._loader: Any = None
        self._members: dict[str, list[torch.nn.Parameter]] = {}
        self._norms: dict[str, torch.Tensor] = {}
        self._values: dict[str, float] = {}
        self._fresh = True  # no step was done since the start
        self._restart()

    # What the trainer tells

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, with a watch on how long each one is waited for."""
        self._skip_what_was_no_training()
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self._waited += time.perf_counter() - start
            yield batch

    def count(self, batches: Sequence[Mapping[str, Any]]) -> None:
        """Count the batches of one optimiser step."""
        for batch in batches:
            self.counts.add(batch)
            pictures = batch.get("pixel_values")
            if self._fresh and self.drift is not None and not self.drift and pictures is not None and len(pictures):
                self.drift.begin(pictures)

    def take(self, logs: Mapping[str, float]) -> dict[str, float]:
        """The numbers of the steps since the entry before, for a log entry; empty if they were taken already."""
        values, self._values = self._values, {}
        if self._norms and "grad_norm" in logs:
            # They were taken behind the Trainer's clipping, which scales all alike: told are those before it.
            norms = {module: float(norm) for module, norm in self._norms.items()}
            total = sum(norm**2 for norm in norms.values()) ** 0.5
            scale = logs["grad_norm"] / total if total else 1.0
            values |= {f"grad_norm/{module}": norm * scale for module, norm in norms.items()}
        self._norms = {}
        return values

    def save(self, folder: str | Path) -> None:
        """Write into a checkpoint what a resumed run needs."""
        if self.drift:
            self.drift.save(folder)

    def resume(self, checkpoint: str | os.PathLike) -> None:
        """Go on from a checkpoint of the Trainer's."""
        if self.drift is not None:
            self.drift.load(checkpoint)

    # What the Trainer calls

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._members, self._loader = {}, kwargs.get("train_dataloader")
        for group in kwargs["optimizer"].param_groups if self._norms_wanted else ():
            self._members.setdefault(group.get("module", "model"), []).extend(group["params"])
        self._fresh = state.global_step == 0
        if self._fresh and self.drift is not None:
            self.drift.forget()
        self._restart()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.logging_strategy == IntervalStrategy.STEPS and state.logging_steps:
            step = state.global_step + 1
            if step % state.logging_steps == 0 or (step == 1 and args.logging_first_step):
                self._norms = {module: _norm(parameters) for module, parameters in self._members.items()}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._fresh = False
        if control.should_log:
            self._close(state)
        self._step_ended = time.perf_counter()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_log and self.counts.places:
            self._close(state)
            self._step_ended = time.perf_counter()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._aside = True

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._aside = True

    # Measuring

    def _restart(self) -> None:
        self.counts.clear()
        self._waited = self._spent_aside = 0.0
        self._aside = False
        self._began = self._step_ended = time.perf_counter()

    def _skip_what_was_no_training(self) -> None:
        """Saving and evaluating are no training; they lie between the end of a step and the next one's batches."""
        if self._aside:
            self._spent_aside += time.perf_counter() - self._step_ended
            self._aside = False

    def _close(self, state: TrainerState) -> None:
        """Put the numbers of all processes together, and begin the next interval."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the log entry reads the loss and waits for it anyway
        seconds = max(time.perf_counter() - self._began - self._spent_aside, 1e-9)
        samples, work = self.counts.totals()
        flops = sum(self._flops(work).values()) if self._flops is not None else 0.0
        skipped = map(float, self._skipped(state.global_step))
        own = [samples, work.tokens, work.visual, float(self.counts.places), flops / 1e12, seconds,
               self._waited / seconds, peak_memory_gib(self._device), *skipped]  # fmt: skip
        rows = self._gather(torch.tensor(own, dtype=torch.float32, device=self._device)).view(-1, len(own)).cpu()
        self._values = self._numbers(rows)
        entries = max(1, self._drift_every) * max(1, int(state.logging_steps or 1))
        if self.drift and (state.global_step % entries == 0 or state.global_step >= state.max_steps):
            self._values["feature_drift"] = self.drift.measure()
        self._restart()

    def _skipped(self, step: int) -> tuple[int, int]:
        """Samples that this process left out so far, unreadable ones and too long ones."""
        unreadable, overlong = skipped_samples(getattr(self._loader, "dataset", None))
        planned = getattr(getattr(self._loader, "batch_sampler", None), "counts_after", None)
        if planned is not None and self._first:  # what every process's plan of packs has left out
            counts = planned(step)
            unreadable, overlong = unreadable + counts["unreadable"], overlong + counts["overlong"]
        return unreadable, overlong

    def _numbers(self, rows: torch.Tensor) -> dict[str, float]:
        """The log's numbers from those of all processes, (processes, numbers)."""
        samples, tokens, visual, places, tflop, _, _, _, unreadable, overlong = rows.sum(0).tolist()
        seconds, waited, memory = rows[:, 5:8].amax(0).tolist()  # the slowest one decides
        values = {
            "samples_per_second": samples / seconds,
            "text_tokens_per_second": (tokens - visual) / seconds,
            "visual_tokens_per_second": visual / seconds,
            "packing_efficiency": tokens / places if places else 0.0,
            "memory_gib": memory,
            "data_wait": waited,
            "skipped_samples": unreadable,
            "overlong_samples": overlong,
        }
        if self._flops is not None:
            values["tflops_per_device"] = tflop / seconds / len(rows)
            if self._peak is not None:
                values["mfu"] = values["tflops_per_device"] * 1e12 / self._peak
        return values


def make_monitor(trainer: Any) -> Monitor | None:
    """The monitor of a `RefinementTrainer`, as its arguments want it; None if they do not."""
    args, model = trainer.args, trainer.model
    if not args.monitoring:
        return None
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # a PEFT model
    config = getattr(model, "config", None)
    try:
        flops = ModelFlops(model, tower_runs=not getattr(args, "vision_feature_cache", None))
    except (ValueError, AttributeError) as error:
        logger.info(f"No FLOPs are counted: {error}")
        flops = None
    packs = getattr(args, "packing", False)
    known = peak_flops(args.device, args.bf16 or args.fp16)
    found, drift = vision_tower_of(model), None
    # A sharded tower cannot run on its own, apart from the model around it.
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    logs = args.logging_strategy != IntervalStrategy.NO
    if found and logs and args.feature_drift_every and "vision_tower" in trainer.stage.trains and not sharded:
        if trainer.is_world_process_zero():
            drift = FeatureDrift(found[1], getattr(config, "vision_feature_layer", -1), trainer.accelerator.autocast)
    return Monitor(
        trainer.accelerator.gather,
        args.device,
        image_token_id=getattr(config, "image_token_id", None),
        flops=flops,
        peak=known if args.peak_tflops is None else args.peak_tflops * 1e12,
        drift=drift,
        drift_every=args.feature_drift_every,
        first=trainer.is_world_process_zero(),
        room=args.per_device_train_batch_size * args.max_length if packs and args.max_length else None,
        norms=trainer.clipping is None,  # which tells them itself
    )


def _norm(parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    """The norm of the gradients of parameters, sharded or not."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def short(number: float) -> str:
    """A number in at most five characters: 0.15, 97.3, 812, 1.2k, 187k, 3.4M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            scaled = number / size
            return f"{scaled:.0f}{unit}" if scaled >= 99.95 else f"{scaled:.1f}{unit}"
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def speed_line(logs: Mapping[str, float], width: int = 100) -> str:
    """A log entry's measurements as one line; what no longer fits is left out from the end. Empty without any."""
    if "samples_per_second" not in logs:
        return ""
    parts = [
        f"{short(logs['text_tokens_per_second'])} text, {short(logs['visual_tokens_per_second'])} visual tokens/s",
        f"{logs['packing_efficiency']:.0%} full",
        f"data {logs['data_wait']:.1%}",
    ]
    if "mfu" in logs:
        parts.append(f"{logs['mfu']:.0%} MFU")
    elif "tflops_per_device" in logs:
        parts.append(f"{short(logs['tflops_per_device'])} TFLOP/s")
    parts.append(f"{short(logs['memory_gib'])} GiB")
    skipped = int(logs["skipped_samples"] + logs["overlong_samples"])
    parts += [f"{skipped:,} skipped"] if skipped else []
    parts += [f"drift {logs['feature_drift']:.3f}"] if "feature_drift" in logs else []
    line = ""
    for part in parts:
        if len(line) + 2 + len(part) <= width:
            line += f"  {part}"
    return line
