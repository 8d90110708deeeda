# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Paired comparisons over seeds: mean difference, spread, 95 % interval, wins; and markdown tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import SailvitError


def t_within(t: float, degrees: int) -> float:
    """P(|T| <= t) of Student's t with a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4).

    Raises:
        ValueError: if `degrees` is below 1.
    """
    if degrees < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, not {degrees}.")
    theta = math.atan2(abs(t), math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    if degrees % 2:
        term, total = cosine, cosine if degrees > 1 else 0.0
        for k in range(3, degrees - 1, 2):
            term *= (k - 1) / k * cosine**2
            total += term
        return 2 / math.pi * (theta + sine * total)
    term = total = 1.0
    for k in range(2, degrees - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return sine * total


def t_critical(degrees: int, confidence: float = 0.95) -> float:
    """The t with P(|T| <= t) = `confidence`, by bisection; 12.706 for 1 degree of freedom and 95 %."""
    low, high = 0.0, 1.0
    while t_within(high, degrees) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, degrees) < confidence else (low, middle)
    return (low + high) / 2


def lower_is_better(metric: str) -> bool:
    """Losses are better low, everything else here (accuracies) high."""
    return metric.split("/")[0].endswith("loss")


@dataclass(frozen=True)
class PairedComparison:
    """Differences first minus second, one per seed, and their summary.

    `low` and `high` bound the 95 % t interval of the mean difference; None with a single seed, as is `sd`. `wins`,
    `ties` and `losses` count the seeds in which the first is better, equal, or worse.
    """

    metric: str
    first_mean: float
    second_mean: float
    differences: tuple[float, ...]
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    wins: int
    ties: int
    losses: int

    @property
    def verdict(self) -> str:
        """`"better"` or `"worse"` where the interval excludes zero, else `"unclear"`; the first against the second."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "unclear"
        return "better" if (self.mean < 0) == lower_is_better(self.metric) else "worse"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the verdict among them."""
        return {**asdict(self), "differences": list(self.differences), "verdict": self.verdict}


def paired(metric: str, first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> PairedComparison:
    """Compare two arms measured on the same seeds, in the same order.

    Raises:
        SailvitError: if the arms have different numbers of seeds, or none.
    """
    if len(first) != len(second) or not first:
        raise SailvitError(
            f"A paired comparison of {metric} needs the same seeds in both arms, not {len(first)} and {len(second)}."
        )
    differences = tuple(a - b for a, b in zip(first, second, strict=True))
    count = len(differences)
    mean = sum(differences) / count
    sd = low = high = None
    if count > 1:
        sd = math.sqrt(sum((d - mean) ** 2 for d in differences) / (count - 1))
        half = t_critical(count - 1, confidence) * sd / math.sqrt(count)
        low, high = mean - half, mean + half
    signs = [-d if lower_is_better(metric) else d for d in differences]
    return PairedComparison(
        metric=metric,
        first_mean=sum(first) / count,
        second_mean=sum(second) / count,
        differences=differences,
        mean=mean,
        sd=sd,
        low=low,
        high=high,
        wins=sum(s > 0 for s in signs),
        ties=sum(s == 0 for s in signs),
        losses=sum(s < 0 for s in signs),
    )


def compare_arms(
    first: Mapping[Any, Mapping[str, float]], second: Mapping[Any, Mapping[str, float]], metrics: Sequence[str]
) -> list[PairedComparison]:
    """Compare two arms, given as metrics by seed, on the seeds and metrics that both have."""
    seeds = [seed for seed in first if seed in second]
    comparisons = []
    for metric in metrics:
        common = [seed for seed in seeds if metric in first[seed] and metric in second[seed]]
        if common:
            comparisons.append(paired(metric, [first[s][metric] for s in common], [second[s][metric] for s in common]))
    return comparisons


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number for a table; an en dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A padded markdown table, the first column left, the others right; pipes in cells are escaped."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (headers, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return f"| {' | '.join([row[0].ljust(widths[0]), *others])} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(cells[0]), f"|{rule}|", *map(line, cells[1:])]) + "\n"
