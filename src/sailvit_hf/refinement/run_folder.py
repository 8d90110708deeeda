# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The folder of a run: whose it is, which steps are done, and how to go on after a kill.

A run is a list of steps. A step that is done leaves `state/<step>.json`, written last and in one go, so whatever the
moment of a kill a step is either done or will be done again from its beginning (a training stage from its last
complete checkpoint). What a step wrote is on the disk before its mark is. Under several processes the first one writes
and all wait for each other after every step.
"""

import errno
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.utils import logging

from ..errors import NotAnswered, SailvitError
from .recipes.recipe import Recipe, describe_difference, load_recipe
from .saving.checkpoints import could_not_write, on_disk, reason_of

logger = logging.get_logger(__name__)

RECIPE_FILE = "recipe.yaml"
STATE_DIR = "state"
CHECKPOINTS = "checkpoints"  # of a stage, in its folder
# Arguments with which a run goes on as it began: how a machine shares out a step (a checkpoint knows its samples), the
# limits that may have ended it, and what disk and launcher ask for.
MAY_CHANGE = frozenset({
    "per_device_train_batch_size", "gradient_accumulation_steps", "global_batch_size",
    "bad_sample_limit", "nonfinite_limit", "overlong_samples", "dataloader_num_workers", "dataloader_prefetch_factor",
    "dataloader_persistent_workers", "save_steps", "save_total_limit", "ddp_timeout",
})  # fmt: skip
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one go: a reader, or a kill, never sees half a file."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file in one go; it is on the disk when this returns, or a power cut could leave it empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    on_disk(draft)
    draft.replace(path)
    on_disk(path.parent)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell in one sentence that what is written in here could not be.

    Args:
        folder: is named where the error names no file.

    Raises:
        SailvitError: it could not; other errors pass as they are.
    """
    try:
        yield
    except Exception as error:
        if not _is_of_writing(error, folder):
            raise
        path = getattr(error, "filename", None) or folder
        raise SailvitError(
            f"{path} could not be written ({reason_of(error)}): make room there (or give the right to write), "
            "and go on by --resume"
        ) from error


def _is_of_writing(error: Exception, folder: Path) -> bool:
    """Whether an error comes from writing; a step also reads, and what it says then is another mistake."""
    if not could_not_write(error):
        return False
    if isinstance(error, SafetensorError):
        return "deserializ" not in str(error)
    if not isinstance(error, OSError) or error.errno in _NO_ROOM:
        return True
    within = error.filename is not None and Path(os.fsdecode(error.filename)).is_relative_to(folder)
    return within and error.errno in (errno.EACCES, errno.EPERM, errno.EIO)


def is_main_process() -> bool:
    """Whether this process is the one that writes."""
    import torch.distributed as dist

    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def wait_for_everyone() -> None:
    """Wait until all processes of the run are here."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def first_ones(value: Any) -> Any:
    """What the first process has, in all processes, which wait for it here; the others' values do not count.

    On a network's file system another process may not see yet what the first one wrote, even after they have waited.
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def peak_memory_bytes() -> int | None:
    """Largest resident memory of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes


def check_folder(recipe: Recipe, resume: bool) -> bool:
    """Whether the recipe's output folder holds a run of it already; see `RunFolder.open` for the errors."""
    path = Path(recipe.output_dir)
    _check_place(path)
    copy = path / RECIPE_FILE
    if copy.exists():
        difference = describe_difference(recipe, _read_copy(copy), MAY_CHANGE if resume else ())
        if difference is not None:
            raise SailvitError(f"{path} holds another recipe's run ({difference}); choose another output_dir.")
        if not resume:
            raise SailvitError(f"{path} holds a run already; go on by --resume, or choose another output_dir.")
        return True
    if path.exists() and any(not entry.name.startswith(".") for entry in path.iterdir()):
        raise SailvitError(f"{path} holds files that are not of a run; choose another output_dir.")
    return False


