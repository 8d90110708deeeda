# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The plan of packs: the same for all processes, resumed exactly, finite where the data are, its losses counted."""

import json
import logging

import numpy as np
import pytest
from datasets import Dataset

from sailvit_hf.data.images import ImageMissingError
from sailvit_hf.data.packing import plan as plan_module
from sailvit_hf.data.packing import streams as streams_module
from sailvit_hf.data.packing.packer import Packer, SampleSize, Waiting
from sailvit_hf.data.packing.plan import PackBatches, PackPlan, RememberedSizes, dealt, planned_steps, spread
from sailvit_hf.data.packing.streams import IndexStream, RowStream, sequential, shuffled
from sailvit_hf.data.permutation import Permutation
from sailvit_hf.data.replacement import UnreadableSamplesError
from sailvit_hf.data.streams import Pending
from sailvit_hf.errors import SailvitError

COUNT = 150
_DRAW = np.random.default_rng(0)
SIZES = [
    SampleSize(int(text + 16 * tiles), int(tiles))
    for text, tiles in zip(_DRAW.integers(10, 200, COUNT), _DRAW.integers(0, 7, COUNT), strict=True)
]


class Rows:
    def __iter__(self):
        return iter([{"number": number} for number in range(COUNT)])


class PendingRows:
    def __iter__(self):
        return (Pending(f"row {number}", lambda number=number: {"number": number}) for number in range(COUNT))


def hugging_face_rows():
    rows = Dataset.from_dict({"number": list(range(COUNT))}).to_iterable_dataset(num_shards=3)
    return rows.shuffle(seed=0, buffer_size=1)  # another order of the files in every epoch


STREAMS = {
    "indices": lambda: IndexStream(shuffled(COUNT, seed=1)),
    "rows": lambda: RowStream(Rows()),
    "rows not read yet": lambda: RowStream(PendingRows()),
    "datasets": lambda: RowStream(hugging_face_rows()),
}


def size_of(key):
    return SIZES[key if isinstance(key, int) else key["number"]]


def plan_of(stream, packs_per_step=4, **options):
    return PackPlan(stream, size_of, Packer(1024, None, 16), packs_per_step, **options)


def numbers(steps):
    return [[[key if isinstance(key, int) else key["number"] for key in p] for p in step] for step in steps]


@pytest.mark.parametrize("kind", STREAMS)
def test_it_goes_on_from_its_state(kind):
    plan, steps, states = plan_of(STREAMS[kind]()), [], []
    for _ in range(24):  # more than three epochs
        states.append(json.dumps(plan.state_dict()))
        steps.append(plan.next_step())
    assert plan.stream.epoch >= 3
    for at in (0, 1, 4, 7, 11, 16):
        resumed = plan_of(STREAMS[kind]())
        resumed.load_state_dict(json.loads(states[at]))
        assert numbers([resumed.next_step() for _ in range(4)]) == numbers(steps[at : at + 4])
        twice = plan_of(STREAMS[kind]())
        twice.load_state_dict(json.loads(json.dumps(resumed.state_dict())))
        assert numbers([twice.next_step()]) == numbers(steps[at + 4 : at + 5])
    assert max(len(state) for state in states) < 5000  # of datasets with their own state 3 kB, else 1 kB


def test_every_epoch_has_its_own_order_and_every_sample_once():
    stream = IndexStream(shuffled(COUNT, seed=1), limit=2 * COUNT)
    plan, found = plan_of(stream), []
    while (step := plan.next_step()) is not None:
        assert len(step) == 4
        found += [key for pack in step for key in pack]
    assert sorted(found) == sorted([*range(COUNT), *range(COUNT)])
    reads = [IndexStream(shuffled(COUNT, seed=1)).order(epoch).tolist() for epoch in (0, 0, 1)]
    assert reads[0] == reads[1] != reads[2]
    assert plan.counts["samples"] == plan.counts["read"] == 2 * COUNT
    assert plan.counts["tokens"] == 2 * sum(size.tokens for size in SIZES)
    assert plan.counts["tiles"] == 2 * sum(size.tiles for size in SIZES)
    assert 0.9 < plan.efficiency <= 1


