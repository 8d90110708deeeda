# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Sharded training whose checkpoints are whole models, and going on from them in another layout; see docs/scaling.md.

The weights are the same file in every layout. Of the optimiser's state, torch stores the parameters' numbers
(`optimizer.pt`) and FSDP their names (`optimizer.bin`, and its own copy of the weights): here one becomes the other.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.trainer import OPTIMIZER_NAME, OPTIMIZER_NAME_BIN
from transformers.utils import logging

from ...errors import SailvitError
from .checkpoints import MARKER, ZERO_FOLDERS
from .resuming import load_weights

logger = logging.get_logger(__name__)

FSDP_WEIGHTS = "pytorch_model_fsdp.bin"  # as accelerate's save_fsdp_model names them


def choose_layers(plugin: Any, model: nn.Module) -> None:
    """Tell FSDP which modules are gathered one by one, if its config does not: those that the model has.

    transformers' models also name modules of their relatives (CLIP's vision tower those of its text tower), on which
    accelerate stops.
    """
    if plugin.transformer_cls_names_to_wrap is None:
        present = {type(module).__name__ for module in model.modules()}
        named = getattr(model, "_no_split_modules", None) or ()
        plugin.transformer_cls_names_to_wrap = sorted(present.intersection(named))


def keep_class_name(model: nn.Module) -> None:
    """Give a model of FSDP2 its class's name and module back.

    `fully_shard` puts a class of torch's own in place of the model's; saving would copy torch's source files beside
    the weights, and name the wrong class in the configuration.
    """
    cls = type(model)
    if cls.__module__.startswith("torch.distributed."):
        original = cls.__bases__[1]
        cls.__module__, cls.__name__, cls.__qualname__ = original.__module__, original.__name__, original.__qualname__


def _names_by_group(trainer: Any) -> list[list[str]]:
    """The names of the parameters of each group of the optimiser, in its order; of a model not yet wrapped."""
    trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = [[names[id(parameter)] for parameter in group["params"]] for group in trainer.optimizer.param_groups]
    trainer.optimizer = None
    return groups


def renamed(state: dict[str, Any], names: list[list[str]]) -> dict[str, Any]:
    """An optimiser's state with names in place of numbers, or the other way round.

    Args:
        state: as `optimizer.pt` or `optimizer.bin` holds it.
        names: of the parameters of each group, in the optimiser's order.

    Raises:
        SailvitError: the state has other parameters.
    """
    flat = [name for group in names for name in group]
    numbered = {name: number for number, name in enumerate(flat)}
    held = [list(group["params"]) for group in state["param_groups"]]
    to_names = bool(held and held[0]) and isinstance(held[0][0], int)
    same = [len(group) for group in held] == [len(group) for group in names]
    if to_names:
        same = same and [number for group in held for number in group] == list(range(len(flat)))
        key: Any = dict(enumerate(flat))
    else:
        same = same and all(set(mine) == set(theirs) for mine, theirs in zip(held, names, strict=True))
        key = numbered
    if not same:
        raise SailvitError("the optimiser's state is of other parameters: resume with the arguments of the run")
    groups = [
        {**group, "params": list(mine) if to_names else [numbered[name] for name in mine]}
        for group, mine in zip(state["param_groups"], names, strict=True)
    ]
    return {"state": {key[each]: value for each, value in state["state"].items()}, "param_groups": groups}


def _write(value: Any, path: Path) -> None:
    draft = path.with_name(f".{path.name}")
    torch.save(value, draft)
    draft.replace(path)


def _read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_zero(trainer: Any, checkpoint: Path, zero: bool) -> None:
    """Refuse what DeepSpeed cannot go on from, or nothing but DeepSpeed."""
    weights = "or take its weights alone (weights_only=True)"
    if not (trainer.is_deepspeed_enabled and zero):
        ours, theirs = ("DeepSpeed", "without") if trainer.is_deepspeed_enabled else ("no DeepSpeed", "with")
        raise SailvitError(
            f"{checkpoint} was saved {theirs} DeepSpeed, whose optimiser state nothing else reads, and this "
            f"launch has {ours}: go on as the run began, {weights}"
        )
    if (checkpoint / MARKER).exists():
        processes = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))["processes"]
        if processes != trainer.args.world_size:
            raise SailvitError(
                f"{checkpoint} was saved by {processes} processes with DeepSpeed, which goes on with as many, and not "
                f"with {trainer.args.world_size}: start {processes}, {weights}"
            )


def fit_checkpoint(trainer: Any, checkpoint: Path) -> None:
    """Add to a checkpoint of another layout what this one reads; all processes take part, the first one writes.

    Args:
        trainer: before it trains, its model not yet wrapped.
        checkpoint: a complete one, of any number of processes.

    Raises:
        SailvitError: it cannot be read in this layout.
    """
    zero = any(checkpoint.glob(ZERO_FOLDERS))
    whole, named = (checkpoint / OPTIMIZER_NAME).exists(), (checkpoint / OPTIMIZER_NAME_BIN).exists()
    if trainer.is_deepspeed_enabled or zero:
        if zero or whole or named:
            _check_zero(trainer, checkpoint, zero)
        return
    if trainer.is_fsdp_enabled:
        needed = not (named and (checkpoint / FSDP_WEIGHTS).exists())
    else:
        needed = named and not whole
    if needed:
        names = _names_by_group(trainer)
        if trainer.is_world_process_zero():
            logger.info(f"The optimiser's state and the weights of {checkpoint} are put into this launch's layout")
            if trainer.is_fsdp_enabled:
                load_weights(trainer.model, checkpoint)
                _write(trainer.model.state_dict(), checkpoint / FSDP_WEIGHTS)
            if trainer.is_fsdp_enabled and not named and whole:
                _write(renamed(_read(checkpoint / OPTIMIZER_NAME), names), checkpoint / OPTIMIZER_NAME_BIN)
            elif not trainer.is_fsdp_enabled:
                _write(renamed(_read(checkpoint / OPTIMIZER_NAME_BIN), names), checkpoint / OPTIMIZER_NAME)
    if not trainer.is_fsdp_enabled and trainer.is_world_process_zero():
        drop_copy(checkpoint)
    trainer.accelerator.wait_for_everyone()


def drop_copy(checkpoint: Path) -> None:
    """Remove FSDP's own copy of the weights, a pickle of the size of the model, where `model.safetensors` is whole.

    The Trainer of another layout refuses a checkpoint that holds it; FSDP gets it back by `fit_checkpoint`.
    """
    if any(checkpoint.glob("model*.safetensors")):
        (checkpoint / FSDP_WEIGHTS).unlink(missing_ok=True)
