# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Write a finished run's numbers into the README, between its two marks.

    python docs/make_table.py runs/demo README.md
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- numbers: make demo -->", "<!-- end of numbers -->"
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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a finished run's numbers into the README.")
    parser.add_argument("run", type=Path, help="a run folder, such as runs/demo")
    parser.add_argument("page", type=Path, nargs="?", default=Path("README.md"))
    options = parser.parse_args(argv)
    metrics = json.loads((options.run / "metrics.json").read_text(encoding="utf-8"))
    run = json.loads((options.run / "run.json").read_text(encoding="utf-8"))
    block = f"{BEGIN}\n{numbers(metrics, run)}\n{END}"
    page = options.page.read_text(encoding="utf-8")
    page, found = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: block, page, flags=re.DOTALL)
    if not found:
        raise SystemExit(f"{options.page} has no marks {BEGIN} ... {END}; add them where the numbers should stand.")
    options.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
