# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Resuming from a folder of unknown origin: a warning about its pickles, and a way round them."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import RefinementTrainer
from sailvit_hf.refinement.saving.resuming import check_origin, load_weights

from ..tiny import tiny_trainer

PICKLES = {"optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin"}


def trainer_in(folder: Path, steps: int = 2) -> RefinementTrainer:
    return tiny_trainer(folder, max_steps=steps, save_strategy="steps", save_steps=1)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after one of two steps, as somebody else's run left it."""
    folder = tmp_path_factory.mktemp("theirs")
    trainer_in(folder).train()
    return folder / "checkpoint-1"


@pytest.fixture
def warnings_of_it(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("sailvit_hf"), "propagate", True)
    caplog.set_level(logging.WARNING)
    return caplog


def test_a_foreign_folder_brings_a_warning_with_its_pickles(foreign: Path, tmp_path: Path, warnings_of_it) -> None:
    assert PICKLES <= {path.name for path in foreign.iterdir()}
    trainer = trainer_in(tmp_path / "mine")
    trainer.train(resume_from_checkpoint=str(foreign))
    assert trainer.state.global_step == 2
    (message,) = [record.getMessage() for record in warnings_of_it.records if "pickles" in record.getMessage()]
    assert message.startswith(f"{foreign} was not written by this run, and its optimizer.pt, ")
    assert all(name in message for name in PICKLES) and "weights_only=True" in message


def test_ones_own_folder_brings_none(foreign: Path, warnings_of_it) -> None:
    check_origin(foreign, foreign.parent)
    assert not warnings_of_it.records


def test_a_way_round_through_a_link_is_seen(foreign: Path, tmp_path: Path, warnings_of_it) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "checkpoint-1").symlink_to(foreign)
    check_origin(tmp_path / "mine" / "checkpoint-1", tmp_path / "mine")
    assert "not written by this run" in warnings_of_it.text


def test_weights_only_reads_safetensors_alone(foreign: Path, tmp_path: Path, warnings_of_it) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    for path in foreign.iterdir():
        # Each pickle is one that cannot be opened at all.
        (folder / path.name).write_bytes(b"no pickle") if path.name in PICKLES else shutil.copy(path, folder)
    trainer = trainer_in(tmp_path / "mine", steps=1)
    started = {}
    original = trainer.training_step

    def step(model, *args, **kwargs):
        started.update({name: value.detach().clone() for name, value in model.state_dict().items()})
        return original(model, *args, **kwargs)

    trainer.training_step = step
    trainer.train(resume_from_checkpoint=str(folder), weights_only=True)
    assert trainer.state.global_step == 1 and not warnings_of_it.records
    # Its lineage says whose weights these are.
    theirs, mine = trainer.current_lineage().stages
    assert (theirs.steps, theirs.max_steps, mine.steps) == (1, 2, 1)
    expected = load_file(foreign / "model.safetensors")
    assert expected and all(torch.equal(started[name], value) for name, value in expected.items())


def test_what_cannot_be_is_said(foreign: Path, tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path / "mine")
    with pytest.raises(SailvitError, match="weights_only=True needs the folder"):
        trainer.train(weights_only=True)
    shutil.copytree(foreign, tmp_path / "theirs")
    tensors = load_file(foreign / "model.safetensors")
    name = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != name}, tmp_path / "theirs/model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(SailvitError, match="theirs cannot be loaded: .* holds no whole"):
        load_weights(trainer.model, tmp_path / "theirs")
    (tmp_path / "theirs/model.safetensors").unlink()
    with pytest.raises(SailvitError, match="holds no safetensors file"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "theirs"))
