# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stage III: all parts are co-trained on questions about the world, text-only samples among them."""

from .stages import STAGES
from .trainer import RefinementTrainer


class WorldKnowledgeTrainer(RefinementTrainer):
    """`RefinementTrainer` of the world-knowledge infusion: trains everything."""

    stage = STAGES["world"]
