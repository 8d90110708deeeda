# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Encoded samples: what cannot be used is refused, replaced and counted; a stream goes on exactly where it stood."""

import json
from itertools import islice

import datasets
import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from torch.utils.data import DataLoader

from sailvit_hf.data import sources
from sailvit_hf.data.collator import VisionLanguageCollator
from sailvit_hf.data.encoding import (
    EncodedSamples,
    EncodedStream,
    Encoder,
    LaneSamples,
    MismatchedSampleError,
    UnfitSampleError,
)
from sailvit_hf.data.images import ImageExtensionError, ImageMissingError
from sailvit_hf.data.mixture import Mixture, Part, StreamMixture
from sailvit_hf.data.replacement import OverlongSampleError, UnreadableSamplesError, WithReplacements
from sailvit_hf.data.rows import load_conversations
from sailvit_hf.data.streams import ConversationStream
from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement.processes import StreamTurns
from sailvit_hf.refinement.saving.data_state import NOTE, Noting

from .sources import CharacterProcessor, answer_of, numbered, picture, tokens_of, write_jsonl

PROCESSOR = CharacterProcessor()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(picture("red"))
    (tmp_path / "broken.png").write_bytes(picture("red")[:40])
    (tmp_path / "jpeg.png").write_bytes(picture("red", format="JPEG"))
    return tmp_path


def jsonl(folder, size, broken=(), long=()):
    names = {number: "broken.png" for number in broken}
    made = [numbered(number, names.get(number, "a.png")) for number in range(size)]
    for number in long:
        made[number]["conversations"][1]["value"] = "x" * 50
    return write_jsonl(folder / "my.jsonl", made)


def test_a_sample_has_its_tokens_and_tiles(folder):
    samples = EncodedSamples(load_conversations(jsonl(folder, 3)), PROCESSOR)
    assert len(samples) == 3
    assert samples[2]["input_ids"].tolist() == [1, 3, 3, 3, 3, *tokens_of(2)]
    assert samples[2]["pixel_values"].shape == (1, 3, 16, 16)
    assert [answer_of(sample) for sample in samples] == [tokens_of(number) for number in range(3)]


def test_errors_name_the_row(folder):
    rows = load_conversations(write_jsonl(folder / "my.jsonl", [numbered(1, "a.png"), numbered(2, "gone.png")]))
    with pytest.raises(ImageMissingError, match=r"^my.jsonl, line 2 \(gone.png\) does not exist"):
        EncodedSamples(rows, PROCESSOR)[1]
    row = {"messages": [{"role": "user", "content": "x"}], "images": [np.zeros((2, 2, 3), np.uint8)], "id": "seven"}
    with pytest.raises(MismatchedSampleError, match="^seven has 0 image parts but 1 pictures"):
        EncodedSamples([row], PROCESSOR)[0]


def test_the_root_of_pictures_is_the_caller_s_before_the_row_s(folder):
    (folder / "sub").mkdir()
    row = {**load_conversations(jsonl(folder, 1))[0], "image_root": "/"}
    assert Encoder(PROCESSOR, image_root=folder)(row, "x")["num_tiles"].tolist() == [1]
    with pytest.raises(ImageMissingError):
        Encoder(PROCESSOR, image_root=folder / "sub")(row, "x")


def test_a_wrong_extension_is_refused_unless_switched_off(folder):
    rows = load_conversations(write_jsonl(folder / "my.jsonl", [numbered(1, "jpeg.png")]))
    with pytest.raises(ImageExtensionError, match="is a JPEG file in spite of its name"):
        EncodedSamples(rows, PROCESSOR)[0]
    assert len(EncodedSamples(rows, PROCESSOR, match_extension=False)[0]["input_ids"]) == 6


def test_a_sample_that_is_too_long_is_never_cut(folder):
    rows = load_conversations(jsonl(folder, 300, long=[4]))
    with pytest.raises(OverlongSampleError, match=r"line 5 is too long \(55 tokens are more than max_length=20"):
        WithReplacements(EncodedSamples(rows, PROCESSOR, max_length=20))[4]
    samples = WithReplacements(EncodedSamples(rows, PROCESSOR, max_length=20, overlong="drop"))
    lengths = [len(samples[index]["input_ids"]) for index in range(300)]
    assert max(lengths) == 8
    assert all((sample["input_ids"] == 3).sum() == 4 for sample in samples)
    assert samples.skipped.totals() == (0, 2)  # two passes over them
    assert list(samples.faults.overlong) == [4] and not samples.bad
    with pytest.raises(SailvitError, match="choose raise or drop"):
        EncodedSamples(rows, PROCESSOR, overlong="cut")


def test_all_too_long_is_an_error_and_not_a_loop(folder):
    samples = EncodedSamples(load_conversations(jsonl(folder, 5)), PROCESSOR, max_length=3, overlong="drop")
    with pytest.raises(UnreadableSamplesError, match="all samples are longer than allowed"):
        WithReplacements(samples)[0]


