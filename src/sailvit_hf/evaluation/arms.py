# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The arms of the comparison over seeds, each a recipe made of the one that is compared, and their judges.

Every arm of a seed starts from the same foundations and the same fresh connector, and takes the same number of steps
on the same number of samples.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

from ..errors import SailvitError
from ..refinement.recipes.recipe import Recipe, parse_recipe

GRADUAL_STAGES = ("coarse", "fine", "world")
DEFAULT_BATCH_SIZE = 8  # of transformers' TrainingArguments


def _arguments(data: dict[str, Any], stage: str) -> dict[str, Any]:
    return data["stages"][stage]["arguments"]


def _samples_per_step(arguments: dict[str, Any]) -> int:
    return arguments.get("global_batch_size") or arguments.get(
        "per_device_train_batch_size", DEFAULT_BATCH_SIZE
    ) * arguments.get("gradient_accumulation_steps", 1)


def stage_steps(data: dict[str, Any], stage: str) -> int:
    """Optimiser steps of a stage of a recipe (as plain values): `max_steps`, or what its epochs come to.

    Raises:
        SailvitError: neither is known, because the samples come from a file and `max_steps` is not set.
    """
    arguments = _arguments(data, stage)
    if arguments.get("max_steps", -1) > 0:
        return arguments["max_steps"]
    demos = [source.get("demo") for source in data["stages"][stage]["data"]]
    if not all(demos):
        raise SailvitError(f"The comparison needs stages.{stage}.arguments.max_steps; set it.")
    samples = sum(demo["samples"] for demo in demos)
    return math.ceil(samples / _samples_per_step(arguments)) * math.ceil(arguments.get("num_train_epochs", 1))


def _scale_rates(arguments: dict[str, Any], factor: float) -> None:
    for name in arguments:
        if name.endswith("learning_rate") and arguments[name] is not None:
            arguments[name] *= factor


def gradual(data: dict[str, Any], rate: float | None) -> None:
    """I, II, III as in the recipe; a `rate` is the fine stage's, and scales the other stages' with it."""
    if rate is None:
        return
    reference = _arguments(data, "fine").get("learning_rate")
    if not reference:
        raise SailvitError("The comparison needs stages.fine.arguments.learning_rate to try other rates; set it.")
    for stage in GRADUAL_STAGES:
        _scale_rates(_arguments(data, stage), rate / reference)


def fine_first(data: dict[str, Any], rate: float | None) -> None:
    """II and III without I, at gradual's rates: II gets the steps, and as many samples, as I would have had."""
    gradual(data, rate)
    fine = data["stages"]["fine"]
    seen = stage_steps(data, "coarse") * _samples_per_step(_arguments(data, "coarse"))
    steps = stage_steps(data, "fine")
    fine["arguments"]["max_steps"] = steps + math.ceil(seen / _samples_per_step(fine["arguments"]))
    for source in fine["data"]:
        if source.get("demo"):
            source["demo"]["samples"] += math.ceil(seen / len(fine["data"]))
    del data["stages"]["coarse"]


def direct(data: dict[str, Any], rate: float | None) -> None:
    """All parameters at once on the three stages' samples, shuffled together: one warm-up, one cosine, one rate.

    Batch, clipping and the like are the world stage's; `rate` None means the recipe's rate of the fine stage.
    """
    arguments = copy.deepcopy(_arguments(data, "world"))
    rate = rate if rate is not None else _arguments(data, "fine").get("learning_rate")
    for name in [name for name in arguments if name.endswith("_learning_rate")]:
        del arguments[name]
    seen = sum(stage_steps(data, s) * _samples_per_step(_arguments(data, s)) for s in GRADUAL_STAGES)
    arguments.pop("num_train_epochs", None)
    arguments |= {"learning_rate": rate, "max_steps": round(seen / _samples_per_step(arguments))}
    sources = []
    for stage in GRADUAL_STAGES:
        for source in copy.deepcopy(data["stages"][stage]["data"]):
            if source.get("demo"):
                source["demo"]["stage"] = source["demo"].get("stage") or stage
            sources.append(source)
    data["stages"] = {"direct": {"data": sources, "arguments": arguments}}


def unrefined(data: dict[str, Any], rate: float | None) -> None:
    """No training: the foundations as they are."""


ARMS: dict[str, Callable[[dict[str, Any], float | None], None]] = {
    "gradual": gradual,
    "direct": direct,
    "fine_first": fine_first,
    "unrefined": unrefined,
}
TUNED = ("gradual", "direct")
ARM_TITLES = {
    "gradual": "gradual (I, II, III)",
    "direct": "direct (everything at once)",
    "fine_first": "II without I (II longer, then III)",
    "unrefined": "unrefined",
}

JUDGES = {
    "swap_original": "Swapped into the original language model",
    "swap_second": "Swapped into a second language model",
    "own": "In its own MLLM",
    "probes": "The ViT alone",
}
SWAP_METRICS = ("caption_loss", "reading_loss", "reading_accuracy", "question_accuracy")
JUDGED: dict[str, tuple[str, ...]] = {
    "swap_original": SWAP_METRICS,
    "swap_second": SWAP_METRICS,
    "own": (*SWAP_METRICS, "text_accuracy"),
    "probes": ("scene_linear_seen", "scene_linear_unseen", "pooled_linear_seen", "pooled_linear_unseen"),
}
PAIRS = (("gradual", "direct"), ("gradual", "fine_first"), ("gradual", "unrefined"), ("direct", "unrefined"))


def arm_recipe(recipe: Recipe, arm: str, seed: int, rate: float | None = None) -> Recipe:
    """The recipe of one arm and seed.

    Args:
        recipe: with the stages coarse, fine and world, an evaluation and an encoder swap.
        arm: a key of `ARMS`.
        rate: peak rate to try; None keeps the recipe's.

    Raises:
        SailvitError: the recipe lacks something that the comparison needs.
    """
    if tuple(recipe.stages) != GRADUAL_STAGES:
        raise SailvitError("The comparison needs a recipe with the stages coarse, fine and world, in this order.")
    if recipe.evaluation is None or recipe.evaluation.encoder_swap is None or not recipe.demo_parts():
        raise SailvitError("The comparison needs the demo world's parts and evaluation.encoder_swap in the recipe.")
    data = copy.deepcopy(recipe.to_dict())
    ARMS[arm](data, rate)
    # The foundations follow the seed as the recipe says; nothing of a run is kept but the numbers.
    data |= {"seed": seed, "report": False}
    for plan in data["stages"].values():
        plan["arguments"] |= {"save_strategy": "no", "disable_tqdm": True}
    return parse_recipe(data)
