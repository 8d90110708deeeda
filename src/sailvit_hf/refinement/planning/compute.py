# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""FLOPs of a stage, and the time that they take."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ...modeling.vision_towers import native_size
from ..flops import ModelFlops, Work
from ..stages import MODULES
from .data_sizes import Sizes


@dataclass(frozen=True)
class Tile:
    """What a tile is: `tokens` of the language model, `size` (height, width) in pixels."""

    tokens: int
    size: tuple[int, int]


def tile_of(model: Any) -> Tile:
    """The tile of a vision-language model: a picture of its tower's native size."""
    height, width = native_size(model.config.vision_config)
    patches, _, _ = ModelFlops(model).pictures([torch.empty(3, height, width, device="meta")])
    return Tile(math.ceil(patches / model.config.merge_size**2), (height, width))


def work_of(flops: ModelFlops, sizes: Sizes, tile: Tile) -> Work:
    """The work that an average sample is; its pairs of tokens are those of a sample of average length."""
    patches, positions, pairs = flops.pictures([torch.empty(3, *tile.size, device="meta")])
    return Work(
        tokens=sizes.tokens,
        pairs=sizes.tokens**2,
        learnt=sizes.learnt,
        visual=sizes.tiles * tile.tokens,
        patches=sizes.tiles * patches,
        positions=sizes.tiles * positions,
        position_pairs=sizes.tiles * pairs,
    )


@dataclass(frozen=True)
class Compute:
    """FLOPs of one average sample.

    Attributes:
        by_module: what learning needs, forward and backward, by module of `MODULES`.
        recomputed: what gradient checkpointing computes a second time, on top; no part of an MFU.
    """

    by_module: dict[str, float]
    recomputed: float

    @property
    def total(self) -> float:
        """What learning needs: what an MFU counts."""
        return sum(self.by_module.values())


def compute_of(model: Any, sizes: Sizes, tile: Tile, checkpointing: tuple[str, ...], tower_runs: bool) -> Compute:
    """The FLOPs of an average sample of a stage; `requires_grad` of the model is set by it."""
    flops = ModelFlops(model, tower_runs)
    work = work_of(flops, sizes, tile)
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    found = flops(work)
    model.requires_grad_(False)
    forward = ModelFlops(model, tower_runs)(Work(**{**vars(work), "learnt": 0.0}))  # the head is not among the layers
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained[name])
    again, reached = 0.0, False
    for module in MODULES:  # what lies behind something that learns keeps activations, or computes them again
        reached = reached or any(learns for name, learns in trained.items() if f"{module}." in name)
        again += forward[module] if module in checkpointing and reached else 0.0
    return Compute(found, again)


def days(flops: float, gpus: int, tflops: float, mfu: float) -> float:
    """Days that FLOPs take on GPUs of a peak in TFLOP/s."""
    return flops / (gpus * tflops * 1e12 * mfu) / 86_400
