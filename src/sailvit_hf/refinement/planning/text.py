# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A plan as text, at most 100 columns wide."""

import textwrap
from collections.abc import Sequence

from ..stages import MODULES
from .machines import count_gpus
from .plan import GIB, Answer, Plan, StageAnswer

WIDTH = 100
_NUMBERS_A_TABLE = 3  # of GPUs, beside each other
_SHORT = {"vision_tower": "tower", "multi_modal_projector": "connector", "language_model": "LLM"}
_MEMORY = {"weights": "weights", "optimiser": "optim.", "gradients": "grads", "activations": "activ.",
           "working": "work", "exchange": "exch.", "reserve": "free"}  # fmt: skip


def short(number: float) -> str:
    """A large number in three figures: 8.00M, 121B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def duration(days: float) -> str:
    """Days, or for less than one hours, minutes or seconds."""
    for unit, size in (("d", 1.0), ("h", 24.0), ("min", 1440.0)):
        if days * size >= 1 or unit == "min" and days * 1440 >= 0.1:
            return f"{days * size:.1f} {unit}"
    return f"{days * 86_400:.1f} s"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns beside each other: the first to the left, the others to the right."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(cells).rstrip()

    return [line(head), *map(line, rows)]


def plan_text(plan: Plan) -> str:
    """The whole plan: the model, the work, for each number of GPUs time and memory, and what is assumed."""
    question = plan.question
    many = ", ".join(map(str, question.gpus))
    lines = [f"{plan.name} on {many} x {question.gpu.name}, {question.mfu:.0%} MFU", ""]
    lines += _parameters(plan)
    lines += ["", *_work(plan)]
    lines += ["", *_checkpoints(plan)]
    for index, gpus in enumerate(question.gpus):
        lines += ["", f"On {count_gpus(gpus)}", *_time(plan, index)]
    for index in range(len(question.gpus)):
        lines += ["", *_memory(plan, index)]
    lines += ["", "What is assumed"]
    for note in plan.assumptions:
        lines += textwrap.wrap(note, WIDTH, initial_indent="- ", subsequent_indent="  ")
    return "\n".join(lines)


def _parameters(plan: Plan) -> list[str]:
    head = ["parameters", *(_SHORT[module] for module in MODULES), "all", "training", "computed again"]
    rows = []
    for stage in plan.stages:
        found = stage.parameters
        by_module = [short(found.trained[m] + found.frozen[m]) + ("*" if found.trained[m] else " ") for m in MODULES]
        again = ", ".join(_SHORT[module] for module in stage.checkpointing) or "-"
        again = "all" if set(stage.checkpointing) == set(MODULES) else again
        rows.append([stage.stage, *by_module, short(found.total), short(found.training), again])
    return [*table(head, rows), "*: something of it trains"]


def _unit(flops: float) -> tuple[float, str]:
    """The unit in which FLOPs have few figures."""
    units = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))
    return next(((size, name) for size, name in units if flops >= 0.5 * size), (1e3, "kFLOP"))


def _work(plan: Plan) -> list[str]:
    each, name = _unit(max(stage.compute.total for stage in plan.stages))
    whole, whole_name = _unit(max(stage.flops for stage in plan.stages))
    head = ["work", "samples", "tokens", "of each", "tiles", f"{name} each", *(_SHORT[m] for m in MODULES), whole_name]
    rows = [
        [
            stage.stage,
            short(stage.seen),
            short(stage.tokens),
            f"{stage.sizes.tokens:.0f}",
            f"{stage.sizes.tiles:.1f}",
            f"{stage.compute.total / each:.3g}",
            *(f"{stage.compute.by_module[module] / each:.3g}" for module in MODULES),
            f"{stage.flops / whole:,.4g}",
        ]
        for stage in plan.stages
    ]
    if len(rows) > 1:
        seen, tokens = sum(stage.seen for stage in plan.stages), sum(stage.tokens for stage in plan.stages)
        flops = sum(stage.flops for stage in plan.stages)
        rows.append(["sum", short(seen), short(tokens), *[""] * 6, f"{flops / whole:,.4g}"])
    return table(head, rows)


def _checkpoints(plan: Plan) -> list[str]:
    """What a checkpoint weighs, and for each number of GPUs how many are written, and how long it is between two."""
    lines: list[str] = []
    many = plan.question.gpus
    for start in range(0, len(many), _NUMBERS_A_TABLE):
        some = range(start, min(start + _NUMBERS_A_TABLE, len(many)))
        head = ["checkpoints", "GB", "kept", "steps between", *(f"on {count_gpus(many[index])}" for index in some)]
        lines += table(head, [_checkpoint_row(stage, [stage.answers[i] for i in some]) for stage in plan.stages])
    return lines


def _checkpoint_row(stage: StageAnswer, answers: Sequence[Answer]) -> list[str]:
    saving, cells = stage.saving, []
    for answer in answers:
        between = stage.seconds_between(answer)
        count = saving.count(answer.steps)
        cells.append("-" if between is None else f"{count:,} x {duration(between / 86_400)}")
    every = "/".join(dict.fromkeys(str(saving.every(answer.steps) or "-") for answer in answers))
    return [
        stage.stage,
        f"{saving.bytes / 1e9:.3g}" if saving.bytes >= 1e8 else "< 0.1",
        "all" if saving.kept is None else str(saving.kept),
        every,
        *cells,
    ]


def _time(plan: Plan, index: int) -> list[str]:
    question = plan.question
    head = ["", "layout", "GiB", "batch", "accumulation", "steps", "s a step", "time", "GPU hours"]
    head += ["cost"] if question.price is not None else []
    rows = [_time_row(stage, stage.answers[index], question.price) for stage in plan.stages]
    if len(rows) > 1:
        answers = [stage.answers[index] for stage in plan.stages]
        hours = sum(answer.gpu_hours for answer in answers)
        cost = [f"{hours * question.price:,.0f}"] if question.price is not None else []
        rows.append(["sum", *[""] * 6, duration(sum(answer.days for answer in answers)), _hours(hours), *cost])
    return table(head, rows)


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}" if hours >= 0.01 else "< 0.01"


def _time_row(stage: StageAnswer, answer: Answer, price: float | None) -> list[str]:
    chosen, batch, seconds = answer.chosen, answer.batch, answer.days * 86_400 / answer.steps
    return [
        stage.stage,
        chosen or "none fits",
        f"{min(memory.total for memory in answer.memory.values()) / GIB:.1f}"
        if chosen is None
        else f"{answer.memory[chosen].total / GIB:.1f}",
        f"{batch.rows}{'' if batch.whole else ' (!)'}",
        f"{batch.accumulation} x {batch.per_device}",
        f"{answer.steps:,}",
        f"{seconds:.3g}" if seconds >= 0.001 else "< 0.001",
        duration(answer.days),
        _hours(answer.gpu_hours),
        *([f"{answer.gpu_hours * price:,.0f}"] if price is not None else []),
    ]


def _memory(plan: Plan, index: int) -> list[str]:
    """Memory of one GPU by stage and layout."""
    limit = plan.question.gpu.memory_gib
    head = [f"GiB, of {plan.question.gpus[index]}", *_MEMORY.values(), "all", f"of {limit:g}"]
    rows = []
    for stage in plan.stages:
        answer = stage.answers[index]
        for layout, memory in answer.memory.items():
            mark = "chosen" if layout == answer.chosen else "fits" if memory.total <= limit * GIB else "too much"
            mark = "refused" if layout in answer.refused else mark
            parts = memory.by_part()
            rows.append([f"{stage.stage} {layout}", *(f"{parts[part] / GIB:.1f}" for part in _MEMORY),
                         f"{memory.total / GIB:.1f}", mark])  # fmt: skip
    return table(head, rows)
