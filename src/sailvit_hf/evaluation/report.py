# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The report of a run: one self-contained HTML page, every number in it computed from the run's files.

A run folder holds (written by the pipeline; parts that are missing are left out of the page):

    metrics.json
        {"format": 1, "name": "demo", "seed": 0,
         "states": ["start", "coarse", "fine", "world"],            the start and the stages that ran, in order
         "vlm":    {state: metrics of `evaluate_vlm`},
         "samples": {data set: its number of samples},
         "chance": {metric of `evaluate_vlm`: accuracy of the best constant answer},
         "probes": {state: result of `probe_backbone`},             at least the first and the last state
         "encoder_swap": {"original": {"unrefined": metrics, "refined": metrics}, "second": {...}},   by language model
         "stages": {stage: {"title", "trains": [modules], "learning_rates": {module: rate}, "steps", "samples_seen"}},
         "parts":  {"vision_tower": {"source", "parameters"}, "multi_modal_projector": ..., "language_model": ...},
         "credit": "licence line of the pictures"}
    <stage>/history.json   [{"step": 1, "loss": 2.3, ...}, ...]      entries without a loss are skipped
    timings.json           {"foundations": seconds, stage: seconds, ...}  apart, so that metrics.json repeats exactly
    samples/, features/    see `gallery`
    evidence.json          of `run_evidence`, if the comparison over seeds was run into this folder
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import html_page as html
from ..errors import SailvitError
from .comparison import lower_is_better, number
from .pictures import grouped_bars, loss_curves
from .verdicts import (
    LANGUAGE_MODELS,
    STAGE_NUMERALS,
    Verdict,
    answers_verdict,
    comparison_verdict,
    metric_label,
    percent,
    probe_verdict,
    stages_verdict,
    state_title,
    swap_verdict,
    text_skill_verdict,
)

MODULE_LABELS = {"vision_tower": "ViT", "multi_modal_projector": "connector", "language_model": "LM"}
SWAP_METRICS = ("caption_loss", "reading_loss", "reading_accuracy", "question_accuracy")


