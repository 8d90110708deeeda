# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Registers our classes with transformers' Auto classes, without importing torch before anybody asks for a model.

Registering needs the classes, these need torch, and `import sailvit_hf` must stay cheap. So each class is registered
once transformers has imported the module of its Auto class: at once when that has happened already.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def _register_configs(auto: Any) -> None:
    from .modeling.configuration_sailvit import SAILViTConfig, SAILViTVLMConfig

    for config in (SAILViTConfig, SAILViTVLMConfig):
        auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_models(auto: Any) -> None:
    from .modeling import modeling_sailvit as vit
    from .modeling import modeling_sailvit_vlm as vlm

    auto.AutoModel.register(vit.SAILViTConfig, vit.SAILViTModel, exist_ok=True)
    auto.AutoModel.register(vlm.SAILViTVLMConfig, vlm.SAILViTVLMModel, exist_ok=True)
    auto.AutoBackbone.register(vit.SAILViTConfig, vit.SAILViTBackbone, exist_ok=True)
    auto.AutoModelForImageClassification.register(vit.SAILViTConfig, vit.SAILViTForImageClassification, exist_ok=True)
    auto.AutoModelForImageTextToText.register(
        vlm.SAILViTVLMConfig, vlm.SAILViTForConditionalGeneration, exist_ok=True
    )


def _register_image_processors(auto: Any) -> None:
    from transformers.utils import is_torchvision_available

    from .modeling.configuration_sailvit import SAILViTConfig, SAILViTVLMConfig
    from .processing.picture_settings_sailvit import backends

    # One that cannot be used is not registered, so that who asks for it gets the other, as with transformers' own.
    found = {name: each for name, each in backends().items() if name == "pil" or is_torchvision_available()}
    for config in (SAILViTConfig, SAILViTVLMConfig):
        auto.AutoImageProcessor.register(config, image_processor_classes=dict(found), exist_ok=True)


def _register_processors(auto: Any) -> None:
    from .modeling.configuration_sailvit import SAILViTVLMConfig
    from .processing.processing_sailvit import SAILViTProcessor

    auto.AutoProcessor.register(SAILViTVLMConfig, SAILViTProcessor, exist_ok=True)


_PENDING: dict[str, Callable[[Any], None]] = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.image_processing_auto": _register_image_processors,
    "transformers.models.auto.processing_auto": _register_processors,
}


_busy = False


def _register_what_is_there() -> None:
    global _busy
    if _busy:
        return  # one of our files is half imported, and is importing what it needs of transformers
    _busy = True
    try:
        # Registering one imports our files, and these more of transformers: another may be there when we are back.
        while name := next((name for name in _PENDING if name in sys.modules), None):
            _PENDING.pop(name)(sys.modules[name])
    finally:
        _busy = False


class _RegisteringLoader(importlib.abc.Loader):
    """Loads a module of transformers as its own loader would, then registers with the Auto classes that came along."""

    def __init__(self, loader: importlib.abc.Loader, finder: "_RegisteringFinder") -> None:
        self.loader, self.finder = loader, finder

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self.loader.exec_module(module)
        finally:
            self.finder.busy = False
        _register_what_is_there()


class _RegisteringFinder(importlib.abc.MetaPathFinder):
    """Watches the outermost import of a module of transformers.

    The modules of the Auto classes are often imported in the middle of others that our classes need; only when the
    outermost import has ended is everything there.
    """

    busy = False

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if not _PENDING or self.busy or not fullname.startswith("transformers."):
            return None
        self.busy = True
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            self.busy = False
            return None
        spec.loader = _RegisteringLoader(spec.loader, self)
        return spec


def register_auto_classes() -> None:
    """Register all classes: now if transformers is there already, else when it imports an Auto class; idempotent."""
    _register_what_is_there()
    if _PENDING and not any(isinstance(finder, _RegisteringFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisteringFinder())
