# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The command `sailvit plan`."""

import json

import pytest
import yaml

from sailvit_hf.cli import main

from ..refinement.tiny import tiny_model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    tiny_model().save_pretrained(folder / "vlm")
    arguments = {"bf16": True, "per_device_train_batch_size": 4, "global_batch_size": 64}
    stages = {"fine": {"data": {"dataset": {"path": "some/data"}}, "arguments": arguments}}
    values = {"name": "tiny", "output_dir": "runs/t", "start": {"model": str(folder / "vlm")}, "stages": stages}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "recipe.yaml"


SIZES = ["--samples", "1000", "--tokens-per-sample", "20", "--tiles-per-sample", "1"]


def test_a_plan_with_everything(path, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    files = ["--plot", str(tmp_path / "new" / "plan.png"), "--json", str(tmp_path / "plan.json")]
    words = ["plan", str(path), "--gpus", "2", "16", "--gpu", "a100", "--mfu", "0.3", "--price", "2", *SIZES, *files]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.startswith("tiny on 2, 16 x A100, 80 GB, 30% MFU")
    assert "fine" in out and "ddp" in out and "What is assumed" in out
    found = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert found["stages"][0]["answers"][1]["batch"]["accumulation"] == 1
    assert (tmp_path / "new" / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_sizes_that_were_measured(path, tmp_path, capsys):
    for name, tokens in (("a", 1500), ("b", 2300)):
        found = {"samples": 101, "unreadable": 1, "tokens": tokens, "tiles": 50, "file": "x.npy"}
        (tmp_path / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    files = ["--sizes", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json", str(tmp_path / "out.json")]
    assert main(["plan", str(path), "--gpus", "1", *files]) == 0
    sizes = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["stages"][0]["sizes"]
    assert (sizes["samples"], sizes["tokens"], sizes["tiles"]) == (200, 19, 0.5)
    assert main(["plan", str(path), "--sizes", str(path)]) == 2
    assert "is no file of sizes" in capsys.readouterr().err


def test_what_the_recipe_says_stays(path, tmp_path, capsys):
    said = ["--set", "stages.fine.samples=6400", "--json", str(tmp_path / "out.json")]
    found = {"samples": 100, "unreadable": 0, "tokens": 1900, "tiles": 50}
    (tmp_path / "a.json").write_text(json.dumps(found), encoding="utf-8")
    assert main(["plan", str(path), "--gpus", "1", *said, "--sizes", str(tmp_path / "a.json")]) == 0
    sizes = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["stages"][0]["sizes"]
    assert (sizes["samples"], sizes["tokens"], sizes["tiles"]) == (6400, 19, 0.5)
    capsys.readouterr()
    assert main(["plan", str(path), "--gpus", "1", *said, *SIZES]) == 2
    assert "--samples changes nothing: leave it out, or say --set stages.fine.samples=1000" in capsys.readouterr().err


def test_nothing_fits(path, capsys):
    assert main(["plan", str(path), "--gpus", "2", "--reserve", "81", *SIZES]) == 1
    assert "none fits" in capsys.readouterr().out


def test_changes_of_the_recipe(path, capsys):
    assert main(["plan", str(path), "--gpus", "1", "--set", "stages.fine.arguments.global_batch_size=8", *SIZES]) == 0
    assert "2 x 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --samples"),
        (["--gpu", "abacus"], "abacus"),
        ([*SIZES, "--set", "stages.fine.arguments.max_length=19"], "has 20 tokens, more than max_length 19"),
        ([*SIZES, "--json", "/dev/null/x"], "cannot be written"),
    ],
)
def test_mistakes(path, words, said, capsys):
    assert main(["plan", str(path), *words]) == 2
    assert said in capsys.readouterr().err
