# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The next-token loss, with logits only where labels are and a chunk of positions at a time.

At a vocabulary of 151,936 the logits of 8,192 positions take 5 GB in fp32, and their softmax and gradient as much
again. Here one chunk of them lives at a time: its share of the gradients of the hidden states and of the head's weight
is made on the way, so that the backward pass has nothing to recompute.

torch's own `linear_cross_entropy` (2.13 and later) chunks as well, but knows no weights of positions, no label
smoothing and no capped logits when it does, and older versions of torch do not have it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

IGNORED = -100
# fp32 logits that live at once: 256 MiB on a CPU; more on an accelerator, where each chunk adds to the gradient of the
# whole weight in memory that is slow beside the products.
_CHUNK_ELEMENTS, _CHUNK_ELEMENTS_ACCELERATOR = 2**26, 2**28


@dataclass(frozen=True)
class LogitTransform:
    """What some language models do to the head's output: `cap * tanh(scale * logits / cap)`.

    Attributes:
        scale (`float`): Factor: Cohere's `logit_scale`, or one by Granite's `logits_scaling`.
        cap (`float`, *optional*): Soft cap: Gemma's `final_logit_softcapping`.
    """

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: Any) -> "LogitTransform":
        """That of a language model's configuration."""
        scale = getattr(config, "logit_scale", None)
        divisor = getattr(config, "logits_scaling", None)
        scale = (1.0 if scale is None else scale) / (1.0 if divisor is None else divisor)
        return cls(float(scale), getattr(config, "final_logit_softcapping", None))

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


@dataclass(frozen=True)
class LearntPositions:
    """Where a batch is learnt: `index` (N,) into the flattened positions, `targets` (N,), `weights` (N,) or None."""

    index: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor | None


def shifted(
    labels: torch.Tensor, shift_labels: torch.Tensor | None = None, loss_weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Labels (B, L) and their weights moved one place to the left; with `shift_labels` both are so already."""
    if shift_labels is not None:
        return shift_labels, loss_weights
    moved = nn.functional.pad(labels, (0, 1), value=IGNORED)[..., 1:]
    return moved, None if loss_weights is None else nn.functional.pad(loss_weights, (0, 1))[..., 1:]


def learnt_positions(targets: torch.Tensor, loss_weights: torch.Tensor | None = None) -> LearntPositions:
    """The positions of `targets` (B, L), shifted already, that are not -100."""
    flat = targets.reshape(-1)
    index = (flat != IGNORED).nonzero().squeeze(-1)
    weights = None if loss_weights is None else loss_weights.reshape(-1)[index].float()
    return LearntPositions(index, flat[index], weights)


def mean_loss(
    total: torch.Tensor, positions: LearntPositions, num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """`total` over the number of learnt tokens of the global batch if it is given, else over this batch's weights."""
    if num_items_in_batch is None:
        weights = positions.weights
        return total / (len(positions.targets) if weights is None else weights.sum().to(total.device))
    if torch.is_tensor(num_items_in_batch):
        num_items_in_batch = num_items_in_batch.to(total.device)
    return total / num_items_in_batch


def weighted_loss(logits: torch.Tensor, positions: LearntPositions, label_smoothing: float = 0.0) -> torch.Tensor:
    """The weighted sum of the losses of `logits` (B, L, V), in fp32; all logits exist."""
    chosen = logits.reshape(-1, logits.shape[-1])[positions.index.to(logits.device)].float()
    return _sum_of_losses(chosen, positions.targets, positions.weights, label_smoothing)


def _sum_of_losses(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None, label_smoothing: float
) -> torch.Tensor:
    targets = targets.to(logits.device)
    losses = nn.functional.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=label_smoothing)
    return losses.sum() if weights is None else (losses * weights.to(losses)).sum()


