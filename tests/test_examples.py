# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The examples and the README's code run, on the tiny run, and do what they say."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from sailvit_hf.refinement.stages import STAGES

ROOT = Path(__file__).parents[1]


def load_example(name: str):
    return load_script(f"examples/{name}.py")


def load_script(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Twelve pictures of two classes, red noise and blue noise."""
    generator = np.random.default_rng(0)
    for channel, name in ((0, "red"), (2, "blue")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(6):
            array = np.zeros((64, 64, 3), np.uint8)
            array[..., channel] = generator.integers(100, 255, (64, 64))
            Image.fromarray(array).save(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"


def test_extract_features(tiny_run, pictures, tmp_path, capsys):
    output = tmp_path / "features.safetensors"
    files = [str(pictures / "red" / "0.png"), str(pictures / "blue" / "0.png")]
    load_example("extract_features").main([str(tiny_run / "backbone"), *files, "--output", str(output)])
    features = load_file(output)
    assert features["patches"].shape == (2, 64, 96)
    torch.testing.assert_close(features["pooled"], features["patches"].mean(dim=1))
    assert "patches (2, 64, 96)" in capsys.readouterr().out


def test_refine_your_own_data(tiny_run, pictures, tmp_path):
    lines = [
        {
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe"}]},
                {"role": "assistant", "content": color},
            ],
            "images": [f"{color}/{i}.png"],
        }
        for color in ("red", "blue")
        for i in range(4)
    ]
    (pictures / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = tmp_path / "mine"
    arguments = ["--stage", "fine", "--batch-size", "4", "--learning-rate", "1e-3"]
    load_example("refine_your_own_data").main(
        [str(tiny_run / "coarse"), str(pictures / "mine.jsonl"), str(output), *arguments]
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_run / "coarse", output))
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"vision_tower", "multi_modal_projector"}
    stages = json.loads((output / "refinement.json").read_text())["stages"]
    assert [stage["stage"] for stage in stages] == ["coarse", "fine"]
    assert (stages[1]["steps"], stages[1]["data"]["samples"]) == (2, 8)


def test_refine_any_tower(foundations_cache, tmp_path, capsys):
    small = "--steps 3 --vision-steps 2 --language-steps 2 --samples 32 --batch-size 4 --evaluation-samples 8"
    arguments = [str(tmp_path / "run"), *small.split(), "--cache-dir", str(foundations_cache)]
    load_example("refine_any_tower").main([*arguments, "--no-probes", "--vision-feature-layer", "-2"])
    before, after = (
        load_file(tmp_path / "run" / folder / "model.safetensors") for folder in ("siglip", "run/backbone")
    )
    assert before.keys() == after.keys()
    learnt = {name for name in before if not torch.equal(before[name], after[name])}
    # Not the last layer, which comes after the one that is used.
    assert {name.split(".")[2] for name in learnt if name.startswith("encoder")} == {"0", "1", "2"}
    assert "SiglipVisionModel in " in capsys.readouterr().out


@pytest.mark.parametrize("head_only", [False, True])
def test_finetune_classifier(tiny_run, pictures, tmp_path, capsys, head_only):
    from sailvit_hf import SAILViTForImageClassification

    output = tmp_path / "classifier"
    options = ["--epochs", "20", *(["--head-only", "--learning-rate", "0.03"] if head_only else [])]
    load_example("finetune_classifier").main([str(tiny_run / "backbone"), str(pictures), str(output), *options])
    assert "2 classes, accuracy 1.000" in capsys.readouterr().out
    model = SAILViTForImageClassification.from_pretrained(output)
    assert model.config.id2label == {0: "blue", 1: "red"}
    backbone = load_file(tiny_run / "backbone" / "model.safetensors")
    state = model.base_model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in backbone.items()) == head_only


def test_chat_with_refined_vlm(tiny_run, pictures, capsys):
    picture = str(pictures / "red" / "0.png")
    chat = ["describe", "how many drawings ?", "--max-new-tokens", "3"]
    load_example("chat_with_refined_vlm").main([str(tiny_run / "world"), picture, *chat])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "> describe" and "> how many drawings ?" in lines


def readme_code() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_readme_code_runs(tiny_run, pictures, tmp_path, monkeypatch):
    """Every Python block of the README, in a folder where `runs/demo` is the tiny run."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/demo").symlink_to(tiny_run)
    Image.open(pictures / "red" / "0.png").save("picture.png")
    blocks = readme_code()
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_readme_backbone_takes_ten_lines():
    block = next(block for block in readme_code() if "AutoModel.from_pretrained" in block)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10


def test_readme_recipe_and_messages_are_valid(tmp_path):
    from sailvit_hf.data.conversations import load_messages
    from sailvit_hf.refinement.recipes.recipe import parse_recipe

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    stages = parse_recipe(yaml.safe_load(recipe)).stages
    assert {key: plan.arguments["global_batch_size"] for key, plan in stages.items()} == {
        key: stage.global_batch_size for key, stage in STAGES.items()
    }
    (line,) = re.findall(r"^```json\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "cat.png")
    (tmp_path / "mine.jsonl").write_text(line)
    assert load_messages(tmp_path / "mine.jsonl", decode=True)[0]["images"][0].size == (8, 8)


def test_figure_of_a_run(tiny_run, tmp_path):
    load_script("docs/make_figure.py").main([str(tiny_run), str(tmp_path / "demo.png")])
    with Image.open(tmp_path / "demo.png") as figure:
        assert figure.size == (132 + 6 * 120 + 8, 8 + 3 * 120)
        with Image.open(tiny_run / "features" / "world-05.png") as tile:
            assert figure.getpixel((132 + 5 * 120, 8 + 2 * 120)) == tile.convert("RGB").getpixel((0, 0))


def test_numbers_of_a_run(tiny_run, tmp_path):
    """The table's cells are the run's metrics, and writing them twice changes nothing."""
    script = load_script("docs/make_table.py")
    page = tmp_path / "README.md"
    page.write_text(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n", encoding="utf-8")
    script.main([str(page), "--run", str(tiny_run)])
    text = page.read_text(encoding="utf-8")
    script.main([str(page), "--run", str(tiny_run)])
    assert page.read_text(encoding="utf-8") == text
    assert "old" not in text and text.startswith("before") and text.endswith("after\n")
    losses = [state["caption_loss"] for state in json.loads((tiny_run / "metrics.json").read_text())["vlm"].values()]
    assert f"| caption loss | {' | '.join(f'{loss:.2f}' for loss in losses)} |" in text


def test_numbers_of_the_comparison():
    from sailvit_hf.evaluation.comparison import paired

    entry = paired("caption_loss", [0.3, 0.4, 0.35], [0.5, 0.5, 0.6]).to_dict()
    evidence = {"judges": {"own": "In its own MLLM"}, "comparisons": {"gradual - direct": {"own": [entry]}}}
    row = load_script("docs/make_table.py").comparison(evidence).splitlines()[-1]
    assert row.startswith("| in its own mllm | caption loss | 0.350 | 0.533 | -0.183 (-0.3")
    assert row.endswith("| 3 of 3 |")


def test_numbers_of_the_benchmarks(tmp_path):
    """What the README says of speed and memory is what the committed results say."""
    script = load_script("docs/make_table.py")
    page = tmp_path / "README.md"
    page.write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    script.main([str(page), "--benchmarks", str(ROOT / "benchmarks/results")])
    assert page.read_text(encoding="utf-8") == (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_names_what_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", text):
        assert (ROOT / link).exists(), link
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), target
