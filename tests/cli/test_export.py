# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sailvit_hf import SAILViTConfig, SAILViTForImageClassification, SAILViTImageProcessorPil
from sailvit_hf.cli import main

from ..modeling.twins import randomised


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    randomised(SAILViTConfig.preset("tiny", num_hidden_layers=1)).save_pretrained(folder)
    SAILViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_the_folder_runs_as_its_readme_says(checkpoint, tmp_path, monkeypatch, capsys):
    picture = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    dest = tmp_path / "onnx"
    dest.mkdir()
    Image.fromarray(picture).save(dest / "picture.png")
    assert main(["export", str(checkpoint), str(dest), "--int8", "--pictures", str(dest / "picture.png")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    found = re.fullmatch(rf"{dest}/model.onnx: differs from the model by at most (\S+) \(at 64x64 and 32x88 .*", first)
    assert found is not None and float(found[1]) < 1e-5
    found = re.fullmatch(rf"{dest}/model_int8.onnx: cosine .* (\S+) on average, (\S+) for .* \(of 1 picture\)", second)
    assert found is not None and 0.99 < float(found[2]) <= float(found[1]) <= 1

    readme = (dest / "README.md").read_text(encoding="utf-8")
    assert second.partition(": ")[2] in readme and "multiples of 8; native 64x64" in readme
    monkeypatch.chdir(dest)
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", readme, flags=re.DOTALL)[1], names)
    from transformers import AutoModel

    with torch.no_grad():
        expected = AutoModel.from_pretrained(checkpoint)(torch.from_numpy(names["pixel_values"]))
    cosine = torch.cosine_similarity(torch.from_numpy(names["patches"]), expected.last_hidden_state, dim=-1)
    assert cosine.min() > 0.99 and names["pooled"].shape == (1, 96)


def test_fp32_alone(checkpoint, tmp_path, capsys):
    assert main(["export", str(checkpoint), str(tmp_path / "a" / "b")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    files = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    assert {"model.onnx", "README.md", "config.json", "preprocessor_config.json"} <= files
    assert "model_int8.onnx" not in files
    assert "model_int8.onnx" not in (tmp_path / "a" / "b" / "README.md").read_text(encoding="utf-8")


def test_a_wrong_graph_is_never_left_unsaid(checkpoint, tmp_path, monkeypatch):
    from sailvit_hf import export

    real = export.run_onnx

    def shifted(path, pixel_values):
        features, pooled = real(path, pixel_values)
        return features + 0.1, pooled

    monkeypatch.setattr(export, "run_onnx", shifted)
    with pytest.raises(RuntimeError, match="differs from the model by 0.1 at 64x64 pixels"):
        main(["export", str(checkpoint), str(tmp_path)])


def test_mistakes_are_one_sentence(checkpoint, tmp_path, tiny_run, monkeypatch, capsys):
    def error(*words: object) -> str:
        assert main(["export", *map(str, words), str(tmp_path / "dest")]) == 2
        assert not (tmp_path / "dest").exists()
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "cannot be loaded" in error(tmp_path / "nowhere")
    assert "is a checkpoint of sailvit_vlm, not of a SAILViT encoder; give backbone/" in error(tiny_run / "start")
    SAILViTForImageClassification(SAILViTConfig.preset("tiny")).save_pretrained(tmp_path / "classifier")
    assert "preprocessor" in error(tmp_path / "classifier")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert error(checkpoint).endswith("which is not installed: pip install 'sailvit_hf[export]'.")
