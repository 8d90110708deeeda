# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Write what a finished run of recipes/smollm2.yaml found into docs/results/smollm2.json and smollm2.md.

python docs/make_smollm2.py runs/smollm2 --note "The machine was shared with other work."
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROWS = {
    "caption_loss": "detailed captions, loss",
    "reading_loss": "words that were never trained, spelled, loss",
    "reading_accuracy": "words spelled right",
    "question_loss": "questions about pictures, loss",
    "question_accuracy": "questions answered exactly",
    "question_accuracy/count": "how many drawings",
    "question_accuracy/color": "what colour behind",
    "question_accuracy/where": "where is",
    "question_accuracy/what": "what is at",
    "text_loss": "questions on scenes told in words, loss",
    "text_accuracy": "answered exactly",
    "held_out_loss": "general questions without pictures, loss",
    "held_out_accuracy": "answered word by word as written down",
}
PICTURED = [name for name in ROWS if not name.startswith(("text", "held_out"))]
PROBES = {
    f"{kind}_{probe}_{group}": f"{title}, {group} drawings, {how}"
    for kind, title in (("scene", "a drawing in a scene"), ("pooled", "a large drawing alone"))
    for probe, how in (("linear", "linear probe"), ("knn", "nearest neighbour"))
    for group in ("seen", "unseen")
}
STATES = {"start": "start", "coarse": "I coarse", "fine": "II fine", "world": "III world"}


def collect(run: Path) -> dict[str, Any]:
    """What is kept of a run: metrics, seconds of each step, machine and versions, answers to the samples shown."""

    def read(name: str) -> Any:
        return json.loads((run / name).read_text(encoding="utf-8"))

    metrics, sessions = read("metrics.json"), read("run.json")["sessions"]
    samples = read("samples/samples.json")
    for state in metrics["states"]:
        for sample, answer in zip(samples, read(f"samples/{state}.json"), strict=True):
            sample.setdefault("answers", {})[state] = answer
            sample.pop("picture", None)
    kept = ("seed", "states", "stages", "samples", "vlm", "probes", "encoder_swap", "chance", "credit")
    return {
        "format": 1,
        **{name: metrics[name] for name in kept if name in metrics},
        "parameters": {module: part["parameters"] for module, part in metrics["parts"].items()},
        "seconds": read("timings.json"),
        "sessions": [{name: value for name, value in session.items() if name != "started"} for session in sessions],
        "answers": samples,
    }


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if metric.endswith("_loss") else f"{100 * value:.0f} %"


def _table(first: str, columns: dict[str, dict[str, float]], rows: dict[str, str]) -> list[str]:
    lines = [f"| {first} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for metric, title in rows.items():
        if any(metric in values for values in columns.values()):
            cells = [_cell(metric, values.get(metric)) for values in columns.values()]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def page(result: dict[str, Any], note: str) -> str:
    """The results as Markdown."""
    states = {STATES[state]: result["vlm"][state] for state in result["states"]}
    swap = result["encoder_swap"]["original"]
    stages = ", ".join(f"{STATES[key]} {stage['steps']} steps" for key, stage in result["stages"].items())
    minutes = sum(result["seconds"].values()) / 60
    memory = max(session["peak_memory_bytes"] for session in result["sessions"]) / 1e9
    sizes = {name: f"{count / 1e6:.1f} M" for name, count in result["parameters"].items()}
    samples = next(stage["samples_seen"] // stage["steps"] for stage in result["stages"].values())
    fewest = min(result["samples"].values())
    lines = [
        "# The demo's ViT refined with SmolLM2-135M-Instruct",
        "",
        f"One seed ({result['seed']}). ViT {sizes['vision_tower']} parameters, connector "
        f"{sizes['multi_modal_projector']}, language model {sizes['language_model']}; {stages},",
        f"{samples} samples a step.",
        f"{minutes:.0f} minutes in all on {result['sessions'][0]['threads']} thread(s), {memory:.1f} GB at the peak.",
        note,
        "Losses are nats per answer token (lower is better); accuracies count answers that greedy decoding gets",
        f"exactly right. With {fewest} samples a task or more an accuracy has a standard error of up to "
        f"{50 / fewest**0.5:.0f} points.",
        "",
        "## The encoder swap: what the ViT is worth to the language model that was never refined",
        "",
        "ViT and language model are frozen, a fresh connector learns between them: the same steps, samples and start",
        "for both.",
        "",
        *_table(
            "held out",
            {"unrefined": swap["unrefined"], "refined": swap["refined"], "chance": result.get("chance", {})},
            {name: title for name, title in ROWS.items() if name in PICTURED},
        ),
        "",
        "## The model in training",
        "",
        *_table("held out", {**states, "chance": result.get("chance", {})}, ROWS),
        "",
    ]
    if "probes" in result:
        probes = {STATES[state]: values for state, values in result["probes"].items()}
        chance = {name: values[name.replace("linear", "chance").replace("knn", "chance")]
                  for values in result["probes"].values() for name in PROBES}  # fmt: skip
        lines += ["## The ViT alone", "", *_table("names found", {**probes, "chance": chance}, PROBES), ""]
    lines += ["## Answers to sample questions", "", "| question | right | after start | after the last stage |"]
    lines.append("|---|---|---|---|")
    for sample in result["answers"]:
        answers = sample["answers"]
        cells = [sample["question"], sample["answer"], answers["start"], answers[result["states"][-1]]]
        lines.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |")
    return "\n".join([*lines, "", result["credit"], ""])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the outcome of recipes/smollm2.yaml into docs/results.")
    parser.add_argument("run", type=Path, help="the run folder, such as runs/smollm2")
    parser.add_argument("--output", type=Path, default=Path("docs/results"), help="the folder to write to")
    parser.add_argument("--name", default="smollm2", help="name of the two files")
    parser.add_argument("--note", default="", help="a sentence on the machine")
    options = parser.parse_args(argv)
    if not (options.run / "metrics.json").exists():
        raise SystemExit(f"{options.run} holds no metrics.json: the run is not finished; go on with it by --resume")
    result = collect(options.run)
    options.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False)
    (options.output / f"{options.name}.json").write_text(f"{text}\n", encoding="utf-8")
    (options.output / f"{options.name}.md").write_text(page(result, options.note), encoding="utf-8")
    print(f"Results: {options.output / options.name}.md")


if __name__ == "__main__":
    main()
