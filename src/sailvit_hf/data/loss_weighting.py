# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What each learnt token weighs in the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..errors import SailvitError

IGNORE_INDEX = -100
# How much each sample counts, as a power of its number n of learnt tokens: a token's weight is n ** (power - 1).
LOSS_WEIGHTINGS = {"token": 1.0, "square-root": 0.5, "sample": 0.0}


def check_weighting(weighting: str) -> str:
    """The name itself.

    Raises:
        SailvitError: there is no such weighting.
    """
    if weighting not in LOSS_WEIGHTINGS:
        raise SailvitError(f"loss_weighting {weighting!r} is unknown: use one of {', '.join(LOSS_WEIGHTINGS)}")
    return weighting


def loss_weights(labels: torch.Tensor, weighting: str) -> torch.Tensor:
    """What each label of samples weighs.

    With n the number of a sample's learnt tokens, a token weighs 1 (`"token"`), 1 / sqrt(n) (`"square-root"`, as
    InternVL 2.5 does it) or 1 / n (`"sample"`); others weigh nothing. The loss is the weighted mean over the whole
    global batch: sum of weight times loss, divided by the sum of weights.

    Args:
        labels (`torch.Tensor` of shape `(..., L)`): a sample a row, -100 where nothing is learnt. The first label of a
            row is predicted from nothing, and weighs nothing either.

    Returns:
        `torch.Tensor` of the labels' shape, float32.
    """
    learnt = labels != IGNORE_INDEX
    learnt[..., 0] = False
    count = learnt.sum(-1, keepdim=True).clamp(min=1)
    return learnt.float() * count.float() ** (LOSS_WEIGHTINGS[weighting] - 1.0)


def sum_of_weights(batches: Sequence[Mapping[str, Any]]) -> torch.Tensor | None:
    """The weights of all labels of these batches together, a scalar; `None` if they have no `loss_weights`."""
    weights = [batch["loss_weights"] for batch in batches if "loss_weights" in batch]
    return torch.stack([each.sum(dtype=torch.float32) for each in weights]).sum() if weights else None


class WeightingCollator:
    """A collator whose batches, a sample a row, say what each label weighs.

    Args:
        collator: gives batches with `labels`.
        weighting: see `loss_weights`.
    """

    def __init__(self, collator: Callable[[list[Any]], dict[str, Any]], weighting: str) -> None:
        self.collator, self.weighting = collator, check_weighting(weighting)

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        """The collator's batch and, unless every token weighs the same, `loss_weights` (B, L) float32."""
        batch = self.collator(samples)
        if self.weighting != "token" and "labels" in batch:
            batch = {**batch, "loss_weights": loss_weights(batch["labels"], self.weighting)}
        return batch
