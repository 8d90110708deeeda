# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Conversations by index and as streams: the same rows, nothing opened that was not asked for."""

import json
import multiprocessing
import pickle
import shutil
import sys
from itertools import islice

import datasets
import pytest

from sailvit_hf.data import streams
from sailvit_hf.data.encoding import EncodedStream, LaneSamples
from sailvit_hf.data.mixture import Part, StreamMixture
from sailvit_hf.data.rows import PackedSlots, UnusableRowError, load_conversations
from sailvit_hf.data.sources import Slot
from sailvit_hf.data.streams import ConversationStream, IndexedSource, IterableSource
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


@pytest.mark.parametrize("lanes", [1, 2, 5])
@pytest.mark.parametrize("features", [True, False])
def test_a_shuffled_iterable_data_set_has_another_order_in_every_pass(lanes, features):
    rows = datasets.Dataset.from_list([numbered(number) for number in range(24)]).to_iterable_dataset(num_shards=3)
    if not features:
        rows = rows.map(lambda row: row)
    source = IterableSource(rows.shuffle(seed=1, buffer_size=6))
    # All begun before one is read: lanes need not be in the same pass.
    begun = [[source.one_pass(number, lane, lanes) for lane in range(lanes)] for number in (0, 1, 2, 1)]
    passes = [[[row.read()["id"] for row in lane] for lane in one] for one in begun]
    assert all(sorted(sum(one, [])) == sorted(map(str, range(24))) for one in passes)
    assert passes[1] == passes[3] and passes[0] != passes[1] != passes[2] != passes[0]


def kinds_of_places(folder):
    """A data set of 20 rows in each kind of file, some of several files."""
    (folder / "a.png").write_bytes(picture("red"))
    for part in range(3):
        jsonl(folder, 7 if part else 6, f"{part}.jsonl", start=0 if not part else 7 * part - 1)
        parquet_with_pictures(folder / f"{part}.parquet", 7 if part else 6, start=0 if not part else 7 * part - 1)
    one = [json.dumps(numbered(number)) for number in range(20)]
    (folder / "list.json").write_text(f"[{', '.join(one)}]")
    (folder / "gaps.jsonl").write_text("\ufeff" + "\n\n".join(one))
    members = [(f"{number:02}.json", text) for number, text in enumerate(one)]
    long = [(f"{'long' * 40}/{name}", text) for name, text in members]
    write_tar(folder / "a.tar", members[:10] + [("README", "x")] + long[10:])
    rows = [numbered(number) for number in range(20)]
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    datasets.Dataset.from_list(rows).to_parquet(folder / "groups.parquet", batch_size=6)
    return {
        "three files": ConversationStream(folder / "[0-2].jsonl", shuffle_buffer=4),
        "list": ConversationStream(folder / "list.json", shuffle_buffer=3),
        "in order": ConversationStream(folder / "gaps.jsonl", shuffle_buffer=0),
        "tar": ConversationStream(folder / "a.tar", shuffle_buffer=5),
        "saved": ConversationStream(folder / "saved", shuffle_buffer=4),
        "three parquet files": ConversationStream(folder / "[0-2].parquet", shuffle_buffer=4),
        "row groups": ConversationStream(folder / "groups.parquet", shuffle_buffer=4),
        "capped": ConversationStream(folder / "a.tar", max_samples=17, shuffle_buffer=4),
        "indices": IndexedSource(rows, seed=2),
        "iterable": IterableSource(rows),
        "datasets": IterableSource(datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=3)),
    }


KINDS = (
    "three files", "list", "in order", "tar", "saved", "three parquet files", "row groups", "capped", "indices",
    "iterable", "datasets",
)  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return kinds_of_places(tmp_path_factory.mktemp("places"))


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_pass_goes_on_from_every_cursor(places, kind, lanes):
    source = places[kind]
    seen = []
    for lane in range(lanes):
        rows = source.one_pass(2, lane, lanes)
        whole, cursors = [], [None]
        for row in rows:
            whole.append((row.where, str(row.read())))
            cursors.append(json.loads(json.dumps(rows.cursor())))
        assert next(rows, None) is None and next(rows, None) is None
        cursors.append(json.loads(json.dumps(rows.cursor())))
        for place, cursor in enumerate(cursors):
            again = source.one_pass(2, lane, lanes, cursor)
            assert [(row.where, str(row.read())) for row in again] == whole[min(place, len(whole)) :]
        seen += whole
    assert len(set(seen)) == len(seen) == (17 if kind == "capped" else 20)


