# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A plan as a picture: memory of a GPU by stage and layout, and time by number of GPUs."""

from typing import Any

from ...evaluation.pictures import _new_figure, _save
from .machines import count_gpus
from .plan import GIB, Plan
from .text import duration

# Okabe and Ito's colours, which people who see few colours tell apart.
_PARTS = {"weights": "#0072b2", "optimiser": "#56b4e9", "gradients": "#e69f00", "activations": "#009e73",
          "working": "#8fd3be", "exchange": "#cc79a7", "reserve": "#c3c7ce"}  # fmt: skip
_STAGES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")


def plan_picture(plan: Plan, dark: bool = False) -> bytes:
    """Two panels as PNG: left what a GPU holds (of the first number of GPUs), right how long each number takes.

    Raises:
        SailvitError: matplotlib is not installed.
    """
    figure, (left, right), ink = _new_figure(12.0, 4.8, 2, dark, "#16181d" if dark else "#ffffff")
    _draw_memory(left, plan, ink)
    _draw_time(right, plan, ink)
    return _save(figure)


def _title(axis: Any, text: str, ink: str) -> None:
    axis.set_title(text, color=ink, fontsize=10, loc="left")


def _legend(axis: Any, ink: str, **options: Any) -> None:
    axis.legend(fontsize=7.5, frameon=False, labelcolor=ink, **options)


def _draw_memory(axis: Any, plan: Plan, ink: str) -> None:
    bars = [(stage, layout) for stage in plan.stages for layout in stage.answers[0].memory]
    places, labels, place = [], [], 0.0
    for number, (stage, layout) in enumerate(bars):
        if number and bars[number - 1][0] is not stage:
            place += 0.8  # a gap between stages
        places.append(place)
        labels.append(layout)
        place += 1.0
    bottoms = [0.0] * len(bars)
    for part, colour in _PARTS.items():
        heights = [stage.answers[0].memory[layout].by_part()[part] / GIB for stage, layout in bars]
        axis.bar(places, heights, 0.8, bottom=bottoms, color=colour, label=part)
        bottoms = [low + height for low, height in zip(bottoms, heights, strict=True)]
    limit = plan.question.gpu.memory_gib
    axis.axhline(limit, color=ink, linewidth=1, linestyle="--")
    axis.text(places[-1] + 0.5, limit, f"{limit:g}", color=ink, fontsize=8, va="bottom", ha="right")
    for at, total, (stage, layout) in zip(places, bottoms, bars, strict=True):
        weight = "bold" if stage.answers[0].chosen == layout else "normal"
        axis.text(at, total, f"{total:.0f}", color=ink, fontsize=7.5, ha="center", va="bottom", weight=weight)
    axis.set_xticks(places, labels, fontsize=7.5, rotation=35)
    axis.set_ylim(0, 1.25 * max(limit, *bottoms))
    axis.set_ylabel("GiB", color=ink, fontsize=9)
    for stage in plan.stages:
        mine = [at for at, (other, _) in zip(places, bars, strict=True) if other is stage]
        axis.text(sum(mine) / len(mine), 1.03 * max(limit, *bottoms), stage.stage, color=ink, fontsize=9, ha="center")
    _legend(axis, ink, ncols=4, loc="upper left")
    _title(axis, f"Memory of one of {count_gpus(plan.question.gpus[0])} ({plan.question.gpu.name}); bold: chosen", ink)


def _draw_time(axis: Any, plan: Plan, ink: str) -> None:
    gpus = plan.question.gpus
    sums = [sum(stage.answers[i].days for stage in plan.stages) for i in range(len(gpus))]
    factor, unit = next(
        ((f, u) for f, u in ((1.0, "days"), (24.0, "hours")) if max(sums) * f >= 1), (1440.0, "minutes")
    )
    bottoms = [0.0] * len(gpus)
    for number, stage in enumerate(plan.stages):
        heights = [factor * answer.days for answer in stage.answers]
        axis.bar(range(len(gpus)), heights, 0.6, bottom=bottoms, color=_STAGES[number % 6], label=stage.stage)
        bottoms = [low + height for low, height in zip(bottoms, heights, strict=True)]
    for place, total in enumerate(sums):
        axis.text(place, factor * total, duration(total), color=ink, fontsize=9, ha="center", va="bottom")
    axis.set_xticks(range(len(gpus)), list(map(count_gpus, gpus)))
    axis.set_ylim(0, 1.15 * max(bottoms))
    axis.set_ylabel(unit, color=ink, fontsize=9)
    hours = sum(stage.answers[0].gpu_hours for stage in plan.stages)
    _legend(axis, ink, loc="upper right")
    _title(axis, f"Time at {plan.question.mfu:.0%} MFU: {hours:,.0f} GPU hours in all", ink)
