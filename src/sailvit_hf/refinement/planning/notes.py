# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a plan says in sentences: what it assumes, and where a number of its tables will not hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .machines import count_gpus
from .waiting import MEASURED, planning_seconds

if TYPE_CHECKING:
    from .plan import Answer, Question, StageAnswer


def assumptions(question: Question, stages: Iterable[StageAnswer]) -> list[str]:
    """What is assumed of machines and data."""
    gpu, stages, free = question.gpu, list(stages), question.reserve_gib
    lines = [
        f"MFU {question.mfu:.0%} of {gpu.tflops:g} TFLOP/s (dense, half precision, data sheet) for any number of "
        "GPUs; FLOPs are those that learning needs, without what is computed again",
    ]
    again = [
        f"{question.mfu * (1 + stage.compute.recomputed / stage.compute.total):.0%} in {stage.stage}"
        for stage in stages
        if stage.compute.recomputed
    ]
    if again:
        lines.append(f"with what is computed again the GPUs reach this share of their peak: {', '.join(again)}")
    lines += [
        "the exchange between GPUs is not simulated: its time is part of what the MFU leaves",
        "the time is that of the stages' steps alone, without evaluation, encoder swap and foundations; nothing "
        "waits: no data (sizes measured beforehand by `sailvit data sizes`), no saving, no faults",
        f"memory: the model's own code on tensors without content, at flash attention's memory; {free:g} GiB of each "
        "GPU stay free; the exchange's buffers by the rules of docs/planner.md",
        "every micro-batch holds the mean number of tiles and of tokens that are learnt: one of text alone learns "
        "more, and its loss takes more memory",
        "attention of samples of the mean length: longer and shorter ones cost a little more together",
    ]
    return lines + [f"{stage.stage}: {stage.sizes.source}" for stage in stages]


def stage_notes(stage: StageAnswer, packing: bool) -> list[str]:
    """Where the time of a stage will not hold."""
    notes = []
    for answer in stage.answers:
        notes += _planning(stage, answer) if packing else []
        notes += _saving(stage, answer)
    return notes


def _planning(stage: StageAnswer, answer: Answer) -> list[str]:
    packs = answer.batch.rows
    needed = planning_seconds(packs)
    if needed <= answer.step_seconds:
        return []
    where = f"{stage.stage} on {count_gpus(answer.gpus)}"
    each = " and ".join(f"{1000 * seconds / count:.2f} ms at {count:,}" for count, seconds in MEASURED)
    return [
        f"{where}: to plan the {packs:,} packs of a step takes a core of each process {needed:.2g} s "
        f"(benchmarks/results/rehearsal.txt), and the GPUs {answer.step_seconds:.2g} s to train on them: planning "
        f"bounds the time, {needed / answer.step_seconds:.1f} times that of the table. Take fewer GPUs, longer packs "
        f"(max_length), or fewer packs a step (global_batch_size), of which one costs less: {each}"
    ]


def _saving(stage: StageAnswer, answer: Answer) -> list[str]:
    better, between = stage.saving.mend(answer.steps, answer.step_seconds), stage.seconds_between(answer)
    if better is None or between is None:
        return []
    return [
        f"{stage.stage} on {count_gpus(answer.gpus)}: {stage.saving.bytes / 1e9:.1f} GB are saved every "
        f"{between:.0f} s: --set stages.{stage.stage}.arguments.save_steps={better}"
    ]
