# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Push, then pull where the package is not installed: a run's every state, a merged LoRA, what the Trainer pushes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file
from transformers import AutoModel

from sailvit_hf import SAILViTForConditionalGeneration, SAILViTProcessor
from sailvit_hf.errors import SailvitError
from sailvit_hf.hub import publish, reload
from sailvit_hf.hub.publish import publish_checkpoint
from sailvit_hf.refinement import RefinementArguments, WorldKnowledgeTrainer
from sailvit_hf.refinement.lineage import Lineage
from sailvit_hf.refinement.pipeline import run_recipe
from sailvit_hf.refinement.recipes.recipe import parse_recipe

from .conftest import TOKENS
from .server import Faults, HubServer, client_environment

ALICE = next(iter(TOKENS))

PULL = f"""
import json, runpy, sys
sys.modules["sailvit_hf"] = None
from safetensors.torch import save_file
outputs = runpy.run_path({reload.__file__!r})["outputs"]
for repo, revision in json.loads(sys.argv[1]).items():
    save_file(outputs(repo, True, revision), repo.split("/")[1] + ".safetensors")
"""


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "check_reload", lambda staged, folder: None)


def pull_elsewhere(hub: HubServer, pins: dict[str, str], folder: Path) -> None:
    """Load repositories in a process that cannot import the package; their outputs come to lie in `folder`."""
    environment = client_environment(hub, folder / "home", ALICE)
    run = subprocess.run(
        [sys.executable, "-I", "-c", PULL, json.dumps(pins)],
        capture_output=True, text=True, env=environment, cwd=folder,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]


