# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""One optimiser for three modules: parameter groups per module, with and without weight decay."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ...errors import SailvitError
from ...modeling.vision_towers import layer_groups
from ..stages import MODULES, module_of, vision_tower_of

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


def layer_scales(model: nn.Module, decay: float | None) -> dict[str, float]:
    """Factor of the learning rate of each trainable parameter of the vision tower, by name, output side first.

    The topmost layer group that trains has 1, each group below `decay` times the one above it (BEiT's layer-wise
    decay, arXiv 2106.08254). Empty without a decay.

    Raises:
        SailvitError: the decay is not in (0, 1].
    """
    found = vision_tower_of(model)
    if decay is None or found is None:
        return {}
    if not 0 < decay <= 1:
        raise SailvitError(f"vision_tower_layer_decay is {decay}: give a number above 0 and at most 1")
    name, tower = found
    trainable = {key for key, parameter in tower.named_parameters() if parameter.requires_grad}
    heights = [[key for key in group.parameter_names if key in trainable] for group in layer_groups(tower)]
    while heights and not heights[-1]:
        heights.pop()
    return {f"{name}.{key}": decay**depth for depth, keys in enumerate(reversed(heights)) for key in keys}


def parameter_groups(
    model: nn.Module,
    learning_rates: Mapping[str, float],
    weight_decay: float | Mapping[str, float],
    vision_tower_layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: every trainable parameter in exactly one.

    Args:
        model: the vision-language model, wrapped or not, with `requires_grad` set by the stage.
        learning_rates: peak learning rate of each module that trains.
        weight_decay: of the parameters that decay, for all modules or by module; see `no_decay_names` for those that
            do not.
        vision_tower_layer_decay: see `layer_scales`.

    Returns:
        At most two groups a module, in the order of `MODULES`, with the keys `params`, `lr`, `weight_decay` and
        `module` (the module's name, which survives in the optimiser's state); with a layer decay at most two for each
        height of the vision tower, the topmost, with the full rate, first.

    Raises:
        SailvitError: nothing is trainable, or a trainable module has no learning rate.
    """
    spared, scales = no_decay_names(model), layer_scales(model, vision_tower_layer_decay)
    members: dict[tuple[str, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (module_of(name), scales.get(name, 1.0), name not in spared)
            members.setdefault(key, []).append(parameter)
    if not members:
        raise SailvitError("no parameter is trainable: apply a RefinementStage to the model first")
    missing = sorted({module for module, _, _ in members} - set(learning_rates))
    if missing:
        raise SailvitError(f"{', '.join(missing)}: trainable, but without a learning rate")
    decays_of = weight_decay if isinstance(weight_decay, Mapping) else dict.fromkeys(MODULES, weight_decay)
    return [
        {
            "params": members[module, scale, decays],
            "lr": learning_rates[module] * scale,
            "weight_decay": decays_of[module] if decays else 0.0,
            "module": module,
        }
        for module, scale, decays in sorted(members, key=lambda key: (MODULES.index(key[0]), -key[1], not key[2]))
    ]
