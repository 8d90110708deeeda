# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""One schedule of learning rates with a warm-up for each module."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from ...errors import SailvitError


def warmup_steps(value: float, total: int) -> int:
    """Steps of a warm-up: `value` itself, or that share of `total` if it is smaller than 1, as the Trainer counts.

    Raises:
        SailvitError: it is negative.
    """
    if value < 0:
        raise SailvitError(f"a warm-up of {value} steps: give 0 or more")
    return int(value) if value >= 1 else math.ceil(total * value)


def schedule_by_module(
    args: Any, optimizer: torch.optim.Optimizer, total: int, warmups: Mapping[str, float | None]
) -> LambdaLR:
    """The schedule of `args.lr_scheduler_type` for each group of an optimiser, with its module's own warm-up.

    Args:
        args: `RefinementArguments`, whose `warmup_steps` holds where a module has none of its own.
        optimizer: with groups that name their `module`.
        total: optimiser steps of the whole run.
        warmups: steps, or a share of all steps if smaller than 1, by module.

    Raises:
        SailvitError: the schedule is not a function of the step alone.
    """
    curves: dict[int, Callable[[int], float]] = {}

    def curve(steps: int) -> Callable[[int], float]:
        if steps not in curves:
            alone = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
            made = get_scheduler(args.lr_scheduler_type, alone, steps, total, args.lr_scheduler_kwargs)
            if not isinstance(made, LambdaLR):
                raise SailvitError(
                    f"lr_scheduler_type {str(args.lr_scheduler_type)!r} has no warm-up by module: choose another, "
                    "such as cosine, or remove the modules' warmup_steps"
                )
            curves[steps] = made.lr_lambdas[0]
        return curves[steps]

    for group in optimizer.param_groups:  # as before the schedule that the Trainer made
        group["lr"] = group.pop("initial_lr", group["lr"])
    chosen = [warmups.get(group["module"]) for group in optimizer.param_groups]
    common = args.get_warmup_steps(total)
    return LambdaLR(optimizer, [curve(common if own is None else warmup_steps(own, total)) for own in chosen])
