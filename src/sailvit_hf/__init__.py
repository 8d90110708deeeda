# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""SAILViT, Hugging Face-native: refine a vision backbone with an LLM, coarse to fine, and use it anywhere."""

import importlib
from typing import TYPE_CHECKING, Any

from ._registration import register_auto_classes

__version__ = "0.1.0.dev0"

_MODULES = {
    "modeling.configuration_sailvit": ["SAILViTConfig", "SAILViTVLMConfig"],
    "modeling.modeling_sailvit": ["SAILViTBackbone", "SAILViTForImageClassification", "SAILViTModel"],
    "modeling.modeling_sailvit_vlm": ["SAILViTForConditionalGeneration", "SAILViTVLMModel"],
    "modeling.vision_towers": ["layer_groups", "patch_features"],
    "processing.image_processing_pil_sailvit": ["SAILViTImageProcessorPil"],
    "processing.image_processing_sailvit": ["SAILViTImageProcessor"],
    "processing.processing_sailvit": ["SAILViTProcessor"],
    "refinement.arguments": ["RefinementArguments"],
    "refinement.coarse_alignment": ["CoarseAlignmentTrainer"],
    "refinement.fine_alignment": ["FineAlignmentTrainer"],
    "refinement.stages": ["STAGES", "RefinementStage"],
    "refinement.trainer": ["RefinementTrainer"],
    "refinement.world_knowledge": ["WorldKnowledgeTrainer"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOME)


register_auto_classes()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


if TYPE_CHECKING:
    from .modeling.configuration_sailvit import SAILViTConfig, SAILViTVLMConfig
    from .modeling.modeling_sailvit import SAILViTBackbone, SAILViTForImageClassification, SAILViTModel
    from .modeling.modeling_sailvit_vlm import SAILViTForConditionalGeneration, SAILViTVLMModel
    from .modeling.vision_towers import layer_groups, patch_features
    from .processing.image_processing_pil_sailvit import SAILViTImageProcessorPil
    from .processing.image_processing_sailvit import SAILViTImageProcessor
    from .processing.processing_sailvit import SAILViTProcessor
    from .refinement.arguments import RefinementArguments
    from .refinement.coarse_alignment import CoarseAlignmentTrainer
    from .refinement.fine_alignment import FineAlignmentTrainer
    from .refinement.stages import STAGES, RefinementStage
    from .refinement.trainer import RefinementTrainer
    from .refinement.world_knowledge import WorldKnowledgeTrainer
