# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a training step has to compute, in FLOPs, and what a GPU could compute in that time.

Counted is the work that learning needs, by module: matrix products (a multiply-add is two) and attention over whole
samples, causal or not, as PaLM counts it (arXiv 2204.02311, appendix B). Not counted is what an implementation adds:
padding, blank pictures, activations computed twice for checkpointing, logits where nothing is learnt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..modeling.vision_towers import find_layers, layers_run, patch_grid

# Dense bf16 (or fp16, where there is no bf16) products in TFLOP/s: half of what data sheets give with sparsity. The
# first of these whose words stand in a device's name is its. Source: the data sheet of each, by NVIDIA and AMD.
PEAK_TFLOPS: Mapping[str, float] = MappingProxyType(
    {
        "B200": 2250.0,
        "GH200": 989.4,
        "H200 NVL": 835.5,
        "H200": 989.4,
        "H100 PCIe": 756.5,
        "H100 NVL": 835.5,
        "H100": 989.4,
        "H800": 989.4,
        "A100": 312.0,
        "A800": 312.0,
        "L40S": 362.05,
        "L4": 121.0,
        "V100 SXM2": 125.0,
        "V100 PCIE": 112.0,
        "T4": 65.0,
        "RTX 4090": 165.2,
        "RTX 3090": 71.0,
        "MI300X": 1307.4,
        "MI250X": 191.5,  # of one of its two dies, each of which is a device: the data sheet has 383 for both
    }
)


def peak_flops(device: torch.device, half_precision: bool) -> float | None:
    """FLOP/s that a GPU could do in half precision; None for one that is not known, for fp32, and for a CPU."""
    if device.type != "cuda" or not half_precision:
        return None
    words = torch.cuda.get_device_name(device).replace("-", " ").split()
    if "MIG" in words or "Laptop" in words:  # a part of a GPU, or a slower one
        return None
    for name, peak in PEAK_TFLOPS.items():
        wanted = name.split()
        if any(words[place : place + len(wanted)] == wanted for place in range(len(words))):
            return peak * 1e12
    return None


@dataclass
class Cost:
    """FLOPs of a part, forward and backward: for each token and, in attention, for each pair of tokens."""

    token: float = 0.0
    pair: float = 0.0


@dataclass
class _Costs:
    """Adds up the costs of parts in the order in which they run."""

    learning: bool = False  # whether something so far learns, so that gradients flow back to here
    cost: Cost = field(default_factory=Cost)

    def add(self, part: nn.Module, experts: float = 1.0, attention_width: float = 0.0, first: bool = False) -> None:
        """Add a part; `first`: what it reads learns nothing, so that only its own weights need gradients."""
        self.learning = self.learning or any(parameter.requires_grad for parameter in part.parameters())
        for weight, share in _factors(part, experts):
            product = 2.0 * weight.numel() * share
            self.cost.token += product * (1 + (self.learning and not first) + weight.requires_grad)
        self.cost.pair += 4.0 * attention_width * (1 + 2 * self.learning)

    def take(self) -> Cost:
        """The costs so far; begin another sum, behind them."""
        cost, self.cost = self.cost, Cost()
        return cost


def _factors(part: nn.Module, experts: float) -> list[tuple[nn.Parameter, float]]:
    """The weights that a part multiplies each token with, and the share of each that a token meets."""
    found = []
    for module in part.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)):
            packed = getattr(module.weight, "quant_state", None)  # two weights of four bits in a byte
            found.append((module.weight, 1.0 if packed is None else packed.shape.numel() / module.weight.numel()))
        else:  # experts are kept as one weight of three dimensions
            own = module.parameters(recurse=False)
            found += [(p, experts) for p in own if p.ndim == 3 and experts < 1 and "xpert" in type(module).__name__]
    return found


