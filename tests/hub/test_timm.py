# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""timm itself loads what we write and we load what it writes, with equal features."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from sailvit_hf import SAILViTConfig, SAILViTModel
from sailvit_hf.hub import convert_checkpoint
from tests.conftest import shared_folder
from tests.hub import tiny

TIMM = "timm==1.0.31"
SCRIPT = Path(__file__).with_name("timm_without_torchvision.py")


@pytest.fixture(scope="session")
def timm_folder(tmp_path_factory) -> Path:
    """timm alone in a folder: installed beside the others without torchvision it would break accelerate's command."""
    folder = shared_folder(tmp_path_factory) / "timm"
    with FileLock(f"{folder}.lock"):
        if not (folder / "timm").is_dir():
            command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(folder), TIMM]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"{TIMM} cannot be fetched: {done.stderr.strip().splitlines()[-1:]}")
    return folder


def run_timm(packages: Path, action: str, checkpoint: Path, pictures: torch.Tensor | None = None) -> dict:
    """The features of timm's model in or from a checkpoint, and its weights."""
    pixels, features = checkpoint.parent / "pixels.safetensors", checkpoint.parent / "features.safetensors"
    save_file({"pixels": tiny.pixels() if pictures is None else pictures}, pixels)
    words = [sys.executable, str(SCRIPT), *map(str, (packages, action, checkpoint, pixels, features))]
    subprocess.run(words, check=True)
    return load_file(features)


def test_timm_loads_what_we_write(timm_folder, tmp_path):
    model = tiny.save_sailvit(tmp_path / "sailvit")
    convert_checkpoint(tmp_path / "sailvit", tmp_path / "timm", "timm")
    theirs = run_timm(timm_folder, "load", tmp_path / "timm")
    with torch.no_grad():
        expected = model(tiny.pixels()).last_hidden_state
    torch.testing.assert_close(theirs.pop("features"), expected, rtol=0, atol=1e-5)
    weights = {f"weights.{name}": tensor for name, tensor in tiny.read_weights(tmp_path / "timm").items()}
    assert tiny.same(weights, theirs)


def test_we_load_what_timm_writes(timm_folder, tmp_path):
    """With the configuration as timm's own `save_for_hf` writes it."""
    theirs = run_timm(timm_folder, "make", tmp_path / "timm")
    written = json.loads((tmp_path / "timm/config.json").read_text())
    assert written["architecture"] == "aimv2_huge_patch14_448"
    result = convert_checkpoint(tmp_path / "timm", tmp_path / "sailvit")
    assert result.source_layout == "timm" and result.left_out == ()
    model = SAILViTModel.from_pretrained(tmp_path / "sailvit")
    assert (model.config.num_attention_heads, model.config.image_size, model.config.patch_size) == (4, 32, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            model(tiny.pixels()).last_hidden_state, theirs["features"], rtol=0, atol=1e-5
        )
    convert_checkpoint(tmp_path / "sailvit", tmp_path / "back", "timm")
    assert tiny.same(tiny.read_weights(tmp_path / "timm"), tiny.read_weights(tmp_path / "back"))
    back = json.loads((tmp_path / "back/config.json").read_text())
    for key in ("input_size", "interpolation", "crop_pct", "mean", "std", "first_conv"):
        assert back["pretrained_cfg"][key] == written["pretrained_cfg"][key], key


@pytest.mark.slow
@pytest.mark.parametrize("size", ["large", "huge"])
def test_the_real_sizes(timm_folder, size, tmp_path):
    """`aimv2_large_patch14_448` and `aimv2_huge_patch14_448` of timm at their own resolution, all 24 layers."""
    torch.manual_seed(0)
    model = SAILViTModel(SAILViTConfig.preset(size)).eval()
    model.save_pretrained(tmp_path / "sailvit")
    convert_checkpoint(tmp_path / "sailvit", tmp_path / "timm", "timm")
    written = json.loads((tmp_path / "timm/config.json").read_text())
    assert written["architecture"] == f"aimv2_{size}_patch14_448" and "model_args" not in written
    pictures = torch.randn(1, 3, 448, 448)
    theirs = run_timm(timm_folder, "load", tmp_path / "timm", pictures)["features"]
    with torch.no_grad():
        torch.testing.assert_close(model(pictures).last_hidden_state, theirs, rtol=0, atol=1e-4)
    shutil.rmtree(tmp_path)  # gigabytes, which pytest would keep for a while
