# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""One optimiser for three modules: parameter groups per module, with and without weight decay."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import SailvitError
from .stages import MODULES, module_of

# Learned positions are scales of places, not of features: no decay (as for every other additive or scaling vector).
_POSITIONS = ("pos_embed", "position_embedding", "position_embeddings")


def no_decay_names(model: nn.Module) -> set[str]:
    """Names of the parameters that get no weight decay: biases, norms, other vectors and position tables."""
    names: set[str] = set()
    for prefix, module in model.named_modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(prefix=prefix, recurse=False):
            parts = name.split(".")
            is_position = any(part in _POSITIONS for part in parts)
            if is_norm or is_position or parts[-1] == "bias" or parameter.ndim < 2:
                names.add(name)
    return names


def parameter_groups(
    model: nn.Module, learning_rates: Mapping[str, float], weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: every trainable parameter in exactly one.

    Args:
        model: the vision-language model, wrapped or not, with `requires_grad` set by the stage.
        learning_rates: peak learning rate of each module that trains.
        weight_decay: of the parameters that decay; see `no_decay_names` for those that do not.

    Returns:
        At most two groups a module, in the order of `MODULES`, with the keys `params`, `lr`, `weight_decay` and
        `module` (the module's name, which survives in the optimiser's state).

    Raises:
        SailvitError: nothing is trainable, or a trainable module has no learning rate.
    """
    spared = no_decay_names(model)
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members.setdefault((module_of(name), name not in spared), []).append(parameter)
    if not members:
        raise SailvitError("no parameter is trainable: apply a RefinementStage to the model first")
    missing = sorted({module for module, _ in members} - set(learning_rates))
    if missing:
        raise SailvitError(f"{', '.join(missing)}: trainable, but without a learning rate")
    return [
        {
            "params": members[module, decays],
            "lr": learning_rates[module],
            "weight_decay": weight_decay if decays else 0.0,
            "module": module,
        }
        for module in MODULES
        for decays in (True, False)
        if (module, decays) in members
    ]
