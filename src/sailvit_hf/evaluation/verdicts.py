# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Sentences that say what the numbers of a run mean, whichever way they came out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .comparison import lower_is_better

Metrics = Mapping[str, float]

STATE_TITLES = {
    "start": "before",
    "coarse": "after I",
    "fine": "after II",
    "world": "after III",
    "direct": "after direct",
    "basic": "after basic",
    "multitask": "after multi-task",
}
STAGE_NUMERALS = {"coarse": "I", "fine": "II", "world": "III"}

LABELS = {
    "caption_loss": "caption loss",
    "caption_accuracy": "captions, exact",
    "reading_loss": "reading loss",
    "reading_accuracy": "reading new words",
    "question_loss": "question loss",
    "question_accuracy": "questions about pictures",
    "text_loss": "text-only loss",
    "text_accuracy": "text-only questions",
}
LANGUAGE_MODELS = {"original": "its own language model", "second": "a second language model"}


@dataclass(frozen=True)
class Verdict:
    """A sentence and whether its news are `good`, `bad` or `plain`."""

    text: str
    tone: str = "plain"


def state_title(state: str) -> str:
    """`after II` for `fine`, and so on."""
    return STATE_TITLES.get(state, f"after {state}")


def metric_label(metric: str) -> str:
    """The name of a metric for people; a kind of question stands alone."""
    base, _, kind = metric.partition("/")
    return kind or LABELS.get(metric, base.replace("_", " "))


def percent(value: float, digits: int = 0) -> str:
    """A share as a percentage; more digits where rounding would say 0 or 100 of something else."""
    if 0 < abs(value) < 0.005 or 0.995 < value < 1:
        digits = max(digits, 1)
    return f"{100 * value:.{digits}f}\u00a0%"


def sampling_error(first: float, second: float, count: int | None) -> float:
    """Half of the 95 % interval of the difference of two shares measured on `count` samples each; 0 if unknown."""
    if not count:
        return 0.0
    return 1.96 * math.sqrt((first * (1 - first) + second * (1 - second)) / count)


def answers_verdict(
    vlm: Mapping[str, Metrics], states: Sequence[str], chance: Metrics, samples: Metrics
) -> list[Verdict]:
    """The last state against the first on questions and reading, with chance beside them."""
    first, last = vlm[states[0]], vlm[states[-1]]
    verdicts = []
    for metric, what, key in (
        ("question_accuracy", "held-out questions about pictures", "questions"),
        ("reading_accuracy", "words that no training text showed", "reading"),
    ):
        if metric not in first or metric not in last:
            continue
        before, after = first[metric], last[metric]
        verb = "reads" if key == "reading" else "answers"
        text = f"The refined model {verb} {percent(after)} of the {what} exactly"
        text += f"; before refinement it was {percent(before)}"
        if metric in chance:
            text += f", and always giving the commonest answer scores {percent(chance[metric])}"
        margin = sampling_error(before, after, int(samples.get(key, 0)))
        if abs(after - before) <= margin:
            verdicts.append(Verdict(text + ". That difference is within the sampling error."))
        elif metric in chance and after <= chance[metric]:
            verdicts.append(Verdict(text + ": no better than chance.", "bad"))
        else:
            verdicts.append(Verdict(text + ".", "good" if after > before else "bad"))
    return verdicts


def stages_verdict(vlm: Mapping[str, Metrics], states: Sequence[str], metric: str = "caption_loss") -> list[Verdict]:
    """Whether each stage improved on the one before it."""
    if len(states) < 2 or any(metric not in vlm[state] for state in states):
        return []
    values = [vlm[state][metric] for state in states]
    path = " → ".join(f"{value:.2f}" for value in values)
    worse = [state for state, a, b in zip(states[1:], values[:-1], values[1:], strict=True) if b >= a]
    label = metric_label(metric)
    if not worse:
        each = "Each stage improves on the one before it" if len(states) > 2 else "The stage improves on the start"
        return [Verdict(f"{each}: held-out {label} {path}.", "good")]
    names = [STAGE_NUMERALS.get(state, state) for state in worse]
    listed = f"stage {names[0]}" if len(names) == 1 else f"stages {', '.join(names[:-1])} and {names[-1]}"
    return [Verdict(f"Not every stage helps: {listed} did not lower the held-out {label} ({path}).", "bad")]


