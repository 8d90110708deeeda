# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
import logging

import pytest
from transformers.utils import logging as transformers_logging

from sailvit_hf.cli import main
from tests.hub import tiny


@pytest.fixture(autouse=True)
def restored_logging():
    """The command sets up the package's logger; other tests want it as it was."""
    logger = logging.getLogger("sailvit_hf")
    state = (logger.level, logger.propagate, list(logger.handlers))
    yield
    logger.level, logger.propagate, logger.handlers = state
    transformers_logging.enable_progress_bar()


@pytest.fixture
def sailvit(tmp_path):
    tiny.save_sailvit(tmp_path / "sailvit")
    return str(tmp_path / "sailvit")


def test_it_says_what_it_found_and_made(sailvit, tmp_path, capsys):
    capsys.readouterr()
    assert main(["convert", sailvit, str(tmp_path / "aimv2"), "--to", "aimv2"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == (
        f"From: {sailvit} (sailvit)\nTo:   {tmp_path / 'aimv2'} (aimv2; 23 tensors, 97,152 bytes)\n"
    )
    assert main(["convert", str(tmp_path / "aimv2"), str(tmp_path / "back"), "--max-shard-size", "30KB"]) == 0
    assert tiny.same(tiny.read_weights(tmp_path / "sailvit"), tiny.read_weights(tmp_path / "back"))


def test_the_tower_of_a_whole_model(tmp_path, capsys):
    tiny.save_sail_vl2(tmp_path / "sail-vl2")
    capsys.readouterr()
    words = ["convert", str(tmp_path / "sail-vl2"), str(tmp_path / "tower"), "--part", "vision", "--dtype", "bfloat16"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "(sail-vl2)" in out and "(sailvit; 19 tensors, 48,576 bytes)" in out
    assert "Left out: language_model.lm_head.weight, " in out and " more\n" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["{tmp}/nowhere", "{tmp}/new"], "nowhere does not exist"),
        (["{source}", "{source}"], "is not empty: name another folder, or ask to overwrite it (--overwrite)"),
        (["{source}", "{tmp}/new", "--to", "sail-vl2"], "holds a vision tower only"),
        (["{source}", "{tmp}/new", "--preset", "giant"], "no preset 'giant'"),
        (["{source}", "{tmp}/new", "--preset", "tiny"], "misshapen: preprocessor.patchifier.proj.weight is"),
        (["{source}", "{tmp}/new", "--max-shard-size", "5 apples"], "5 apples"),
    ],
)
def test_a_mistake_is_one_sentence(words, expected, sailvit, tmp_path, capsys):
    capsys.readouterr()
    assert main(["convert", *(word.format(source=sailvit, tmp=tmp_path) for word in words)]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert captured.out == "" and line.startswith("error: ") and expected in line
    assert [path.name for path in tmp_path.iterdir()] == ["sailvit"]


def test_unknown_choices_are_the_parsers(sailvit, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_status:
        main(["convert", sailvit, str(tmp_path / "new"), "--to", "onnx"])
    assert exit_status.value.code == 2 and "invalid choice: 'onnx'" in capsys.readouterr().err
