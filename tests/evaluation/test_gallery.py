# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a run keeps to show."""

import json

import numpy as np
import pytest
from PIL import Image

from sailvit_hf.evaluation.gallery import choose_samples, record_answers, record_feature_maps, record_samples

from .stand_ins import PixelTower, WordProcessor, conversation, pixel_processor, tiny_language_model


def evaluation():
    questions = [conversation(f"w{i}", "w0", kind="count" if i % 2 else "what", number=i) for i in range(6)]
    reading = [conversation("w1", f"w{i}", kind="read", number=i) for i in range(6)]
    return {"reading": reading, "questions": questions, "own": [conversation("w2", "w3", number=9)]}


def test_samples_are_drawn_by_the_seed_and_cover_every_kind():
    rows = choose_samples(evaluation(), seed=1)
    assert rows == choose_samples(evaluation(), seed=1)
    assert [row["kind"] for row in rows if row["shown_as"] == "questions"] == ["count", "what"]
    assert [row["shown_as"] for row in rows] == ["reading"] * 3 + ["questions"] * 2 + ["own"]
    drawn = {tuple(row["number"] for row in choose_samples(evaluation(), seed)) for seed in range(8)}
    assert len(drawn) > 4


def test_recorded_samples_and_answers(tmp_path):
    words = [f"w{i}" for i in range(6)]
    picture = Image.fromarray(np.full((4, 4, 3), 7, np.uint8))
    first = conversation("w1", "w2", "w3", "w4", kind="what") | {"images": [picture]}
    rows = [first, {**conversation("w5", "w0"), "shown_as": "text"}]
    record_samples(tmp_path, rows)
    entries = json.loads((tmp_path / "samples/samples.json").read_text())
    assert entries == [
        {"kind": "what", "question": "w1\nw2\nw3", "answer": "w4", "picture": "samples/00.png"},
        {"kind": "text", "question": "w5", "answer": "w0", "picture": None},
    ]
    assert np.asarray(Image.open(tmp_path / "samples/00.png")).tolist() == np.full((4, 4, 3), 7).tolist()
    assert not (tmp_path / "samples/01.png").exists()
    answers = record_answers(tmp_path, "fine", tiny_language_model(9), WordProcessor(words), rows)
    assert json.loads((tmp_path / "samples/fine.json").read_text()) == answers and len(answers) == 2


def test_feature_maps_have_a_pixel_a_patch(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3), dtype=np.uint8)
    record_feature_maps(tmp_path, "start", PixelTower(patch_size=4), pixel_processor, pictures, shown=2)
    names = sorted(path.name for path in (tmp_path / "features").iterdir())
    assert names == ["input-00.png", "input-01.png", "start-00.png", "start-01.png", "start.json"]
    assert Image.open(tmp_path / "features/start-01.png").size == (4, 4)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "features/input-01.png")), pictures[1])
    assert json.loads((tmp_path / "features/start.json").read_text())["explained"] == pytest.approx(1.0, abs=1e-6)
