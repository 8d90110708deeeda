# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a checkpoint weighs, and how often a stage writes one."""

import math
from dataclasses import dataclass
from typing import Any

from ..recipes.recipe import StagePlan
from .memory import Parameters

SHORTEST = 300.0  # ours: seconds between two checkpoints, of which more would be lost to writing than to faults
_SMALL = 1e9  # ours: bytes that are written so fast that nobody minds


@dataclass(frozen=True)
class Saving:
    """How a stage saves.

    Attributes:
        bytes: of a whole checkpoint: all weights and the optimiser's state, and the tower's average.
        steps: as `save_steps`: between two checkpoints, or a share of all if below 1; None: none is saved on the way.
        kept: how many stay; None: all.
    """

    bytes: float
    steps: float | None
    kept: int | None

    def every(self, steps: int) -> int | None:
        """Steps between two checkpoints of a stage of so many."""
        if self.steps is None:
            return None
        return min(steps, max(1, math.ceil(self.steps if self.steps >= 1 else self.steps * steps)))

    def count(self, steps: int) -> int:
        """How many are written, that of the last step among them."""
        every = self.every(steps)
        return 0 if every is None else math.ceil(steps / every)

    def mend(self, steps: int, seconds: float) -> int | None:
        """A better `save_steps` for a stage of steps of so many seconds, where its own writes too often."""
        every = self.every(steps)
        if every is None or every == steps or self.bytes < _SMALL or every * seconds >= SHORTEST:
            return None
        wanted = math.ceil(SHORTEST / seconds)
        digit = 10 ** (len(str(wanted)) - 1)
        return min(steps, math.ceil(wanted / digit) * digit)


def saving_of(plan: StagePlan, parameters: Parameters, state: float, ema: bool) -> Saving:
    """How a stage saves.

    Args:
        plan: its arguments, before those that every run has.
        parameters: of the model in this stage; the weights are saved whole and in fp32.
        state: bytes of the optimiser's state a trained parameter.
        ema: whether the tower's average is saved, too.
    """
    from ..pipeline import DEFAULT_ARGUMENTS

    arguments: dict[str, Any] = {**DEFAULT_ARGUMENTS, **plan.arguments}
    size = 4.0 * parameters.total + state * parameters.training
    size += 4.0 * parameters.trained["vision_tower"] if ema else 0.0
    steps = {"steps": arguments["save_steps"], "epoch": 1 / arguments.get("num_train_epochs", 3)}
    strategy = getattr(arguments["save_strategy"], "value", arguments["save_strategy"])
    return Saving(size, steps.get(strategy), arguments["save_total_limit"])
