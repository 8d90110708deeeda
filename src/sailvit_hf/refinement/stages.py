# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The stages of gradual feature refinement as data: what trains in each, and at which published numbers.

Source of every number: SAIL-VL2 technical report (arXiv 2509.14033 v2), section 2.1 and table 3, which describes the
three stages that yield SAILViT. What is not published there is marked "ours".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..errors import SailvitError
from ..modeling.vision_towers import layer_groups, unused_parameters

# The order of the picture's way through the model; tables, optimiser groups and logs follow it.
MODULES: tuple[str, ...] = ("vision_tower", "multi_modal_projector", "language_model")

# Parts of a vision-language model that live outside the three modules and belong to one of them.
_BELONGS_TO = {"lm_head": "language_model"}


def module_of(parameter_name: str) -> str:
    """The module of `MODULES` that a parameter of the vision-language model belongs to.

    Wrappers' prefixes (DDP, FSDP, `torch.compile`, PEFT) are allowed; `lm_head` belongs to the language model.

    Raises:
        SailvitError: the name lies in none of the modules.
    """
    for part in parameter_name.split("."):
        part = _BELONGS_TO.get(part, part)
        if part in MODULES:
            return part
    raise SailvitError(
        f"the parameter {parameter_name!r} is in none of {', '.join(MODULES)}: refinement needs a model with these "
        "modules, such as SAILViTForConditionalGeneration"
    )


@dataclass(frozen=True)
class RefinementStage:
    """One stage of the refinement.

    Attributes:
        key: short name, used in recipes, folders and `refinement.json`.
        title: the name for people.
        trains: the modules (of `MODULES`) whose parameters are trainable; all others are frozen.
        learning_rate: peak learning rate of the published run.
        global_batch_size: samples per optimiser step of the published run, over all devices and accumulation steps.
        epochs: passes over the data.
        source: where each number comes from.
    """

    key: str
    title: str
    trains: tuple[str, ...]
    learning_rate: float
    global_batch_size: int
    epochs: float
    source: str

    def __post_init__(self) -> None:
        unknown = [name for name in self.trains if name not in MODULES]
        if unknown or not self.trains:
            raise SailvitError(
                f"stage {self.key!r} trains {list(self.trains)}: name at least one module, out of {', '.join(MODULES)}"
            )

    def apply(self, model: nn.Module, freeze_vision_layers: int = 0) -> None:
        """Make the parameters of exactly this stage's modules trainable; train or eval mode is left alone.

        Parameters of the vision tower that its features do not depend on (layers after `vision_feature_layer`, heads)
        stay frozen: they would never get a gradient.

        Args:
            model: a vision-language model.
            freeze_vision_layers: how many groups of the vision tower, from the input on, stay frozen, too: the
                embeddings are the first, then comes each layer (see `layer_groups`).

        Raises:
            SailvitError: the model has a parameter outside the known modules, or none in a module that should train.
        """
        owners = [(parameter, module_of(name)) for name, parameter in model.named_parameters()]
        missing = [name for name in self.trains if all(owner != name for _, owner in owners)]
        if missing:
            raise SailvitError(f"stage {self.key!r} trains {', '.join(missing)}, but the model has no parameter there")
        for parameter, owner in owners:
            # Quantised weights have no gradients; `add_adapters` refuses them where nothing trains in their place.
            parameter.requires_grad_(owner in self.trains and parameter.is_floating_point())
        if "vision_tower" in self.trains:
            freeze_in_vision_tower(model, freeze_vision_layers)


def find_module(model: nn.Module, name: str, purpose: str) -> tuple[str, Any]:
    """The dotted name and the module of one of `MODULES` in a model, however deep.

    Raises:
        SailvitError: there is none, and the `purpose` needs it.
    """
    for path, module in model.named_modules():
        if path.split(".")[-1] == name:
            return path, module
    raise SailvitError(f"{purpose} needs a model with a {name}, such as SAILViTForConditionalGeneration")


def vision_tower_of(model: nn.Module) -> tuple[str, PreTrainedModel] | None:
    """The dotted name and the module of a model's vision tower, or None if it is not a model of transformers."""
    for name, module in model.named_modules():
        if name.split(".")[-1] == "vision_tower" and isinstance(module, PreTrainedModel):
            return name, module
    return None


