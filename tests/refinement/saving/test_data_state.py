# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A worker that dies is replaced once, not in every pass that follows."""

import logging
import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from sailvit_hf.refinement import WorldKnowledgeTrainer
from sailvit_hf.refinement.processes import PassBatches, one_process_s
from sailvit_hf.refinement.saving.data_state import DataState

from ..tiny import tiny_samples, tiny_trainer


class Seen(WorldKnowledgeTrainer):
    """Keeps the token numbers of each micro-batch."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.__dict__.setdefault("batches", []).append(inputs["input_ids"].tolist())
        return super().training_step(model, inputs, num_items_in_batch)


class KillsOne(TrainerCallback):
    def __init__(self):
        self.others = multiprocessing.active_children()  # of runs before this one

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            own = [child for child in multiprocessing.active_children() if child not in self.others]
            os.kill(own[0].pid, signal.SIGKILL)
            own[0].join()


class Workers:
    """A loader's own iterator, whose workers persist."""

    ended = 0

    def _shutdown_workers(self):
        self.ended += 1


def test_the_loader_forgets_the_dead_worker():
    """The Trainer's loader would else ask it again in the next pass."""
    samples = torch.arange(6)
    sampler = PassBatches(len(samples), None, 2, False)
    loader = one_process_s(DataLoader(samples, batch_sampler=sampler), torch.device("cpu"))
    held = loader.base_dataloader._iterator = Workers()
    trainer = SimpleNamespace(
        callback_handler=SimpleNamespace(train_dataloader=loader),
        state=SimpleNamespace(global_step=0),
        args=SimpleNamespace(dataloader_num_workers=2),
    )

    def dying():
        yield samples[:2]
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    found = [batch.tolist() for batch in DataState(trainer).follow(dying())]
    assert found == [[0, 1], [2, 3], [4, 5]]
    assert held.ended == 1 and loader.base_dataloader._iterator is None


@pytest.mark.slow
def test_workers_that_persist_are_replaced_once(tmp_path, caplog, monkeypatch):
    """Else the loader would ask the dead one again in each of the passes that follow."""
    monkeypatch.setattr(logging.getLogger("sailvit_hf"), "propagate", True)
    runs = []
    for callbacks in ([], [KillsOne()]):
        trainer = tiny_trainer(
            tmp_path, samples=tiny_samples(16), cls=Seen, max_steps=-1, num_train_epochs=3.0, monitoring=False,
            dataloader_num_workers=2, dataloader_persistent_workers=True, dataloader_prefetch_factor=1,
        )  # fmt: skip
        for callback in callbacks:
            trainer.add_callback(callback)
        trainer.train()
        runs.append(trainer.batches)
    assert len(runs[0]) == 12 and runs[0] == runs[1]
    died = [record for record in caplog.records if "A worker of the data loader died" in record.getMessage()]
    assert len(died) == 1
