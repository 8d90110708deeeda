# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage II: the vision tower learns the details that language asks for, through a connector that already works."""

from .stages import STAGES
from .trainer import RefinementTrainer


class FineAlignmentTrainer(RefinementTrainer):
    """`RefinementTrainer` of the fine-grained alignment: trains the vision tower and the connector."""

    stage = STAGES["fine"]
