# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The comparison over seeds for people: `evidence.json`, `evidence.md` and a figure."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..refinement.run_folder import write_json, write_text
from .arms import ARM_TITLES, JUDGED, JUDGES
from .comparison import lower_is_better, markdown_table, number, t_critical
from .pictures import grouped_bars
from .verdicts import comparison_verdict, metric_label, percent

FIGURE_JUDGES = {"swap_original": "original LM", "swap_second": "second LM", "own": "own MLLM"}
FIGURE_METRICS = ("caption_loss", "reading_loss")


def _mean_sd(values: list[float]) -> tuple[float, float | None]:
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _values(evidence: Mapping[str, Any], arm: str, judge: str, metric: str) -> list[float]:
    results = evidence["results"][arm].values()
    return [result[judge][metric] for result in results if metric in result.get(judge, {})]


def _show(metric: str, value: float) -> str:
    return number(value) if lower_is_better(metric) else percent(value, 1)


def _cell(metric: str, values: list[float]) -> str:
    if not values:
        return "–"
    mean, sd = _mean_sd(values)
    return _show(metric, mean) if sd is None else f"{_show(metric, mean)} ± {_show(metric, sd)}"


def _label(metric: str) -> str:
    return metric_label(metric) if not metric.startswith(("scene", "pooled")) else metric.replace("_", " ")


def evidence_figure(evidence: Mapping[str, Any]) -> bytes:
    """Caption and reading loss of every arm under each judge, with 95 % intervals over seeds; PNG on white."""
    arms = ["unrefined", *(arm for arm in evidence["results"] if arm != "unrefined")]
    places = [(judge, metric) for judge in FIGURE_JUDGES for metric in FIGURE_METRICS]
    series: dict[str, list[float | None]] = {}
    errors: dict[str, list[float | None]] = {}
    for arm in arms:
        title = ARM_TITLES[arm]
        series[title], errors[title] = [], []
        for judge, metric in places:
            values = _values(evidence, arm, judge, metric)
            mean, sd = _mean_sd(values) if values else (None, None)
            series[title].append(mean)
            half = None if sd is None else t_critical(len(values) - 1) * sd / math.sqrt(len(values))
            errors[title].append(half)
    groups = [f"{metric_label(metric)}\n{FIGURE_JUDGES[judge]}" for judge, metric in places]
    return grouped_bars(groups, series, "held-out loss, lower is better", errors=errors, paper="white")


def _verdict_lines(evidence: Mapping[str, Any]) -> list[str]:
    lines = []
    for pair, judges in evidence["comparisons"].items():
        first, second = pair.split(" - ")
        for judge, entries in judges.items():
            if judge != "probes" and second != "unrefined":
                shown = [e for e in entries if e["metric"] in (*FIGURE_METRICS, "text_accuracy")]
                names = ARM_TITLES[first].split(" (")[0], ARM_TITLES[second].split(" (")[0]
                lines += [f"- {comparison_verdict(e, *names, JUDGES[judge]).text}" for e in shown]
    return lines


def _tuning_lines(tuning: Mapping[str, Any]) -> list[str]:
    rates = [f"{rate:g}" for rate in tuning["rates"]]
    rows = [[arm, *(number(scores[rate]) for rate in rates)] for arm, scores in tuning["scores"].items()]
    lines = [
        f"Seed {tuning['seed']}; {tuning['criterion']}. Gradual's rate is its fine stage's peak, and the other stages "
        "keep their ratio to it; direct has one rate for everything.",
        "",
        markdown_table(["arm", *rates], rows),
    ]
    for arm, rate in tuning["chosen"].items():
        edge = len(rates) > 1 and rate in (min(tuning["rates"]), max(tuning["rates"]))
        note = " (the edge of the grid: a wider one may do better)" if edge else ""
        lines.append(f"- {arm}: {rate:g}{note}")
    return lines


def evidence_markdown(evidence: Mapping[str, Any]) -> str:
    """The whole comparison as markdown; every number is computed from `evidence`."""
    seeds = ", ".join(str(seed) for seed in evidence["seeds"])
    lines = [
        "# Gradual refinement against direct co-training",
        "",
        f"Final seeds {seeds}, judged on the test split. In a seed every arm starts from the same foundations and the "
        "same fresh connector and sees as many samples, so the differences are paired. Intervals are 95 % t intervals "
        "of the mean difference over seeds. Losses are nats per answer token (lower is better), accuracies count "
        "answers that greedy decoding gets exactly right.",
        "",
    ]
    if evidence.get("command"):
        lines += [f"Made by `{evidence['command']}`.", ""]
    lines += ["## What came out", "", *_verdict_lines(evidence), "", "![losses by arm](evidence.png)", ""]
    arms = evidence["results"]
    for judge, metrics in JUDGED.items():
        rows = [[_label(m), *(_cell(m, _values(evidence, arm, judge, m)) for arm in arms)] for m in metrics]
        lines += [f"## {JUDGES[judge]}", "", "Mean ± standard deviation over seeds.", ""]
        lines += [markdown_table(["metric", *arms], rows)]
        for pair, judges in evidence["comparisons"].items():
            if judge in judges:
                lines += [f"### {JUDGES[judge]}: {pair}", "", _paired_markdown(judges[judge], pair)]
    lines += ["## The learning rates", "", *_tuning_lines(evidence["tuning"]), "", "## Seed by seed", ""]
    lines += [_seed_table(evidence), "Versions: "]
    lines[-1] += ", ".join(f"{name} {version}" for name, version in evidence["versions"].items()) + ".\n"
    return "\n".join(lines)


def _paired_markdown(entries: list[Mapping[str, Any]], pair: str) -> str:
    rows = []
    for e in entries:
        interval = "–" if e["low"] is None else f"{e['low']:+.3f} to {e['high']:+.3f}"
        wins = f"{e['wins']}/{len(e['differences'])}"
        rows.append([_label(e["metric"]), number(e["mean"], sign=True), number(e["sd"]), interval, wins, e["verdict"]])
    headers = ["metric", "difference", "sd", "95 % interval", f"wins of {pair.split(' - ')[0]}", "it is"]
    return markdown_table(headers, rows)


def _seed_table(evidence: Mapping[str, Any]) -> str:
    rows = []
    for arm, by_seed in evidence["results"].items():
        for seed, result in by_seed.items():
            cells = [number(result.get(j, {}).get(m)) for j in FIGURE_JUDGES for m in FIGURE_METRICS]
            rows.append([arm, seed, *cells])
    titles = [f"{name}: {metric_label(m).split()[0]}" for name in FIGURE_JUDGES.values() for m in FIGURE_METRICS]
    return markdown_table(["arm", "seed", *titles], rows)


def write_evidence(evidence: Mapping[str, Any], folder: Path) -> Path:
    """Write `evidence.json`, `evidence.md` and `evidence.png`; returns the path of the markdown file."""
    write_json(folder / "evidence.json", evidence)
    (folder / "evidence.png").write_bytes(evidence_figure(evidence))
    write_text(folder / "evidence.md", evidence_markdown(evidence))
    return folder / "evidence.md"
