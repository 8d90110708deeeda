# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Write numbers into the README, between its marks: a finished run's, the comparison's over seeds, the benchmarks'.

    python docs/make_table.py README.md --run runs/demo --evidence docs/results/evidence.json
    python docs/make_table.py README.md --benchmarks benchmarks/results
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- numbers: make demo -->", "<!-- end of numbers -->"
BEGIN_EVIDENCE, END_EVIDENCE = "<!-- numbers: make evidence -->", "<!-- end of evidence -->"
BEGIN_BENCHMARKS, END_BENCHMARKS = "<!-- numbers: benchmarks/results -->", "<!-- end of benchmarks -->"
STATES = {"start": "start", "coarse": "I coarse", "fine": "II fine", "world": "III world"}
ROWS = {
    "caption_loss": "caption loss",
    "question_accuracy": "questions answered",
    "reading_accuracy": "words read (never trained)",
    "text_accuracy": "questions on text alone",
}


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if metric.endswith("_loss") else f"{100 * value:.0f} %"


def numbers(metrics: dict[str, Any], run: dict[str, Any]) -> str:
    """A Markdown table of the states, and sentences on the encoder swap and what the run took."""
    states = [state for state in STATES if state in metrics["vlm"]]
    lines = ["| held out | " + " | ".join(STATES[state] for state in states) + " | chance |"]
    lines.append("|---|" + "---|" * (len(states) + 1))
    for metric, title in ROWS.items():
        cells = [_cell(metric, metrics["vlm"][state][metric]) for state in states]
        lines.append(f"| {title} | {' | '.join(cells)} | {_cell(metric, metrics['chance'].get(metric))} |")
    swap = metrics["encoder_swap"]["original"]
    before, after = swap["unrefined"]["caption_loss"], swap["refined"]["caption_loss"]
    seconds = sum(session["seconds"] for session in run["sessions"])
    memory = max(session["peak_memory_bytes"] for session in run["sessions"])
    lines += [
        "",
        "**Encoder swap**: frozen, behind a fresh connector in the original language model, the refined backbone's "
        f"caption loss is {after:.2f}, the unrefined one's {before:.2f} ({100 * after / before:.0f} %).",
        f"One seed; the run, foundations included, took {seconds / 60:.1f} minutes and {memory / 1e9:.1f} GB on "
        f"{run['sessions'][0]['cpus']} CPU cores.",
    ]
    return "\n".join(lines)


def comparison(evidence: dict[str, Any]) -> str:
    """A Markdown table: gradual against direct, by judge and metric, means and paired difference over seeds."""
    lines = ["| judged | metric | gradual | direct | difference (95 % interval) | gradual ahead |"]
    lines.append("|---|---|---|---|---|---|")
    for judge, entries in evidence["comparisons"]["gradual - direct"].items():
        for entry in entries:
            if judge == "probes" or (entry["metric"] == "reading_accuracy"):
                continue
            interval = "" if entry["low"] is None else f" ({entry['low']:+.3f} to {entry['high']:+.3f})"
            cells = [f"{entry['first_mean']:.3f}", f"{entry['second_mean']:.3f}", f"{entry['mean']:+.3f}{interval}"]
            ahead = f"{entry['wins']} of {len(entry['differences'])}"
            title = entry["metric"].replace("_", " ")
            lines.append(f"| {evidence['judges'][judge].lower()} | {title} | {' | '.join(cells)} | {ahead} |")
    return "\n".join(lines)


