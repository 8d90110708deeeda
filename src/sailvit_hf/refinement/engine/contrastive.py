# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""An auxiliary contrast of pictures and their texts, for the stages in which the language model is frozen.

What a picture became behind the connector, the mean of its tokens, is to be nearer to what the language model makes
of its own sample's text than to other samples' texts, and the other way round. For it the language model reads the
texts a second time, without pictures: the states of its first reading hold what it saw of the picture, and would solve
the task without the vision tower. A text's state is the mean over the tokens of its answers, read with their question:
the last token is the turn's end, after which every text goes on alike.

No part of the published recipe, and ours but for the two losses: InfoNCE as in CLIP (arXiv 2103.00020) and the sigmoid
loss of SigLIP (arXiv 2303.15343), at a fixed temperature, so that a checkpoint gets no further parameters.
"""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from ...errors import SailvitError
from ..stages import RefinementStage, find_module

KINDS = ("none", "infonce", "sigmoid")
_IGNORED = -100
_SMALLEST_NORM = 1e-6


def check_contrast(kind: str, weight: float, temperature: float, stage: RefinementStage) -> None:
    """Make sure that a stage can have this contrast.

    Raises:
        SailvitError: it cannot, or a value is out of its range.
    """
    if kind not in KINDS:
        raise SailvitError(f"contrastive_loss {kind!r} is unknown: choose one of {', '.join(KINDS)}")
    if kind == "none":
        return
    if "language_model" in stage.trains:
        raise SailvitError(
            f"contrastive_loss is set, but stage {stage.key!r} trains the language model, and texts could move to the "
            "pictures instead: set it in the stages coarse and fine only"
        )
    for name, value in (("contrastive_weight", weight), ("contrastive_temperature", temperature)):
        if not value > 0:
            raise SailvitError(f"{name} is {value}: give a number above 0 (contrastive_loss 'none' has no contrast)")


# --- samples of a batch -------------------------------------------------------------------------------------------


class Texts(NamedTuple):
    """The texts of samples without their pictures, padded on the right.

    Attributes:
        input_ids: (n, L).
        attention_mask: (n, L).
        answers: (n, L) bool, the tokens that the assistant said.
        keys: (n,) int64, equal for equal texts.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    answers: torch.Tensor
    keys: torch.Tensor


def sample_numbers(batch: Mapping[str, Any]) -> torch.Tensor:
    """To which sample each token belongs, (B, L) from 0 on: a row each; in packs, from one position 0 to the next."""
    input_ids, positions = batch["input_ids"], batch.get("position_ids")
    if positions is not None and positions.shape == input_ids.shape and batch.get("attention_mask") is None:
        return (positions == 0).flatten().cumsum(0).view_as(positions) - 1
    return torch.arange(len(input_ids), device=input_ids.device)[:, None].expand_as(input_ids)


def texts_of(batch: Mapping[str, Any], image_token_id: int) -> tuple[Texts, torch.Tensor]:
    """The texts of the samples that have a picture and an answer, and the number of each of them, (n,)."""
    input_ids, mask = batch["input_ids"], batch.get("attention_mask")
    numbers = sample_numbers(batch)
    real = torch.ones_like(input_ids).bool() if mask is None else mask.bool()
    pictured, answered = input_ids == image_token_id, batch["labels"] != _IGNORED
    count = int(numbers.max()) + 1
    has = [torch.zeros(count, dtype=torch.bool, device=input_ids.device) for _ in range(2)]
    for found, where in zip(has, (pictured & real, answered & real), strict=True):
        found[numbers[where]] = True
    chosen = (has[0] & has[1]).nonzero()[:, 0]
    row_of = torch.full((count,), -1, device=input_ids.device)
    row_of[chosen] = torch.arange(len(chosen), device=input_ids.device)
    kept = real & ~pictured & (row_of[numbers] >= 0)
    rows, ids, answers = row_of[numbers[kept]], input_ids[kept], answered[kept]
    lengths = torch.bincount(rows, minlength=len(chosen))
    places = torch.arange(len(rows), device=rows.device) - (lengths.cumsum(0) - lengths)[rows]
    shape = (len(chosen), int(lengths.max()) if len(chosen) else 1)
    padded = [ids.new_zeros(shape).index_put((rows, places), values) for values in (ids, torch.ones_like(ids))]
    said = torch.zeros(shape, dtype=torch.bool, device=ids.device).index_put((rows, places), answers)
    # A hash, modulo 2**64, of the tokens and their places, so that equal texts of other processes are known as such.
    mixed = (ids + 1) * (2 * places + 1) * 0x5851F42D4C957F2D
    mixed = (mixed ^ (mixed >> 29)) * 0x14057B7EF767814F
    keys = ids.new_zeros(len(chosen)).index_add(0, rows, mixed)
    return Texts(padded[0], padded[1], said, keys), chosen