def test_the_number_of_steps_is_known_beforehand():
    measured = []

    def measure(index):
        measured.append(index)
        return SIZES[index]

    remembered, packer = RememberedSizes(measure, COUNT), Packer(1024, None, 16)
    steps = planned_steps(shuffled(COUNT, 1), COUNT, remembered, packer, 4)
    plan = PackPlan(IndexStream(shuffled(COUNT, 1), COUNT), remembered, packer, 4)
    assert [plan.next_step() is None for _ in range(steps + 1)] == [False] * steps + [True]
    assert len(measured) == COUNT  # once each


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("order", [shuffled, lambda length, seed: sequential(length)])
def test_the_number_of_steps_of_many_samples_is_a_bound(known, order, monkeypatch):
    """Nearly all of it unread; two passes and a half; never too few."""
    length, draw = 20_000, np.random.default_rng(3)
    tiles = draw.integers(0, 7, length)
    table = np.stack([draw.integers(10, 200, length) + 16 * tiles, tiles], axis=1).astype(np.int32)
    whole = RememberedSizes(None, length, [(length, table)])
    reads, packer = 5 * length // 2, Packer(1024, None, 32)
    exact = planned_steps(order(length, 1), reads, whole, packer, 4)
    measured = set()

    def measure(index):
        measured.add(index)
        return SampleSize(*table[index].tolist())

    monkeypatch.setattr(plan_module, "_PLANNED_WHOLE", 1000)
    monkeypatch.setattr(plan_module, "_PACKED", (32, 100))
    sizes = whole if known else RememberedSizes(measure, length)
    bound = planned_steps(order(length, 1), reads, sizes, packer, 4)
    assert exact <= bound <= 1.05 * exact + 1
    assert len(measured) <= 3200


def test_the_last_step_is_noticed(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("sailvit_hf"), "propagate", True)
    steps = len(list(PackBatches(PackPlan(IndexStream(sequential(COUNT), COUNT), size_of, Packer(1024), 2), 99, 1, 2)))
    for foreseen in (steps + 3, steps, steps - 1):
        plan = PackPlan(IndexStream(sequential(COUNT), COUNT), size_of, Packer(1024), 2)
        batches = PackBatches(plan, foreseen, 1, 2)
        assert len(list(batches)) == min(foreseen, steps) == batches.last
        assert plan.finished == (foreseen >= steps)
        assert ("more steps than were foreseen" in caplog.text) == (foreseen < steps)


def test_sizes_that_are_known_in_part():
    table = np.array([[5, 1], [0, 0]], dtype=np.int32)
    sizes = RememberedSizes(lambda index: SampleSize(10 + index, 0), 5, [(2, table), (3, None)])
    assert [sizes(index) for index in (0, 1, 4)] == [(5, 1), (11, 0), (14, 0)]
    assert sizes.look_up(np.array([4, 0, 2])).tolist() == [[14, 0], [5, 1], [0, 0]]
    assert not sizes.known