def benchmarks(folder: Path) -> str:
    """A Markdown table of the ratios that stand in the results of `parity`, `int8`, `loading_memory` and others."""
    names = (
        "parity_large", "int8_large", "loading_memory", "timm_values", "packing", "chunked_loss", "frozen_tower",
        "preprocessing",
    )  # fmt: skip
    texts = {name: (folder / f"{name}.txt").read_text(encoding="utf-8") for name in names}

    def found(name: str, pattern: str) -> str:
        match = re.search(pattern, texts[name], flags=re.MULTILINE)
        if match is None:
            raise SystemExit(f"{folder / name}.txt has no line like {pattern!r}; run the benchmark again.")
        return match[1]

    lines = ["| measured side by side, 2 CPU cores | time | peak memory |", "|---|---|---|"]
    for work in ("forward", "forward+backward"):
        time = found("parity_large", rf"^{re.escape(work)} +ratio of the medians, ours to theirs: (\S+)")
        memory = found("parity_large", rf"^{re.escape(work)} +peak of memory: .* ratio (\S+)")
        lines.append(f"| Large, {work}, to `Aimv2VisionModel` with sdpa | {time} | {memory} |")
    time = found("int8_large", r"int8 to torch fp32: (\S+)")
    cosine = found("int8_large", r"^int8, ours .*cosine (\S+),")
    lines.append(f"| Large, int8 to fp32 (cosine of the features {cosine}, random weights) | {time} | |")
    for task, title in (("load, read every weight", "loaded"), ("convert aimv2 to sailvit", "converted")):
        ratio = found("loading_memory", rf"^float32 +{task} +\d+ MB +\d+ MB +(\S+)")
        lines.append(f"| Huge, {title}, to the size of its weights | | {ratio} |")
    packed, filled = found("packing", r"^our trainer, packed .* (\d+)%$"), found("packing", r"^8192, .* 128 +(\S+%)")
    title = f"a ragged mixture, packed (at 8192 tokens {filled} full), to `Trainer` with padding"
    lines.append(f"| {title} | {int(packed) / 100:.2f} | |")
    memory, time = (found("chunked_loss", rf"^chunked .*MiB +{first}x(\S+) .*off") for first in ("", "x.* "))
    lines.append(f"| loss at a vocabulary of 151,936, in chunks, to all logits at once | {time} | {memory} |")
    time = found("frozen_tower", r"^step / needed +(\S+)")
    lines.append(f"| stage I, to forward of the tower and forward and input gradients of the LLM | {time} | |")
    quick = re.findall(r"^\d.*\(([\d.]+)\)$", texts["preprocessing"].split("JPEG file")[0], flags=re.MULTILINE)
    ratios = sorted(1 / float(times) for times in quick)
    title = "a picture in memory prepared with torchvision, to `CLIPImageProcessorPil`"
    lines.append(f"| {title} | {ratios[0]:.2f} to {ratios[-1]:.2f} | |")
    differences = re.findall(r"(?:at most|tensors by) (\S+) ", texts["timm_values"])
    largest = max(map(float, differences))
    lines += [
        "",
        f"With the same weights, features and gradients of Large and Huge differ from timm's by at most {largest:g}",
        "(CPU, fp32). Commands and spreads are in [benchmarks/results/](benchmarks/results).",
    ]
    return "\n".join(lines)


def between(page: str, begin: str, end: str, text: str) -> str:
    """The page with `text` between two marks, in place of what stood there."""
    block = f"{begin}\n{text}\n{end}"
    page, found = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, page, flags=re.DOTALL)
    if not found:
        raise SystemExit(f"The page has no marks {begin} ... {end}; add them where the numbers should stand.")
    return page


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write numbers into the README.")
    parser.add_argument("page", type=Path, nargs="?", default=Path("README.md"))
    parser.add_argument("--run", type=Path, help="a run folder, such as runs/demo")
    parser.add_argument("--evidence", type=Path, help="the evidence.json of the comparison over seeds")
    parser.add_argument("--benchmarks", type=Path, help="the folder of the benchmarks' results")
    options = parser.parse_args(argv)
    page = options.page.read_text(encoding="utf-8")
    if options.run is not None:
        metrics = json.loads((options.run / "metrics.json").read_text(encoding="utf-8"))
        run = json.loads((options.run / "run.json").read_text(encoding="utf-8"))
        page = between(page, BEGIN, END, numbers(metrics, run))
    if options.evidence is not None:
        evidence = json.loads(options.evidence.read_text(encoding="utf-8"))
        page = between(page, BEGIN_EVIDENCE, END_EVIDENCE, comparison(evidence))
    if options.benchmarks is not None:
        page = between(page, BEGIN_BENCHMARKS, END_BENCHMARKS, benchmarks(options.benchmarks))
    options.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
