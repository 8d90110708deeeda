# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The shares of an epoch that several processes train on; tests/distributed trains with them."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement.processes import EqualShares, OrNothing, refuse_other_shares, share_equally

from .tiny import tiny_trainer


def shares(samples, batch, processes, drop_last=False):
    """What each process gets of an epoch, batch by batch."""
    whole = BatchSampler(SequentialSampler(range(samples)), batch, drop_last)
    turns = list(EqualShares(whole, processes))
    assert len(turns) == len(EqualShares(whole, processes))
    return [turns[rank::processes] for rank in range(processes)]


def test_full_turns_are_as_they_were():
    assert shares(12, 3, 2) == [[[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9, 10, 11]]]


@pytest.mark.parametrize(
    "samples, first, second",
    [(11, [6, 7, 8], [9, 10]), (8, [6], [7]), (7, [6], []), (9, [6, 7], [8])],
)
def test_the_last_turn_shares_what_is_left(samples, first, second):
    assert shares(samples, 3, 2) == [[[0, 1, 2], first], [[3, 4, 5], second]]
    assert shares(samples, 3, 2, drop_last=True) == [[[0, 1, 2]], [[3, 4, 5]]]


@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 6), st.booleans())
@settings(derandomize=True, deadline=None)
def test_every_sample_once_and_in_one_process_s_steps(samples, batch, processes, drop_last):
    found = shares(samples, batch, processes, drop_last)
    assert len({len(each) for each in found}) == 1  # nobody waits for another's step
    steps = [sum(step, []) for step in zip(*found, strict=True)]
    whole = batch * processes
    expected = [list(range(start, min(start + whole, samples))) for start in range(0, samples, whole)]
    assert steps == [step for step in expected if not drop_last or len(step) == whole]


def collate(chosen):
    return {"input_ids": torch.tensor(chosen)[:, None], "labels": torch.tensor(chosen)[:, None]}


@pytest.mark.parametrize("rank, last", [(0, [[28]]), (1, [[0]])])
def test_a_prepared_loader_gives_them(rank, last):
    loader = DataLoader(range(29), batch_size=7, collate_fn=OrNothing(collate))
    loader = share_equally(prepare_data_loader(loader, num_processes=2, process_index=rank, put_on_device=False))
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    assert batches[0]["input_ids"].flatten().tolist() == list(range(7 * rank, 7 * rank + 7))
    assert batches[-1]["input_ids"].tolist() == last
    assert batches[-1]["labels"].tolist() == (last if rank == 0 else [[-100]])


def test_other_loaders_stay_as_they_are():
    for loader in (DataLoader(range(5), batch_size=2), DataLoader(range(5), batch_size=None)):
        sampler = loader.batch_sampler
        assert share_equally(loader) is loader and loader.batch_sampler is sampler


def test_batches_are_not_cut_by_accelerate(tmp_path):
    with pytest.raises(SailvitError, match="dispatch_batches would cut batches .* remove it"):
        tiny_trainer(tmp_path, accelerator_config={"dispatch_batches": True})


def shared_by(processes, average=True, split=False):
    config = SimpleNamespace(dispatch_batches=None, split_batches=split)
    return SimpleNamespace(world_size=processes, accelerator_config=config, average_tokens_across_devices=average)


def test_several_processes_make_the_steps_of_one():
    refuse_other_shares(shared_by(2))
    refuse_other_shares(shared_by(1, average=False, split=True))  # there is nothing to share
    with pytest.raises(SailvitError, match="average_tokens_across_devices=False would divide the loss"):
        refuse_other_shares(shared_by(2, average=False))
    with pytest.raises(SailvitError, match="split_batches would divide per_device_train_batch_size"):
        refuse_other_shares(shared_by(2, split=True))