def test_a_long_order_is_not_kept_and_goes_on_from_its_state(monkeypatch):
    monkeypatch.setattr(streams_module, "AS_ARRAY", 100)
    order = shuffled(COUNT, seed=1)
    assert isinstance(order(0), Permutation)
    stream, read = IndexStream(order), []
    for _ in range(2 * COUNT):
        read.append(stream.read())
        if len(read) in (7, COUNT):
            state = json.loads(json.dumps(stream.state_dict({})))
            stream = IndexStream(order)
            stream.load_state_dict(state, [])
    assert sorted(read[:COUNT]) == sorted(read[COUNT:]) == list(range(COUNT))
    assert read[:COUNT] != read[COUNT:]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_packs_of_a_step_do_not_depend_on_who_takes_them(processes):
    found = []
    for process in range(processes):
        plan = plan_of(STREAMS["indices"](), 8)
        batches = list(PackBatches(plan, 3, 8 // processes, 1, processes, process))
        assert len(batches) == 3 * 8 // processes
        found += [pack for batch in batches for pack in batch]
    first = plan_of(STREAMS["indices"](), 8)
    whole = [pack for _ in range(3) for pack in first.next_step()]
    assert sorted(found) == sorted(whole)


def test_processes_share_tiles_evenly():
    """Sixteen processes, four micro-batches: at each of them, and over the step."""
    plan = PackPlan(IndexStream(shuffled(COUNT, 1)), size_of, Packer(512, None, 32), 64)
    for _ in range(3):
        packs = plan.next_step()
        tiles = {id(pack): sum(size_of(key).tiles for key in pack) for pack in packs}
        table = np.array([[tiles[id(b[0])] for b in dealt(packs, 16, process, 1)] for process in range(16)])
        assert (table.max(0) - table.min(0)).max() <= 2  # of eight
        assert table.sum(1).max() - table.sum(1).min() <= 2


def test_dealing():
    packs = [[number] for number in range(8)]
    assert [dealt(packs, 2, process, 1) for process in range(2)] == [
        [[[0]], [[3]], [[4]], [[7]]],
        [[[1]], [[2]], [[5]], [[6]]],
    ]
    assert dealt(packs, 2, 0, 2) == [[[0], [3]], [[4], [7]]]


def test_a_resumed_sampler_gives_empty_batches_for_the_steps_that_are_done():
    batches = PackBatches(plan_of(STREAMS["indices"]()), 6, 2, 2)
    expected = list(batches)
    resumed = PackBatches(plan_of(STREAMS["indices"]()), 6, 2, 2)
    resumed.load_state_dict(json.loads(json.dumps(batches.state_after(4))))
    assert len(resumed) == len(expected) == 12
    assert list(resumed) == [[]] * 8 + expected[8:]
    resumed.load_state_dict(batches.state_after(4))
    resumed.shows_done = False
    assert list(resumed) == expected[8:]


def test_the_state_is_that_of_the_training_not_of_the_loader_that_runs_ahead():
    batches = PackBatches(plan_of(STREAMS["indices"]()), 10, 2, 2, ahead=3)
    iterator, states = iter(batches), {}
    for _ in range(8):
        next(iterator)  # four steps are planned
    for step in (1, 2, 3, 4):
        states[step] = batches.state_after(step)
        assert batches.counts_after(step)["packs"] == 4 * step
    one_by_one = plan_of(STREAMS["indices"]())
    one_by_one.next_step()
    assert states[1]["plan"] == one_by_one.state_dict()
    with pytest.raises(ValueError, match="packs per step"):
        PackBatches(plan_of(STREAMS["indices"]()), 10, 2, 1)


def test_the_last_samples_are_spread_over_all_packs():
    packer = Packer(10)
    packs = [[Waiting(0, 6, 1), Waiting(1, 3, 0)], [Waiting(2, 4, 0)]]
    assert spread(packs, 4, packer) == [[packs[0][0]], [packs[1][0]], [packs[0][1]], []]
    stream = IndexStream(sequential(3))
    stream.limit = 3
    assert sorted(map(len, plan_of(stream).next_step())) == [0, 1, 1, 1]


def test_spreading_that_does_not_fit_leaves_the_packs_alone():
    packer = Packer(6)
    packs = [[Waiting(number, 3, 0) for number in (0, 1)], [Waiting(number, 2, 0) for number in (2, 3, 4)]]
    assert spread(packs, 2, packer) == packs


@pytest.mark.parametrize("overlong", ["raise", "drop"])
def test_overlong_samples(overlong):
    plan = PackPlan(IndexStream(sequential(COUNT), COUNT), size_of, Packer(200, None, 8), 2, overlong=overlong)
    if overlong == "raise":
        with pytest.raises(SailvitError, match="does not fit into a pack of 200 tokens: raise the limits"):
            list(iter(plan.next_step, None))
    else:
        found = [key for step in iter(plan.next_step, None) for pack in step for key in pack]
        assert sorted(found) == [number for number, size in enumerate(SIZES) if size.tokens <= 200]
        assert plan.counts["overlong"] == COUNT - len(found) > 0


@pytest.mark.parametrize("reads", [COUNT, plan_module._PLANNED_WHOLE + 1])
def test_data_of_which_nothing_fits_have_no_steps(reads):
    with pytest.raises(SailvitError, match="not one sample of the data fits into a pack"):
        planned_steps(sequential(reads), reads, lambda index: SampleSize(9, 0), Packer(5), 2, overlong="drop")


def test_data_of_which_nothing_fits_do_not_run_for_ever():
    plan = PackPlan(IndexStream(sequential(COUNT)), size_of, Packer(5), 2, overlong="drop")
    with pytest.raises(SailvitError, match="not one sample of the data fits into a pack"):
        plan.next_step()
    with pytest.raises(SailvitError, match="not by 'cut'"):
        plan_of(STREAMS["indices"](), overlong="cut")


def broken(*numbers):
    def measure(key):
        if key in numbers:
            raise ImageMissingError(f"{key}.png is not there")
        return SIZES[key]

    return measure


def test_unreadable_samples_are_left_out_and_counted(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("sailvit_hf"), "propagate", True)
    plan = PackPlan(IndexStream(sequential(COUNT), COUNT), broken(3, 90), Packer(1024), 2)
    found = [key for step in iter(plan.next_step, None) for pack in step for key in pack]
    assert sorted(found) == [number for number in range(COUNT) if number not in (3, 90)]
    assert plan.counts["unreadable"] == 2
    assert "3.png is not there; it is left out" in caplog.text


def test_too_many_unreadable_samples():
    plan = PackPlan(IndexStream(sequential(COUNT), COUNT), broken(*range(50)), Packer(1024), 2)
    with pytest.raises(UnreadableSamplesError, match=r"8 samples cannot be read, more than bad_sample_limit=0.01"):
        plan.next_step()


def test_other_settings_are_refused():
    state = plan_of(STREAMS["indices"]()).state_dict()
    with pytest.raises(SailvitError, match=r"packs per step .* 4, and is to go on with 8"):
        plan_of(STREAMS["indices"](), 8).load_state_dict(state)
    with pytest.raises(SailvitError, match="packing_buffer 16, and is to go on with 17"):
        PackPlan(STREAMS["indices"](), size_of, Packer(1024, None, 17), 4).load_state_dict(state)


def test_shorter_data_are_noticed():
    plan = plan_of(RowStream(Rows(), epochs=1))
    plan.next_step()
    shorter = RowStream(iter([]), epochs=1)
    with pytest.raises(SailvitError, match="resume it with the data that it began with"):
        plan_of(shorter).load_state_dict(plan.state_dict())


def long_texts(count):
    """Pictures of 0 to 13 tiles of 256 tokens, and texts of which some take half a pack."""
    draw = np.random.default_rng(5)
    tiles = draw.choice([0, 1, 3, 5, 7, 13], count, p=[0.2, 0.35, 0.15, 0.1, 0.1, 0.1])
    texts = draw.lognormal(5.4, 1.0, count).astype(int).clip(10, 4000)
    return [SampleSize(int(text + 256 * number), int(number)) for text, number in zip(texts, tiles, strict=True)]


def test_the_packs_of_many_ranks_are_alike_also_with_long_texts():
    sizes = long_texts(9000)
    plan = PackPlan(IndexStream(sequential(9000)), sizes.__getitem__, Packer(8192, None, 16), 64)
    assert plan.buffer == 128  # two samples a pack, for 16 would leave no choice
    most = []
    for _ in range(8):
        sums = np.array([np.sum([sizes[key] for key in pack], axis=0) for pack in plan.next_step()])
        most.append(sums.max(0) / sums.mean(0))
    tokens, tiles = np.mean(most, axis=0)
    assert tokens < 1.002 and tiles < 1.04  # a pack with a text of 4000 tokens has room for 16 tiles
    assert max(0, plan.counts["read"] - min(sample.number for sample in plan.packer.waiting)) < 2000
