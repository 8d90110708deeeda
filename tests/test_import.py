# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Importing the package is cheap, and registers our classes with the Auto classes in whatever order one imports."""

import subprocess
import sys

import pytest

import sailvit_hf

CHECK = """
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
import sailvit_hf as s
assert CONFIG_MAPPING["sailvit"] is s.SAILViTConfig and CONFIG_MAPPING["sailvit_vlm"] is s.SAILViTVLMConfig
assert MODEL_MAPPING[s.SAILViTConfig] is s.SAILViTModel and MODEL_MAPPING[s.SAILViTVLMConfig] is s.SAILViTVLMModel
assert MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[s.SAILViTVLMConfig] is s.SAILViTForConditionalGeneration
assert PROCESSOR_MAPPING[s.SAILViTVLMConfig] is s.SAILViTProcessor
assert IMAGE_PROCESSOR_MAPPING[s.SAILViTConfig]["pil"] is s.SAILViTImageProcessorPil
"""


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_loads_neither_torch_nor_a_module_of_ours() -> None:
    """What makes an import slow is what it imports; the seconds themselves are for the benchmark."""
    run(
        "import sys, transformers; before = set(sys.modules); import sailvit_hf;"
        "new = {name for name in set(sys.modules) - before if not name.startswith('importlib')};"
        "assert 'torch' not in sys.modules and new == {'sailvit_hf', 'sailvit_hf._registration'}, new"
    )


@pytest.mark.parametrize(
    "order",
    [
        "import sailvit_hf; from transformers import AutoModel",
        "from transformers import AutoModel, AutoProcessor; import sailvit_hf",
        "import sailvit_hf; from transformers import AutoProcessor",
        "import sailvit_hf; from transformers import Trainer",
        "from sailvit_hf import SAILViTProcessor",
        "from sailvit_hf.modeling.modeling_sailvit_vlm import SAILViTVLMModel",
    ],
)
def test_classes_are_registered_in_any_order_of_imports(order: str) -> None:
    run(order + "\n" + CHECK)


def test_registering_twice_is_harmless() -> None:
    run("import sailvit_hf, importlib; importlib.reload(sailvit_hf)\n" + CHECK)


def test_every_public_name_is_there() -> None:
    assert {"SAILViTModel", "SAILViTForConditionalGeneration", "RefinementTrainer"} < set(sailvit_hf.__all__)
    for name in sailvit_hf.__all__:
        value = getattr(sailvit_hf, name)
        if name == "STAGES":  # a mapping has no home of its own
            assert list(value) == ["coarse", "fine", "world"]
        else:
            assert value.__module__.startswith("sailvit_hf.") and value.__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'SAILViTNothing'"):
        sailvit_hf.SAILViTNothing  # noqa: B018
