# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
from pathlib import Path

import pytest

from sailvit_hf.cli import build_parser, evidence


@pytest.fixture
def calls(monkeypatch):
    found = []
    monkeypatch.chdir(Path(__file__).parents[2])

    def record(recipe, **options):
        found.append((recipe, options))
        return options["output_dir"]

    monkeypatch.setattr("sailvit_hf.evaluation.evidence.run_evidence", record)
    return found


def test_defaults(calls, capsys):
    options = build_parser().parse_args(["evidence", "recipes/demo.yaml", "--set", "seed=3", "--seeds", "2"])
    assert evidence.run(options) == 0
    ((recipe, given),) = calls
    assert recipe.seed == 3 and list(given["seeds"]) == [3, 4]
    assert given["tuning_seed"] == 1003 and given["rates"] == [1e-3, 2e-3, 4e-3]
    assert given["output_dir"] == "docs/results" and given["workers"] >= 1
    assert capsys.readouterr().out == "Results: docs/results\n"


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