def chunk_length(vocabulary: int, device: torch.device) -> int:
    """Positions of a chunk, so that its fp32 logits take 256 MiB on a CPU and 1 GiB elsewhere; at least 64."""
    elements = _CHUNK_ELEMENTS if device.type == "cpu" else _CHUNK_ELEMENTS_ACCELERATOR
    return max(64, elements // vocabulary // 64 * 64)


def _grad_of_logits(
    log_probs: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, transform: LogitTransform, smoothing: float
) -> torch.Tensor:
    """The gradient of each position's loss by the head's output, but for `transform.scale`; overwrites the inputs."""
    gradient = log_probs.exp_()
    if smoothing:
        gradient.sub_(smoothing / gradient.shape[-1])
    gradient.scatter_add_(1, targets[:, None], gradient.new_full((len(targets), 1), smoothing - 1.0))
    if transform.cap is not None:
        gradient.mul_(logits.div_(transform.cap).square_().neg_().add_(1.0))
    return gradient


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of the cross entropies of `hidden @ weight.T + bias`; see `LanguageModelingHead.forward`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        weights: torch.Tensor | None,
        transform: LogitTransform,
        smoothing: float,
        chunk: int,
        with_gradients: bool,
    ) -> torch.Tensor:
        needs = [with_gradients and needed for needed in ctx.needs_input_grad[:3]]
        device = hidden.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        dtype = low or hidden.dtype
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        # Several chunks' shares of a half precision gradient are added up in fp32, as one product would do inside.
        sums = torch.float32 if len(hidden) > chunk else weight.dtype
        by_hidden = torch.zeros_like(hidden) if needs[0] else None
        by_weight = torch.zeros_like(weight, dtype=sums) if needs[1] else None
        by_bias = torch.zeros_like(bias, dtype=sums) if needs[2] and bias is not None else None
        with torch.autocast(device, enabled=False):
            head, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
            for start in range(0, len(hidden), chunk):
                part = slice(start, start + chunk)
                states, chosen = hidden[part].to(dtype), targets[part]
                logits = transform(nn.functional.linear(states, head, offset).float())
                log_probs = torch.log_softmax(logits, dim=-1)
                logits = logits if transform.cap is not None and any(needs) else states  # frees the logits
                losses[part] = -log_probs.gather(1, chosen[:, None]).squeeze(1)
                if smoothing:
                    losses[part] = (1.0 - smoothing) * losses[part] - smoothing * log_probs.mean(-1)
                if any(needs):
                    gradient = _grad_of_logits(log_probs, logits, chosen, transform, smoothing).to(dtype)
                    del logits, log_probs
                    factor = hidden.new_full((len(states),), transform.scale, dtype=torch.float32)
                    factor = (factor if weights is None else factor * weights[part])[:, None].to(dtype)
                    if by_hidden is not None:
                        by_hidden[part] = (gradient @ head) * factor
                    if by_weight is not None:
                        _add_product(by_weight, gradient.t(), states * factor)
                    if by_bias is not None:
                        by_bias += (gradient.t() @ factor).squeeze(1)
                    del gradient  # before the next chunk's logits
        ctx.gradients = (
            by_hidden,
            None if by_weight is None else by_weight.to(weight.dtype),
            None if by_bias is None or bias is None else by_bias.to(bias.dtype),
        )
        return losses.sum() if weights is None else (losses * weights).sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("The chunked loss keeps its gradients for one backward pass; call the model again.")
        # Given away, so that autograd may take them over as they are instead of copying the head's.
        gradients, ctx.gradients = ctx.gradients, None
        scaled = [None if one is None else one.mul_(grad_outputs[0].to(one.dtype)) for one in gradients]
        return (*scaled, *(None,) * 6)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class LanguageModelingHead(nn.Linear):
    """The linear layer from hidden states to logits, which can give the loss without the logits.

    It does so inside of its own `forward`, so that whatever brings a layer's weight together when the layer is called
    (sharded data-parallel training, offloading) works for the loss as for logits.
    """

    @classmethod
    def of(cls, head: Any) -> Any:
        """A head with the very parameters of `head`, if that is a plain linear layer; anything else as it is."""
        if type(head) is not nn.Linear:
            return head
        made = cls.__new__(cls)
        # Hooks and transformers' marks (such as "this one is initialised") stay with it.
        made.__dict__ = {**head.__dict__, "_parameters": dict(head._parameters)}
        return made

    def forward(
        self,
        hidden_states: torch.Tensor,
        positions: LearntPositions | None = None,
        transform: LogitTransform | None = None,
        label_smoothing: float = 0.0,
        chunk: int | None = None,
    ) -> torch.Tensor:
        """Logits (..., V) of hidden states (..., d); or, given `positions`, the weighted sum of their losses.

        Args:
            hidden_states (`torch.Tensor` of shape `(..., d)`): With `positions`, those of the positions: `(N, d)`.
            positions ([`LearntPositions`], *optional*): What is learnt there.
            transform ([`LogitTransform`], *optional*): What is done to the logits before the loss.
            label_smoothing (`float`): As in `torch.nn.functional.cross_entropy`.
            chunk (`int`, *optional*): Positions at a time; by default as many as fit 256 MiB (1 GiB on accelerators).

        Returns:
            fp32 scalar with `positions`. Its backward pass can be run once.
        """
        if positions is None:
            return super().forward(hidden_states)
        return _sum_of_chunks(
            hidden_states, self.weight, self.bias, positions, transform or LogitTransform(), label_smoothing, chunk
        )


