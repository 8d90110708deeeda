# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage I: a fresh connector learns to carry what the vision tower already sees to a frozen language model."""

from .stages import STAGES
from .trainer import RefinementTrainer


class CoarseAlignmentTrainer(RefinementTrainer):
    """`RefinementTrainer` of the coarse-grained alignment: trains the connector alone."""

    stage = STAGES["coarse"]
