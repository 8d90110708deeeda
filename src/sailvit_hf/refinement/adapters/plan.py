# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a recipe says of adapters: `stages.X.adapters`, in words only; `adapters.py` makes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ...errors import SailvitError

METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"lora": {}, "dora": {"use_dora": True}, "rslora": {"use_rslora": True}}
)
"""Method -> what it sets in `peft.LoraConfig`: LoRA (arXiv 2106.09685), DoRA (2402.09353), rsLoRA (2312.03732)."""


@dataclass(frozen=True, kw_only=True)
class AdapterPlan:
    """The adapters of one module.

    Attributes:
        method: one of `METHODS`.
        rank: of the two small matrices of a layer.
        alpha: their product counts `alpha / rank` times (rslora: `alpha` over the root of the rank); None: 2 * rank.
        dropout: of what goes into them, in training.
        targets: ends of the names of linear layers, such as `[q_proj, v_proj]`; None: all, see `adapter_targets`.
        load_in_4bit: keep the weights below the adapters in four bits (QLoRA, arXiv 2305.14314).
    """

    method: str = "lora"
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: list[str] | None = None
    load_in_4bit: bool = False


@dataclass(frozen=True, kw_only=True)
class AdaptersPlan:
    """Which modules train through adapters in a stage; the connector always trains as a whole."""

    language_model: AdapterPlan | None = None
    vision_tower: AdapterPlan | None = None

    def given(self) -> dict[str, AdapterPlan]:
        """The modules with adapters, by name, in the order of the picture's way."""
        plans = {"vision_tower": self.vision_tower, "language_model": self.language_model}
        return {module: plan for module, plan in plans.items() if plan is not None}

    def check(self, key: str) -> None:
        """Check the values, without peft.

        Raises:
            SailvitError: one is out of range; the sentence names its dotted key below `key`.
        """
        for module, plan in self.given().items():
            if plan.method not in METHODS:
                raise SailvitError(f"{key}.{module}.method must be one of {', '.join(METHODS)}, not {plan.method}.")
            if plan.rank < 1:
                raise SailvitError(f"{key}.{module}.rank must be at least 1, not {plan.rank}.")
            if plan.alpha is not None and plan.alpha <= 0:
                raise SailvitError(f"{key}.{module}.alpha must be greater than 0, not {plan.alpha}.")
            if not 0 <= plan.dropout < 1:
                raise SailvitError(f"{key}.{module}.dropout must be at least 0 and less than 1, not {plan.dropout}.")
            if plan.load_in_4bit and module != "language_model":
                raise SailvitError(f"{key}.{module}.load_in_4bit is for the language model only; remove it.")
