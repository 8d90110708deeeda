# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Access tokens stay out of everything that a run writes or says."""

import logging
from pathlib import Path

import pytest

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement.assembly import load_language_model
from sailvit_hf.refinement.recipes.recipe import parse_recipe

from .tiny import tiny_trainer

ARGUMENT, ENVIRONMENT = "hf_ThisIsTheArgumentsSecret", "hf_ThisIsTheEnvironmentsSecret"


def test_no_file_and_no_message_holds_a_token(tmp_path: Path, monkeypatch, caplog, capfd) -> None:
    monkeypatch.setenv("HF_TOKEN", ENVIRONMENT)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.set_level(logging.DEBUG)
    trainer = tiny_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=1, hub_token=ARGUMENT)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert trainer.args.hub_token == ARGUMENT  # for a push it is still there
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"refinement.json", "README.md", "training_args.bin", "trainer_state.json"} <= {path.name for path in files}
    said = caplog.text + "".join(capfd.readouterr())
    for secret in (ARGUMENT, ENVIRONMENT):
        assert not [path.name for path in files if secret.encode() in path.read_bytes()]
        assert secret not in said


def test_a_recipe_cannot_hold_one(tiny_recipe, tmp_path: Path) -> None:
    values = tiny_recipe(tmp_path)
    values["stages"]["coarse"]["arguments"]["hub_token"] = ARGUMENT
    with pytest.raises(SailvitError, match="hub_token") as error:
        parse_recipe(values)
    assert ARGUMENT not in str(error.value)


def test_a_recipes_parts_are_safetensors_too(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(SailvitError, match="no weights as safetensors, and pickles are not read"):
        load_language_model(tmp_path)
