# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stages that a recipe takes from another one, so that a number stands in one file."""

from pathlib import Path
from typing import Any

import yaml

from ...errors import SailvitError


def borrow_stages(data: dict[str, Any], path: Path) -> None:
    """Put in the stages that a recipe takes from others: `coarse: ../large/coarse.yaml`, relative to its own file.

    Raises:
        SailvitError: there is no such recipe, it lacks the stage, or it takes the stage from this one.
    """
    stages = data.get("stages")
    if not isinstance(stages, dict):
        return  # which the check of the layout tells
    for name in stages:
        source, seen = path, {path.resolve()}
        while isinstance(stages[name], str):
            source = (source.parent / stages[name]).resolve()
            try:
                stages[name] = yaml.safe_load(source.read_text(encoding="utf-8"))["stages"][name]
            except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
                raise SailvitError(f"stages.{name}: {source} is no recipe with a stage {name}; mend it.") from error
            if source in seen:
                raise SailvitError(f"stages.{name}: {source} is asked for the stage again; write it there.")
            seen.add(source)
