# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Write a finished run's numbers, and those of the comparison over seeds, into the README, between its marks.

    python docs/make_table.py runs/demo README.md --evidence docs/results/evidence.json
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- numbers: make demo -->", "<!-- end of numbers -->"
BEGIN_EVIDENCE, END_EVIDENCE = "<!-- numbers: make evidence -->", "<!-- end of evidence -->"
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


def between(page: str, begin: str, end: str, text: str) -> str:
    """The page with `text` between two marks, in place of what stood there."""
    block = f"{begin}\n{text}\n{end}"
    page, found = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, page, flags=re.DOTALL)
    if not found:
        raise SystemExit(f"The page has no marks {begin} ... {end}; add them where the numbers should stand.")
    return page


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a finished run's numbers into the README.")
    parser.add_argument("run", type=Path, help="a run folder, such as runs/demo")
    parser.add_argument("page", type=Path, nargs="?", default=Path("README.md"))
    parser.add_argument("--evidence", type=Path, help="the evidence.json of the comparison over seeds")
    options = parser.parse_args(argv)
    page = options.page.read_text(encoding="utf-8")
    metrics = json.loads((options.run / "metrics.json").read_text(encoding="utf-8"))
    run = json.loads((options.run / "run.json").read_text(encoding="utf-8"))
    page = between(page, BEGIN, END, numbers(metrics, run))
    if options.evidence is not None:
        evidence = json.loads(options.evidence.read_text(encoding="utf-8"))
        page = between(page, BEGIN_EVIDENCE, END_EVIDENCE, comparison(evidence))
    options.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
