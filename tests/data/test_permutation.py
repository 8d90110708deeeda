# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Orders without memory: every number once, another order for another key, the same in parts."""

import numpy as np
import pytest

from sailvit_hf.data import permutation
from sailvit_hf.data.mixture import Mixture, Part
from sailvit_hf.data.permutation import Permutation, seeded_order


@pytest.mark.parametrize("length", [1, 2, 3, 10, 1024, 1025, 70_001])
def test_every_number_comes_once(length):
    assert sorted(Permutation(length, [0, 7])[:].tolist()) == list(range(length))


def test_any_place_can_be_asked_for():
    order = Permutation(36_500_000, [3, 1])
    block = order[18_000_000:18_000_005]
    assert block.dtype == np.int64 and [order[18_000_000 + place] for place in range(5)] == block.tolist()
    assert order[np.array([18_000_004, 18_000_000])].tolist() == [block[4], block[0]]
    assert len(order) == 36_500_000


def test_it_is_a_sequence_with_an_end():
    order = Permutation(10, [0])
    assert sorted(order) == list(range(10)) and order[-1] == order[9]
    with pytest.raises(IndexError):
        order[10]


def test_it_looks_like_chance():
    one, other = (Permutation(100_000, [0, epoch])[:] for epoch in (0, 1))
    places = np.arange(100_000)
    for a, b in ((one, places), (one, other), (one[1:], one[:-1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert (one == other).sum() < 10


def test_short_orders_are_those_of_numpy():
    assert seeded_order(10, [1, 2]).tolist() == np.random.default_rng([1, 2]).permutation(10).tolist()
    assert isinstance(seeded_order(permutation.AS_ARRAY + 1, [1, 2]), Permutation)


def test_a_mixture_in_such_an_order(monkeypatch):
    """Half of a part a pass, and another three times; nothing twice before all came."""
    monkeypatch.setattr(permutation, "AS_ARRAY", 0)
    mixture = Mixture([Part(range(3000), epochs=0.5), Part(range(700), epochs=3), Part(range(50), max_samples=7)])
    passes = [mixture.index_of_pass(epoch) for epoch in (0, 1)]
    halves = np.concatenate([samples[samples[:, 0] == 0, 1] for samples in passes])
    assert sorted(halves.tolist()) == list(range(3000))
    for samples in passes:
        assert (np.bincount(samples[samples[:, 0] == 1, 1]) == 3).all()
        assert len(samples) == len(mixture) == 1500 + 2100 + 7
    chosen = [set(samples[samples[:, 0] == 2, 1].tolist()) for samples in passes]
    assert chosen[0] == chosen[1] and len(chosen[0]) == 7
    assert mixture.where(5) == tuple(passes[0][5]) and (passes[0] != passes[1]).any()