def _read_json(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except json.JSONDecodeError as error:
        raise SailvitError(f"{path} is not valid JSON ({error}); run the recipe again with --resume.") from error


def _count(value: float) -> str:
    """12,800 or 1.2 M."""
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{int(value):,}"


def _value(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    return number(value, 3) if lower_is_better(metric) else percent(value, 1)


class _Run:
    """What a run folder holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics: dict[str, Any] = _read_json(folder / "metrics.json", None) or {}
        if not self.metrics:
            raise SailvitError(f"{folder} has no metrics.json; a report is made of a finished run.")
        self.vlm: dict[str, dict[str, float]] = self.metrics.get("vlm", {})
        self.states: list[str] = [s for s in self.metrics.get("states", list(self.vlm)) if s in self.vlm]
        self.chance: dict[str, float] = self.metrics.get("chance", {})
        self.samples: dict[str, int] = self.metrics.get("samples", {})
        self.swap: dict[str, Any] = self.metrics.get("encoder_swap") or {}
        self.probes: dict[str, dict[str, float]] = self.metrics.get("probes") or {}
        self.stages: dict[str, dict[str, Any]] = self.metrics.get("stages") or {}
        self.timings: dict[str, float] = _read_json(folder / "timings.json", {})
        self.evidence: dict[str, Any] = _read_json(folder / "evidence.json", {})

    def histories(self) -> dict[str, list[tuple[int, float]]]:
        """(step, loss) pairs by stage title."""
        found = {}
        for stage in self.stages or self.states[1:]:
            entries = _read_json(self.folder / stage / "history.json", [])
            pairs = [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry and "step" in entry]
            if pairs:
                found[self.stage_title(stage)] = pairs
        return found

    def stage_title(self, stage: str) -> str:
        title = self.stages.get(stage, {}).get("title", stage)
        return f"{STAGE_NUMERALS[stage]} · {title}" if stage in STAGE_NUMERALS else title

    def probed(self) -> list[str]:
        """The states with probes, in order."""
        order = [*self.states, *(s for s in self.probes if s not in self.states)]
        return [state for state in order if state in self.probes]


def _verdicts(run: _Run) -> list[Verdict]:
    verdicts: list[Verdict] = []
    if len(run.states) > 1:
        verdicts += answers_verdict(run.vlm, run.states, run.chance, run.samples)
        verdicts += stages_verdict(run.vlm, run.states)
    verdicts += swap_verdict(run.swap)
    verdicts += _seed_verdicts(run.evidence, ("gradual - direct",), ("swap_original", "swap_second", "own"))
    if len(run.states) > 1:
        verdicts += text_skill_verdict(run.vlm, run.states, run.samples)
    if len(run.probed()) > 1:
        verdicts += probe_verdict(run.probes[run.probed()[0]], run.probes[run.probed()[-1]])
    return verdicts


def _header(run: _Run) -> str:
    name = run.metrics.get("name", run.folder.name)
    parts = run.metrics.get("parts", {})
    sizes = [f"{MODULE_LABELS.get(k, k)} {_count(v['parameters'])}" for k, v in parts.items() if v.get("parameters")]
    lead = "A vision backbone, refined inside a small MLLM" if run.stages else "A run"
    stages = " → ".join(run.stage_title(stage) for stage in run.stages)
    text = f"{lead}: {stages}." if stages else f"{lead}."
    if sizes:
        text += f" Parameters: {', '.join(sizes)}."
    text += f" Seed {run.metrics.get('seed', 0)}; everything below is measured on held-out data."
    verdicts = _verdict_list(_verdicts(run))
    return f"<h1>What refinement changed: {html.esc(name)}</h1>{html.paragraph(text, 'lead')}{verdicts}{_tiles(run)}"


def _tiles(run: _Run) -> str:
    """The four numbers to take away, each with what it was."""
    pairs: list[tuple[str, float | None, float | None, str]] = []
    if len(run.states) > 1:
        first, last = run.vlm[run.states[0]], run.vlm[run.states[-1]]
        for metric in ("question_accuracy", "reading_accuracy", "caption_loss"):
            pairs.append((metric, first.get(metric), last.get(metric), metric_label(metric)))
    for name, towers in list(run.swap.items())[:1]:
        before, after = (towers.get(tower, {}).get("caption_loss") for tower in ("unrefined", "refined"))
        label = f"caption loss after swapping the ViT into {LANGUAGE_MODELS.get(name, name)}"
        pairs.append(("caption_loss", before, after, label))
    shown = []
    for metric, before, after, label in pairs:
        if before is not None and after is not None:
            show = (lambda value: number(value, 2)) if lower_is_better(metric) else percent
            shown.append((show(before), show(after), label))
    tiles = "".join(
        f'<div class="tile"><b><i class="was">{html.esc(was)} →</i> {html.esc(now)}</b>'
        f"<span>{html.esc(label)}</span></div>"
        for was, now, label in shown
    )
    return f'<div class="tiles">{tiles}</div>' if tiles else ""


def _training(run: _Run) -> str:
    histories = run.histories()
    if not run.stages and not histories:
        return ""
    rows: list[list[html.Cell]] = []
    for stage, facts in run.stages.items():
        rates = facts.get("learning_rates") or {}
        trains = ", ".join(MODULE_LABELS.get(module, module) for module in facts.get("trains", rates))
        rate = ", ".join(dict.fromkeys(f"{value:g}" for value in rates.values()))
        seconds = run.timings.get(stage)
        took = f"{seconds:,.0f} s" if seconds is not None else "–"
        seen = _count(facts["samples_seen"]) if "samples_seen" in facts else "–"
        rows.append([run.stage_title(stage), trains, rate or "–", str(facts.get("steps", "–")), seen, took])
    body = "<h2>The stages</h2>"
    if rows:
        body += html.table(["stage", "trains", "peak learning rate", "steps", "samples seen", "time"], rows)
    if histories:
        caption = "Thin: each log entry. Thick: running mean. All panels share one scale."
        body += html.chart(lambda dark: loss_curves(histories, dark), "Training loss of each stage", caption)
    return body


def _metric_order(run: _Run) -> list[str]:
    known = ["caption_loss", "reading_loss", "reading_accuracy", "question_accuracy"]
    found = list(dict.fromkeys(metric for state in run.states for metric in run.vlm[state]))
    kinds = sorted(m for m in found if m.startswith("question_accuracy/"))
    text = [m for m in ("text_loss", "text_accuracy") if m in found]
    hidden = {"caption_accuracy", "question_loss", *(m for m in found if m.startswith("text_accuracy/"))}
    listed = [m for m in known if m in found] + kinds + text
    return listed + [m for m in found if m not in listed and m not in hidden]


def _results(run: _Run) -> str:
    if not run.states:
        return ""
    rows: list[list[html.Cell]] = []
    sub = []
    for metric in _metric_order(run):
        values = [run.vlm[state].get(metric) for state in run.states]
        present = [v for v in values if v is not None]
        best = min(present) if lower_is_better(metric) else max(present)
        cells: list[html.Cell] = []
        varies = len(set(present)) > 1
        for value in values:
            cells.append((_value(metric, value), "best" if varies and value == best else ""))
        chance = _value(metric, run.chance[metric]) if metric in run.chance else "–"
        rows.append([metric_label(metric), *cells, (chance, "dim")])
        sub.append("/" in metric)
    headers = ["held-out", *(state_title(state) for state in run.states), "chance"]
    sizes = ", ".join(f"{key} {count:,}" for key, count in run.samples.items())
    note = (
        "Losses are nats per answer token, lower is better. Accuracies count answers that greedy decoding gets "
        "exactly right, to the last token. Chance is the best constant answer. Text-only rows show whether the "
        "language model keeps what it could do without pictures."
    )
    if sizes:
        note += f" Samples: {sizes}."
    return f"<h2>Before and after, stage by stage</h2>{html.table(headers, rows, sub)}{html.paragraph(note, 'note')}"


def _swap(run: _Run) -> str:
    if not run.swap:
        return ""
    towers = list(dict.fromkeys(tower for by_tower in run.swap.values() for tower in by_tower))
    metrics = [m for m in SWAP_METRICS if any(m in t for by in run.swap.values() for t in by.values())]
    rows: list[list[html.Cell]] = []
    sub = []
    for name, by_tower in run.swap.items():
        for i, metric in enumerate(metrics):
            values = [by_tower.get(tower, {}).get(metric) for tower in towers]
            label = f"{LANGUAGE_MODELS.get(name, name)}: {metric_label(metric)}" if i == 0 else metric_label(metric)
            rows.append([label, *(_value(metric, value) for value in values)])
            sub.append(i > 0)
    losses = [m for m in metrics if lower_is_better(m)]
    groups = [f"{metric_label(m)}\n{'own LM' if n == 'original' else n + ' LM'}" for n in run.swap for m in losses]
    series = {t: [run.swap[n].get(t, {}).get(m) for n in run.swap for m in losses] for t in towers}
    intro = (
        "What the ViT is worth to an MLLM that did not shape it: the ViT and a language model are frozen, and only a "
        "fresh connector is trained, with the same budget, samples and initial weights for every ViT."
    )
    plot = html.chart(lambda dark: grouped_bars(groups, series, "loss, lower is better", dark=dark), "Encoder swap")
    return f"<h2>Encoder swap</h2>{html.paragraph(intro)}{plot}{html.table(['', *towers], rows, sub)}"


def _samples(run: _Run) -> str:
    entries = _read_json(run.folder / "samples" / "samples.json", [])
    answers = {s: _read_json(run.folder / "samples" / f"{s}.json", None) for s in run.states}
    answers = {state: given for state, given in answers.items() if given and len(given) == len(entries)}
    if not entries:
        return ""
    cards = []
    for i, entry in enumerate(entries):
        picture = _embedded(run.folder, entry.get("picture"), "the picture asked about")
        given = ""
        for state, list_ in answers.items():
            right = "yes" if list_[i] == entry["answer"] else "no"
            answer = html.esc(_shortened(list_[i]) or "(nothing)")
            given += f'<dt>{html.esc(state_title(state))}</dt><dd class="{right}">{answer}</dd>'
        kind = f'<div class="kind">{html.esc(entry.get("kind"))}</div>'
        question = f'<div class="question">{html.esc(entry["question"])}</div>'
        right = f'<div class="right">right: {html.esc(entry["answer"])}</div>'
        top = f'<div class="top">{picture}<div>{kind}{question}{right}</div></div>'
        cards.append(f'<article class="card">{top}<dl>{given}</dl></article>')
    intro = "Drawn by the seed, not by success; the answers are the model's own words, decoded greedily."
    return f'<h2>Questions and answers</h2>{html.paragraph(intro)}<div class="cards">{"".join(cards)}</div>'


def _shortened(text: str, limit: int = 120) -> str:
    """An untrained model may babble to the limit of its tokens."""
    return text if len(text) <= limit else text[:limit].rstrip() + " …"


def _embedded(folder: Path, name: str | None, alt: str) -> str:
    path = folder / name if name else None
    return html.image(path.read_bytes(), alt) if path and path.is_file() else ""


def _feature_maps(run: _Run) -> str:
    folder = run.folder / "features"
    states = [state for state in run.states if (folder / f"{state}.json").is_file()]
    inputs = sorted(folder.glob("input-*.png"))
    if not states or not inputs:
        return ""
    columns = ["input", *states]
    cells = "".join(f"<span>{html.esc('input' if c == 'input' else state_title(c))}</span>" for c in columns)
    for path in inputs:
        number_ = path.stem.split("-")[-1]
        for column in columns:
            alt = "input picture" if column == "input" else f"features {state_title(column)}"
            cells += _embedded(folder, f"{column}-{number_}.png", alt) or "<span></span>"
    shares = {state: _read_json(folder / f"{state}.json", {}).get("explained") for state in states}
    told = ", ".join(f"{state_title(s)} {percent(v)}" for s, v in shares.items() if v is not None)
    caption = (
        "Each square is a patch; its colour is the patch feature's three largest principal components as red, green "
        "and blue, fitted for each state on the same pictures and turned so that they rise with brightness. Like "
        "colours mean like features within a column, not across columns."
    )
    caption += f" Variance that the three hold: {told}." if told else ""
    grid = f'<div class="maps" style="grid-template-columns: repeat({len(columns)}, 1fr)">{cells}</div>'
    return f"<h2>What the ViT sees: feature maps</h2>{html.paragraph(caption, 'note')}{grid}"


def _probes(run: _Run) -> str:
    states = run.probed()
    if not states:
        return ""
    places = (("scene", "in a scene"), ("pooled", "alone, pooled"))
    pairs = [(kind, place, group) for kind, place in places for group in ("seen", "unseen")]
    keys = [(f"{kind}_linear_{g}", f"{place}\n{g}", f"{kind}_chance_{g}") for kind, place, g in pairs]
    first = run.probes[states[0]]
    keys = [key for key in keys if key[0] in first]
    series = {state_title(s): [run.probes[s].get(key) for key, _, _ in keys] for s in states}
    chance = [first.get(key) for _, _, key in keys]
    rows: list[list[html.Cell]] = []
    for kind, place in places:
        for probe, name in (("knn", "nearest neighbour"), ("linear", "linear")):
            for group in ("seen", "unseen"):
                key, level = f"{kind}_{probe}_{group}", first.get(f"{kind}_chance_{group}")
                if key in first:
                    values = [_value(key, run.probes[s].get(key)) for s in states]
                    rows.append([f"drawing {place}, {group}, {name}", *values, (_value(key, level), "dim")])
    intro = (
        "The ViT alone, its features read by the nearest neighbour and by a linear classifier: which drawing is it? "
        "In a scene the patches of the drawing's cell are averaged (what an MLLM reads); alone, all patches of the "
        "picture (what contrastive pre-training shapes). Unseen drawings are in no training picture."
    )
    labels = [label for _, label, _ in keys]
    plot = html.chart(
        lambda dark: grouped_bars(labels, series, "linear probe", chance, percent=True, dark=dark),
        "Linear probes of the ViT",
    )
    headers = ["accuracy", *(state_title(s) for s in states), "chance"]
    return f"<h2>Probing the ViT alone</h2>{html.paragraph(intro)}{plot}{html.table(headers, rows)}"


def _arm_title(evidence: Mapping[str, Any], arm: str) -> str:
    """The short name of an arm: what stands before the bracket in its title."""
    return str(evidence.get("arms", {}).get(arm, arm)).split(" (")[0]


def _seed_verdicts(evidence: Mapping[str, Any], pairs: Sequence[str], judges: Sequence[str]) -> list[Verdict]:
    """The captions' verdict of each pair under each judge."""
    titles, verdicts = evidence.get("judges", {}), []
    for pair in pairs:
        first, _, second = pair.partition(" - ")
        for judge in judges:
            entries = evidence.get("comparisons", {}).get(pair, {}).get(judge, [])
            chosen = [entry for entry in entries if entry["metric"] == "caption_loss"]
            names = _arm_title(evidence, first), _arm_title(evidence, second)
            verdicts += [comparison_verdict(entry, *names, titles.get(judge, judge)) for entry in chosen]
    return verdicts


def _verdict_list(verdicts: Sequence[Verdict]) -> str:
    items = "".join(f'<li class="{html.esc(v.tone)}">{html.esc(v.text)}</li>' for v in verdicts)
    return f'<ul class="verdicts">{items}</ul>' if items else ""


def comparison_section(evidence: Mapping[str, Any]) -> str:
    """The comparison over seeds (see `evidence`), as HTML; empty where there is none."""
    comparisons = evidence.get("comparisons") or {}
    if not comparisons:
        return ""
    titles, tables = evidence.get("judges", {}), ""
    for pair, judges in comparisons.items():
        first, second = (_arm_title(evidence, arm) for arm in pair.split(" - "))
        for judge, entries in judges.items():
            where = titles.get(judge, judge)
            heading = html.esc(f"{first} against {second} · {where}")
            tables += f"<h3>{heading}</h3>{_paired_table(entries, first, second)}"
    pairs = [pair for pair in comparisons if not pair.endswith("unrefined")]
    verdicts = _verdict_list(_seed_verdicts(evidence, pairs, list(titles)))
    seeds = ", ".join(str(seed) for seed in evidence.get("seeds", []))
    intro = f"Seeds {seeds}; every arm starts from the same foundations of its seed, so differences are paired."
    return f"<h2>Over seeds</h2>{html.paragraph(intro)}{verdicts}{tables}"


def _paired_table(entries: Sequence[Mapping[str, Any]], first: str, second: str) -> str:
    rows: list[list[html.Cell]] = []
    for e in entries:
        interval = "–" if e["low"] is None else f"{e['low']:+.3f} to {e['high']:+.3f}"
        wins = f"{e['wins']}/{len(e['differences'])}"
        means = [number(e["first_mean"]), number(e["second_mean"]), number(e["mean"], sign=True)]
        rows.append([metric_label(e["metric"]), *means, number(e["sd"]), interval, wins])
    return html.table(["metric", first, second, "difference", "sd", "95 % interval", "wins"], rows)


def _footer(run: _Run) -> str:
    lines = [f"Pictures: {run.metrics['credit']}"] if run.metrics.get("credit") else []
    total = sum(run.timings.values())
    if total:
        listed = ", ".join(f"{name} {seconds:,.0f} s" for name, seconds in run.timings.items())
        lines.append(f"Time: {listed}; together {total:,.0f} s.")
    versions = run.metrics.get("versions") or {}
    if versions:
        lines.append("Made with " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".")
    lines.append("Every number on this page was computed from the files of this run.")
    return f"<footer>{''.join(html.paragraph(line) for line in lines)}</footer>"


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run folder; the module's docstring says what it reads.

    Returns:
        The path of the report.

    Raises:
        SailvitError: if there is no `metrics.json`, or a file is not valid JSON.
    """
    folder = Path(run_dir)
    run = _Run(folder)
    sections = [_header, _training, _results, _samples, _swap, _feature_maps, _probes]
    body = "\n".join([*(section(run) for section in sections), comparison_section(run.evidence), _footer(run)])
    path = folder / "report.html"
    path.write_text(html.page(f"Refinement report: {run.metrics.get('name', folder.name)}", body), encoding="utf-8")
    return path
