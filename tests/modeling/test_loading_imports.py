# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Who only wants features waits for nothing else: what loading a backbone imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sailvit_hf import SAILViTConfig, SAILViTImageProcessorPil, SAILViTModel

CODE = """
import json, sys
seen = {}
import sailvit_hf
seen["import"] = sorted(sys.modules)
from sailvit_hf import SAILViTModel
model = SAILViTModel.from_pretrained(sys.argv[1])
seen["backbone"] = sorted(sys.modules)
from transformers import AutoImageProcessor, AutoModel
AutoModel.from_pretrained(sys.argv[1])
AutoImageProcessor.from_pretrained(sys.argv[1])
seen["with its processor"] = sorted(sys.modules)
print(json.dumps(seen))
"""
TRAINING = ("sailvit_hf.refinement", "sailvit_hf.data", "sailvit_hf.evaluation", "sailvit_hf.hub", "sailvit_hf.cli",
            "sailvit_hf.export", "transformers.trainer", "transformers.training_args", "datasets", "pyarrow", "peft",
            "trl", "flash_attn", "timm", "einops", "matplotlib")  # fmt: skip


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What was imported after each step, in a process of its own."""
    folder = tmp_path_factory.mktemp("backbone")
    SAILViTModel(SAILViTConfig.preset("tiny", num_hidden_layers=1)).save_pretrained(folder)
    SAILViTImageProcessorPil().save_pretrained(folder)
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", CODE, str(folder)], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def found(names: list[str], wanted: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in wanted or name.startswith(tuple(f"{one}." for one in wanted))]


def test_the_package_itself_imports_neither_torch_nor_transformers(modules: dict[str, list[str]]) -> None:
    assert not found(modules["import"], ("torch", "transformers", "numpy", *TRAINING))


def test_a_backbone_imports_nothing_for_training_or_data(modules: dict[str, list[str]]) -> None:
    assert not found(modules["backbone"], (*TRAINING, "sailvit_hf.processing"))
    assert not found(modules["with its processor"], TRAINING)