def text_skill_verdict(vlm: Mapping[str, Metrics], states: Sequence[str], samples: Metrics) -> list[Verdict]:
    """Whether the language model still answers questions without a picture as it did before."""
    metric = "text_accuracy"
    if metric not in vlm[states[0]] or metric not in vlm[states[-1]]:
        return []
    before, after = vlm[states[0]][metric], vlm[states[-1]][metric]
    change = f"{percent(before, 1)} before, {percent(after, 1)} after"
    if after == before:
        return [Verdict(f"The language model kept its skill in text alone ({change}).", "good")]
    if abs(after - before) <= sampling_error(before, after, int(samples.get("text", 0))):
        text = f"The language model's skill in text alone did not measurably change ({change}: within sampling error)."
        return [Verdict(text, "good")]
    points = f"{100 * abs(after - before):.1f} points"
    if after > before:
        return [Verdict(f"The language model even gained {points} on text alone ({change}).", "good")]
    return [Verdict(f"Refinement cost the language model {points} of its skill in text alone ({change}).", "bad")]


def swap_verdict(swap: Mapping[str, Mapping[str, Metrics]], metric: str = "caption_loss") -> list[Verdict]:
    """The refined tower against the unrefined one, each behind a fresh connector."""
    verdicts = []
    for name, towers in swap.items():
        before, after = towers.get("unrefined", {}).get(metric), towers.get("refined", {}).get(metric)
        if before is None or after is None:
            continue
        where = LANGUAGE_MODELS.get(name, f"the language model {name}")
        text = (
            f"Encoder swap into {where}: with a fresh connector and everything else frozen, the refined ViT reaches a "
            f"held-out {metric_label(metric)} of {after:.2f} against {before:.2f} for the unrefined one"
        )
        if after < before:
            verdicts.append(Verdict(f"{text}, {percent(after / before)} of it.", "good"))
        else:
            verdicts.append(Verdict(f"{text}: refinement did not help there.", "bad"))
    return verdicts


def probe_verdict(before: Metrics, after: Metrics) -> list[Verdict]:
    """Local and global features on drawings that no training picture showed."""
    verdicts = []
    for kind, probe, what in (
        ("scene", "linear", "Local features (a never-shown drawing in a scene, linear probe)"),
        ("pooled", "linear", "Global features (a never-shown drawing alone, mean of all patches, linear probe)"),
        ("pooled", "knn", "The same global features under the nearest neighbour"),
    ):
        key = f"{kind}_{probe}_unseen"
        if key not in before or key not in after:
            continue
        change = f"{percent(before[key])} → {percent(after[key])}"
        chance = f"; chance {percent(after[f'{kind}_chance_unseen'])}" if f"{kind}_chance_unseen" in after else ""
        if after[key] > before[key]:
            verdicts.append(Verdict(f"{what} got sharper: {change}{chance}.", "good"))
        elif after[key] < before[key]:
            verdicts.append(Verdict(f"{what} lost: {change}{chance}.", "bad"))
        else:
            verdicts.append(Verdict(f"{what} did not gain: {change}{chance}.", "bad"))
    return verdicts


def comparison_verdict(comparison: Mapping[str, Any], first: str, second: str, where: str) -> Verdict:
    """One paired comparison over seeds, as a sentence; `comparison` is `PairedComparison.to_dict()`."""
    metric, seeds = comparison["metric"], len(comparison["differences"])
    numbers = (
        f"{metric_label(metric)} {comparison['first_mean']:.3f} against {comparison['second_mean']:.3f}, "
        f"difference {comparison['mean']:+.3f}"
    )
    if comparison["low"] is None:
        better = (comparison["mean"] < 0) == lower_is_better(metric)
        text = (
            f"{where}: with a single seed {first} is {'ahead of' if better else 'not ahead of'} {second} ({numbers})."
        )
        return Verdict(text + " One seed proves nothing.")
    numbers += f" (95 % interval {comparison['low']:+.3f} to {comparison['high']:+.3f}, {seeds} seeds)"
    if comparison["verdict"] == "better":
        return Verdict(f"{where}: {first} beats {second}, {numbers}.", "good")
    if comparison["verdict"] == "worse":
        return Verdict(f"{where}: {first} loses to {second}, {numbers}.", "bad")
    ahead = f"{first} is ahead in {comparison['wins']} of {seeds} seeds"
    return Verdict(f"{where}: no clear difference between {first} and {second}, {numbers}; {ahead}.")