def test_going_on_reads_no_more_than_a_block_again(folder, monkeypatch):
    path = jsonl(folder, 500)
    rows = ConversationStream(path, shuffle_buffer=10).one_pass(0, 0, 1)
    for _ in range(455):
        next(rows)
    looked_at = []
    original = streams.file_slots

    def counted(*arguments):
        for slot in original(*arguments):
            looked_at.append(slot.label)
            yield slot

    monkeypatch.setattr(streams, "file_slots", counted)
    again = ConversationStream(path, shuffle_buffer=10).one_pass(0, 0, 1, rows.cursor())
    looked_at.clear()
    next(again)
    assert looked_at == [f"my.jsonl, line {number}" for number in range(451, 461)]


def test_row_groups_before_the_place_are_not_read(folder, monkeypatch):
    datasets.Dataset.from_list([numbered(number) for number in range(60)]).to_parquet(folder / "a.parquet", 6)
    rows = ConversationStream(folder / "a.parquet", shuffle_buffer=3).one_pass(0, 0, 1)
    expected = [numbers([row])[0] for row in rows][50:]
    rows = ConversationStream(folder / "a.parquet", shuffle_buffer=3).one_pass(0, 0, 1)
    for _ in range(50):
        next(rows)
    read = []
    original = streams.stored_rows
    monkeypatch.setattr(streams, "stored_rows", lambda *a, **k: (read.append(row) or row for row in original(*a, **k)))
    again = ConversationStream(folder / "a.parquet", shuffle_buffer=3).one_pass(0, 0, 1, rows.cursor())
    read.clear()
    assert numbers(again) == expected
    assert len(read) <= 12 + 3


def test_other_files_or_another_order_are_noticed_on_going_on(folder):
    """A byte of a file says nothing in another file, or in the same one after its rows have moved."""
    for part in range(3):
        jsonl(folder, 7, f"{part}.jsonl", start=7 * part)

    def mixture(where=folder, **options):
        source = ConversationStream(where / "*.jsonl", image_root=folder, shuffle_buffer=4, **options)
        return StreamMixture([Part(source)])

    lane = mixture().lane(0, 2)
    next(lane)
    state = json.loads(json.dumps(lane.state_dict()))
    rest = numbers(islice(lane, 6))
    assert numbers(islice(mixture().lane(0, 2, state), 6)) == rest
    copied = shutil.copytree(folder, folder / "copy")
    assert numbers(islice(mixture(copied).lane(0, 2, state), 6)) == rest
    for other in ({"seed": 1}, {"split": "test"}, {"name": "other"}):
        with pytest.raises(SailvitError, match="not those that it began with"):
            mixture(**other).lane(0, 2, state)
    with pytest.raises(SailvitError, match="not those that it began with"):
        LaneSamples(EncodedStream(mixture(max_samples=5), None), 2, 1, {0: [1, state]})
    jsonl(folder, 8, "1.jsonl", start=7)
    with pytest.raises(SailvitError, match="not those that it began with"):
        mixture().lane(0, 2, state)


def test_other_rows_by_their_numbers_are_noticed_on_going_on(folder):
    """Beside streams in a mixture: a place in the order says nothing in another file of as many rows."""

    def mixture(start):
        rows = load_conversations(jsonl(folder, 9, "a.jsonl", start=start), image_root=folder)
        return StreamMixture([Part(IndexedSource(rows))])

    lane = mixture(1).lane(0, 1)
    next(lane)
    state, rest = lane.state_dict(), numbers(islice(lane, 6))
    assert numbers(islice(mixture(1).lane(0, 1, state), 6)) == rest
    with pytest.raises(SailvitError, match="not those that it began with"):
        mixture(1000).lane(0, 1, state)


def test_rows_of_several_files_are_called_the_same_in_every_pass(folder):
    for part in range(3):
        rows = [numbered(number) for number in range(7 * part, 7 * part + 7)]
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{part}.parquet", batch_size=4)
    stream = ConversationStream(folder / "*.parquet", shuffle_buffer=4)
    called = [
        {row.where: int(answer(row.read())) for lane in range(lanes) for row in stream.one_pass(number, lane, lanes)}
        for number, lanes in ((0, 1), (1, 2), (2, 5))
    ]
    assert called[0] == called[1] == called[2] and len(called[0]) == 21
    (where,) = [where for where, number in called[0].items() if number == 12]
    file = datasets.load_dataset("parquet", data_files=str(folder / "1.parquet"), split="train", streaming=True)
    # Older versions of `datasets` read a file as one.
    groups = file.shard(num_shards=1, index=0).reshard().num_shards if hasattr(file, "reshard") else 1
    assert where.endswith({1: "file 2, row group 1, row 6", 2: "file 2, row group 2, row 2"}[groups])
