# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading: whole or not at all, whichever door; usual behaviour for who asks for leniency."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoBackbone,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    LlamaConfig,
    LlamaForCausalLM,
)

from sailvit_hf import (
    SAILViTBackbone,
    SAILViTConfig,
    SAILViTForConditionalGeneration,
    SAILViTForImageClassification,
    SAILViTModel,
    SAILViTVLMModel,
)
from sailvit_hf.modeling.loading_sailvit import IncompleteCheckpointError

from .twins import randomised

QKV = "trunk.blocks.1.attn.qkv.weight"
TABLE = "preprocessor.pos_embed"

@pytest.fixture
def local_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' AutoBackbone asks the Hub whether a folder of this machine is there; here the answer is yes."""
    from transformers.models.auto import auto_factory

    monkeypatch.setattr(auto_factory, "hf_api", lambda: SimpleNamespace(repo_exists=lambda name: True))


def encoder(folder: Path) -> None:
    randomised(SAILViTConfig.preset("tiny", num_hidden_layers=2)).save_pretrained(folder)


def vlm(folder: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    language = LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=True, **sizes))
    tower = SAILViTModel(SAILViTConfig.preset("tiny", num_hidden_layers=2))
    SAILViTForConditionalGeneration.from_parts(tower, language, image_token_id=5).save_pretrained(folder)


def spoil(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def remove(name: str) -> Callable[[dict], None]:
    return lambda tensors: tensors.pop(name)


def rename(name: str) -> Callable[[dict], None]:
    return lambda tensors: tensors.update({f"{name}_old": tensors.pop(name)})


def reshape(name: str) -> Callable[[dict], None]:
    return lambda tensors: tensors.update({name: torch.cat([tensors[name], tensors[name]])})


DAMAGES = [
    (remove(QKV), f"missing: {QKV}"),
    (rename(TABLE), f"missing: {TABLE}; not expected: {TABLE}_old"),
    (reshape(QKV), rf"misshapen: {QKV} \(576, 96\) for \(288, 96\)"),
]
DOORS = [SAILViTModel, SAILViTBackbone, SAILViTForImageClassification, AutoModel, AutoBackbone]


@pytest.mark.parametrize("door", [*DOORS, AutoModelForImageClassification], ids=lambda door: door.__name__)
@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=["missing", "renamed", "misshapen"])
def test_a_damaged_encoder_is_refused_by_name(local_folders, door, damage, message: str, tmp_path: Path) -> None:
    encoder(tmp_path)
    spoil(tmp_path, damage)
    with pytest.raises(IncompleteCheckpointError) as error:
        door.from_pretrained(str(tmp_path))
    assert error.match(message.replace(": ", ": (sailvit.)?"))
    assert error.match("sailvit convert")


@pytest.mark.parametrize(
    "door",
    [SAILViTForConditionalGeneration, SAILViTVLMModel, AutoModel, AutoModelForImageTextToText],
    ids=lambda door: door.__name__,
)
@pytest.mark.parametrize(
    "name", ["model.vision_tower.trunk.blocks.0.norm_1.weight", "model.multi_modal_projector.linear_1.bias"]
)
@pytest.mark.parametrize("damage", [remove, rename, reshape], ids=["missing", "renamed", "misshapen"])
def test_a_damaged_vision_language_model_is_refused_by_name(door, name: str, damage, tmp_path: Path) -> None:
    vlm(tmp_path)
    spoil(tmp_path, damage(name))
    with pytest.raises(IncompleteCheckpointError, match=name.removeprefix("model.")):
        door.from_pretrained(tmp_path)


