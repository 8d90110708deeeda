# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Memory of one device, by part, for each way to lay a run out over many of them.

Weights, gradients and the optimiser's state follow from the number of parameters, as in the ZeRO paper (arXiv
1910.02054, section 3); what a step needs beside them comes from `simulation`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...errors import SailvitError
from ...modeling.vision_towers import find_layers
from ..stages import MODULES, module_of
from .simulation import StepMemory

SINGLE = "single"
LAYOUTS: dict[str, str] = {
    "ddp": "every device keeps everything",
    "zero2": "DeepSpeed ZeRO-2: gradients and the optimiser's state are divided",
    "fsdp2": "FSDP2 (`fully_shard`): weights, too, are divided, and gathered layer by layer",
    "zero3": "DeepSpeed ZeRO-3: the same as FSDP2, with DeepSpeed",
}
"""The layouts that can be launched, in the order in which `auto` tries them."""

# Bytes of the optimiser's state a trained parameter, by the beginning of the name: two moments in fp32, or in eight
# bits; one moment; none.
_OPTIMIZER_BYTES = {
    "adamw_torch_8bit": 2.0, "adamw_8bit": 2.0, "adamw_bnb_8bit": 2.0, "paged_adamw_8bit": 2.0, "adamw": 8.0,
    "paged_adamw": 8.0, "stable_adamw": 8.0, "lion_8bit": 1.0, "lion": 4.0, "sgd": 0.0, "adagrad": 4.0,
    "rmsprop": 4.0,
}  # fmt: skip
# DeepSpeed's own defaults, in elements: the bucket that gradients are reduced in (two of them, one on its way), and
# the parameters that stage 3 may keep together.
_ZERO_BUCKET, _ZERO3_LIVE = 5e8, 1e9
# Whether FSDP2 divides the gradients of every micro-batch, as `RefinementTrainer` asks of accelerate unless a recipe
# says otherwise (`sync_each_batch`). Else accelerate leaves it to the last micro-batch of a step (`no_sync`), and
# until then every device keeps all gradients, whole and in half precision.
DIVIDES_EVERY_MICRO_BATCH = True
# Bytes of a weight in NF4 with doubly quantised constants (QLoRA, arXiv 2305.14314: 4.127 bits).
_FOUR_BIT = 4.127 / 8


