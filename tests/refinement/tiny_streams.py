# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Training of the tiny model on a stream of files; as a script under torchrun each process writes what it saw."""

import json
import sys
from pathlib import Path

import torch

from sailvit_hf.cli.__main__ import leave
from sailvit_hf.data.mixture import Part, StreamMixture
from sailvit_hf.data.streams import ConversationStream
from sailvit_hf.refinement import RefinementArguments, RefinementTrainer

from ..data.sources import CharacterProcessor, numbered, picture, write_jsonl
from .tiny import tiny_model


class Processor(CharacterProcessor):
    """Remembers the samples that it made batches of."""

    def __init__(self):
        self.batches = []

    def pad_conversations(self, samples):
        batch = super().pad_conversations(samples)
        self.batches.append(batch["input_ids"].tolist())
        return batch

    def save_pretrained(self, folder, **options):
        return []


def write_rows(folder: Path, files=2, size=24, broken=()):
    """Files of rows with a picture each, that of some damaged; the answers are the rows' numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.png").write_bytes(picture("red"))
    (folder / "broken.png").write_bytes(picture("red")[:40])
    for file in range(files):
        numbers = range(file * size, (file + 1) * size)
        rows = [numbered(number, "broken.png" if number in broken else "a.png") for number in numbers]
        write_jsonl(folder / f"{file}.jsonl", rows)
    return folder


def stream_trainer(data: Path, folder: Path, **arguments):
    options = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "max_length": 20,
        "bad_sample_limit": 0.5,
        "overlong_samples": "drop",
        "seed": 3,
    }
    return RefinementTrainer(
        tiny_model(),
        RefinementArguments(**{**options, **arguments}),
        train_dataset=StreamMixture([Part(ConversationStream(data, shuffle_buffer=4, seed=3))], seed=3),
        processing_class=Processor(),
        stage="world",
    )


def main(data, folder):
    """Training in two processes, one of which has files with broken pictures only now and then."""
    trainer = stream_trainer(Path(data), Path(folder), gradient_accumulation_steps=2)
    trainer.train()
    seen = {
        "steps": trainer.state.global_step,
        "batches": trainer.processing_class.batches,
        "bad": len(trainer.train_dataset.faults.bad),
        "log": trainer.state.log_history[-1],
    }
    Path(folder, f"process-{trainer.args.process_index}.json").write_text(json.dumps(seen))
    return trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:]).accelerator.wait_for_everyone()
    leave(0)
