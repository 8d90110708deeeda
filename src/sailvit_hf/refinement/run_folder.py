# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The folder of a run: whose it is, which steps are done, and how to go on after a kill.

A run is a list of steps. A step that is done leaves `state/<step>.json`, written last and in one go, so whatever the
moment of a kill a step is either done or will be done again from its beginning (a training stage from its last
complete checkpoint). Under several processes the first one writes and all wait for each other after every step.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..errors import NotAnswered, SailvitError
from .recipes.recipe import Recipe, describe_difference, load_recipe

logger = logging.get_logger(__name__)

RECIPE_FILE = "recipe.yaml"
STATE_DIR = "state"


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one go: a reader, or a kill, never sees half a file."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def is_main_process() -> bool:
    """Whether this process is the one that writes."""
    import torch.distributed as dist

    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def wait_for_everyone() -> None:
    """Wait until all processes of the run are here."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()


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
    if path.exists() and not path.is_dir():
        raise SailvitError(f"output_dir {path} is a file; choose another output_dir.")
    copy = path / RECIPE_FILE
    if copy.exists():
        difference = describe_difference(recipe, load_recipe(copy))
        if difference is not None:
            raise SailvitError(f"{path} holds another recipe's run ({difference}); choose another output_dir.")
        if not resume:
            raise SailvitError(f"{path} holds a run already; go on by --resume, or choose another output_dir.")
        return True
    if path.exists() and any(not entry.name.startswith(".") for entry in path.iterdir()):
        raise SailvitError(f"{path} holds files that are not of a run; choose another output_dir.")
    return False


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
            write_text(copy, recipe.to_yaml())
        wait_for_everyone()
        return cls(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def _mark(self, step: str) -> Path:
        return self.path / STATE_DIR / f"{step}.json"

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
        mark = self._mark(step)
        if mark.exists():
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
                    write_json(mark, {"seconds": round(time.monotonic() - start, 2), "result": result})
        wait_for_everyone()
        if may_wait and not mark.exists():
            return None
        return json.loads(mark.read_text(encoding="utf-8"))["result"]

    def timings(self) -> dict[str, float]:
        """Seconds that each finished step took (of a step that was resumed: since the resume)."""
        marks = sorted((self.path / STATE_DIR).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return {path.stem: json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in marks}

    def write_run_record(self) -> None:
        """Write `run.json`: this session's wall time and memory, versions and hardware (kept out of metrics.json)."""
        import torch

        from .lineage import package_versions

        path = self.path / "run.json"
        sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"] if path.exists() else []
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
