# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that are complete or invisible: drafts that are marked and renamed in one go; see docs/faults.md."""

import functools
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.trainer import OPTIMIZER_NAME_BIN, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ...errors import SailvitError

logger = logging.get_logger(__name__)

MARKER = "complete.json"
DRAFTS = ".saving"  # holds the checkpoint that is being written; nobody looks for checkpoints there
ASIDE = "set-aside"  # with a number: holds checkpoints that a run has gone back behind
ZERO_FOLDERS = "global_step*"  # where DeepSpeed keeps the states of its optimiser and schedule


def could_not_write(error: BaseException) -> bool:
    """Whether an error says that files could not be written: a full disk, a quota, a file system that is gone.

    safetensors has an error of its own for it; torch.save reports a full disk as a RuntimeError of its zip writer.
    """
    if isinstance(error, RuntimeError):
        return "inline_container" in str(error) or "PytorchStreamWriter" in str(error)
    return isinstance(error, (OSError, SafetensorError))


def step_of(folder: Path) -> int | None:
    """The step in the name of a checkpoint's folder; None for another folder."""
    number = folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
    return int(number) if number != folder.name and number.isdigit() else None


def on_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk: a power cut must not empty what is marked."""
    if os.name != "posix":  # Windows flushes only what is open for writing
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def mark(folder: Path, step: int, processes: int) -> None:
    """Write the marker, once all files of a checkpoint are there.

    Raises:
        OSError: the disk is full or gone.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER):
        on_disk(path)
        files[path.relative_to(folder).as_posix()] = path.stat().st_size
    draft = folder / f".{MARKER}"
    draft.write_text(json.dumps({"step": step, "processes": processes, "files": files}, indent=1) + "\n")
    on_disk(draft)
    draft.rename(folder / MARKER)
    on_disk(folder)


def publish(draft: Path, folder: Path) -> None:
    """Give a marked draft its name, in the place of what may have had it before."""
    if folder.exists():
        old = draft.with_name(f"old-{folder.name}")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    draft.rename(folder)
    on_disk(folder.parent)


def settle_drafts(output_dir: Path) -> None:
    """Clear away what a killed run was writing; a draft that was complete gets its name. For one process only."""
    for draft in sorted((output_dir / DRAFTS).glob(f"{PREFIX_CHECKPOINT_DIR}-*")):
        folder = output_dir / draft.name
        if (draft / MARKER).exists() and is_complete(draft) and not is_complete(folder):
            publish(draft, folder)
    shutil.rmtree(output_dir / DRAFTS, ignore_errors=True)


