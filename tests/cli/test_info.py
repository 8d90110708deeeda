# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""`sailvit info`: what a checkpoint is and where it comes from, as a tree."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from sailvit_hf import cli
from sailvit_hf.refinement import Lineage

from ..refinement.tiny import tiny_trainer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOWER = {"source": "apple/aimv2-large-patch14-448", "revision": COMMIT, "license": "apple-amlr",
         "weights": {"model.safetensors": "ab" * 32}}  # fmt: skip


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that went through two stages and was measured after the second."""
    place = tmp_path_factory.mktemp("info")
    lineage = Lineage("pets", {"vision_tower": TOWER, "language_model": "demo foundation"})
    model = None
    for stage in ("coarse", "fine"):
        trainer = tiny_trainer(place / stage, model, stage=stage, lineage=lineage, data_source="/home/me/pets.jsonl",
                               max_steps=2)  # fmt: skip
        trainer.train()
        trainer.save_model()
        model, lineage = trainer.model, Lineage.load(place / stage)
    measured = {"vlm": {"caption_loss": 1.23456, "exact [bold]answers[/bold]": 0.5}}
    lineage.with_metrics(measured).write(place / "fine")
    return place / "fine"


def tree(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert cli.main(["info", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(len(line) <= 100 for line in lines)
    return lines


def bare(lines: list[str]) -> list[str]:
    return [line.lstrip("│├└─ ") for line in lines]


def test_the_tree_tells_everything(refined: Path, capsys) -> None:
    lines = bare(tree(capsys, str(refined)))
    lineage = Lineage.load(refined)
    assert lines[0].startswith("pets: ")
    for line in (
        "model: SAILViTForConditionalGeneration",
        "vision tower: sailvit (2 layers, width 16, 2 heads, pictures of 16 pixels, patches of 4)",
        "language model: llama (1 layers, width 16, 2 heads, vocabulary of 24)",
        f"vision_tower: apple/aimv2-large-patch14-448@{COMMIT}",
        "licence: apple-amlr",
        "model.safetensors: sha256 abababababab",
        "language_model: demo foundation",
        "1. coarse",
        "trains: multi_modal_projector",
        "2. fine",
        "learning rate: 0.01",
        "data: pets.jsonl, 32 samples",
        f"fingerprint {lineage.stages[1].data['fingerprint'][:12]}",
        "steps: 2 of 2, 8 samples seen",
        f"loss: mean {lineage.stages[1].train_loss:.4f}, last {lineage.stages[1].final_loss:.4f}",
        "caption_loss 1.235, exact [bold]answers[/bold] 0.5",
        "started from: the checkpoint before",
        f"model.safetensors: sha256 {lineage.stages[1].start['weights']['model.safetensors'][:12]}",
        f"model.safetensors: sha256 {lineage.weights['model.safetensors'][:12]}",
        "seed: 3",
        "hardware: device cpu, name x86_64, processes 1".replace("x86_64", lineage.stages[0].hardware["name"]),
    ):
        assert line in lines, line
    assert not [line for line in lines if "/home/me" in line]


def test_all_arguments_and_whole_digests(refined: Path, capsys) -> None:
    lines = bare(tree(capsys, str(refined), "--arguments"))
    assert "lr_scheduler_type: cosine" in lines and "adam_beta2: 0.95" in lines
    assert any("ab" * 32 in line for line in lines)


def test_weights_are_verified(refined: Path, capsys, tmp_path: Path) -> None:
    assert "weights (verified)" in bare(tree(capsys, str(refined), "--verify"))
    (tmp_path / "refinement.json").write_text((refined / "refinement.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((refined / "model.safetensors").read_bytes() + b"x")
    assert cli.main(["info", str(tmp_path), "--verify"]) == 2
    assert "model.safetensors is not the file" in capsys.readouterr().err


def test_json_is_the_file_itself(refined: Path, capsys) -> None:
    assert cli.main(["info", str(refined), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((refined / "refinement.json").read_text())


def test_a_repository(refined: Path, capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models--some--pets"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / COMMIT).symlink_to(refined)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert bare(tree(capsys, "some/pets"))[0] == f"pets: some/pets at revision {COMMIT}"
    assert bare(tree(capsys, "some/pets", "--revision", COMMIT))[1] == "model: SAILViTForConditionalGeneration"
    assert cli.main(["info", "some/pets", "--verify"]) == 2
    assert "not a folder" in capsys.readouterr().err


def test_a_model_that_was_not_refined(capsys, tmp_path: Path) -> None:
    from sailvit_hf import SAILViTConfig

    SAILViTConfig.preset("tiny").save_pretrained(tmp_path)
    lines = bare(tree(capsys, str(tmp_path)))
    assert "sailvit (4 layers, width 96, 4 heads, pictures of 64 pixels, patches of 8)" in lines
    assert lines[-1] == "no refinement.json: not a checkpoint of a refinement"
    for option in ("--verify", "--json"):
        assert cli.main(["info", str(tmp_path), option]) == 2
        assert "no refinement.json" in capsys.readouterr().err


def test_what_is_no_checkpoint(refined: Path, capsys, tmp_path: Path) -> None:
    for words, message in (
        ([str(refined.parent)], "name one of the checkpoints in it, coarse, fine"),
        ([str(tmp_path)], "name a checkpoint's folder"),
        (["nobody/nothing"], "neither on this machine nor in the cache"),
        ([str(refined), "--revision", "main"], "no revisions"),
    ):
        assert cli.main(["info", *words]) == 2
        assert message in capsys.readouterr().err


def test_what_a_checkpoint_says_steers_no_terminal(refined: Path, capsys, tmp_path: Path) -> None:
    content = json.loads((refined / "refinement.json").read_text())
    content["name"] = "\x1b[31mred\x1b[0m\nsecond line"
    (tmp_path / "refinement.json").write_text(json.dumps(content))
    lines = tree(capsys, str(tmp_path))
    assert "\x1b" not in "".join(lines) and lines[0].startswith("?[31mred?[0m?second line: ")


@pytest.mark.parametrize("spoilt", [{"learning_rates": {"vision_tower": "fast"}}, {"train_loss": "low"}])
def test_a_spoilt_lineage_is_one_sentence(refined: Path, capsys, tmp_path: Path, spoilt: dict) -> None:
    content = json.loads((refined / "refinement.json").read_text())
    content["stages"][0] |= spoilt
    (tmp_path / "refinement.json").write_text(json.dumps(content))
    assert cli.main(["info", str(tmp_path)]) == 2
    assert "not a lineage" in capsys.readouterr().err
