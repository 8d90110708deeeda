# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Training on streams: as many steps in every process whatever is broken, and a resumed run goes on exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sailvit_hf.data.encoding import EncodedSamples
from sailvit_hf.data.mixture import Mixture, Part
from sailvit_hf.data.replacement import OverlongSampleError, WithReplacements
from sailvit_hf.data.rows import load_conversations
from sailvit_hf.refinement import RefinementArguments, RefinementTrainer

from ..data.sources import numbered, write_jsonl
from .tiny import tiny_model, weights
from .tiny_streams import Processor, stream_trainer, write_rows

ROOT = Path(__file__).parents[2]


def test_two_processes_take_as_many_steps_though_one_has_broken_samples(tmp_path):
    # The first file is that of one process in each pass; nine of its 24 pictures are broken.
    data, output = write_rows(tmp_path / "data", broken=range(3, 12)), tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *command, "-m", "tests.refinement.tiny_streams", str(data), str(output)],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((output / f"process-{process}.json").read_text()) for process in (0, 1))
    assert one["steps"] == two["steps"] == 6
    # The data loader makes one batch more than is asked for, to see whether it is the last.
    assert len(one["batches"]) == len(two["batches"]) == 13
    assert sorted([one["bad"], two["bad"]])[1] > 3
    assert not {str(batch) for batch in one["batches"][:12]} & {str(batch) for batch in two["batches"][:12]}
    log = one["log"]
    assert log["skipped_samples"] >= one["bad"] + two["bad"] and log["overlong_samples"] == 0
    assert two["log"] == log


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_is_the_same_and_opens_nothing_of_what_was_seen(tmp_path, workers):
    data = write_rows(tmp_path / "data", broken=[5, 30])
    options = {"save_strategy": "steps", "save_steps": 3, "dataloader_num_workers": workers}
    whole = stream_trainer(data, tmp_path / "whole", **options)
    whole.train()
    resumed = stream_trainer(data, tmp_path / "whole", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert resumed.history == whole.history
    for name, tensor in weights(whole.model).items():
        assert torch.equal(weights(resumed.model)[name], tensor)
    if not workers:
        assert resumed.processing_class.batches == whole.processing_class.batches[3:]
    record = whole.current_lineage().stages[-1]
    assert record.samples_seen == 12 and record.data["samples"] is None


def trainer_of(dataset, folder, **arguments):
    options = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return RefinementTrainer(
        tiny_model(),
        RefinementArguments(**{**options, **arguments}),
        train_dataset=dataset,
        processing_class=Processor(),
        stage="world",
    )


def test_long_samples_are_dropped_and_counted_or_stop_the_training(tmp_path):
    made = [numbered(number) for number in range(16)]
    made[3]["conversations"][1]["value"] = made[9]["conversations"][1]["value"] = "long " * 10
    rows = load_conversations(write_jsonl(tmp_path / "my.jsonl", made))
    trainer = trainer_of(rows, tmp_path / "drop", max_length=10, overlong_samples="drop")
    assert isinstance(trainer.train_dataset, WithReplacements)
    assert isinstance(trainer.train_dataset.dataset, EncodedSamples)
    trainer.train()
    assert trainer.state.global_step == 8
    assert trainer.state.log_history[-1]["overlong_samples"] == 4  # two in each of two passes
    assert trainer.current_lineage().stages[-1].data["overlong_samples"] == 4
    assert max(len(row) for batch in trainer.processing_class.batches for row in batch) <= 10
    with pytest.raises(OverlongSampleError, match=r"my.jsonl, line (4|10) is too long"):
        trainer_of(rows, tmp_path / "raise", max_length=10).train()


def test_a_mixture_goes_to_its_next_pass(tmp_path):
    small, large = (
        load_conversations(write_jsonl(tmp_path / f"{first}.jsonl", [numbered(first + n) for n in range(size)]))
        for first, size in ((100, 8), (200, 16))
    )
    mixture = Mixture([Part(small, 1.0), Part(large, 1.0)], seed=1)
    trainer = trainer_of(mixture, tmp_path / "out")
    trainer.train()
    seen = [tuple(row) for batch in trainer.processing_class.batches for row in batch]
    assert len(mixture) == 16 and trainer.state.global_step == 8
    assert len(set(seen)) == 24  # each of the larger part's rows once, in one of the two passes
    assert trainer.current_lineage().stages[-1].data["samples"] == 16


def test_a_collator_of_one_s_own_gets_the_rows(tmp_path):
    rows = load_conversations(write_jsonl(tmp_path / "my.jsonl", [numbered(number) for number in range(8)]))
    seen = []

    def collate(samples):
        seen.extend(sample["where"] for sample in samples)
        processor = Processor()
        return processor.pad_conversations([processor.encode_conversation(s["messages"], []) for s in samples])

    arguments = RefinementArguments(str(tmp_path / "out"), max_steps=2, use_cpu=True, disable_tqdm=True)
    RefinementTrainer(tiny_model(), arguments, collate, rows, stage="world").train()
    assert "my.jsonl, line 1" in seen
