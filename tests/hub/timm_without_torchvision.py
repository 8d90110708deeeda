# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Run timm's own code where torchvision is not to be had: its models do not use it, its imports do.

    python timm_without_torchvision.py FOLDER_OF_TIMM load CHECKPOINT PIXELS FEATURES
    python timm_without_torchvision.py FOLDER_OF_TIMM make CHECKPOINT PIXELS FEATURES
"""

import importlib.abc
import importlib.machinery
import sys
from unittest.mock import MagicMock

from safetensors.torch import load_file, save_file


class NoTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty torchvision, whatever part of it is asked for."""

    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = MagicMock()
        module.__spec__, module.__path__, module.__name__ = spec, [], spec.name
        return module

    def exec_module(self, module):
        pass


def main(packages: str, action: str, checkpoint: str, pixels: str, features: str) -> None:
    sys.meta_path.insert(0, NoTorchvision())
    sys.path.insert(0, packages)
    import timm
    import torch

    torch.manual_seed(0)
    if action == "make":
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 1.5}
        model = timm.create_model("aimv2_huge_patch14_448", num_classes=0, **sizes)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape) * 0.2 + (parameter.dim() == 1))
        timm.models.save_for_hf(model, checkpoint, model_args=sizes, safe_serialization=True)
    else:
        model = timm.create_model(f"local-dir:{checkpoint}", pretrained=True)
    with torch.no_grad():
        made = model.eval().forward_features(load_file(pixels)["pixels"])
    save_file({"features": made, **{f"weights.{name}": t for name, t in model.state_dict().items()}}, features)


if __name__ == "__main__":
    main(*sys.argv[1:])
