# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A Hub that does not answer stops no training: what could not be pushed is pushed later, and told at the end."""

import json
import logging
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from sailvit_hf.cli import main
from sailvit_hf.errors import NotAnswered, SailvitError, Unpublished
from sailvit_hf.hub import publish
from sailvit_hf.hub.remote import Remote
from sailvit_hf.refinement import pipeline
from sailvit_hf.refinement.pipeline import run_recipe
from sailvit_hf.refinement.recipes.recipe import parse_recipe

from .server import Faults, HubServer

AWAY = Faults(rate=1.0, kinds=("unheard",))


@pytest.fixture
def recipe(hub: HubServer, tiny_run: Path, tiny_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Two stages, each pushed to a repository of its own; a push is checked elsewhere, and nobody waits here."""
    monkeypatch.setattr(publish, "check_reload", lambda staged, folder: None)
    monkeypatch.setattr("sailvit_hf.hub.remote.LONGEST_WAIT", 0.0)
    monkeypatch.setattr(logging.getLogger("sailvit_hf"), "propagate", True)
    values = tiny_recipe(tmp_path / "run", start={"model": str(tiny_run / "start")}, report=False)
    for key in ("coarse", "world"):
        values["stages"][key]["arguments"] |= {"push_to_hub": True, "hub_model_id": f"alice/{key}", "max_steps": 1}
    del values["foundations"], values["evaluation"], values["stages"]["fine"]
    return values


def marks(recipe: dict) -> set[str]:
    return {path.stem for path in (Path(recipe["output_dir"]) / "state").glob("*.json")}


def test_what_is_not_pushed_is_pushed_by_resuming(hub: HubServer, recipe, tmp_path: Path, caplog) -> None:
    hub.faults = AWAY
    with pytest.raises(Unpublished, match="not pushed, for the Hub did not answer: coarse, world; resume"):
        run_recipe(parse_recipe(recipe))
    assert not hub.repos and marks(recipe) == {"start", "coarse", "world", "backbone"}
    assert (tmp_path / "run" / "metrics.json").exists()
    assert "Training begins all the same" in caplog.text and "The run goes on, and tries again later" in caplog.text
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe))
    assert main(["refine", str(file), "--resume"]) == 75
    hub.faults = Faults()
    assert main(["refine", str(file), "--resume"]) == 0
    assert set(hub.repos) == {"alice/coarse", "alice/world"} and {"publish-coarse", "publish-world"} <= marks(recipe)
    for key in ("coarse", "world"):
        content = hub.repos[f"alice/{key}"].files()["model.safetensors"].content
        assert content == (tmp_path / "run" / key / "model.safetensors").read_bytes()


def test_a_push_is_tried_again_at_the_next_one(hub: HubServer, recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    train = pipeline.Run._train

    def train_and_come_back(self, stage, previous):
        result = train(self, stage, previous)
        hub.faults = Faults() if stage.key == "world" else AWAY
        return result

    monkeypatch.setattr(pipeline.Run, "_train", train_and_come_back)
    run_recipe(parse_recipe(recipe))
    assert list(hub.repos) == ["alice/coarse", "alice/world"]


def test_a_refusal_is_no_silence(hub: HubServer, recipe) -> None:
    HfApi().create_repo("alice/coarse", private=False)
    with pytest.raises(SailvitError, match="alice/coarse is public") as error:
        run_recipe(parse_recipe(recipe))
    assert not isinstance(error.value, NotAnswered)


@pytest.mark.parametrize("name", ["alice/tower", "tower"])
def test_silence_has_an_error_of_its_own(hub: HubServer, name: str) -> None:
    hub.faults = AWAY
    with pytest.raises(NotAnswered, match="did not answer"):
        Remote(name, pause=lambda seconds: None).open(private=True)