@torch.compiler.disable
def _sum_of_chunks(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    positions: LearntPositions,
    transform: LogitTransform,
    label_smoothing: float,
    chunk: int | None,
) -> torch.Tensor:
    # Not compiled: how many positions are learnt differs from batch to batch, and the products are the time.
    weights = None if positions.weights is None else positions.weights.to(hidden.device)
    targets, chunk = positions.targets.to(hidden.device), chunk or chunk_length(len(weight), hidden.device)
    return _LinearCrossEntropy.apply(
        hidden, weight, bias, targets, weights, transform, label_smoothing, chunk, torch.is_grad_enabled()
    )


def chunked_loss(
    head: nn.Module,
    hidden_states: torch.Tensor,
    positions: LearntPositions,
    transform: LogitTransform,
    label_smoothing: float = 0.0,
    whole: bool = True,
) -> torch.Tensor:
    """The weighted sum of the losses at `positions`, in fp32, without more than one chunk of logits at a time.

    A head that is not a [`LanguageModelingHead`] (quantised, or with an adapter around it), or whose weight is in
    pieces on several devices (`whole=False`), is called once a chunk, and again in the backward pass.

    Args:
        hidden_states (`torch.Tensor` of shape `(B, L, d)`): The language model's last hidden states.
    """
    chosen = hidden_states.flatten(0, -2).index_select(0, positions.index.to(hidden_states.device))
    if whole and isinstance(getattr(head, "_orig_mod", head), LanguageModelingHead):  # _orig_mod: compiled
        return head(chosen, positions, transform, label_smoothing)
    vocabulary = getattr(head, "out_features", None) or 2**17
    chunk, count = chunk_length(vocabulary, chosen.device), len(chosen)

    def of_chunk(states: torch.Tensor, part: slice) -> torch.Tensor:
        weights = None if positions.weights is None else positions.weights[part]
        return _sum_of_losses(transform(head(states)), positions.targets[part], weights, label_smoothing)

    total = chosen.new_zeros((), dtype=torch.float32)
    for start in range(0, max(count, 1), chunk):  # once even for no position: every process calls the head
        part = slice(start, start + chunk)
        total = total + checkpoint(of_chunk, chosen[part], part, use_reentrant=False)
    return total


__all__ = ["LanguageModelingHead", "LogitTransform"]
