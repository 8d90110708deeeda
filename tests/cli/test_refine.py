# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from transformers.utils import logging as transformers_logging

from sailvit_hf.cli import main

QUESTION = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe"}]}
ANSWER = {"role": "assistant", "content": "a cat"}


@pytest.fixture(autouse=True)
def restored_logging():
    """The command sets up the package's logger; other tests want it as it was."""
    logger = logging.getLogger("sailvit_hf")
    state = (logger.level, logger.propagate, list(logger.handlers))
    yield
    logger.level, logger.propagate, logger.handlers = state
    transformers_logging.enable_progress_bar()


@pytest.fixture
def recipe(tiny_recipe, tmp_path):
    """A function that writes a recipe file; nothing in these tests gets as far as training."""

    def write(**changes) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tiny_recipe(tmp_path / "run", **changes)))
        return str(path)

    return write


def assert_one_sentence(capsys, status: int, *parts: str) -> None:
    """Exit status 2, nothing on stdout, one line on stderr that holds the parts."""
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def test_unknown_key(recipe, capsys):
    status = main(["refine", recipe(stagess={})])
    assert_one_sentence(capsys, status, "Unknown key stagess in the recipe; did you mean stages?")


def test_unknown_training_argument(recipe, capsys):
    status = main(["refine", recipe(), "--set", "stages.fine.arguments.lerning_rate=1"])
    assert_one_sentence(capsys, status, "stages.fine.arguments.lerning_rate", "stages.fine.arguments.learning_rate?")


def test_wrong_type(recipe, capsys):
    status = main(["refine", recipe(seed="zero")])
    assert_one_sentence(capsys, status, "seed must be a whole number, but is the text 'zero'.")


def test_no_such_recipe(capsys, tmp_path):
    assert_one_sentence(capsys, main(["refine", str(tmp_path / "absent.yaml")]), "There is no recipe", "absent.yaml")


def messages_recipe(recipe, tmp_path: Path, line: dict) -> str:
    (tmp_path / "mine.jsonl").write_text(json.dumps(line) + "\n")
    stage = {"data": {"messages": str(tmp_path / "mine.jsonl")}, "arguments": {"max_steps": 1}}
    return recipe(stages={"coarse": stage})


def test_missing_picture(recipe, capsys, tmp_path):
    path = messages_recipe(recipe, tmp_path, {"messages": [QUESTION, ANSWER], "images": ["absent.png"]})
    assert_one_sentence(capsys, main(["refine", path]), "mine.jsonl, line 1", "absent.png")


def test_images_that_do_not_match_the_placeholders(recipe, capsys, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    path = messages_recipe(recipe, tmp_path, {"messages": [QUESTION, ANSWER], "images": ["a.png", "a.png"]})
    status = main(["refine", path])
    assert_one_sentence(capsys, status, "mine.jsonl, line 1", "1 image parts in the messages but 2 paths in images")


def test_an_image_that_is_none(recipe, capsys, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    path = messages_recipe(recipe, tmp_path, {"messages": [QUESTION, ANSWER], "images": ["a.png"]})
    assert_one_sentence(capsys, main(["refine", path]), "mine.jsonl, line 1", "a.png")


def test_a_mistake_in_the_data_leaves_no_folder(recipe, capsys, tmp_path):
    path = messages_recipe(recipe, tmp_path, {"messages": [QUESTION]})
    assert_one_sentence(capsys, main(["refine", path]), "mine.jsonl, line 1")
    assert not (tmp_path / "run").exists()


def test_folder_of_another_recipe(recipe, capsys, tiny_run):
    status = main(["refine", recipe(name="other"), "--resume", "--output-dir", str(tiny_run)])
    assert_one_sentence(capsys, status, "holds another recipe's run (name is tiny there and other here)")


def test_folder_with_a_run(recipe, capsys, tiny_run):
    status = main(["refine", recipe(), "--output-dir", str(tiny_run)])
    assert_one_sentence(capsys, status, "--resume", "another output_dir")


def test_a_finished_run_says_where_its_report_is(recipe, capsys, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    assert main(["refine", recipe(), "--resume"]) == 0
    assert f"Report:           {run / 'report.html'}" in capsys.readouterr().out.splitlines()


def test_foundations_prints_folders(recipe, capsys, tiny_run):
    assert main(["foundations", recipe()]) == 0
    lines = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ["vision_tower", "language_model", "second_language_model"]
    assert all((Path(folder) / "model.safetensors").exists() for folder in lines.values())


def test_foundations_without_need(recipe, capsys, tiny_run):
    assert main(["foundations", recipe(start={"model": str(tiny_run / "world")})]) == 0
    assert "needs no demo foundations" in capsys.readouterr().out


def test_seed_and_overrides_reach_the_recipe(recipe, capsys, tiny_run):
    status = main(["refine", recipe(), "--seed", "9", "--output-dir", str(tiny_run), "--resume"])
    assert_one_sentence(capsys, status, "seed is 0 there and 9 here")


def test_launch_options_without_a_launch(recipe, capsys):
    assert_one_sentence(capsys, main(["refine", recipe(), "--processes", "2"]), "are of --launch", "--launch ddp")


@pytest.mark.parametrize("options", [["--dry-run"], ["--launch", "ddp"]])
@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("processes", 0, 1), ("processes", -1, 1), ("machines", 0, 1), ("machine-rank", -1, 0), ("max-restarts", -1, 0)],
)
def test_numbers_that_no_launch_has(name, value, least, options, recipe, capsys):
    status = main(["refine", recipe(), *options, f"--{name}={value}"])
    assert_one_sentence(capsys, status, f"--{name} must be at least {least}, not {value}")


def test_nobody_reads_what_is_printed(recipe, tmp_path):
    """As with `| head`: no traceback, and the status of a program that SIGPIPE ended."""
    command = [sys.executable, "-m", "sailvit_hf.cli", "refine", recipe(), "--dry-run", "--offline-check"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_broken_pipe_of_another_kind_is_not_hidden(recipe, monkeypatch):
    def broken(*_args):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sailvit_hf.cli.refine.read_recipe", broken)
    with pytest.raises(BrokenPipeError), Path(os.devnull).open("w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        main(["refine", recipe()])


def test_a_launch_hands_the_other_options_on(recipe, monkeypatch, tmp_path):
    from sailvit_hf.refinement import launching

    found = []
    monkeypatch.setattr(launching, "launch", lambda *given: found.append(given) or 75)
    path, options = recipe(), ["--seed", "9", "--set", "name=other", "--launch", "ddp", "--processes", "4"]
    assert main(["refine", path, *options]) == 75
    assert main(["refine", path, *options, "--max-restarts", "2"]) == 75
    (asked, command), (restarted, again) = found
    assert (asked.layout, asked.processes, asked.machines, restarted.max_restarts) == ("ddp", 4, 1, 2)
    assert command == ["refine", path, "--set=name=other", "--seed=9"]
    assert sorted(again) == sorted([*command, "--resume"])  # a restart goes on


def test_a_launch_with_restarts_does_not_take_over_a_run(recipe, capsys, tiny_run):
    options = ["--output-dir", str(tiny_run), "--launch", "ddp", "--processes", "2", "--max-restarts", "2"]
    assert_one_sentence(capsys, main(["refine", recipe(), *options]), "holds a run already", "--resume")


def test_help_imports_nothing_slow():
    code = (
        "import sys, sailvit_hf.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules, 'torch'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "refine" in done.stdout


def test_the_module_runs_as_a_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "sailvit_hf.cli", "refine", str(tmp_path / "no.yaml")],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: There is no recipe")
