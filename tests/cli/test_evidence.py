# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
import json
import shutil
from pathlib import Path

import pytest

from sailvit_hf.cli import build_parser, evidence


@pytest.fixture
def calls(monkeypatch, tmp_path):
    found = []
    # A working folder without runs, where the recipes are: the report of a run there would be written anew.
    (tmp_path / "recipes").symlink_to(Path(__file__).parents[2] / "recipes")
    monkeypatch.chdir(tmp_path)

    def record(recipe, **options):
        found.append((recipe, options))
        return Path(options["output_dir"]) / "evidence.md"

    monkeypatch.setattr("sailvit_hf.evaluation.evidence.run_evidence", record)
    return found


def test_defaults(calls, capsys):
    options = build_parser().parse_args(["evidence", "recipes/demo.yaml", "--set", "seed=3", "--seeds", "2"])
    assert evidence.run(options) == 0
    ((recipe, given),) = calls
    assert recipe.seed == 3 and list(given["seeds"]) == [3, 4]
    assert given["tuning_seed"] == 1003 and given["rates"] == [1e-3, 2e-3, 4e-3]
    assert given["output_dir"] == "docs/results" and given["workers"] >= 1
    assert capsys.readouterr().out == "Results: docs/results/evidence.md\n"


def test_the_command_runs_the_same_again(calls):
    words = ["evidence", "recipes/demo.yaml", "--rates", "1e-3", "0.002", "--tuning-seed", "7", "--workers", "1"]
    words += ["--output-dir", "out put", "--set", "evaluation.samples=4"]
    evidence.run(build_parser().parse_args(words))
    command = calls[0][1]["command"]
    assert command == (
        "sailvit evidence recipes/demo.yaml --seeds 5 --rates 0.001 0.002 --tuning-seed 7 "
        "--set evaluation.samples=4 --output-dir 'out put'"
    )
    assert calls[0][0].evaluation.samples == 4 and calls[0][0].output_dir == "runs/demo"


def test_the_report_of_the_recipes_run_shows_the_comparison(calls, tiny_run, tmp_path, capsys):
    shutil.copytree(tiny_run, tmp_path / "runs/demo")
    evidence_json = {"seeds": [0, 1], "comparisons": {}, "judges": {}, "arms": {}}
    (tmp_path / "docs/results").mkdir(parents=True)
    (tmp_path / "docs/results/evidence.json").write_text(json.dumps(evidence_json))
    evidence.run(build_parser().parse_args(["evidence", "recipes/demo.yaml"]))
    assert "Report:  runs/demo/report.html" in capsys.readouterr().out
    assert json.loads((tmp_path / "runs/demo/evidence.json").read_text()) == evidence_json
