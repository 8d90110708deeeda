# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Mixtures: shares, caps and passes are kept exactly, and everything follows from the seed."""

import json
from collections import Counter
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sailvit_hf.data.mixture import LaneRows, Mixture, Part, StreamMixture
from sailvit_hf.data.streams import IndexedSource
from sailvit_hf.errors import SailvitError


def rows(name, size):
    return [f"{name}{number}" for number in range(size)]


def names(samples):
    return Counter(sample[0] for sample in samples)


def test_without_weights_everything_comes_once():
    mixture = Mixture([Part(rows("a", 5)), Part(rows("b", 3))], seed=1)
    assert len(mixture) == 8
    assert sorted(mixture) == rows("a", 5) + rows("b", 3)
    assert list(mixture) != rows("a", 5) + rows("b", 3)
    assert list(mixture) == list(Mixture([Part(rows("a", 5)), Part(rows("b", 3))], seed=1))
    assert list(mixture) != list(Mixture([Part(rows("a", 5)), Part(rows("b", 3))], seed=2))
    with pytest.raises(IndexError):
        mixture[8]


def test_passes_differ_in_order_and_not_in_content():
    mixture = Mixture([Part(rows("a", 20))])
    first = list(mixture)
    mixture.set_epoch(1)
    assert sorted(mixture) == sorted(first) and list(mixture) != first
    mixture.set_epoch(0)
    assert list(mixture) == first


def test_epochs_repeat_samples_or_spread_them_over_passes():
    mixture = Mixture([Part(rows("a", 4), epochs=2), Part(rows("b", 6), epochs=0.5)])
    assert mixture.sizes == [8, 3]
    assert Counter(mixture)["a0"] == 2
    first = {sample for sample in mixture if sample[0] == "b"}
    mixture.set_epoch(1)
    assert first | {sample for sample in mixture if sample[0] == "b"} == set(rows("b", 6))


def test_a_cap_keeps_the_same_samples_in_every_pass():
    mixture = Mixture([Part(rows("a", 100), max_samples=7), Part(rows("b", 2), max_samples=7)], seed=4)
    kept = {sample for sample in mixture if sample[0] == "a"}
    assert len(kept) == 7 and mixture.sizes == [7, 2]
    mixture.set_epoch(3)
    assert {sample for sample in mixture if sample[0] == "a"} == kept


def test_weights_are_kept_and_nothing_comes_twice_before_all_came():
    mixture = Mixture([Part(rows("a", 30), 3.0), Part(rows("b", 100), 1.0)], seed=2)
    assert mixture.sizes == [30, 10]
    seen = Counter()
    for epoch in range(10):
        mixture.set_epoch(epoch)
        assert names(mixture) == {"a": 30, "b": 10}
        seen.update(mixture)
    assert all(seen[sample] == 1 for sample in rows("b", 100))
    assert all(seen[sample] == 10 for sample in rows("a", 30))


