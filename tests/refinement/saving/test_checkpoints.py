# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint is complete or invisible, whatever the moment of a kill, and the only good one stays."""

import errno
import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import WorldKnowledgeTrainer
from sailvit_hf.refinement.saving import checkpoints
from sailvit_hf.refinement.saving.checkpoints import (
    DRAFTS,
    MARKER,
    check_complete,
    check_resumable,
    is_complete,
    last_complete_checkpoint,
    mark,
    publish,
    rotate,
    set_later_aside,
    settle_drafts,
)

from ..tiny import tiny_samples, tiny_trainer, weights


def make(folder, step, marked=True):
    (folder / "processor").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    (folder / "processor" / "a.json").write_text("{}")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if marked:
        mark(folder, step, 1)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_marker_names_every_file(tmp_path):
    folder = make(tmp_path / "checkpoint-4", 4)
    assert json.loads((folder / MARKER).read_text()) == {
        "step": 4,
        "processes": 1,
        "files": {"model.safetensors": 100, "processor/a.json": 2, "trainer_state.json": 18},
    }
    check_complete(folder)


def missing(folder):
    (folder / "processor" / "a.json").unlink()


def short(folder):
    (folder / "model.safetensors").write_bytes(b"x" * 99)


def unmarked(folder):
    (folder / MARKER).unlink()
    (folder / "trainer_state.json").write_text('{"global_st')


def half_marked(folder):
    (folder / MARKER).write_text('{"step": 4')


def of_another_step(folder):
    shutil.rmtree(folder)
    make(folder, 3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, r"\(processor/a.json is missing\)"),
        (short, r"\(model.safetensors has 99 bytes instead of 100\)"),
        (unmarked, "was not written to its end"),
        (half_marked, "cannot be read"),
        (of_another_step, "is the checkpoint of step 3 under another name"),
    ],
)
def test_what_is_not_complete_is_named_and_passed_over(damage, message, tmp_path):
    folder = make(tmp_path / "checkpoint-4", 4)
    good = make(tmp_path / "checkpoint-2", 2)
    damage(folder)
    with pytest.raises(SailvitError, match=message):
        check_complete(folder)
    assert last_complete_checkpoint(tmp_path) == good and folder.exists()


def test_the_newest_is_that_of_the_largest_step(tmp_path):
    for step in (900, 1000, 80):
        make(tmp_path / f"checkpoint-{step}", step)
    (tmp_path / "checkpoint-best").mkdir()
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-1000"
    assert last_complete_checkpoint(tmp_path / "nowhere") is None


def test_one_of_an_earlier_version_can_be_resumed_with_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("sailvit_hf"), "propagate", True)
    make(tmp_path / "checkpoint-4", 4, marked=False)
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-4"
    assert "without complete.json" in caplog.text


