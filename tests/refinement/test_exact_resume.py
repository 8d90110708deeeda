# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A run that was stopped twice is the run that was not, bit for bit; a worker that dies is not noticed by training."""

import json
import logging
import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest
from transformers import TrainerCallback

from sailvit_hf.data.rows import load_conversations
from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import STAGES
from sailvit_hf.refinement.saving.data_state import DataState

from .resumed import MODES, assert_equal, interrupted, outcome, places_to_stop, rows_of, trainer_of

# The others take the file beyond half a minute on a slow core.
QUICK = {("world", mode) for mode in MODES} | {(stage, "both") for stage in STAGES}
CASES = [
    pytest.param(stage, mode, marks=() if (stage, mode) in QUICK else pytest.mark.slow)
    for stage in STAGES
    for mode in MODES
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return rows_of(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("stage, mode", CASES)
def test_stopped_twice_is_never_stopped(stage, mode, data, tmp_path):
    whole = trainer_of(data, tmp_path / "whole", mode, stage)
    whole.train()
    expected = outcome(whole)
    stops = places_to_stop(f"{stage} {mode}")

    def make(folder, stop, seed):
        return trainer_of(data, folder, mode, stage, stop, seed)

    resumed = interrupted(tmp_path / "stopped", stops, make)
    assert_equal(outcome(resumed), expected)
    # What was seen is not read again: the batches of the last part are the last of the whole.
    seen = resumed.processing_class.batches
    if "packing" not in MODES[mode]:
        first = 2 * stops[-1]
        assert seen[: 18 - first] == whole.processing_class.batches[first:18]


WORKERS = [("streaming", 1), *(pytest.param(mode, 2, marks=pytest.mark.slow) for mode in ("plain", "both"))]


@pytest.mark.parametrize("mode, workers", WORKERS)
def test_with_workers(mode, workers, data, tmp_path):
    expected = trainer_of(data, tmp_path / "whole", mode, stream_lanes=3)
    expected.train()

    def make(folder, stop, seed):
        counts = {"dataloader_num_workers": workers} if seed != 1 else {}
        return trainer_of(data, folder, mode, "world", stop, seed, stream_lanes=3 if not seed else None, **counts)

    resumed = interrupted(tmp_path / "stopped", [3, 7], make)
    assert_equal(outcome(resumed), outcome(expected))


def test_in_the_second_pass_and_short_last_steps(data, tmp_path):
    options = {"max_steps": -1, "num_train_epochs": 3, "per_device_train_batch_size": 7}

    def make(folder, stop, seed):
        return trainer_of(data, folder, "plain", "world", stop, seed, **options)

    whole = make(tmp_path / "whole", None, 0)
    whole.train()
    assert whole.state.global_step == 12
    assert_equal(outcome(interrupted(tmp_path / "stopped", [4, 7], make)), outcome(whole))


def test_the_data_state_of_a_checkpoint(data, tmp_path):
    trainer = trainer_of(data, tmp_path, "streaming", stop=5, stream_lanes=2)
    trainer.train()
    state = json.loads((tmp_path / "checkpoint-5" / "data_state_0.json").read_text())
    assert state["samples"] == 20 and (state["lanes"], state["chunk"], state["processes"]) == (2, 2, 1)
    assert sorted(state["cursors"]) == ["0", "1"]
    assert sum(at for at, _ in state["cursors"].values()) == 20
    assert state["asked"] >= 20
    (tmp_path / "checkpoint-5" / "data_state_0.json").write_text("{")
    with pytest.raises(SailvitError, match="place in the data of .*checkpoint-5 cannot be read"):
        trainer.data_state.resume(tmp_path / "checkpoint-5")


@pytest.mark.parametrize("mode", ["plain", "packing"])
def test_other_data_than_before_is_an_error(mode, data, tmp_path):
    trainer_of(data, tmp_path / "run", mode, stop=2).train()
    lines = (data / "1.jsonl").read_text().splitlines(keepends=True)
    (data / "1.jsonl").write_text("".join(lines[:-1]))
    rows = len(load_conversations(data))
    with pytest.raises(SailvitError, match=f"had {rows + 1} samples and now has {rows}"):
        trainer_of(data, tmp_path / "run", mode).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("batch, accumulation", [(2, 1), (4, 2)])
def test_steps_of_another_size_lose_the_place_by_index(batch, accumulation, data, tmp_path):
    trainer_of(data, tmp_path / "run", "plain", stop=2).train()
    other = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    now = batch * accumulation
    with pytest.raises(SailvitError, match=f"took 4 samples .* would now take {now}.* set global_batch_size to 4"):
        trainer_of(data, tmp_path / "run", "plain", **other).train(resume_from_checkpoint=True)
    path = tmp_path / "run" / "checkpoint-2" / "data_state_0.json"
    state = json.loads(path.read_text())
    assert state.pop("step_samples") == 4
    path.write_text(json.dumps(state))  # as older versions wrote it: nothing is known of its steps
    trainer_of(data, tmp_path / "run", "plain").data_state.resume(path.parent)
    trainer_of(data, tmp_path / "run", "plain", **other).data_state.resume(path.parent)


def test_the_same_steps_in_other_pieces_go_on(data, tmp_path):
    trainer_of(data, tmp_path, "plain", stop=2).train()
    other = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    trainer_of(data, tmp_path, "plain", **other).data_state.resume(tmp_path / "checkpoint-2")


def test_a_stream_goes_on_with_steps_of_another_size(data, tmp_path):
    """And counts what was seen: 2 steps of 4, and 2 of 2."""
    trainer_of(data, tmp_path, "streaming", stop=2).train()
    trainer = trainer_of(data, tmp_path, "streaming", gradient_accumulation_steps=1, max_steps=4)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.current_lineage().stages[-1].samples_seen == 12


def test_an_endless_number_of_overlong_samples_is_not_remembered(monkeypatch):
    monkeypatch.setattr("sailvit_hf.refinement.saving.data_state.MOST_REMEMBERED", 3)
    state = DataState(SimpleNamespace(args=SimpleNamespace()))
    for number in range(10):
        news = {"asked": 1, "skipped": [0, 1], "bad": [], "overlong": [[number, "too long"]]}
        state._keep(json.dumps(news))
    assert state.overlong == 10 and list(state._met["overlong"]) == [0, 1, 2]


class KillsAWorker(TrainerCallback):
    """Kills one of the data loader's workers after these steps."""

    def __init__(self, *steps):
        self.steps = steps
        self.others = multiprocessing.active_children()  # of runs before this one

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in self.steps:
            own = [child for child in multiprocessing.active_children() if child not in self.others]
            os.kill(own[0].pid, signal.SIGKILL)


KILLED = ["plain", pytest.param("streaming", marks=pytest.mark.slow), pytest.param("both", marks=pytest.mark.slow)]


@pytest.mark.parametrize("mode", KILLED)
def test_a_worker_that_dies_changes_nothing(mode, data, tmp_path, caplog):
    options = {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 1, "max_steps": 6}
    whole = trainer_of(data, tmp_path / "whole", mode, **options)
    whole.train()
    killed = trainer_of(data, tmp_path / "killed", mode, **options)
    killed.add_callback(KillsAWorker(2, 3))
    with caplog.at_level(logging.WARNING):
        logging.getLogger("transformers").addHandler(caplog.handler)
        try:
            killed.train()
        finally:
            logging.getLogger("transformers").removeHandler(caplog.handler)
    assert_equal(outcome(killed), outcome(whole))
    said = [record.getMessage() for record in caplog.records if "worker of the data loader" in record.getMessage()]
    assert len(said) == 2 and "the loader starts again" in said[0]


@pytest.mark.slow
def test_a_worker_that_dies_in_the_second_pass_of_a_resumed_run(data, tmp_path):
    """The pass was begun by a loader that skips, and the Trainer told that one its number."""
    options = {
        "max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 4, "dataloader_num_workers": 1,
        "dataloader_prefetch_factor": 1,
    }  # fmt: skip
    whole = trainer_of(data, tmp_path / "whole", "plain", **options)
    whole.train()
    trainer_of(data, tmp_path / "killed", "plain", stop=7, **options).train()
    killed = trainer_of(data, tmp_path / "killed", "plain", **options)
    killed.add_callback(KillsAWorker(8))
    killed.train(str(tmp_path / "killed" / "checkpoint-7"))
    assert_equal(outcome(killed), outcome(whole))


def test_restarts_of_an_earlier_pass_are_long_past():
    """The loader of a pass of 150 batches started again after its first; 149 lie between that and the next pass."""
    state = DataState(SimpleNamespace(state=SimpleNamespace(global_step=0)))
    state._restarts, state._last_restart = 3, 1
    first = iter([{}] * 150)
    assert len(list(state.follow(first))) == 150
    state._trainer.callback_handler = SimpleNamespace(train_dataloader=Loader())
    second = iter(Loader())
    with pytest.raises(IndexError):  # of this stand-in, once the loader is to start again
        next(state.follow(second))
    assert state._restarts == 1


class Loader:
    """Its worker is dead."""

    batch_sampler = SimpleNamespace(passed_over=0)
    dataset = property(lambda self: [][0])

    def __iter__(self):
        raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")
        yield


@pytest.mark.slow
def test_workers_that_die_again_and_again_end_the_run(data, tmp_path):
    killed = trainer_of(data, tmp_path, "plain", dataloader_num_workers=1, dataloader_prefetch_factor=1)
    killed.add_callback(KillsAWorker(*range(1, 9)))
    with pytest.raises(SailvitError, match="workers of the data loader died 4 times in a row"):
        killed.train()