def freeze_in_vision_tower(model: nn.Module, groups: int) -> None:
    """Freeze what the features of a model's vision tower do not depend on, and its first `groups` layer groups.

    Raises:
        SailvitError: nothing of the tower would be left to train.
    """
    found = vision_tower_of(model)
    if found is None:
        if groups:
            raise SailvitError("freeze_vision_layers needs a vision tower of transformers: set it to 0")
        return
    tower = found[1]
    layer = next((m.config.vision_feature_layer for m in model.modules() if _has_feature_layer(m)), -1)
    enumerated = layer_groups(tower)
    frozen = unused_parameters(tower, layer).union(*(group.parameter_names for group in enumerated[:groups]))
    left = False
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in frozen)
        left = left or parameter.requires_grad
    if not left:
        raise SailvitError(
            f"freeze_vision_layers {groups} leaves nothing of the vision tower to train: it has {len(enumerated)} "
            "groups (embeddings, layers, final norm); freeze fewer"
        )


def _has_feature_layer(module: nn.Module) -> bool:
    return hasattr(getattr(module, "config", None), "vision_feature_layer")


def _by_key(stages: Iterable[RefinementStage]) -> Mapping[str, RefinementStage]:
    return MappingProxyType({stage.key: stage for stage in stages})


STAGES: Mapping[str, RefinementStage] = _by_key(
    (
        RefinementStage(
            key="coarse",
            title="Coarse-grained alignment",
            trains=("multi_modal_projector",),
            learning_rate=2e-4,
            global_batch_size=1920,
            epochs=1.0,
            source="arXiv 2509.14033 v2, table 3, warm-up adaptation: modules, learning rate, batch, epochs",
        ),
        RefinementStage(
            key="fine",
            title="Fine-grained alignment",
            trains=("vision_tower", "multi_modal_projector"),
            learning_rate=2e-5,
            global_batch_size=512,
            epochs=1.0,
            source="arXiv 2509.14033 v2, table 3, fine-grained alignment: modules, learning rate, batch; epochs: ours",
        ),
        RefinementStage(
            key="world",
            title="World-knowledge infusion",
            trains=MODULES,
            learning_rate=1e-5,
            global_batch_size=512,
            epochs=1.0,
            source="arXiv 2509.14033 v2, table 3, world-knowledge injection: modules, learning rate, batch, epochs",
        ),
    )
)

DIRECT = RefinementStage(
    key="direct",
    title="Direct co-training",
    trains=MODULES,
    learning_rate=1e-5,
    global_batch_size=512,
    epochs=1.0,
    source="ours: the comparison, everything at once with the numbers of the world-knowledge stage",
)

TARGET_STAGES: Mapping[str, RefinementStage] = _by_key(
    (
        RefinementStage(
            key="basic",
            title="Basic pre-training of the target model",
            trains=("multi_modal_projector",),
            learning_rate=2e-4,
            global_batch_size=2048,
            epochs=1.0,
            source="arXiv 2509.14033 v2, basic pre-training: module, learning rate, batch; epochs: ours",
        ),
        RefinementStage(
            key="multitask",
            title="Multi-task pre-training of the target model",
            trains=MODULES,
            learning_rate=1e-5,
            global_batch_size=512,
            epochs=1.0,
            source="arXiv 2509.14033 v2, multi-task pre-training: modules; the numbers are those of stage III: ours",
        ),
    )
)
"""Not stages of the refinement: the training of a model that uses a refined tower with a fresh connector."""


def get_stage(stage: "RefinementStage | str") -> RefinementStage:
    """A stage by its key (`coarse`, `fine`, `world`, `direct`, `basic`, `multitask`); a stage is returned as it is."""
    if isinstance(stage, RefinementStage):
        return stage
    known = {**STAGES, DIRECT.key: DIRECT, **TARGET_STAGES}
    if stage not in known:
        raise SailvitError(f"there is no stage {stage!r}: choose one of {', '.join(known)}")
    return known[stage]