def check_complete(folder: str | os.PathLike) -> None:
    """Check that a checkpoint was written to its end, and that all its files are still there in full.

    A checkpoint of an earlier version, without a marker, passes if its `trainer_state.json` is whole: that is written
    last.

    Raises:
        SailvitError: it is not complete; the sentence names the file.
    """
    folder = Path(folder)
    step = step_of(folder)
    mend = "remove it, or resume from another checkpoint"
    if not (folder / MARKER).exists():
        try:
            found = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
        except (OSError, ValueError, KeyError, TypeError):
            found = None
        if found is None or (step is not None and found != step):
            raise SailvitError(f"{folder} was not written to its end (there is no {MARKER}): {mend}")
        return
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        files = dict(marker["files"])
        marked = int(marker["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SailvitError(f"{folder / MARKER} cannot be read: {mend}") from error
    if step is not None and step != marked:
        raise SailvitError(f"{folder} is the checkpoint of step {marked} under another name: {mend}")
    for name, size in files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise SailvitError(f"{folder} is not complete ({name} {what}): {mend}")


def check_resumable(folder: str | os.PathLike) -> None:
    """Check that a complete checkpoint holds the states of the optimiser and the schedule, of whatever layout.

    Without them the Trainer begins both anew, in the middle of the run and without a word.

    Raises:
        SailvitError: it holds the model only.
    """
    folder = Path(folder)
    if any(folder.glob(ZERO_FOLDERS)):
        return
    # One file, or under FSDP a file or a folder of pieces.
    if not any(folder.glob(f"*{Path(OPTIMIZER_NAME_BIN).stem}*")) or not (folder / SCHEDULER_NAME).exists():
        raise SailvitError(
            f"{folder} holds no states of the optimiser and the schedule, which would begin anew in the middle of the "
            "run: remove it, resume from another one, or take its weights alone with train(..., weights_only=True)"
        )


def is_complete(folder: str | os.PathLike) -> bool:
    """Whether `check_complete` passes."""
    try:
        check_complete(folder)
    except SailvitError:
        return False
    return True


def numbered(output_dir: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything that is named as a checkpoint, complete or not, the earliest step first."""
    found = ((step_of(path), path) for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir())
    return sorted((step, path) for step, path in found if step is not None)


def last_complete_checkpoint(output_dir: str | os.PathLike) -> Path | None:
    """The newest checkpoint of a folder that is complete; what is passed over is told, and left as it is."""
    for _, path in reversed(numbered(Path(output_dir))):
        try:
            check_complete(path)
        except SailvitError as error:
            logger.warning(f"Passed over: {error}.")
            continue
        if not (path / MARKER).exists():
            logger.warning(f"{path} was saved by an earlier version, without {MARKER}: its files were not checked.")
        return path
    return None


def set_later_aside(output_dir: Path, folder: Path) -> Path | None:
    """Take the complete checkpoints that are later than `folder` out of sight; for one process only.

    A run that goes back to an earlier checkpoint would else lose its new ones to those of the branch that it left:
    the largest step is the newest one for all who look. Nothing is deleted.

    Returns:
        The folder in which they are now; None if there are none.
    """
    step = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
    later = [path for number, path in numbered(output_dir) if number > step and is_complete(path)]
    if not later:
        return None
    places = (output_dir / f"{ASIDE}-{number}" for number in itertools.count(1))
    place = next(place for place in places if not place.exists())
    place.mkdir()
    for path in later:
        path.rename(place / path.name)
    return place


def rotate(output_dir: Path, limit: int | None, keep: Iterable[str | os.PathLike | None] = ()) -> None:
    """Remove the earliest checkpoints, so that `limit` complete ones stay, and those that are not complete.

    Args:
        output_dir: the folder of the checkpoints.
        limit: how many stay; None or 0 for all, and then nothing at all is removed.
        keep: these stay in any case, such as the one that was just written and the best one.
    """
    if not limit or limit < 0:
        return
    kept = {Path(path).resolve() for path in keep if path}
    complete = [path for _, path in numbered(output_dir) if is_complete(path)]
    if not complete:
        return
    excess = len(complete) - max(limit, 1)
    for path in [path for path in complete if path.resolve() not in kept][: max(excess, 0)]:
        _remove(path)
    for _, path in numbered(output_dir):
        if path not in complete:
            _remove(path)


def _remove(folder: Path) -> None:
    """Remove a checkpoint; first of all its marker, so that half of one is never taken for a whole one."""
    (folder / MARKER).unlink(missing_ok=True)
    (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def part_of_checkpoint(save_model: Callable[..., None]) -> Callable[..., None]:
    """Make `save_model` of a `SafeTrainer`, its last override, survive a full disk while it writes a checkpoint.

    The error is kept for later then, because the other processes may be on their way to a barrier that comes before
    the agreement on what happened. Elsewhere it is told in one sentence.

    Raises:
        SailvitError: outside of a checkpoint, the folder could not be written.
    """

    @functools.wraps(save_model)
    def save(self: Any, output_dir: str | None = None, _internal_call: bool = False) -> None:
        try:
            with self.given_arguments():
                save_model(self, output_dir or self.args.output_dir, _internal_call)
        except Exception as error:
            if not could_not_write(error):
                raise
            if not self.is_saving:
                raise SailvitError(
                    f"{output_dir or self.args.output_dir} could not be written ({reason_of(error)}): make room, then "
                    "resume the run"
                ) from error
            self.save_error = error

    return save


def reason_of(error: BaseException) -> str:
    """An error that `could_not_write` knows, in a few words."""
    if isinstance(error, RuntimeError):
        return "torch could not write to its end, as on a full disk"
    return " ".join(str(error).split()) or type(error).__name__