def _check_place(path: Path) -> None:
    """Whether a folder is there, or could be made, and can be written to."""
    # Not Path.exists, which raises where a folder on the way cannot be looked into.
    nearest = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.exists(place))
    if not nearest.is_dir():
        which = path if nearest == path.absolute() else f"{path} cannot be made, for {nearest}"
        raise SailvitError(f"output_dir {which} is a file; choose another output_dir.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise SailvitError(f"output_dir {path}: {nearest} cannot be written to; choose another output_dir.")


def _read_copy(copy: Path) -> Recipe:
    """The recipe that a run began with."""
    try:
        return load_recipe(copy)
    except SailvitError as error:
        raise SailvitError(
            f"{copy}, the run's own copy of its recipe, cannot be read ({str(error).rstrip('.')}): put the recipe "
            "that the run began with there, with what --set changed, or choose another output_dir"
        ) from error


class RunFolder:
    """One run's folder, opened by `RunFolder.open`.

    Args:
        path: the folder.
        total: number of steps of the run, for the announcements.
    """

    def __init__(self, path: Path, total: int = 0) -> None:
        self.path = path
        self.total = total
        self._begun: list[str] = []
        self.started = time.time()

    @classmethod
    def open(cls, recipe: Recipe, resume: bool) -> "RunFolder":
        """Claim the recipe's output folder.

        Raises:
            SailvitError: the folder holds another recipe's run, a run while `resume` is false, or other files.
        """
        path = Path(recipe.output_dir)
        copy = path / RECIPE_FILE
        claimed = check_folder(recipe, resume)
        wait_for_everyone()  # or a process would take the first one's new folder for an old run
        if not claimed and is_main_process():
            try:
                write_text(copy, recipe.to_yaml())
            except OSError as error:
                raise SailvitError(
                    f"{path} could not be written ({reason_of(error)}): make room, or choose another output_dir"
                ) from error
        wait_for_everyone()
        return cls(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def _mark(self, step: str) -> Path:
        return self.path / STATE_DIR / f"{step}.json"

    def _read_mark(self, step: str) -> dict[str, Any] | None:
        """What a step that is done left; None of one that is not, or of which that cannot be known."""
        try:
            found = json.loads(self._mark(step).read_text(encoding="utf-8"))
            return {"seconds": found["seconds"], "result": found["result"]}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _is_done(self, step: str) -> bool:
        if self._read_mark(step) is not None:
            return True
        if self._mark(step).exists():
            logger.warning(f"{self._mark(step)} cannot be read, as after a power cut: {step} is done again.")
            # The evaluation writes its metrics into what the step makes, which is made anew.
            self._mark(f"evaluate-{step}").unlink(missing_ok=True)
        return False

    def _settle(self) -> None:
        """Wait until all that was written is on the disk; checkpoints are since they have their names."""
        for folder, names, files in os.walk(self.path):
            names[:] = [name for name in names if name != CHECKPOINTS]
            for path in (Path(folder), *(Path(folder, name) for name in files)):
                with suppress(FileNotFoundError):  # somebody clears up
                    on_disk(path)

    def once(
        self, step: str, title: str, work: Callable[[], Any], everyone: bool = False, may_wait: bool = False
    ) -> Any:
        """Do a step unless it is done, and return its result.

        Args:
            step: its name; the mark is `state/<step>.json`.
            title: what is announced.
            work: does it; the result must be JSON.
            everyone: all processes take part (training), not only the first.
            may_wait: go on without it if the Hub does not answer; the result is then None, and the step not done.
        """
        if step not in self._begun:
            self._begun.append(step)
        place = f"[{self._begun.index(step) + 1}/{self.total}]"
        if first_ones(is_main_process() and self._is_done(step)):
            logger.info(f"{place} {title}: done before")
        else:
            logger.info(f"{place} {title}")
            start = time.monotonic()
            if everyone or is_main_process():
                try:
                    result = work()
                except NotAnswered as error:
                    if not may_wait:
                        raise
                    logger.warning(f"{title}: {error}. The run goes on, and tries again later.")
                    result = NotAnswered
                if is_main_process() and result is not NotAnswered:
                    self._settle()
                    write_json(self._mark(step), {"seconds": round(time.monotonic() - start, 2), "result": result})
        left = self._read_mark(step) if is_main_process() else None
        return first_ones(None if left is None else left["result"])

    def timings(self) -> dict[str, float]:
        """Seconds that each finished step took (of a step that was resumed: since the resume)."""
        marks = sorted((self.path / STATE_DIR).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        found = {path.stem: self._read_mark(path.stem) for path in marks}
        return {step: mark["seconds"] for step, mark in found.items() if mark is not None}

    def write_run_record(self) -> None:
        """Write `run.json`: this session's wall time and memory, versions and hardware (kept out of metrics.json)."""
        import torch

        from .lineage import package_versions

        path = self.path / "run.json"
        try:
            sessions = list(json.loads(path.read_text(encoding="utf-8"))["sessions"])
        except FileNotFoundError:
            sessions = []
        except (ValueError, KeyError, TypeError):
            logger.warning(f"{path} cannot be read, as after a power cut: it begins anew.")
            sessions = []
        session = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(time.time() - self.started, 1),
            "peak_memory_bytes": peak_memory_bytes(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "versions": package_versions(),
        }
        write_json(path, {"sessions": [*sessions, session]})
