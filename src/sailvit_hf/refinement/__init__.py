# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Gradual feature refinement: the stages, their arguments and their trainers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import RefinementArguments
    from .coarse_alignment import CoarseAlignmentTrainer
    from .fine_alignment import FineAlignmentTrainer
    from .lineage import Lineage
    from .stages import DIRECT, MODULES, STAGES, RefinementStage, get_stage, module_of
    from .trainer import RefinementTrainer
    from .world_knowledge import WorldKnowledgeTrainer

# Importing the Trainer takes seconds: nothing is imported before it is asked for.
_HOME = {
    "CoarseAlignmentTrainer": "coarse_alignment",
    "DIRECT": "stages",
    "FineAlignmentTrainer": "fine_alignment",
    "Lineage": "lineage",
    "MODULES": "stages",
    "RefinementArguments": "arguments",
    "RefinementStage": "stages",
    "RefinementTrainer": "trainer",
    "STAGES": "stages",
    "WorldKnowledgeTrainer": "world_knowledge",
    "get_stage": "stages",
    "module_of": "stages",
}

__all__ = [
    "DIRECT",
    "MODULES",
    "STAGES",
    "CoarseAlignmentTrainer",
    "FineAlignmentTrainer",
    "Lineage",
    "RefinementArguments",
    "RefinementStage",
    "RefinementTrainer",
    "WorldKnowledgeTrainer",
    "get_stage",
    "module_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
