# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Runs that are stopped after some steps and gone on with: what the tests of resuming compare."""

import random
from pathlib import Path

import torch
from transformers import TrainerCallback

from sailvit_hf.data.mixture import Part, StreamMixture
from sailvit_hf.data.rows import load_conversations
from sailvit_hf.data.streams import ConversationStream, IndexedSource
from sailvit_hf.refinement import RefinementArguments, RefinementTrainer

from .tiny import tiny_model, weights
from .tiny_streams import Processor, write_rows

STEPS = 9
MODES = {
    "plain": {},
    "packing": {"packing": True},
    "streaming": {},
    "both": {"packing": True},
}


class StopAfter(TrainerCallback):
    """Saves a checkpoint after a step and ends the training there, as a run does that is told to stop."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def rows_of(folder):
    """Two files of rows with pictures, three of them broken and one too long."""
    data = write_rows(folder, broken=[5, 30, 31])
    text = (data / "1.jsonl").read_text()
    (data / "1.jsonl").write_text(text.replace('"value": "40"', f'"value": "{"4" * 40}"'))
    return data


def dataset_of(data, mode):
    if mode in ("streaming", "both"):
        files = ConversationStream(data, shuffle_buffer=5, seed=3)
        texts = IndexedSource(load_conversations(data / "0.jsonl"), seed=3)
        return StreamMixture([Part(files, 3.0), Part(texts, 1.0)], seed=3)
    return load_conversations(data)


def trainer_of(data, folder, mode, stage="world", stop=None, seed=0, dropout=0.1, **arguments):
    """A fresh trainer of a model with dropout, whose weights hang on `seed`."""
    options = {
        "output_dir": str(folder), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "max_steps": STEPS, "learning_rate": 1e-2, "logging_steps": 1, "save_strategy": "no", "use_cpu": True,
        "disable_tqdm": True, "max_length": 20, "bad_sample_limit": 0.5, "overlong_samples": "drop", "seed": 3,
        "vision_tower_ema": 0.9 if stage != "coarse" else None, "packing_buffer": 6, "monitoring": False,
    }  # fmt: skip
    return RefinementTrainer(
        tiny_model(seed=seed, dropout=dropout),
        RefinementArguments(**{**options, **MODES[mode], **arguments}),
        train_dataset=dataset_of(data, mode),
        processing_class=Processor(),
        stage=stage,
        callbacks=[] if stop is None else [StopAfter(stop)],
    )


def outcome(trainer):
    """What two equal runs have in common, to the bit."""
    found = {f"weight {name}": tensor for name, tensor in weights(trainer.model).items()}
    for number, state in trainer.optimizer.state_dict()["state"].items():
        found |= {f"optimizer {number} {name}": torch.as_tensor(value) for name, value in state.items()}
    if trainer.ema is not None and trainer.ema.average is not None:  # the process that saves has it
        found |= {f"average {name}": tensor for name, tensor in weights(trainer.ema.average).items()}
    counted = {"skipped": trainer.state.log_history[-1], "asked": trainer.data_state.asked}
    return found, {"history": trainer.history, **counted}


def assert_equal(found, expected):
    assert found[1] == expected[1]
    assert found[0].keys() == expected[0].keys()
    different = [name for name, tensor in expected[0].items() if not torch.equal(tensor, found[0][name])]
    assert not different, different


def places_to_stop(seed, steps=STEPS):
    return sorted(random.Random(seed).sample(range(1, steps), 2))


def interrupted(folder, stops, make):
    """Train with a fresh trainer after each stop; `make(folder, stop, seed)` makes it."""
    checkpoint = None
    for seed, stop in enumerate([*stops, None]):
        trainer = make(folder, stop, seed)
        trainer.train(checkpoint)
        if stop is not None:
            assert trainer.state.global_step == stop
            checkpoint = str(Path(folder) / f"checkpoint-{stop}")
    return trainer