@pytest.mark.parametrize(("make", "auto"), [(encoder, "AutoModel"), (vlm, "AutoModelForImageTextToText")])
def test_remote_code_refuses_too(make: Callable[[Path], None], auto: str, tmp_path: Path) -> None:
    make(tmp_path / "model")
    prefix = "" if make is encoder else "model.vision_tower."
    spoil(tmp_path / "model", remove(prefix + QKV))
    code = f"""
import sys
from transformers import {auto}
try:
    {auto}.from_pretrained(sys.argv[1], trust_remote_code=True)
except RuntimeError as error:
    print(type(error).__name__, error)
assert "sailvit_hf" not in sys.modules
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.startswith("IncompleteCheckpointError") and f"missing: {prefix}{QKV}" in run.stdout


@pytest.mark.parametrize("make", [encoder, vlm])
def test_a_whole_checkpoint_loads_from_every_door(local_folders, make, tmp_path: Path) -> None:
    make(tmp_path)
    doors = DOORS if make is encoder else [SAILViTForConditionalGeneration, SAILViTVLMModel, AutoModel]
    tensors = load_file(tmp_path / "model.safetensors")
    for door in doors:
        model = door.from_pretrained(str(tmp_path))
        for name, value in model.state_dict().items():
            saved = name.removeprefix("sailvit.") if make is encoder else f"model.{name.removeprefix('model.')}"
            if saved in tensors:
                assert torch.equal(value, tensors[saved]), (door, name)
            else:
                assert name.startswith("classifier.") or name == "lm_head.weight", name  # fresh, and tied


def test_a_fresh_head_is_whole_or_not_there(tmp_path: Path) -> None:
    config = SAILViTConfig.preset("tiny", num_hidden_layers=1, num_labels=3)
    SAILViTForImageClassification(config).save_pretrained(tmp_path)
    SAILViTModel.from_pretrained(tmp_path)
    spoil(tmp_path, remove("classifier.bias"))
    with pytest.raises(IncompleteCheckpointError, match="missing: classifier.bias"):
        SAILViTForImageClassification.from_pretrained(tmp_path)
    spoil(tmp_path, remove("classifier.weight"))
    assert SAILViTForImageClassification.from_pretrained(tmp_path).config.num_labels == 3


def test_another_number_of_classes_needs_a_word(tmp_path: Path) -> None:
    SAILViTForImageClassification(SAILViTConfig.preset("tiny", num_labels=3)).save_pretrained(tmp_path)
    with pytest.raises(IncompleteCheckpointError, match=r"misshapen: classifier.bias \(3,\) for \(5,\)"):
        SAILViTForImageClassification.from_pretrained(tmp_path, num_labels=5)
    again = SAILViTForImageClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert again.classifier.bias.shape == (5,)


def test_leniency_is_transformers_own(tmp_path: Path) -> None:
    encoder(tmp_path)
    state_dict = SAILViTModel.from_pretrained(tmp_path).state_dict()
    spoil(tmp_path, remove(QKV))
    model, info = SAILViTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {QKV}
    assert model.trunk.blocks[1].attn.qkv.weight.std().item() == pytest.approx(0.08, rel=0.05)  # drawn, as configured
    SAILViTModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    del state_dict[QKV]
    SAILViTModel.from_pretrained(None, config=model.config, state_dict=state_dict)


def test_an_adapter_on_a_damaged_model_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig

    encoder(tmp_path / "base")
    model = SAILViTModel.from_pretrained(tmp_path / "base")
    model.add_adapter(LoraConfig(target_modules=["qkv"], r=2, base_model_name_or_path=str(tmp_path / "base")))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    pixel_values = torch.randn(1, 3, 64, 64)
    model.save_pretrained(tmp_path / "adapter")
    again = SAILViTModel.from_pretrained(tmp_path / "adapter")
    assert torch.equal(again(pixel_values).last_hidden_state, model(pixel_values).last_hidden_state)
    spoil(tmp_path / "base", remove(QKV))
    with pytest.raises(IncompleteCheckpointError, match=f"base holds no whole SAILViTModel .missing: {QKV}"):
        SAILViTModel.from_pretrained(tmp_path / "adapter")