def _attention_width(config: Any) -> float:
    """Width of all heads of a layer together."""
    heads: int = config.num_attention_heads
    return float(heads * (getattr(config, "head_dim", None) or config.hidden_size // heads))


def _share_of_experts(config: Any) -> float:
    """Share of a layer's experts that a token goes through; 1 without experts."""
    chosen = getattr(config, "num_experts_per_tok", None)
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    return chosen / experts if chosen and experts else 1.0


@dataclass(frozen=True)
class Work:
    """What batches hold, padding left out.

    Attributes:
        tokens: text and pictures.
        pairs: of every sample the square of its tokens, summed up.
        learnt: tokens with a label.
        visual: tokens that come from pictures.
        patches: of all pictures.
        positions: tokens of the vision tower, class tokens and registers included.
        position_pairs: of every picture the square of its positions, summed up.
    """

    tokens: float = 0
    pairs: float = 0
    learnt: float = 0
    visual: float = 0
    patches: float = 0
    positions: float = 0
    position_pairs: float = 0


class ModelFlops:
    """FLOPs of a training step of a vision-language model, from its parts and what of them learns.

    A part that learns nothing and stands behind nothing that learns runs forward only; behind something that learns it
    passes gradients on, which costs a second forward (for attention two); a weight that learns costs one more.

    Args:
        model: with `vision_tower`, `multi_modal_projector` and `language_model` in `model.model`, and `lm_head`;
            `requires_grad` set by the stage.
        tower_runs: whether the tower's features are computed, not read from where they are kept.

    Raises:
        ValueError: a part is no plain transformer.
    """

    def __init__(self, model: Any, tower_runs: bool = True) -> None:
        parts, config = model.model, model.config
        tower, text = parts.vision_tower, parts.language_model
        path, layers = find_layers(tower)
        self._tower_config = tower.config
        facts = parts.vision_facts
        self._extra = (facts.leading or 0) + facts.trailing
        width, experts = _attention_width(tower.config), _share_of_experts(tower.config)
        costs = _Costs()
        for before in _before(tower, path):
            costs.add(before, first=True)
        self.patch = costs.take()
        for layer in list(layers)[: layers_run(tower.config, config.vision_feature_layer)]:
            costs.add(layer, experts, width)
        self.position = costs.take()
        if not tower_runs:
            self.patch = self.position = Cost()
        costs.add(parts.multi_modal_projector)
        self.visual = costs.take()
        costs.learning = costs.learning or text.get_input_embeddings().weight.requires_grad
        width, experts = _attention_width(text.config), _share_of_experts(text.config)
        for layer in find_layers(text)[1]:
            costs.add(layer, experts, width)
        self.token = costs.take()
        costs.add(model.lm_head)
        self.learnt = costs.take()

    def pictures(self, pixel_values: Any) -> tuple[int, int, int]:
        """Patches, positions and pairs of positions of pictures: (n, C, H, W), or a list of (C, H, W)."""
        patches = positions = pairs = 0
        for picture, count in _shapes(pixel_values):
            rows, columns = patch_grid(self._tower_config, picture)
            length = rows * columns + self._extra
            patches, positions = patches + count * rows * columns, positions + count * length
            pairs += count * length * length
        return patches, positions, pairs

    def __call__(self, work: Work) -> dict[str, float]:
        """FLOPs by module."""
        return {
            "vision_tower": self.patch.token * work.patches
            + self.position.token * work.positions
            + self.position.pair * work.position_pairs,
            "multi_modal_projector": self.visual.token * work.visual,
            "language_model": self.token.token * work.tokens
            + self.token.pair * work.pairs
            + self.learnt.token * work.learnt,
        }


def _before(tower: nn.Module, path: str) -> Sequence[nn.Module]:
    """What runs before the layers: the patch embedding."""
    found, module = [], tower
    for step in path.split("."):
        children = list(module._modules)
        found += [module._modules[name] for name in children[: children.index(step)]]
        module = module.get_submodule(step)
    return [part for part in found if part is not None]


def _shapes(pixel_values: Any) -> list[tuple[torch.Tensor, int]]:
    """One picture of each size, and how many there are."""
    if isinstance(pixel_values, torch.Tensor):
        return [(pixel_values, pixel_values.shape[0])]
    return [(picture, 1) for picture in pixel_values]
