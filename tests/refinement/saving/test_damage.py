# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints whose files have their size and cannot be read; and resumes that transformers would warn of."""

import json
import shutil

import pytest
import torch
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement.saving.damage import find_damage

from ..tiny import tiny_trainer

SHARES = {"save_strategy": "steps", "save_steps": 0.5, "logging_steps": 0.25}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tiny_trainer(folder, **SHARES).train()
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path):
    """That of step 2 of 4."""
    return shutil.copytree(saved / "checkpoint-2", tmp_path / "run" / "checkpoint-2")


def damage(path):
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = b"\x07" * (len(content) // 2)
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
                                  "model.safetensors"])  # fmt: skip
def test_a_damaged_file_is_named(name, checkpoint):
    damage(checkpoint / name)
    trainer = tiny_trainer(checkpoint.parent, **SHARES)
    said = rf"checkpoint-2 cannot be read \({name}: .*\): remove the folder, and --resume goes on from the one before"
    with pytest.raises(SailvitError, match=said):
        trainer.train(resume_from_checkpoint=str(checkpoint))


def test_a_whole_checkpoint_is_not_blamed(checkpoint):
    assert find_damage(checkpoint) is None
    trainer = tiny_trainer(checkpoint.parent, **SHARES)

    class Mistake(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            raise ValueError("a mistake")

    trainer.add_callback(Mistake())
    with pytest.raises(ValueError, match="^a mistake$"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


def test_what_fails_after_a_step_is_not_looked_into(checkpoint):
    trainer = tiny_trainer(checkpoint.parent, **SHARES)

    class Mistake(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            damage(checkpoint / "optimizer.pt")
            raise ValueError("a mistake")

    trainer.add_callback(Mistake())
    with pytest.raises(ValueError, match="^a mistake$"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


def test_checksums_find_what_the_ends_of_a_file_do_not_tell(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "optimizer.pt")
    content = bytearray((tmp_path / "optimizer.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "optimizer.pt").write_bytes(content)
    path, reason = find_damage(tmp_path)
    assert path.name == "optimizer.pt" and "data/0" in reason
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "optimizer.pt").rename(tmp_path / "checkpoints" / "optimizer.pt")
    assert find_damage(tmp_path, without="checkpoints") is None


@pytest.mark.parametrize(("logging_steps", "differ"), [(0.25, False), (0.5, True)])
def test_shares_of_all_steps_are_what_they_were(logging_steps, differ, checkpoint, monkeypatch):
    told = []
    monkeypatch.setattr(transformers_logging.get_logger("transformers.trainer_utils"), "warning_once", told.append)
    trainer = tiny_trainer(checkpoint.parent, **{**SHARES, "logging_steps": logging_steps})
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert [text.count("save_steps") for text in told] == [0] * differ
    assert [f"logging_steps: {logging_steps} (from args) != 1" in text for text in told] == [True] * differ
    assert (trainer.args.logging_steps, trainer.args.save_steps) == (logging_steps, 0.5)
    assert [entry["step"] for entry in trainer.history] == [1, 2, 3, 4]
    arguments = torch.load(checkpoint.parent / "checkpoint-4" / "training_args.bin", weights_only=False)
    assert (arguments.logging_steps, arguments.save_steps) == (logging_steps, 0.5)
    assert json.loads((checkpoint.parent / "checkpoint-4" / "trainer_state.json").read_text())["save_steps"] == 2