def merged_lora(checkpoint: Path, folder: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    model = SAILViTForConditionalGeneration.from_pretrained(checkpoint)
    lora = get_peft_model(model, LoraConfig(target_modules=["qkv", "q_proj"], r=2))
    torch.manual_seed(0)
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    lora.merge_and_unload().save_pretrained(folder)
    SAILViTProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    Lineage.load(checkpoint).save(folder)
    return folder


def test_every_state_of_a_run_comes_back_elsewhere(hub: HubServer, unchecked, tiny_run: Path, tmp_path: Path) -> None:
    folders = {state: tiny_run / state for state in ("start", "coarse", "fine", "world", "backbone")}
    folders["merged"] = merged_lora(tiny_run / "world", tmp_path / "merged")
    pins = {}
    for state, folder in folders.items():
        published = publish_checkpoint(folder, f"alice/{state}")
        assert published.commit.pull_request == 1
        assert not [name for name in published.files if name.endswith((".bin", ".pt", ".pth"))]
        pins[published.commit.repo] = published.commit.oid
    pull_elsewhere(hub, pins, tmp_path)
    seen = set()
    for state, folder in folders.items():
        here, there = reload.outputs(str(folder), False), load_file(tmp_path / f"{state}.safetensors")
        assert reload.difference(here, there) is None, state
        seen.add(round(next(reversed(here.values())).double().sum().item(), 6))
    assert len(seen) == len(folders)  # they are not all the same model


def test_refinement_goes_on_from_a_repository(
    hub: HubServer, unchecked, tiny_run: Path, tiny_recipe, tmp_path: Path
) -> None:
    pushed = publish_checkpoint(tiny_run / "coarse", "alice/vlm", pull_request=False).commit
    publish_checkpoint(tiny_run / "fine", "alice/vlm", pull_request=False)  # main has moved on
    recipe = tiny_recipe(tmp_path / "run", start={"model": "alice/vlm", "model_revision": pushed.oid}, report=False)
    recipe = {**recipe, "stages": {"world": recipe["stages"]["world"]}}
    recipe["stages"]["world"]["arguments"].update(
        push_to_hub=True, hub_model_id="alice/further", max_steps=2, save_steps=1
    )
    recipe["evaluation"] = {"samples": 4, "probes": False}
    del recipe["foundations"]
    recipe = parse_recipe(recipe)
    hub.faults = Faults(plan=["403"], only="POST .*/preupload/")
    with pytest.raises(SailvitError, match="alice/further was not changed: the Hub refused it .403"):
        run_recipe(recipe)
    result = run_recipe(recipe, resume=True)
    start = load_file(result.folder / "start" / "model.safetensors")
    coarse = load_file(tiny_run / "coarse" / "model.safetensors")
    assert all(torch.equal(value, start[name]) for name, value in coarse.items())
    lineage = Lineage.load(result.folder / "world")
    assert [record.stage for record in lineage.stages] == ["coarse", "world"]
    further = hub.repos["alice/further"]
    files = further.files()
    assert further.private and not further.discussions
    assert files["model.safetensors"].content == (result.folder / "world/model.safetensors").read_bytes()
    assert not [name for name in files if name.endswith(".bin") or name.startswith("checkpoint")]
    card = files["README.md"].content.decode()
    assert "| world | mean training loss |" in card and "| world | vlm " in card
    assert files["refinement.json"].content == (result.folder / "world/refinement.json").read_bytes()


@pytest.fixture
def trainer(hub: HubServer, tiny_run: Path, tmp_path: Path):
    from sailvit_hf.data.demo_world import DemoWorld

    def make(**arguments) -> WorldKnowledgeTrainer:
        options = {
            "output_dir": str(tmp_path / "out"), "max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 2,
            "use_cpu": True, "disable_tqdm": True, "push_to_hub": True, "hub_model_id": "alice/trained",
        }  # fmt: skip
        return WorldKnowledgeTrainer(
            SAILViTForConditionalGeneration.from_pretrained(tiny_run / "fine"),
            RefinementArguments(**{**options, **arguments}),
            train_dataset=DemoWorld().dataset("world", "train", 8),
            processing_class=SAILViTProcessor.from_pretrained(tiny_run / "fine"),
        )

    return make


def test_the_trainer_publishes_as_the_command_does(hub: HubServer, trainer, tmp_path: Path) -> None:
    trained = trainer()
    assert hub.repos["alice/trained"].private  # made before the training, where a mistake costs nothing
    trained.train()
    assert set(hub.repos["alice/trained"].files()) == {".gitattributes"}
    pushed = trained.push_to_hub()
    assert (tmp_path / "out/training_args.bin").exists() and "training_args.bin" in pushed.left_out
    again = publish_checkpoint(tmp_path / "out", "alice/again", pull_request=False)
    one, other = (hub.repos[f"alice/{name}"].files() for name in ("trained", "again"))
    assert set(one) == set(other)
    assert {name for name in one if one[name] != other[name]} == {"README.md"}  # which names the repository
    assert pushed.commit.oid == HfApi().model_info("alice/trained").sha and again.commit.new
    model = AutoModel.from_pretrained("alice/trained", revision=pushed.commit.oid)
    assert model.config.model_type == "sailvit_vlm"


def test_saving_pushes_to_the_branch(hub: HubServer, unchecked, trainer, tmp_path: Path) -> None:
    trained = trainer(hub_revision="fine-world", hub_private_repo=False)
    trained.train()
    trained.save_model(str(tmp_path / "final"))
    repo = hub.repos["alice/trained"]
    assert not repo.private and set(repo.files()) == {".gitattributes"}
    assert json.loads(repo.files("fine-world")["refinement.json"].content)["stages"][-1]["stage"] == "world"


def test_what_the_trainer_refuses(hub: HubServer, trainer) -> None:
    HfApi().create_repo("alice/trained", private=False)
    with pytest.raises(SailvitError, match="alice/trained is public"):
        trainer()
    with pytest.raises(SailvitError, match="hub_strategy 'every_save' would push optimiser state"):
        trainer(hub_strategy="every_save")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"push_to_hub": True}, "stages.world.arguments: push_to_hub needs the repository"),
        ({"hub_model_id": "alice/a", "hub_token": "hf_secret"}, "hub_token is set by the pipeline"),
    ],
)
def test_what_a_recipe_may_not_say(arguments: dict, message: str, tiny_recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path / "run")
    recipe["stages"]["world"]["arguments"].update(arguments)
    with pytest.raises(SailvitError, match=message) as error:
        run_recipe(parse_recipe(recipe))
    assert "hf_secret" not in str(error.value) and not (tmp_path / "run").exists()