def test_rotation_counts_complete_ones_only(tmp_path):
    """By number or time alone the two broken ones would stay, and the only good one would go."""
    make(tmp_path / "checkpoint-2", 2)
    for step in (4, 6):
        missing(make(tmp_path / f"checkpoint-{step}", step))
    rotate(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint-2"]
    missing(tmp_path / "checkpoint-2")
    rotate(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint-2"]  # nothing good: nothing goes


def test_rotation_keeps_what_it_is_told(tmp_path):
    for step in (2, 4, 6, 8, 10):
        make(tmp_path / f"checkpoint-{step}", step)
    rotate(tmp_path, None)
    assert len(names(tmp_path)) == 5
    rotate(tmp_path, 2, [tmp_path / "checkpoint-2", None])
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-2"]


@pytest.mark.parametrize("moment", ["while it is written", "before it is named", "before the old one gives its name"])
def test_a_kill_while_a_checkpoint_is_saved(moment, tmp_path):
    old = make(tmp_path / "checkpoint-2", 2)
    draft = make(tmp_path / DRAFTS / "checkpoint-4", 4, marked=moment != "while it is written")
    if moment == "before the old one gives its name":
        old.rename(tmp_path / DRAFTS / "old-checkpoint-2")
    assert last_complete_checkpoint(tmp_path) == (None if moment.startswith("before the old") else old)
    settle_drafts(tmp_path)
    expected = 2 if moment == "while it is written" else 4
    assert last_complete_checkpoint(tmp_path).name == f"checkpoint-{expected}"
    assert not draft.exists() and not (tmp_path / DRAFTS).exists()


def test_a_draft_takes_the_place_of_what_had_its_name(tmp_path):
    missing(make(tmp_path / "checkpoint-4", 4))
    publish(make(tmp_path / DRAFTS / "checkpoint-4", 4), tmp_path / "checkpoint-4")
    settle_drafts(tmp_path)
    assert is_complete(tmp_path / "checkpoint-4") and names(tmp_path) == ["checkpoint-4"]


def test_what_the_trainer_saves(tmp_path, monkeypatch):
    seen = []
    written = checkpoints.mark

    def spy(folder, step, processes):
        seen.append((folder.relative_to(tmp_path).as_posix(), (tmp_path / folder.name).exists()))
        written(folder, step, processes)

    monkeypatch.setattr("sailvit_hf.refinement.saving.safe_trainer.mark", spy)
    trainer = tiny_trainer(tmp_path, save_strategy="steps", save_steps=1, save_total_limit=2)
    trainer.train()
    assert seen == [(f".saving/checkpoint-{step}", False) for step in (1, 2, 3, 4)]
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-4"]
    marker = json.loads((tmp_path / "checkpoint-4" / MARKER).read_text())
    assert marker["step"] == 4 and marker["processes"] == 1
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"} <= set(marker["files"])
    saved = torch.load(tmp_path / "checkpoint-4" / "training_args.bin", weights_only=False)
    assert saved.output_dir == str(tmp_path)  # not that of the draft


class WithEvaluation(WorldKnowledgeTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, eval_dataset=tiny_samples(4))


def test_the_best_checkpoint_is_named_as_it_is_found(tmp_path):
    trainer = tiny_trainer(
        tmp_path, cls=WithEvaluation, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True, save_total_limit=1,
    )  # fmt: skip
    trainer.train()
    best = tmp_path / f"checkpoint-{trainer.state.best_global_step}"
    assert trainer.state.best_model_checkpoint == str(best) and is_complete(best)
    assert json.loads((best / "trainer_state.json").read_text())["best_model_checkpoint"] == str(best)


def test_the_best_checkpoint_could_not_be_written(tmp_path, monkeypatch):
    """The best one before it is taken back instead."""
    trainer = tiny_trainer(
        tmp_path / "run", cls=WithEvaluation, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True, save_total_limit=1, max_steps=3,
    )  # fmt: skip

    class NoRoom(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 2:
                monkeypatch.setattr("sailvit_hf.refinement.saving.checkpoints.on_disk", no_room)

    def no_room(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer.add_callback(NoRoom())
    trainer.train()
    assert trainer.state.best_global_step == 3 and names(tmp_path / "run") == ["checkpoint-2"]
    assert trainer.state.best_model_checkpoint == str(tmp_path / "run" / "checkpoint-2")
    best = load_file(tmp_path / "run" / "checkpoint-2" / "model.safetensors")
    found = weights(trainer.model)
    assert all(torch.equal(found[name], tensor) for name, tensor in best.items())


def test_every_process_knows_the_best_checkpoint(tmp_path, monkeypatch):
    """Each loads it at the end, and only the first one publishes."""
    trainer = tiny_trainer(tmp_path, cls=WithEvaluation, save_strategy="steps", save_steps=1, max_steps=1)
    trainer.train()
    trainer.state.best_global_step, trainer.state.best_model_checkpoint = 1, None
    monkeypatch.setattr(type(trainer.args), "should_save", False)
    trainer._save_checkpoint(trainer.model, None)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")


def test_resuming_takes_the_last_complete_one(tmp_path):
    tiny_trainer(tmp_path, save_strategy="steps", save_steps=1, max_steps=4).train()
    (tmp_path / "checkpoint-4" / "optimizer.pt").unlink()
    trainer = tiny_trainer(tmp_path, max_steps=4)
    trainer.train(resume_from_checkpoint=True)
    assert trainer._resumed == str(tmp_path / "checkpoint-3")
    with pytest.raises(SailvitError, match="optimizer.pt is missing"):
        tiny_trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    with pytest.raises(SailvitError, match="there is no complete checkpoint"):
        tiny_trainer(tmp_path / "empty").train(resume_from_checkpoint=True)


def test_going_back_leaves_the_later_ones_behind(tmp_path, caplog, monkeypatch):
    """Back to step 2 and on to step 3: the newest one is that, and not the 4 or 5 of the branch that was left."""
    monkeypatch.setattr(logging.getLogger("sailvit_hf"), "propagate", True)
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 5}
    tiny_trainer(tmp_path, **options).train()
    (tmp_path / "checkpoint-4" / "optimizer.pt").unlink()  # not complete: it is passed over as ever
    draft = tmp_path / DRAFTS / "checkpoint-6"
    draft.parent.mkdir()
    shutil.copytree(tmp_path / "checkpoint-5", draft)
    (draft / "trainer_state.json").write_text('{"global_step": 6}')
    mark(draft, 6, 1)
    named = str(tmp_path / "checkpoint-2")
    tiny_trainer(tmp_path, **{**options, "max_steps": 3, "save_strategy": "no"}).train(resume_from_checkpoint=named)
    aside = tmp_path / "set-aside-1"
    (warning,) = [record.getMessage() for record in caplog.records if "goes back" in record.getMessage()]
    assert named in warning and f"{aside}: checkpoint-3, checkpoint-5, checkpoint-6" in warning
    assert names(aside) == ["checkpoint-3", "checkpoint-5", "checkpoint-6"]
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-4", "set-aside-1"]
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-2"
    again = tiny_trainer(tmp_path, **options)
    again.train(resume_from_checkpoint=str(aside / "checkpoint-3"))
    assert again._resumed == str(aside / "checkpoint-3") and names(aside)[0] == "checkpoint-3"
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-5"


def test_the_last_one_by_name_sets_nothing_aside(tmp_path):
    for step in (2, 4):
        make(tmp_path / f"checkpoint-{step}", step)
    assert set_later_aside(tmp_path, tmp_path / "checkpoint-4") is None
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    (tmp_path / "set-aside-1").mkdir()
    assert set_later_aside(tmp_path, tmp_path / "checkpoint-2") == tmp_path / "set-aside-2"


@pytest.mark.parametrize("lost", [["optimizer.pt"], ["scheduler.pt"], ["optimizer.pt", "scheduler.pt"]])
@pytest.mark.parametrize("named", [True, False])
def test_what_has_no_optimiser_or_schedule_is_not_gone_on_from(lost, named, tmp_path):
    """As with save_only_model of an earlier version: the Trainer would begin both anew without a word."""
    folder = tmp_path / "checkpoint-2"
    for name in {"optimizer.pt", "scheduler.pt"} - set(lost):
        make(folder, 2, marked=False)
        (folder / name).write_bytes(b"x")
        mark(folder, 2, 1)
    if not folder.exists():
        make(folder, 2)
    with pytest.raises(SailvitError, match=r"checkpoint-2 holds no states of .*weights_only=True"):
        tiny_trainer(tmp_path).train(resume_from_checkpoint=str(folder) if named else True)


@pytest.mark.parametrize(
    "files",
    [
        ["optimizer.pt", "scheduler.pt"],
        ["optimizer.bin", "scheduler.pt"],
        ["optimizer_0/__0_0.distcp", "scheduler.pt"],
        ["global_step2/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"],
    ],
)
def test_the_states_of_every_layout_are_known(files, tmp_path):
    folder = make(tmp_path / "checkpoint-2", 2)
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    check_resumable(folder)
