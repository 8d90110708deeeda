# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What the trainer does beside the maths: the module table, the progress line, clipping per module.

The training history needs no callback: it is `state.log_history`, which the Trainer stores in every checkpoint and
restores on resume.
"""

import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .monitoring import speed_line
from .stages import MODULES, RefinementStage, module_of

_WIDTH = 100


def _console() -> Any:
    """A console on stderr that is at most 100 columns wide (pipes and logs get all 100)."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    console.width = min(console.width, _WIDTH) if console.is_terminal else _WIDTH
    return console


def module_summary(model: torch.nn.Module, learning_rates: dict[str, float]) -> list[dict[str, Any]]:
    """One row a module: name, number of parameters, how many are trainable, learning rate (or `None`), dtypes."""
    rows: dict[str, dict[str, Any]] = {
        module: {"module": module, "parameters": 0, "trainable": 0, "learning_rate": None, "dtype": set()}
        for module in MODULES
    }
    for name, parameter in model.named_parameters():
        row = rows[module_of(name)]
        row["parameters"] += parameter.numel()
        if parameter.requires_grad:
            row["trainable"] += parameter.numel()
            row["learning_rate"] = learning_rates.get(row["module"])
        row["dtype"].add(str(parameter.dtype).removeprefix("torch."))
    return [{**row, "dtype": ", ".join(sorted(row["dtype"]))} for row in rows.values()]


class ModuleTable(TrainerCallback):
    """Print what trains and at which rate before the first step."""

    def __init__(self, stage: RefinementStage, learning_rates: dict[str, float]) -> None:
        self.stage = stage
        self.learning_rates = learning_rates

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            console = _console()
            console.print()
            rows = module_summary(kwargs["model"], self.learning_rates)
            rates: dict[str, list[float]] = {}
            for group in kwargs["optimizer"].param_groups:
                rates.setdefault(group["module"], []).append(group.get("initial_lr", group["lr"]))
            for row in rows:
                row["lowest_rate"] = min(rates.get(row["module"], []), default=None)
            console.print(self.table(args, state, rows))

    def table(self, args: TrainingArguments, state: TrainerState, rows: list[dict[str, Any]]) -> Any:
        """The `rich` table; at most 100 columns wide."""
        from rich import box
        from rich.table import Table

        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        start = f", from step {state.global_step:,}" if state.global_step else ""
        table = Table(
            title=f"[bold]{self.stage.title}[/bold]  {state.max_steps:,} steps of {batch:,} samples{start}",
            title_style="",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
        )
        table.add_column("module", no_wrap=True, min_width=24)
        for column in ("parameters", "trainable"):
            table.add_column(column, justify="right", min_width=14)
        table.add_column("learning rate", justify="right", min_width=14)
        table.add_column("dtype", min_width=10)
        for row in rows:
            rate = "frozen" if row["learning_rate"] is None else f"{row['learning_rate']:.1e}"
            lowest = row.get("lowest_rate")
            if lowest is not None and lowest < row["learning_rate"]:  # layer-wise decay
                rate = f"{lowest:.1e} to {rate}"
            table.add_row(
                row["module"],
                f"{row['parameters']:,}",
                f"{row['trainable']:,}",
                rate,
                row["dtype"],
                style="" if row["trainable"] else "dim",
            )
        return table


class StageProgress(TrainerCallback):
    """A progress bar on a terminal; elsewhere (a log file, CI) one line for every tenth of the way.

    The last logged loss and learning rate are shown, and the throughput since the entry before (without a monitor:
    since the start or the resume). At every tenth of the way a line follows with what the monitor measured.
    """

    def __init__(self, title: str, interval: float = 0.2) -> None:
        self.title = title
        self.interval = interval
        self._bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self._batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self._first_step = self._shown_step = state.global_step
        self._start = self._shown = time.monotonic()
        self._values = ""
        self._rate: float | None = None
        self._console = _console()
        if self._console.is_terminal:
            self._bar = self._make_bar(state)
            self._bar.start()

    def _make_bar(self, state: TrainerState) -> Any:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(),
            console=self._console,
            auto_refresh=False,  # no thread beside a training that uses every core
        )
        self._task = bar.add_task(
            self.title, total=state.max_steps, completed=state.global_step, values=self._values
        )
        return bar

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is None:
            return
        now = time.monotonic()
        if now - self._shown >= self.interval:
            self._shown = now
            self._bar.update(self._task, completed=state.global_step, values=self._numbers(state))
            self._bar.refresh()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs or not state.is_world_process_zero:
            return
        self._rate = logs.get("samples_per_second", self._rate)
        self._values = f"loss {logs['loss']:.4f}  lr {logs['learning_rate']:.1e}"
        share = max(1, state.max_steps // 10)
        due = state.global_step // share > self._shown_step // share or state.global_step == state.max_steps
        if self._bar is None and due:
            self._console.print(self._line(state))
        measured = speed_line(logs, min(self._console.width, _WIDTH)) if due else ""
        if measured:
            self._console.print(measured)
        if due:
            self._shown_step = state.global_step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step, values=self._numbers(state))
            self._bar.stop()
            self._bar = None

    def _throughput(self, state: TrainerState) -> float:
        seconds = max(time.monotonic() - self._start, 1e-6)
        return (state.global_step - self._first_step) * self._batch / seconds

    def _numbers(self, state: TrainerState) -> str:
        rate = self._throughput(state) if self._rate is None else self._rate
        return f"{self._values}  {rate:,.0f} samples/s".lstrip()

    def _line(self, state: TrainerState) -> str:
        done = max(state.global_step - self._first_step, 1)
        left = (time.monotonic() - self._start) / done * (state.max_steps - state.global_step)
        width = len(str(state.max_steps))
        return (
            f"{self.title:<24} {state.global_step:>{width}}/{state.max_steps}  {self._numbers(state)}  "
            f"{int(left) // 60}:{int(left) % 60:02d} left"
        )


class ModuleRates(TrainerCallback):
    """Notes each module's learning rate just before the optimiser's step: a log comes after the schedule has moved on.

    `used` holds that of a module's first group, which is the topmost of the vision tower.
    """

    def __init__(self) -> None:
        self.used: dict[str, float] = {}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.used = {group["module"]: group["lr"] for group in reversed(kwargs["optimizer"].param_groups)}


class ModuleClipping(TrainerCallback):
    """Clip the gradients of each module to a norm of its own, between the backward pass and the optimiser's step.

    `norms` holds the norm of each module before clipping, as tensors: reading them is left to the log.
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm
        self.norms: dict[str, torch.Tensor] = {}
        self._members: dict[str, list[torch.nn.Parameter]] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._members = {}
        for group in kwargs["optimizer"].param_groups:
            self._members.setdefault(group["module"], []).extend(group["params"])

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for module, parameters in self._members.items():
            self.norms[module] = torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
