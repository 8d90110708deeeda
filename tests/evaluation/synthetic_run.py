# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A run folder with made-up numbers, laid out as the report expects it."""

import json
import math

import numpy as np

from sailvit_hf.evaluation.pictures import png_bytes

STATES = ("start", "coarse", "fine", "world")
TITLES = {
    "coarse": "Coarse-grained alignment",
    "fine": "Fine-grained alignment",
    "world": "World-knowledge infusion",
}
TRAINS = (
    ["multi_modal_projector"],
    ["vision_tower", "multi_modal_projector"],
    ["vision_tower", "multi_modal_projector", "language_model"],
)
CAPTION = "two drawings : top-left cat on red , bottom-right dog on blue"
KINDS = {"count": 1.0, "color": 0.64, "what": 0.85, "where": 0.6}


def vlm_metrics(quality, text=0.71):
    """Metrics that get better as `quality` goes from 0 to 1."""
    accuracy = {f"question_accuracy/{kind}": best * (0.1 + 0.9 * quality) for kind, best in KINDS.items()}
    return {
        "caption_loss": 3.1 * (1 - quality) + 0.14,
        "caption_accuracy": 0.6 * quality**2,
        "reading_loss": 3.5 * (1 - quality) + 0.3,
        "reading_accuracy": 0.7 * quality,
        "question_loss": 2.0 * (1 - quality) + 0.5,
        "question_accuracy": sum(accuracy.values()) / len(accuracy),
        **accuracy,
        "text_loss": 0.5,
        "text_accuracy": text,
    }


def probe_metrics(scene, pooled):
    results = {}
    for kind, value in (("scene", scene), ("pooled", pooled)):
        for group, share, drawings in (("seen", 1.0, 48), ("unseen", 0.6, 100)):
            results[f"{kind}_knn_{group}"] = value * share * 0.8
            results[f"{kind}_linear_{group}"] = value * share
            results[f"{kind}_chance_{group}"] = 1 / drawings
    return results


def metrics_of(gain=1.0):
    """`metrics.json`; a negative `gain` makes every stage and the swap worse."""
    qualities = [0.5 + gain * step for step in (-0.45, -0.25, 0.25, 0.45)]
    swap = {
        name: {
            "unrefined": {"caption_loss": 1.65, "reading_loss": 2.44, "question_accuracy": 0.47},
            "refined": {
                "caption_loss": 1.65 - 0.9 * gain,
                "reading_loss": 2.44 - 0.8 * gain,
                "question_accuracy": 0.47 + 0.14 * gain,
            },
        }
        for name in ("original", "second")
    }
    return {
        "format": 1,
        "name": "demo",
        "seed": 0,
        "states": list(STATES),
        "vlm": {
            s: vlm_metrics(q, 0.71 + 0.02 * gain * i) for i, (s, q) in enumerate(zip(STATES, qualities, strict=True))
        },
        "samples": {"caption": 512, "reading": 512, "questions": 512, "text": 512},
        "chance": {"question_accuracy": 0.31, "question_accuracy/count": 0.4, "reading_accuracy": 0.003},
        "probes": {"start": probe_metrics(0.13, 0.45), "world": probe_metrics(0.13 + 0.1 * gain, 0.45 - 0.3 * gain)},
        "encoder_swap": swap,
        "stages": {
            key: {
                "title": title,
                "trains": trains,
                "learning_rates": {"multi_modal_projector": 3e-3},
                "steps": steps,
                "samples_seen": 64 * steps,
            }
            for (key, title), trains, steps in zip(TITLES.items(), TRAINS, (40, 260, 200), strict=True)
        },
        "parts": {
            "vision_tower": {"source": "demo", "parameters": 470_000},
            "multi_modal_projector": {"source": "fresh", "parameters": 47_000},
            "language_model": {"source": "demo", "parameters": 360_000},
        },
        "credit": "Drawings by OpenMoji, CC BY-SA 4.0",
    }


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_run(folder, gain=1.0, question="what is at top-left", pictures=None):
    """Fill a folder; `pictures` (n, H, W, 3) uint8 replace the noise that stands for samples and inputs."""
    rng = np.random.default_rng(0)
    if pictures is None:
        pictures = rng.integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)
    metrics = metrics_of(gain)
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "timings.json", {"foundations": 121.0, "coarse": 9.5, "fine": 95.0, "world": 81.0})
    for stage, facts in metrics["stages"].items():
        losses = [0.3 + 3 * math.exp(-step / 60) + 0.1 * rng.random() for step in range(1, facts["steps"] + 1)]
        history = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
        write_json(folder / stage / "history.json", [*history, {"train_runtime": 3.0}])
    samples = [
        {"kind": "what", "question": question, "answer": "cat", "picture": "samples/00.png"},
        {"kind": "text", "question": "a dog on red\nhow many drawings ?", "answer": "one", "picture": None},
        {"kind": "caption", "question": "describe in detail", "answer": CAPTION, "picture": "samples/02.png"},
        {"kind": "reading", "question": "read", "answer": "c a t", "picture": "samples/03.png"},
    ]
    write_json(folder / "samples" / "samples.json", samples)
    for i in (0, 2, 3):
        (folder / "samples" / f"{i:02d}.png").write_bytes(png_bytes(pictures[i]))
    for state in STATES:
        right = [sample["answer"] if state in ("world", "fine") else "dog dog" for sample in samples]
        write_json(folder / "samples" / f"{state}.json", [*right[:3], "c a r"])
    for state in ("start", "fine", "world"):
        write_json(folder / "features" / f"{state}.json", {"explained": 0.4})
        for i in range(len(pictures)):
            (folder / "features" / f"input-{i:02d}.png").write_bytes(png_bytes(pictures[i]))
            colours = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            (folder / "features" / f"{state}-{i:02d}.png").write_bytes(png_bytes(colours))
    return folder
