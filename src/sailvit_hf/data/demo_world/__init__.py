# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The demo world: scenes of OpenMoji drawings and pages of words, with their texts, all made from a seed (ours)."""

from .drawings import CREDIT, NAMES
from .scenes import CELLS, COLORS, PICTURE_SIZE, SPLITS, Placement, Scene
from .texts import KINDS
from .words import WordPage
from .world import STAGES_OF_SAMPLES, DemoWorld

__all__ = [
    "CELLS",
    "COLORS",
    "CREDIT",
    "KINDS",
    "NAMES",
    "PICTURE_SIZE",
    "SPLITS",
    "STAGES_OF_SAMPLES",
    "DemoWorld",
    "Placement",
    "Scene",
    "WordPage",
]
