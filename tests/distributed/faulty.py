# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Training in two processes of which one has a fault (see test_faults.py). Run under torchrun: FOLDER FAULTS."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import TrainerCallback

from sailvit_hf.cli.__main__ import leave
from sailvit_hf.errors import RESUME_STATUS, Preempted
from sailvit_hf.refinement import WorldKnowledgeTrainer

from ..refinement.tiny import tiny_samples, tiny_trainer, weights
from .whole import shard_on_cpus

STEPS, BATCH = 6, 8


class Faults(TrainerCallback):
    """Process 0 finds no room for a checkpoint, process 1 gets a signal or dies."""

    def __init__(self, faults, process):
        self.faults, self.process = faults, process

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        import transformers.modeling_utils as writer

        if state.global_step == 2 and "disk" in self.faults and self.process == 0:
            self.writers = writer.safe_save_file, torch.save
            writer.safe_save_file = torch.save = no_room
        if state.global_step == 3 and "kill" in self.faults and self.process == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if state.global_step == 2 and "term" in self.faults and self.process == 1:
            os.kill(os.getpid(), signal.SIGTERM)  # after the processes agreed on this step: found in the next one

    def on_prediction_step(self, args, state, control, **kwargs):
        if state.global_step == 2 and "evalterm" in self.faults:
            self.batches = getattr(self, "batches", 0) + 1
            if self.batches == 1 and self.process == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            if self.batches == 3:  # the grace is over: both are killed
                leave(9)

    def on_save(self, args, state, control, **kwargs):
        import transformers.modeling_utils as writer

        writer.safe_save_file, torch.save = getattr(self, "writers", (writer.safe_save_file, torch.save))


def no_room(*_args, **_kwargs):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


class WithEvaluation(WorldKnowledgeTrainer):
    """Seven samples for two processes: accelerate fills the last batch up, so that both have four."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, eval_dataset=tiny_samples(7))


def make(folder, faults, processes=1):
    samples = tiny_samples(STEPS * BATCH)
    evaluates = "eval" in faults or "evalterm" in faults
    if "nan" in faults:  # the second step's, and by the order of the batches process 1's
        samples[BATCH + BATCH // 2]["pixels"][:] = float("nan")
    evaluation = {"cls": WithEvaluation, "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 1}
    return tiny_trainer(
        folder,
        samples=samples,
        max_steps=STEPS,
        per_device_train_batch_size=BATCH // processes,
        train_sampling_strategy="sequential",
        save_strategy="steps",
        save_steps=4 if evaluates else 1,
        save_total_limit=2,
        **(evaluation if evaluates else {}),
    )


def main(folder, faults):
    process, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if "fsdp" in faults:
        shard_on_cpus()
    trainer = make(folder, faults, processes)
    trainer.add_callback(Faults(faults, process))
    status, said = 0, ""
    try:
        trainer.train(resume_from_checkpoint="resume" in faults or None)
    except Preempted as error:
        status, said = RESUME_STATUS, str(error)
    found = {
        "status": status,
        "said": said,
        "step": trainer.state.global_step,
        "began": trainer._initial_global_step,
        "left_out": trainer.nonfinite.recent,
        "checkpoints": sorted(path.name for path in folder.glob("checkpoint-*")),
    }
    (folder / f"process-{process}.json").write_text(json.dumps(found))
    if process == 0 and not trainer.is_fsdp_enabled:
        save_file({name: tensor.contiguous() for name, tensor in weights(trainer.model).items()}, folder / "w.st")
    leave(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2].split("+"))
