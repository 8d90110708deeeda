# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a run keeps to show: sample questions with each state's answers, and feature maps of each state.

Every state of a run (`start`, then each stage) adds its files once, so that a resumed run goes on where it stopped:

    samples/samples.json        [{"kind", "question", "answer", "picture": "samples/00.png" or null}, ...]
    samples/00.png              the picture of a sample
    samples/<state>.json        that state's answers, in the same order
    features/input-00.png       the pictures whose features are shown
    features/<state>-00.png     their patch features as colours, one pixel a patch
    features/<state>.json       {"explained": share of the variance that the three colours hold}
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .pictures import fit_pca_colours, patch_brightness, png_bytes
from .probing import picture_features
from .vlm import answer_samples, message_text, split_last_answer

SAMPLES, FEATURES = "samples", "features"
# How many samples of each data set of the evaluation are shown; of the questions, one of each kind.
SHOWN = {"caption": 2, "reading": 3, "text": 1}


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def choose_samples(evaluation: Mapping[str, Any], seed: int = 0) -> list[dict]:
    """Rows to show, drawn from the evaluation's data sets by `seed` (never by how well they are answered).

    Questions give one row of each `kind`; other data sets the numbers of `SHOWN` (2 where nothing is said).
    """
    rows = []
    for key, dataset in evaluation.items():
        order = list(range(len(dataset)))
        random.Random(f"{seed}/{key}").shuffle(order)
        if key == "questions":
            kinds = dataset["kind"] if not isinstance(dataset, list) else [row.get("kind") for row in dataset]
            kinds = list(kinds)
            chosen = [next(i for i in order if kinds[i] == kind) for kind in sorted(set(kinds), key=str)]
        else:
            chosen = order[: SHOWN.get(key, 2)]
        rows += [{**dataset[i], "shown_as": key} for i in chosen]
    return rows


def _conversation_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The conversation up to the answer, one turn a line, the system turn left out."""
    return "\n".join(message_text(message) for message in messages if message["role"] != "system")


def record_samples(run_dir: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the questions, the right answers and the pictures of the samples to show."""
    run_dir = Path(run_dir)
    entries = []
    for i, row in enumerate(rows):
        prompt, answer = split_last_answer(row["messages"])
        images = row.get("images") or []
        picture = f"{SAMPLES}/{i:02d}.png" if images else None
        if picture:
            (run_dir / SAMPLES).mkdir(parents=True, exist_ok=True)
            (run_dir / picture).write_bytes(png_bytes(np.asarray(images[-1].convert("RGB"))))
        kind = row.get("kind") or row.get("shown_as")
        entries.append({"kind": kind, "question": _conversation_text(prompt), "answer": answer, "picture": picture})
    _write_json(run_dir / SAMPLES / "samples.json", entries)


def record_answers(run_dir: str | Path, state: str, model: Any, processor: Any, rows: Sequence[Mapping]) -> list[str]:
    """Write a state's greedy answers to the samples (see `answer_samples`), and return them."""
    answers = answer_samples(model, processor, rows, range(len(rows)))
    _write_json(Path(run_dir) / SAMPLES / f"{state}.json", answers)
    return answers


def record_feature_maps(
    run_dir: str | Path,
    state: str,
    vision_tower: torch.nn.Module,
    image_processor: Any,
    pictures: np.ndarray,
    shown: int = 6,
    layer: int = -1,
) -> None:
    """Write the first `shown` pictures and this state's feature maps of them.

    Args:
        vision_tower, layer: as in `picture_features`.
        pictures: (n, H, W, 3) uint8; the colours are fitted on all of them, so give a few dozen or more.
    """
    folder = Path(run_dir) / FEATURES
    folder.mkdir(parents=True, exist_ok=True)
    features = picture_features(vision_tower, image_processor, pictures, layer=layer)
    rows, columns = features.shape[1:3]
    colours = fit_pca_colours(features, patch_brightness(pictures, rows, columns))
    for i, picture in enumerate(colours(features[:shown])):
        (folder / f"{state}-{i:02d}.png").write_bytes(png_bytes(picture))
        (folder / f"input-{i:02d}.png").write_bytes(png_bytes(pictures[i]))
    _write_json(folder / f"{state}.json", {"explained": colours.explained})
