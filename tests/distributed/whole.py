# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Training that saves checkpoints in one layout and goes on in another: run under torchrun, or imported.

accelerate shards on accelerators only. `shard_on_cpus` lets it: what then runs, over gloo, is accelerate's own FSDP2
with torch's `fully_shard`, and the Trainer's own saving and loading of it.
"""

import os
import sys
import traceback
from functools import wraps
from pathlib import Path

import torch
import yaml
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from sailvit_hf.cli.__main__ import leave
from sailvit_hf.refinement import RefinementArguments, RefinementTrainer
from sailvit_hf.refinement.launching import config_file, forget_layout
from tests.refinement.tiny import tiny_model

from .parts import COLLECTIVE_SECONDS, collate, samples
from .sharded import MIXED, TURNS

STEPS = 6
SETTINGS = {
    "world": {"stage": "world"},
    "coarse": {"stage": "coarse"},
    "fine": {"stage": "fine", "arguments": {"weight_decay": 0.1}},
    "untied": {"stage": "world", "model": {"tied": False}, "arguments": {"gradient_checkpointing": True}},
    "clip-per-module": {"stage": "world", "arguments": {"clip_per_module": True, "max_grad_norm": 0.1}},
    "clip-tower": {"stage": "world", "model": {"tower": "clip", "vision_feature_layer": -2}},
    "accumulated": {"stage": "world", "accumulation": 2},
    "parts": {"stage": "world", "arguments": {"freeze_vision_layers": 1, "vision_tower_layer_decay": 0.5}},
}


def shard_on_cpus():
    """Ask for the shipped FSDP2 config, and let accelerate follow it without an accelerator."""
    from accelerate.state import AcceleratorState, DistributedType, PartialState

    os.environ["ACCELERATE_USE_FSDP"] = "true"
    for name, value in yaml.safe_load(config_file("fsdp2").read_text())["fsdp_config"].items():
        os.environ[name.upper()] = str(value)
    make = AcceleratorState.__init__

    @wraps(make)
    def made(self, *args, **kwargs):
        state = PartialState._shared_state
        if state.get("distributed_type") == DistributedType.MULTI_CPU:
            state["distributed_type"] = DistributedType.MULTI_GPU
        make(self, *args, **kwargs)

    AcceleratorState.__init__ = made


class StopAt(TrainerCallback):
    """Ends a training as a preemption does: the schedule is that of the whole run."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


class GradientsOfParts(TrainerCallback):
    """Between the micro-batches of a sharded model no process holds a whole gradient."""

    def on_substep_end(self, args, state, control, model, **kwargs):
        trained = [each for each in model.parameters() if each.requires_grad]
        assert trained and all(isinstance(each.grad, DTensor) for each in trained)
        assert all(each.grad.dtype == torch.float32 for each in trained)
        self.seen = True


def trainer_for(name, folder, processes, **arguments):
    """A trainer of eight samples a step, with a checkpoint after every second one."""
    setting = SETTINGS[name]
    accumulation = setting.get("accumulation", 1)
    options = {
        "output_dir": str(folder), "max_steps": STEPS, "learning_rate": 1e-2, "optim": "adamw_torch",
        "adam_epsilon": 1e-3, "logging_steps": 1, "warmup_steps": 2, "save_strategy": "steps", "save_steps": 2,
        "train_sampling_strategy": "sequential", "use_cpu": True, "disable_tqdm": True, "seed": 3,
        "ddp_timeout": COLLECTIVE_SECONDS, "per_device_train_batch_size": 8 // processes // accumulation,
        "gradient_accumulation_steps": accumulation, "remove_unused_columns": False, "report_to": "none",
    }  # fmt: skip
    return RefinementTrainer(
        tiny_model(**setting.get("model", {})),
        RefinementArguments(**{**options, **setting.get("arguments", {}), **arguments}),
        data_collator=collate,
        train_dataset=samples((TURNS * 3)[: 8 * STEPS] if name != "coarse" else MIXED * STEPS),
        stage=setting["stage"],
    )


def train(name, folder, processes=1, resume=None, steps=None, **arguments):
    """Train, to the end or until a step, and return the trainer."""
    forget_layout()
    trainer = trainer_for(name, folder, processes, **arguments)
    if steps is not None:
        trainer.add_callback(StopAt(steps))
    gradients = GradientsOfParts()
    if trainer.is_fsdp_enabled:
        trainer.add_callback(gradients)
    trainer.train(resume_from_checkpoint=resume)
    if trainer.is_fsdp_enabled and trainer.args.gradient_accumulation_steps > 1:
        assert gradients.seen
    return trainer


def main(folder, layout, *jobs):
    """Each job is NAME, NAME:STEPS for a part of the run, or NAME::CHECKPOINT to go on from there."""
    torch.set_num_threads(1)
    if layout == "fsdp":
        shard_on_cpus()
    for job in jobs:
        name, _, rest = job.partition(":")
        steps, _, checkpoint = rest.partition(":")
        try:
            trainer = train(name, folder / name, 2, checkpoint or None, int(steps) if steps else None)
        except Exception as error:
            (folder / f"{name}.error").write_text(f"{error}\n{traceback.format_exc()}")
            raise
        assert trainer.is_fsdp_enabled == (layout == "fsdp"), trainer.accelerator.distributed_type
        trainer.accelerator.wait_for_everyone()
    trainer.accelerator.wait_for_everyone()
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
