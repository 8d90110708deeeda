# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The files that travel: what they import, and what they say to a transformers that they were not made for."""

import ast
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import sailvit_hf
from sailvit_hf import SAILViTConfig, SAILViTImageProcessorPil, SAILViTModel
from sailvit_hf.modeling.versions_sailvit import OLDEST, check_transformers

PACKAGE = Path(sailvit_hf.__file__).parent
FOLDERS = {"modeling": PACKAGE / "modeling", "processing": PACKAGE / "processing"}
FILES = [path for folder in FOLDERS.values() for path in sorted(folder.glob("*_*.py")) if path.name != "__init__.py"]

# Names of transformers that have stayed where they are for as long as the supported range goes, and are documented or
# used by every model of the library. Add one here only after looking it up in the oldest and the newest version.
STABLE = {
    "transformers": {
        "AutoConfig", "AutoModel", "CONFIG_MAPPING", "GenerationMixin", "PreTrainedConfig", "PreTrainedModel",
        "initialization",
    },
    "transformers.activations": {"ACT2FN"},
    "transformers.backbone_utils": {"BackboneConfigMixin", "BackboneMixin"},
    "transformers.image_processing_backends": {"PilBackend", "TorchvisionBackend"},
    "transformers.image_processing_utils": {"BatchFeature"},
    "transformers.image_transforms": {"get_size_with_aspect_ratio"},
    "transformers.image_utils": {
        "IMAGENET_DEFAULT_MEAN", "IMAGENET_DEFAULT_STD", "PILImageResampling", "SizeDict",
        "infer_channel_dimension_format", "load_image",
    },
    "transformers.integrations": {"is_deepspeed_zero3_enabled"},
    "transformers.masking_utils": {"create_bidirectional_mask"},
    "transformers.modeling_layers": {"GradientCheckpointingLayer"},
    "transformers.modeling_outputs": {
        "BackboneOutput", "BaseModelOutputWithPooling", "ImageClassifierOutput", "ModelOutput",
    },
    "transformers.modeling_utils": {"ALL_ATTENTION_FUNCTIONS"},
    "transformers.processing_utils": {
        "ImagesKwargs", "MultiModalData", "ProcessingKwargs", "ProcessorMixin", "Unpack",
    },
    "transformers.utils": {"TransformersKwargs", "cached_file", "requires_backends", "torch_compilable_check"},
    "transformers.utils.chat_template_utils": {"render_jinja_template"},
}  # fmt: skip
# The image files may use what their backend is made of; numpy comes with torch's and PIL with transformers' pictures.
PACKAGES = {"torch", "transformers", "numpy", "PIL", "torchvision"}


def imports(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Level, module and name of every import of a file, also of those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, node.module or "", alias.name) for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_names_that_stay_are_imported(path: Path) -> None:
    for level, module, name in imports(path):
        top = module.partition(".")[0]
        if level:
            assert level == 1 and (path.parent / f"{module}.py").is_file(), f"{module}: not a file of the same folder"
        elif top == "transformers":
            assert module == "transformers" if name is None else name in STABLE.get(module, ()), f"{module}.{name}"
        else:
            assert top in PACKAGES or top in sys.stdlib_module_names, module
    # Imports that the search above does not see, and that transformers' own check of remote code does not see either.
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not used & {"__import__", "eval", "exec", "importlib"}


def test_the_list_of_stable_names_is_true_here() -> None:
    for module, names in STABLE.items():
        for name in names - {"TorchvisionBackend"}:
            found = hasattr(importlib.import_module(module), name) or importlib.util.find_spec(f"{module}.{name}")
            assert found, f"{module}.{name}"


def test_both_folders_check_alike() -> None:
    mine, other = ((folder / "versions_sailvit.py").read_bytes() for folder in FOLDERS.values())
    assert mine == other


@pytest.mark.parametrize("version", ["4.57.6", "5.0.0", "5.16.1"])
def test_an_older_transformers_is_refused_in_one_sentence(version: str) -> None:
    with pytest.raises(ImportError) as error:
        check_transformers(version)
    assert str(error.value) == (
        f"This model needs transformers>=5.17,<6, and {version} is installed: pip install -U 'transformers>=5.17,<6'"
    )


@pytest.mark.parametrize("version", ["5.17.0", "5.17.0.dev0", "5.23.0", "5.99.1rc1", "unknown"])
def test_the_range_is_silent(version: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_transformers(version)


def test_a_newer_one_may_try() -> None:
    with pytest.warns(UserWarning, match="tested with transformers>=5.17,<6, and 6.0.1 is installed"):
        check_transformers("6.0.1")


def test_the_package_asks_for_the_same_range() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert "\"transformers>={}.{},<6\"".format(*OLDEST) in text


@pytest.mark.parametrize("auto", ["AutoConfig", "AutoModel", "AutoImageProcessor"])
@pytest.mark.parametrize("installed", [True, False], ids=["package", "remote-code"])
def test_each_door_says_so(auto: str, installed: bool, tmp_path: Path) -> None:
    SAILViTModel(SAILViTConfig.preset("tiny", num_hidden_layers=1)).save_pretrained(tmp_path / "model")
    SAILViTImageProcessorPil().save_pretrained(tmp_path / "model")
    assert "versions_sailvit.py" in {path.name for path in (tmp_path / "model").iterdir()}
    code = f"""
import json, sys
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers import AutoConfig, AutoModel
sys.modules["transformers"].__version__ = "5.16.1"
try:
    if {installed}:
        import sailvit_hf
    {auto}.from_pretrained(sys.argv[1], trust_remote_code={not installed})
except ImportError as error:
    print(json.dumps([str(error), "sailvit_hf" in sys.modules]))
"""
    path = str(PACKAGE.parent) if installed else ""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": path}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    said, _ = json.loads(run.stdout)
    assert said.startswith("This model needs transformers>=5.17,<6, and 5.16.1 is installed: pip install -U")