@dataclass(frozen=True)
class Parameters:
    """How many parameters a model has, a tied one once.

    Attributes:
        trained, frozen: by module of `MODULES`.
        largest_unit: in the largest of the layers that are gathered one by one.
        outside, outside_trained: those that are in no such layer (embeddings, head, connector, norms), and those of
            them that train.
        four_bit: those of the language model that are kept in four bits.
    """

    trained: dict[str, int]
    frozen: dict[str, int]
    largest_unit: int
    outside: int
    outside_trained: int
    four_bit: int = 0

    @classmethod
    def of(cls, model: nn.Module, four_bit: bool = False) -> "Parameters":
        """Those of a vision-language model, `requires_grad` set by the stage.

        Args:
            four_bit: whether the frozen linear layers of the language model are kept in four bits.
        """
        trained, frozen = dict.fromkeys(MODULES, 0), dict.fromkeys(MODULES, 0)
        for name, parameter in model.named_parameters():
            (trained if parameter.requires_grad else frozen)[module_of(name)] += parameter.numel()
        inner: Any = model.model
        units = [*find_layers(inner.vision_tower)[1], *find_layers(inner.language_model)[1]]
        inside = {id(parameter) for unit in units for parameter in unit.parameters()}
        rest = [parameter for parameter in model.parameters() if id(parameter) not in inside]
        decoder = inner.language_model.modules() if four_bit else ()
        linear = [module.weight for module in decoder if isinstance(module, nn.Linear)]
        return cls(
            trained,
            frozen,
            max(sum(parameter.numel() for parameter in unit.parameters()) for unit in units),
            sum(parameter.numel() for parameter in rest),
            sum(parameter.numel() for parameter in rest if parameter.requires_grad),
            sum(weight.numel() for weight in linear if not weight.requires_grad),
        )

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.trained.values()) + sum(self.frozen.values())

    @property
    def training(self) -> int:
        """Those that train."""
        return sum(self.trained.values())


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of one device at the peak of a step.

    Attributes:
        weights: by module; the fp32 copies that train, or with DeepSpeed those in bf16.
        optimizer: its state, and DeepSpeed's fp32 copies of what trains.
        gradients: what is kept of them.
        activations: by part (`simulation.PARTS`), what lives between forward and backward pass.
        working: what comes and goes on top of that.
        exchange: buffers of the exchange between devices, and weights that lie together for a while.
        average: `vision_tower_ema`.
        reserve: kept free for what a plan does not see.
    """

    layout: str
    weights: dict[str, float]
    optimizer: dict[str, float]
    gradients: float
    activations: dict[str, float]
    working: float
    exchange: float = 0.0
    average: float = 0.0
    reserve: float = 0.0
    total: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", sum(self.by_part().values()))

    def by_part(self) -> dict[str, float]:
        """The same in a few words that add up to `total`."""
        return {
            "weights": sum(self.weights.values()),
            "optimiser": sum(self.optimizer.values()),
            "gradients": self.gradients,
            "activations": sum(self.activations.values()),
            "working": self.working,
            "exchange": self.exchange + self.average,
            "reserve": self.reserve,
        }


def optimizer_bytes(name: str) -> float:
    """Bytes of an optimiser's state a trained parameter.

    Raises:
        SailvitError: it is not known how much it keeps.
    """
    if name.startswith("adafactor"):
        return 0.0  # rows and columns of each matrix: next to nothing
    for beginning, size in _OPTIMIZER_BYTES.items():
        if name.startswith(beginning):
            return size
    raise SailvitError(f"the planner does not know what the optimiser {name} keeps: plan with optim=adamw_torch_fused")


def device_memory(
    layout: str,
    parameters: Parameters,
    step: StepMemory,
    devices: int,
    *,
    optimizer: float = 8.0,
    half: bool = True,
    accumulated: bool = False,
    divides_every: bool = DIVIDES_EVERY_MICRO_BATCH,
    batches: int = 1,
    ema: bool = False,
    reserve: float = 0.0,
) -> DeviceMemory:
    """What one device holds at the peak of a step.

    Args:
        layout: one of `LAYOUTS`, or `SINGLE` for one process.
        parameters: of the model in its stage.
        step: of fp32 weights under autocast for `single` and `ddp`, of weights in half precision for the others.
        devices: how many share what is divided.
        optimizer: bytes of its state a trained parameter, see `optimizer_bytes`.
        half: whether products are made in half precision.
        accumulated: whether a step has several micro-batches, so that gradients lie there while one is computed.
        divides_every: whether FSDP2 divides the gradients of every micro-batch, not those of a whole step at its end.
        batches: micro-batches that lie on the device at once.
        ema: whether it keeps an average of the tower.
        reserve: bytes to keep free.
    """
    whole = layout in (SINGLE, "ddp")
    low = 2.0 if half else 4.0
    waits = layout == "fsdp2" and accumulated and not divides_every
    per_gradient = _kept_of_gradients(layout, low, devices, whole or waits)
    weight = {SINGLE: 4.0, "ddp": 4.0, "zero2": low, "fsdp2": 4.0 / devices, "zero3": low / devices}[layout]
    copies = 4.0 if half and layout.startswith("zero") else 0.0
    state = (optimizer + copies) / (1 if whole else devices)
    # A gradient of the last layer comes when its activations have gone: the sum of both peaks is not the peak of sums.
    peak = step.peak(per_gradient, accumulated)
    gradients = min(per_gradient * step.gradients, peak)
    kept = _held(step.activations, batches)
    lower = min(sum(step.activations.values()), max(peak - gradients, 0.0))
    scale = lower / max(sum(step.activations.values()), 1)
    activations = {part: size * scale for part, size in step.activations.items()}
    activations["batch"] += kept
    weights = {m: weight * (parameters.trained[m] + parameters.frozen[m]) for m in MODULES}
    if whole:
        weights["language_model"] -= (weight - _FOUR_BIT) * parameters.four_bit
    return DeviceMemory(
        layout=layout,
        weights=weights,
        optimizer={m: state * parameters.trained[m] for m in MODULES},
        gradients=gradients,
        activations=activations,
        working=peak - gradients - lower,
        exchange=_exchange(layout, parameters, low, waits),
        average=4.0 * parameters.trained["vision_tower"] if ema else 0.0,
        reserve=reserve,
    )


def _kept_of_gradients(layout: str, low: float, devices: int, whole: bool) -> float:
    """Bytes that a device keeps of a byte of gradients."""
    # What FSDP2 divides it keeps in fp32; of what waits, a layer's part takes the place of its whole in the last pass.
    divided = (4.0 / low if layout == "fsdp2" else 1.0) / devices
    return max(1.0, divided) if whole else divided


def _held(activations: Mapping[str, float], batches: int) -> float:
    """The Trainer takes all micro-batches of a step before it begins with the first."""
    return activations["batch"] * (batches - 1)


def _exchange(layout: str, parameters: Parameters, low: float, waits: bool) -> float:
    """Bytes of buffers, and of weights and gradients that lie together for a while, unless all gradients do."""
    if layout == "ddp":
        return 4.0 * parameters.training  # its buckets are a second copy of the gradients
    if layout == "fsdp2":
        # In half precision the layer that runs and the next one; what is in no layer lies together all the time; the
        # gradients of one layer, and of what is in none.
        together = 2 * parameters.largest_unit + parameters.outside
        gradients = min(parameters.largest_unit, parameters.training) + (0 if waits else parameters.outside_trained)
        return low * (together + gradients)
    buckets = 2 * low * min(_ZERO_BUCKET, parameters.training) if layout.startswith("zero") else 0.0
    return buckets + (low * min(_ZERO3_LIVE, parameters.total) if layout == "zero3" else 0.0)