def pooled_pictures(
    image_features: torch.Tensor, batch: Mapping[str, Any], image_token_id: int, chosen: torch.Tensor
) -> torch.Tensor:
    """The mean (n, d), in fp32, of each chosen sample's picture tokens; `image_features` (..., d) in reading order."""
    numbers = sample_numbers(batch)[batch["input_ids"] == image_token_id]
    features = image_features.reshape(-1, image_features.shape[-1]).float()
    count = int(chosen.max()) + 1 if len(chosen) else 0
    kept = numbers < count
    sums = features.new_zeros(count, features.shape[-1]).index_add(0, numbers[kept], features[kept])
    tokens = torch.bincount(numbers[kept], minlength=count)
    return sums[chosen] / tokens[chosen, None]


# --- losses -------------------------------------------------------------------------------------------------------


def _directions(states: torch.Tensor) -> torch.Tensor:
    """States (n, d) without their mean over all, as directions.

    What all states have in common, most of what a language model's have, would make all of them look alike.
    """
    return F.normalize(states - states.mean(0), dim=-1, eps=_SMALLEST_NORM)


def contrast(
    kind: str, pictures: torch.Tensor, texts: torch.Tensor, keys: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The loss of n pairs.

    With s_ij the cosine of picture i and text j (both after subtracting the mean of all n) over the temperature:

    - `"infonce"`: the mean over i of -log softmax_j(s_ij)[i] and -log softmax_j(s_ji)[i], halved.
    - `"sigmoid"`: the sum over i and j of -log sigmoid(z_ij (s_ij + b)) over n, with z_ij = 1 for i = j and else -1.
      The bias b is -log(n - 1), so that unrelated pairs get the odds that a pair has; SigLIP learns it from -10 on,
      which is that of its batch of 32k.

    A pair of different samples whose texts are equal says nothing and is left out.

    Args:
        pictures, texts: (n, d), fp32.
        keys: (n,), equal for equal texts.
        temperature: fixed.

    Returns:
        A scalar; 0 for fewer than two pairs.
    """
    count = len(pictures)
    if count < 2:
        return pictures.sum() * 0.0
    similarity = _directions(pictures) @ _directions(texts).T / temperature
    own = torch.eye(count, dtype=torch.bool, device=pictures.device)
    silent = (keys[:, None] == keys) & ~own
    if kind == "infonce":
        similarity = similarity.masked_fill(silent, -torch.inf)
        target = torch.arange(count, device=pictures.device)
        return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2
    logits = similarity - torch.log(torch.tensor(count - 1.0))
    losses = F.softplus(torch.where(own, -logits, logits))
    return losses.masked_fill(silent, 0.0).sum() / count


def gathered(own: torch.Tensor) -> torch.Tensor:
    """The rows (n, d) of all processes, one process after the other.

    Every process may have another number of rows, also none. Gradients reach this process's own rows: each computes
    the loss of all pairs, so that these are the whole gradients, and nothing has to be sent back.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return own
    world, rank = dist.get_world_size(), dist.get_rank()
    counts = [torch.zeros(1, dtype=torch.long, device=own.device) for _ in range(world)]
    dist.all_gather(counts, torch.tensor([len(own)], device=own.device))
    sizes = [int(count) for count in counts]
    padded = F.pad(own.detach(), (0, 0, 0, max(sizes) - len(own))).contiguous()
    found = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(found, padded)
    found = [rows[:size] for rows, size in zip(found, sizes, strict=True)]
    return torch.cat([*found[:rank], own, *found[rank + 1 :]])


# --- in the trainer -----------------------------------------------------------------------------------------------


@contextmanager
def _last_states(language_model: nn.Module):  # type: ignore[no-untyped-def]
    """A list that gets the last hidden state of each run of the language model inside."""
    states: list[torch.Tensor] = []
    handle = language_model.register_forward_hook(lambda module, inputs, output: states.append(output[0]))
    try:
        yield states
    finally:
        handle.remove()


class Read(NamedTuple):
    """A batch's texts, read without pictures: `states` (n, d) fp32, `keys` (n,), `chosen` (n,) as in `texts_of`."""

    states: torch.Tensor
    keys: torch.Tensor
    chosen: torch.Tensor


class ContrastiveLoss:
    """The contrast of a training batch, over all processes: `read` before the model's own forward, then the call.

    Args:
        model: the vision-language model, not wrapped.
        kind, temperature: see `contrast`.
    """

    def __init__(self, model: Any, kind: str, temperature: float) -> None:
        self.kind, self.temperature = kind, temperature
        self.image_token_id = model.config.image_token_id
        _, self._language_model = find_module(model, "language_model", "contrastive_loss")
        self._sum: torch.Tensor | float = 0.0
        self._number = 0

    @torch.no_grad()
    def read(self, model: Callable[..., Any], batch: Mapping[str, Any]) -> Read:
        """Have the language model read the texts of a batch's samples with pictures, without the pictures.

        Args:
            model: the model as the trainer calls it, in whatever it is wrapped: parts of a sharded one cannot run
                alone. A process without such texts calls it, too, since the others would wait for it.
            batch: `input_ids` and `labels` (B, L), padded rows with `attention_mask`, or packs with `position_ids`.
        """
        texts, chosen = texts_of(batch, self.image_token_id)
        ids, mask = texts.input_ids, texts.attention_mask
        if not len(chosen):
            ids, mask = ids.new_zeros(1, 1), mask.new_ones(1, 1)
        with _last_states(self._language_model) as found:
            model(input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=False)
        states = found[0].float()[: len(chosen), : texts.answers.shape[1]]
        weights = texts.answers / texts.answers.sum(1, keepdim=True)
        return Read(torch.einsum("nl,nld->nd", weights.to(states), states), texts.keys, chosen)

    def __call__(self, read: Read, batch: Mapping[str, Any], image_features: torch.Tensor | None) -> torch.Tensor:
        """The loss of all processes' pairs, whose gradients reach this process's pictures.

        Args:
            read: of the same batch.
            batch: as in `read`.
            image_features: (..., d), what the connector gave, in reading order; `None` without pictures.
        """
        states, pictures = read.states, torch.zeros_like(read.states)
        if image_features is not None:
            pictures = pooled_pictures(image_features, batch, self.image_token_id, read.chosen)
        rows, keys = gathered(torch.cat([pictures, states], dim=1)), gathered(read.keys[:, None])
        width = states.shape[-1]
        loss = contrast(self.kind, rows[:, :width], rows[:, width:], keys[:, 0], self.temperature)
        self._sum, self._number = self._sum + loss.detach(), self._number + 1
        return loss

    def take(self) -> float:
        """The mean loss of the batches since the last call."""
        mean = float(self._sum) / max(1, self._number)
        self._sum, self._number = 0.0, 0
        return mean


def share_of_step(loss: torch.Tensor, processes: int, batches: int) -> torch.Tensor:
    """What a loss that every process has whole, for one of several micro-batches, adds to the loss of a step.

    The step's loss is the mean over processes and the sum over micro-batches. The gradients, of which each process has
    those of its own samples only, are a mean over processes as well, and have to come out as their sum.
    """
    value = loss.detach()
    return (value + processes * (loss - value)) / batches
