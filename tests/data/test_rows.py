# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Conversations by index and as streams: the same rows, nothing opened that was not asked for."""

import multiprocessing
import pickle
import sys

import datasets
import pytest

from sailvit_hf.data.rows import PackedSlots, UnusableRowError, load_conversations
from sailvit_hf.data.sources import Slot
from sailvit_hf.data.streams import ConversationStream, IndexedSource, IterableSource, shuffled
from sailvit_hf.errors import SailvitError

from .sources import llava, numbered, parquet_with_pictures, picture, write_jsonl, write_tar


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(picture("red"))
    return tmp_path


def answer(row):
    return row["messages"][-1]["content"][0]["text"]


def jsonl(folder, size, name="my.jsonl", start=0):
    return write_jsonl(folder / name, [numbered(number, "a.png") for number in range(start, start + size)])


def test_rows_by_index(folder):
    rows = load_conversations(jsonl(folder, 5))
    assert [answer(row) for row in rows] == ["0", "1", "2", "3", "4"]
    assert rows[-1] == {
        "messages": [
            {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "say"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "4"}]},
        ],
        "images": [{"bytes": None, "path": "a.png"}],
        "id": "4",
        "where": "my.jsonl, line 5",
        "image_root": str(folder),
    }
    with pytest.raises(IndexError):
        rows[5]


def test_rows_of_tars_and_parquet_by_index(folder):
    write_tar(folder / "a.tar", [("1.png", picture("red")), ("1.txt", "one"), ("2.txt", "two"), ("2.png", b"")])
    rows = load_conversations(folder / "a.tar")
    assert [answer(row) for row in rows] == ["one", "two"]
    assert rows[0]["images"] == [{"bytes": picture("red"), "path": "1.png"}]
    rows = load_conversations(parquet_with_pictures(folder / "a.parquet", 3))
    assert [answer(row) for row in rows] == ["0", "1", "2"]
    assert rows[2]["images"] == [{"bytes": picture((2, 0, 0)), "path": "2.png"}]
    assert rows[2]["where"] == f"{folder / 'a.parquet'} (train), row 3"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_rows_can_be_handed_to_other_processes_of_every_kind(folder, method):
    if method == "fork" and sys.platform == "darwin":
        pytest.skip("fork is not safe there")
    rows = load_conversations(jsonl(folder, 3))
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(rows.__getitem__, (2,)) == rows[2]
    assert len(pickle.dumps(rows)) < 2000


def test_places_take_little_memory():
    slots = PackedSlots(Slot("a.jsonl", f"a.jsonl, line {n}", (("", n * 100, 100),)) for n in range(10_000))
    assert slots[9_999] == Slot("a.jsonl", "a.jsonl, line 9999", (("", 999_900, 100),))
    assert len(slots.content) + slots.ends.nbytes < 70 * 10_000


def test_the_first_bad_row_is_told_before_training_with_the_number_of_others(folder):
    path = write_jsonl(folder / "my.jsonl", [numbered(1), "{bad", numbered(2), {"x": 1}, llava(image=None)])
    with pytest.raises(UnusableRowError, match=r"^my.jsonl, line 2: it is not JSON .* \(2 more rows cannot"):
        load_conversations(path)


def test_a_wrong_folder_of_pictures_shows_at_once(folder):
    path = write_jsonl(folder / "my.jsonl", [numbered(1), numbered(2, "b/a.png"), numbered(3, "gone.png")])
    with pytest.raises(SailvitError, match=r"^my.jsonl, line 2: b/a.png does not exist"):
        load_conversations(path)
    with pytest.raises(SailvitError, match=r"^my.jsonl, line 1: b/a.png does not exist"):
        ConversationStream(write_jsonl(path, [numbered(2, "b/a.png")]))
    with pytest.raises(SailvitError, match="holds no conversation"):
        load_conversations(write_jsonl(path, []))


def numbers(pending):
    return [int(answer(each.read())) for each in pending]


@pytest.mark.parametrize("lanes", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["one file", "three files", "parquet", "three parquet files"])
def test_the_lanes_of_a_stream_hold_every_row_once(folder, kind, lanes):
    if kind == "one file":
        place = jsonl(folder, 20)
    elif kind == "three files":
        for part in range(3):
            jsonl(folder, 7, f"{part}.jsonl", start=7 * part)
        place = folder / "*.jsonl"
    elif kind == "parquet":
        place = parquet_with_pictures(folder / "a.parquet", 20)
    else:
        for part in range(3):
            parquet_with_pictures(folder / f"{part}.parquet", 7, start=7 * part)
        place = folder / "*.parquet"
    stream = ConversationStream(place, seed=3, shuffle_buffer=4)
    passes = [[numbers(stream.one_pass(number, lane, lanes)) for lane in range(lanes)] for number in (0, 1)]
    total = 21 if "three" in kind else 20
    for one in passes:
        assert sorted(sum(one, [])) == list(range(total))
    assert passes[0] != passes[1]
    again = ConversationStream(place, seed=3, shuffle_buffer=4)
    assert passes[1] == [numbers(again.one_pass(1, lane, lanes)) for lane in range(lanes)]


def test_a_stream_without_shuffling_or_with_a_cap(folder):
    path = jsonl(folder, 10)
    assert numbers(ConversationStream(path, shuffle_buffer=0).one_pass(3, 1, 2)) == [1, 3, 5, 7, 9]
    capped = ConversationStream(path, max_samples=5)
    assert sorted(numbers(capped.one_pass(0, 0, 2)) + numbers(capped.one_pass(0, 1, 2))) == [0, 1, 2, 3, 4]


def test_rows_of_other_lanes_are_not_opened(folder, monkeypatch):
    read = []
    original = Slot.read
    monkeypatch.setattr(Slot, "read", lambda self: (read.append(self.label), original(self))[1])
    stream = ConversationStream(jsonl(folder, 6), shuffle_buffer=0)
    read.clear()
    numbers(stream.one_pass(0, 1, 3))
    assert read == ["my.jsonl, line 2", "my.jsonl, line 5"]


def test_data_sets_with_indices_and_iterable_ones_as_streams():
    rows = [numbered(number) for number in range(9)]
    source = IndexedSource(rows, max_samples=5, seed=1)
    lanes = [[each.read()["id"] for each in source.one_pass(0, lane, 2)] for lane in (0, 1)]
    assert len(set(sum(lanes, []))) == 5
    assert sorted(sum(lanes, [])) == sorted(each.read()["id"] for each in source.one_pass(7, 0, 1))
    for made in (rows, datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=3)):
        lanes = [[each.read()["id"] for each in IterableSource(made).one_pass(0, lane, 3)] for lane in range(3)]
        assert sorted(sum(lanes, [])) == [str(number) for number in range(9)]
        assert all(len(lane) == 3 for lane in lanes)


def test_shuffling_loses_nothing():
    import random

    for buffer in (0, 1, 5, 100):
        assert sorted(shuffled(range(50), random.Random(0), buffer)) == list(range(50))
    assert list(shuffled(range(5), random.Random(0), 0)) == [0, 1, 2, 3, 4]
    assert list(shuffled(range(50), random.Random(0), 5)) == list(shuffled(range(50), random.Random(0), 5))
