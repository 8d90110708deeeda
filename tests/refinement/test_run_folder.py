# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The folder of a run: what the first process finds there holds for all; and disks and power that fail."""

import errno
import json
import logging
import os

import pytest
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from safetensors import SafetensorError

from sailvit_hf.cli.__main__ import leave
from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import run_folder
from sailvit_hf.refinement.recipes.recipe import parse_recipe
from sailvit_hf.refinement.run_folder import RunFolder, check_folder, first_ones, write_json, writing


def test_a_step_of_another_process_that_sees_no_mark(tmp_path, monkeypatch):
    """A network's file system may show it late: the result comes from the first process, not from the file."""
    told = iter([True, {"steps": 4}, False, {"steps": 5}])
    monkeypatch.setattr(run_folder, "is_main_process", lambda: False)
    monkeypatch.setattr(run_folder, "first_ones", lambda value: next(told))
    folder, done = RunFolder(tmp_path), []
    assert folder.once("fine", "Fine", lambda: done.append("fine"), everyone=True) == {"steps": 4}
    assert folder.once("world", "World", lambda: done.append("world"), everyone=True) == {"steps": 5}
    assert done == ["world"]


def test_one_process_reads_its_own_mark(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.once("fine", "Fine", lambda: {"steps": 4}) == {"steps": 4}
    write_json(tmp_path / "state" / "fine.json", {"seconds": 0, "result": 7})
    assert folder.once("fine", "Fine", lambda: None) == 7


def _tell(process, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=process, world_size=2)
    mine = RunFolder(folder if process == 0 else folder / "another")  # as if nothing had come there yet
    results = [first_ones(folder / "a" if process == 0 else None)]
    results.append(mine.once("fine", "Fine", lambda: process + 4, everyone=True))
    results.append(mine.once("fine", "Fine", lambda: process + 6, everyone=True))
    assert results == [folder / "a", 4, 4]
    dist.barrier()
    leave(0)


def test_two_processes_have_what_the_first_one_has(tmp_path):
    multiprocessing.spawn(_tell, (tmp_path,), nprocs=2)


# --- a power cut ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", '{"seconds": 1, "res', "[]", '{"seconds": 1}'])
def test_a_step_with_an_unreadable_mark_is_done_again(content, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("sailvit_hf"), "propagate", True)
    for step in ("start", "fine", "evaluate-fine"):
        RunFolder(tmp_path).once(step, step, lambda: 1)
    (tmp_path / "state" / "fine.json").write_text(content)
    folder = RunFolder(tmp_path)
    assert [folder.once(step, step, lambda: 2) for step in ("start", "fine", "evaluate-fine")] == [1, 2, 2]
    warnings = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    assert warnings == {f"{tmp_path}/state/fine.json cannot be read, as after a power cut: fine is done again."}
    assert folder.once("fine", "fine", lambda: 3) == 2
    assert list(folder.timings()) == ["start", "fine", "evaluate-fine"]


def test_what_a_step_wrote_is_on_the_disk_before_its_mark(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(run_folder, "on_disk", lambda path: seen.append(path.relative_to(tmp_path).as_posix()))

    def work():
        (tmp_path / "fine" / "checkpoints").mkdir(parents=True)
        for name in ("model.safetensors", "checkpoints/large"):
            (tmp_path / "fine" / name).touch()

    RunFolder(tmp_path).once("fine", "Fine", work)
    assert seen == [".", "fine", "fine/model.safetensors", f"state/.fine.json.{os.getpid()}", "state"]


def test_a_record_of_sessions_that_cannot_be_read(tmp_path):
    (tmp_path / "run.json").write_text("")
    RunFolder(tmp_path).write_run_record()
    assert len(json.loads((tmp_path / "run.json").read_text())["sessions"]) == 1


def test_a_copy_of_the_recipe_that_cannot_be_read(tiny_recipe, tmp_path):
    (tmp_path / "recipe.yaml").write_text("")
    said = r"recipe.yaml, the run's own copy.*cannot be read \(.*holds no keys.*\): put the recipe that the run began"
    with pytest.raises(SailvitError, match=said):
        check_folder(parse_recipe(tiny_recipe(tmp_path)), resume=True)


# --- a folder that cannot be written -------------------------------------------------------------------------------


def test_folders_that_cannot_be_made(tiny_recipe, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")
    below = parse_recipe(tiny_recipe(tmp_path / "notes.txt" / "run" / "one"))
    with pytest.raises(SailvitError, match="run/one cannot be made, for .*notes.txt is a file; choose another"):
        check_folder(below, resume=False)
    new = parse_recipe(tiny_recipe(tmp_path / "new" / "run"))
    assert check_folder(new, resume=False) is False
    monkeypatch.setattr(os, "access", lambda path, how: path != tmp_path)
    with pytest.raises(SailvitError, match=f"new/run: {tmp_path} cannot be written to; choose another output_dir"):
        check_folder(new, resume=False)


def test_a_folder_that_the_system_does_not_make(tiny_recipe, tmp_path, monkeypatch):
    """As below /proc, where nothing tells it before."""

    def refuse(*_args):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "run")

    monkeypatch.setattr(run_folder, "write_text", refuse)
    with pytest.raises(SailvitError, match=r"run could not be written \(.*No such file.*\): make room, or choose"):
        RunFolder.open(parse_recipe(tiny_recipe(tmp_path / "run")), resume=False)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "run"),
        (OSError(errno.EROFS, "Read-only file system", "cache/x"), "cache/x"),
        (PermissionError(errno.EACCES, "Permission denied", "run/start/x"), "run/start/x"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "run"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "run"),
        (PermissionError(errno.EACCES, "Permission denied", "pictures/a.png"), None),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "run/start/x"), None),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset"), None),
        (SafetensorError("Error while deserializing header: incomplete metadata, file not fully covered"), None),
        (RuntimeError("a mistake"), None),
    ],
)
def test_what_comes_from_writing(error, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = None
    try:
        with writing(type(tmp_path)("run")):
            raise error
    except SailvitError as sentence:
        found = str(sentence)
    except type(error) as passed:
        assert passed is error
    if told is None:
        assert found is None
    else:
        assert found.startswith(f"{told} could not be written (") and found.endswith("and go on by --resume")