@pytest.mark.parametrize("samples", [5, 100])
def test_of_a_mixture_all_rows_count_and_not_those_of_a_pass(folder, samples):
    """A pass may be shorter or longer than the rows are many."""
    rows = load_conversations(jsonl(folder, 12, long=range(0, 12, 2)))
    mixture = Mixture([Part(rows)], samples=samples, seed=1)
    found = WithReplacements(EncodedSamples(mixture, PROCESSOR, max_length=20, overlong="drop"))
    good = {tokens_of(number) for number in range(1, 12, 2)}
    for epoch in range(8):
        found.set_epoch(epoch)
        assert {answer_of(found[index]) for index in range(samples)} <= good
    assert len(found.faults.overlong) == 6
    nothing = WithReplacements(EncodedSamples(mixture, PROCESSOR, max_length=3, overlong="drop"))
    with pytest.raises(UnreadableSamplesError, match="all samples are longer than allowed"):
        nothing[0]


def test_what_the_processor_refuses_is_a_bad_sample():
    class Refusing(CharacterProcessor):
        def encode_conversation(self, messages, images, max_image_tokens=None):
            if max_image_tokens:
                raise type("ImageBudgetError", (ValueError,), {})("2 pictures need more than 1 token.")
            raise ValueError("Message 1 has <image>\n in its text.")

    row = {"messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(UnfitSampleError, match="^sample 0 cannot be encoded: Message 1 has <image> in its text$"):
        EncodedSamples([row], Refusing())[0]
    with pytest.raises(OverlongSampleError, match="2 pictures need more than 1 token"):
        EncodedSamples([row], Refusing(), max_image_tokens=1)[0]


@pytest.mark.parametrize("context", [None, "fork", "spawn"])
def test_broken_pictures_are_replaced_and_counted_in_every_worker(folder, context):
    rows = load_conversations(jsonl(folder, 400, broken=[3, 100], long=[50]))
    samples = WithReplacements(EncodedSamples(rows, PROCESSOR, max_length=20, overlong="drop"))
    collate = VisionLanguageCollator(PROCESSOR)
    loader = DataLoader(
        samples, 8, collate_fn=collate, num_workers=2 if context else 0, multiprocessing_context=context
    )
    batches = list(loader)
    assert sum(len(batch["input_ids"]) for batch in batches) == 400
    assert samples.skipped.totals() == (2, 1)
    expected = [answer_of(sample) for sample in WithReplacements(samples.dataset)]
    found = [answer_of({"labels": labels}) for batch in batches for labels in batch["labels"]]
    assert found == expected


def test_encoded_samples_pass_through_and_placeholders_are_passed_over(folder):
    samples = EncodedSamples(load_conversations(jsonl(folder, 3)), PROCESSOR)
    again = EncodedSamples([samples[0]], PROCESSOR)
    assert torch.equal(again[0]["input_ids"], samples[0]["input_ids"])
    collate = VisionLanguageCollator(PROCESSOR)
    assert collate([None, None]) == {}
    assert collate([samples[0], samples[1]])["pixel_values"].shape == (2, 3, 16, 16)
    budget = VisionLanguageCollator(PROCESSOR, max_image_tokens=8)([samples[1]])
    assert budget["input_ids"].tolist() == [[1, 3, 3, 3, 3, *tokens_of(1)]]


def stream(folder, size=40, limit=0.5, **files):
    rows = StreamMixture([Part(ConversationStream(jsonl(folder, size, **files), shuffle_buffer=8, seed=5))])
    return EncodedStream(rows, PROCESSOR, max_length=20, overlong="drop", limit=limit)


def first(samples, count):
    return [answer_of(sample) for sample in islice(samples, count)]


def test_a_bad_sample_of_a_stream_is_replaced_by_the_next_good_one(folder):
    order = first(stream(folder), 80)
    damaged = stream(folder, broken=[1, 7, 8], long=[20])
    bad = {tokens_of(number) for number in (1, 7, 8, 20)}
    found = first(damaged, 60)
    for place in range(60):
        assert found[place] == next(one for one in order[place:] if one not in bad)
    assert len(damaged.faults.bad) == 3 and len(damaged.faults.overlong) == 1
    assert sum(damaged.skipped.totals()) >= 4


def test_bad_samples_of_files_with_the_same_name_are_several(folder, caplog):
    rows = [numbered(0, "a.png"), numbered(1, "broken.png")]
    for name in ("x", "y/one", "y/two"):
        (folder / name).mkdir(parents=True)
        write_jsonl(folder / name / "train.jsonl", rows)
    paths = [folder / "x" / "train.jsonl", folder / "y"]
    parts = [Part(ConversationStream(path, image_root=folder, shuffle_buffer=0)) for path in paths]
    samples = EncodedStream(StreamMixture(parts), PROCESSOR, limit=1.0)
    assert set(first(samples, 20)) == {tokens_of(0)}
    files = ("source 1, train.jsonl", "source 2, one/train.jsonl", "source 2, two/train.jsonl")
    places = {f"{file}, line 2" for file in files}
    assert set(samples.faults.bad) == places
    assert {record.getMessage().partition(" cannot be read")[0] for record in caplog.records} == places


def test_too_many_bad_samples_of_a_stream_stop_it_with_the_list(folder):
    with pytest.raises(UnreadableSamplesError, match=r"8 samples cannot be read.*my.jsonl, line \d+: "):
        first(stream(folder, limit=0.01, broken=range(1, 40, 4)), 60)
    nothing = EncodedStream([{"messages": [], "images": [b"x"]}], PROCESSOR, limit=1.0)
    with pytest.raises(UnreadableSamplesError):
        next(iter(nothing))


@pytest.mark.parametrize("stop", [0, 1, 17, 39, 40, 41, 95])
def test_a_stream_goes_on_where_its_state_says(folder, stop):
    reference = first(stream(folder, broken=[1, 7, 8], long=[20]), 130)
    begun = stream(folder, broken=[1, 7, 8], long=[20])
    iterator = iter(begun)
    before = [answer_of(next(iterator)) for _ in range(stop)]
    state = begun.state_dict()
    assert state["samples"] == stop
    state = json.loads(json.dumps(state))
    resumed = stream(folder, broken=[1, 7, 8], long=[20])
    resumed.load_state_dict(state)
    assert before + first(resumed, 130 - stop) == reference
    assert resumed.state_dict() == begun_again(stream(folder, broken=[1, 7, 8], long=[20]), 130)


def begun_again(samples, count):
    first(samples, count)
    return samples.state_dict()


def turns(folder, processes, batch, workers=0, steps=6, done=0, cursors=None, lanes=4, chunk=4):
    """The samples of each step of eight, read by so many processes, and where they stand after that."""
    steps_of = [[] for _ in range(steps)]
    after = dict(cursors or {})
    for process in range(processes):
        read = LaneSamples(stream(folder, 48, broken=[5, 6], long=[20]), lanes, chunk, cursors)
        accumulated = 8 // (batch * processes)
        sampler = StreamTurns(8 * done, batch, processes, process)
        sampler.pass_over(0, done * accumulated)
        collate = Noting(VisionLanguageCollator(PROCESSOR), read)
        loader = DataLoader(read, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
        loaded = iter(skip_first_batches(loader, done * accumulated))
        for step in range(steps):
            for _ in range(accumulated):
                found = next(loaded)
                steps_of[step] += [answer_of({"labels": labels}) for labels in found["labels"]]
                for lane, cursor in json.loads(found[NOTE])["cursors"].items():
                    if after.get(int(lane), [0])[0] <= cursor[0]:
                        after[int(lane)] = cursor
    return [sorted(step) for step in steps_of], after


LAYOUTS = [(1, 8, 0), (1, 4, 1), (2, 4, 0), (4, 2, 0), (2, 2, 2)]


@pytest.mark.parametrize("processes, batch, workers", LAYOUTS)
def test_processes_and_workers_and_batches_read_the_same_samples_in_a_step(folder, processes, batch, workers):
    expected, _ = turns(folder, 1, 4, steps=8)
    first_steps, cursors = turns(folder, processes, batch, workers, steps=3)
    assert first_steps == expected[:3]
    then, cursors = turns(folder, 1, 8, 0, 2, 3, cursors)
    assert then == expected[3:5]
    assert turns(folder, processes, batch, workers, 3, 5, cursors)[0] == expected[5:]
    assert turns(folder, processes, batch, workers, 3, 5)[0] == expected[5:]  # cursors only make it quick
    assert len({one for step in expected[:6] for one in step}) >= 40


def test_what_was_seen_is_not_read_again(folder, monkeypatch):
    _, cursors = turns(folder, 1, 4, steps=5)
    labels = []
    original = sources.Slot.read
    monkeypatch.setattr(sources.Slot, "read", lambda self: (labels.append(self.label), original(self))[1])
    expected, _ = turns(folder, 1, 4, steps=1, done=5, cursors=cursors)
    assert len(labels) == 1 + 8 and len(expected[0]) == 8  # the first row is looked at when a stream is opened


def test_a_stream_of_datasets_gives_every_row_in_spite_of_workers():
    content = datasets.Value("string")
    features = datasets.Features(
        {"images": datasets.List(datasets.Image()), "messages": datasets.List({"role": content, "content": content})}
    )
    made = [
        {"images": [], "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": str(number)}]}
        for number in range(12)
    ]
    for shards in (1, 4):
        rows = datasets.Dataset.from_list(made, features=features).to_iterable_dataset(num_shards=shards)
        samples = EncodedStream(rows, PROCESSOR)
        loader = DataLoader(samples, 3, collate_fn=VisionLanguageCollator(PROCESSOR), num_workers=2)
        seen = [answer_of({"labels": labels}) for batch in islice(loader, 4) for labels in batch["labels"]]
        assert sorted(seen) == sorted(tokens_of(number) for number in range(12))
