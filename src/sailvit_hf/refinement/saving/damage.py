# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Files that have their size and cannot be read: which one it is, and what to do then, in one sentence.

Nothing is looked at before something fails: reading a checkpoint twice at every start would take too long.
"""

import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from ...errors import SailvitError
from .checkpoints import step_of


def _read(path: Path) -> None:
    """Read a file as far as it says itself whether it is whole; what torch wrote is a zip archive with checksums."""
    if path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt"):
            pass
    elif path.suffix in (".bin", ".pt", ".pth"):
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise ValueError(f"{broken} in it is damaged")


def find_damage(folder: Path, without: str | None = None) -> tuple[Path, str] | None:
    """The first file of a folder that cannot be read, and why. Other numbers in a safetensors file are not noticed.

    Args:
        folder: a checkpoint.
        without: the name of folders in it that are passed over.
    """
    for place, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if name != without)
        for path in (Path(place, name) for name in sorted(files)):
            try:
                _read(path)
            except Exception as error:  # whatever the reader of a broken file trips over
                return path, " ".join(str(error).split()) or type(error).__name__
    return None


@contextmanager
def damage_told(checkpoint: Path, is_read: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Read a checkpoint in here; if that fails for a damaged file, tell which it is.

    Args:
        checkpoint: its folder.
        is_read: whether it is still the checkpoint that something failed on.

    Raises:
        SailvitError: a file of it cannot be read; other errors pass as they are.
    """
    try:
        yield
    except SailvitError:
        raise
    except Exception as error:
        found = find_damage(checkpoint) if is_read() else None
        if found is None:
            raise
        path, reason = found
        raise SailvitError(
            f"{checkpoint} cannot be read ({path.relative_to(checkpoint)}: {reason}): remove the folder, and --resume "
            "goes on from the one before"
        ) from error


@contextmanager
def going_on(trainer: Trainer, checkpoint: str | None) -> Iterator[None]:
    """Train from a checkpoint in here; see `damage_told`, up to the first step that was trained.

    Raises:
        SailvitError: a file of the checkpoint cannot be read.
    """
    if checkpoint is None:
        yield
        return
    folder = Path(checkpoint)
    step = step_of(folder)
    with damage_told(folder, lambda: step is None or trainer.state.global_step <= step):
        callback = SharesAsSteps(trainer.args, folder)
        trainer.add_callback(callback)
        try:
            yield
        finally:
            callback.put_back()
            trainer.remove_callback(callback)


class SharesAsSteps(TrainerCallback):
    """Until training begins: intervals that are a share of all steps as the steps that they were in a checkpoint.

    The Trainer compares them as they are, and would warn at every resume that 0.02 is not 9.
    """

    def __init__(self, args: TrainingArguments, checkpoint: Path) -> None:
        self.args, self.given = args, dict[str, Any]()
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        for name in ("logging_steps", "save_steps", "eval_steps"):
            share, steps = getattr(args, name), state.get(name)
            if share is not None and 0 < share < 1 and math.ceil(share * state["max_steps"]) == steps:
                self.given[name] = share
                setattr(args, name, steps)

    def put_back(self) -> None:
        """Give the arguments, which every checkpoint holds, the values that they were given."""
        for name, share in self.given.items():
            setattr(self.args, name, share)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.put_back()