parts = st.lists(
    st.tuples(st.integers(1, 40), st.floats(0.1, 10), st.integers(1, 50), st.floats(0.1, 3)), min_size=1, max_size=4
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(parts, st.booleans(), st.integers(0, 5))
def test_any_mixture_has_its_sizes_and_stable_keys(drawn, weighted, seed):
    made = [
        Part(rows("abcd"[i], size), weight if weighted else None, cap, epochs)
        for i, (size, weight, cap, epochs) in enumerate(drawn)
    ]
    mixture = Mixture(made, seed)
    keys = {}
    for epoch in (0, 1):
        mixture.set_epoch(epoch)
        found = list(mixture)
        assert [names(found)["abcd"[i]] for i in range(len(made))] == mixture.sizes
        for index, sample in enumerate(found):
            assert keys.setdefault(mixture.row_key(index), sample) == sample
    counts = Counter(found)
    for i, (size, _, cap, epochs) in enumerate(drawn):
        most = max(counts[sample] for sample in rows("abcd"[i], size))
        assert most <= epochs + 2
        assert len([sample for sample in counts if sample[0] == "abcd"[i]]) <= min(size, cap)


class Epochs(torch.utils.data.Dataset):
    """What a worker process sees of a mixture."""

    def __init__(self, mixture):
        self.mixture = mixture

    def __len__(self):
        return len(self.mixture)

    def __getitem__(self, index):
        return self.mixture[index]


def test_workers_that_live_on_learn_of_the_next_pass():
    mixture = Mixture([Part(rows("a", 12))])
    loader = torch.utils.data.DataLoader(
        Epochs(mixture), batch_size=3, num_workers=2, persistent_workers=True, collate_fn=list
    )
    for epoch in range(3):
        mixture.set_epoch(epoch)
        assert sum(loader, []) == list(mixture)


def test_mistakes():
    for made, words in [
        ([], "empty: give at least one"),
        ([Part([1], 1.0), Part([2])], "some sources have a weight and some have none"),
        ([Part([])], "source 1 of the mixture is empty"),
    ]:
        with pytest.raises(SailvitError, match=words):
            Mixture(made)
    for options in ({"weight": 0}, {"max_samples": 0}, {"epochs": -1}, {"weight": float("nan")}):
        with pytest.raises(SailvitError, match="give more than 0"):
            Part([1], **options)
    with pytest.raises(SailvitError, match="give a whole number"):
        StreamMixture([Part(IndexedSource([1]), epochs=0.5)])
    with pytest.raises(SailvitError, match="is given to the stream"):
        StreamMixture([Part(IndexedSource([1]), max_samples=2)])


def stream(weights=(None, None), epochs=(None, None), sizes=(20, 10), seed=0):
    made = [
        Part(IndexedSource(rows(name, size)), weight, epochs=passes)
        for name, size, weight, passes in zip("ab", sizes, weights, epochs, strict=True)
    ]
    return StreamMixture(made, seed)


def taken(mixture, count, lane=0, lanes=1):
    return [pending.read() for pending in islice(mixture.lane(lane, lanes), count)]


def test_a_stream_draws_by_weight_and_has_no_end():
    found = taken(stream((3.0, 1.0)), 4000)
    assert 0.72 < names(found)["a"] / 4000 < 0.78
    assert found == taken(stream((3.0, 1.0)), 4000)
    assert found != taken(stream((3.0, 1.0), seed=1), 4000)
    assert 0.46 < names(taken(stream(), 4000))["a"] / 4000 < 0.54


def test_every_row_of_a_stream_comes_once_in_a_pass():
    found = [sample for sample in taken(stream(), 200) if sample[0] == "b"]
    for first in range(0, 30, 10):
        assert sorted(found[first : first + 10]) == rows("b", 10)


def test_passes_that_are_over_leave_the_others_and_then_all_begins_again():
    found = taken(stream(epochs=(1, 2), sizes=(5, 3)), 22)
    once = Counter({**dict.fromkeys(rows("a", 5), 1), **dict.fromkeys(rows("b", 3), 2)})
    assert Counter(found[:11]) == Counter(found[11:]) == once
    assert found[:11] != found[11:]


def test_lanes_share_the_rows_and_those_without_any_read_all():
    made = stream(sizes=(6, 1), epochs=(1, 1))
    lanes = [taken(made, 4, lane, 2) for lane in range(2)]
    assert sorted({sample for lane in lanes for sample in lane if sample[0] == "a"}) == rows("a", 6)
    with pytest.raises(SailvitError, match="a stream holds no rows"):
        taken(StreamMixture([Part(IndexedSource([]))]), 1)


@pytest.mark.parametrize("epochs", [(None, None), (1, 2), (2, None)])
def test_a_lane_goes_on_from_any_place(epochs):
    made = stream((3.0, 1.0), epochs, sizes=(5, 3))
    whole = taken(made, 60)
    lane = made.lane(0, 1)
    for place in range(40):
        state = json.loads(json.dumps(lane.state_dict()))
        again = stream((3.0, 1.0), epochs, sizes=(5, 3)).lane(0, 1, state)
        assert [row.read() for row in islice(again, 20)] == whole[place : place + 20]
        next(lane)
    assert len(json.dumps(lane.state_dict())) < 150


def test_rows_of_a_mixture_go_on_from_any_place():
    whole = taken(stream(), 40)
    for place in (0, 1, 13):
        rows = LaneRows(stream())
        assert [row.read() for row in islice(rows, place)] == whole[:place]
        again = LaneRows(stream())
        again.load_state_dict(json.loads(json.dumps(rows.state_dict())))
        assert [row.read() for row in islice(again, 20)] == whole[place : place + 20]


@pytest.mark.parametrize("total", [4, 10, 1000])
def test_samples_say_how_long_a_pass_is(total):
    mixture = Mixture([Part(rows("a", 5), 2.0), Part(rows("b", 3), 1.0), Part(rows("c", 50), 1.0)], 1, samples=total)
    assert len(mixture) == total == len(list(mixture)) == sum(mixture.sizes)
    assert all(abs(size - total * share) <= 3 for size, share in zip(mixture.sizes, (0.5, 0.25, 0.25), strict=True))
    assert min(mixture.sizes) >= 1
    taken = [row for row in mixture if row.startswith("b")]
    counts = [taken.count(row) for row in set(taken)]
    assert max(counts) - min(counts) <= 1, "a small part comes again as a whole"


def test_samples_for_fewer_than_the_sources():
    with pytest.raises(SailvitError, match="samples is 1: give one at least for each of 2 sources"):
        Mixture([Part(rows("a", 5), 1.0), Part(rows("b", 3), 1.0)], samples=1)
