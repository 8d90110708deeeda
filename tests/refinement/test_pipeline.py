# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement.lineage import Lineage
from sailvit_hf.refinement.pipeline import run_recipe
from sailvit_hf.refinement.recipes.recipe import parse_recipe
from sailvit_hf.refinement.run_folder import check_folder
from sailvit_hf.refinement.saving.checkpoints import last_complete_checkpoint
from sailvit_hf.refinement.stages import MODULES, module_of

STATES = ["start", "coarse", "fine", "world"]

# Runs a recipe and kills itself, as `kill -9` would, after a step of a stage; a checkpoint was written at step 2.
KILLED = """
import os, signal, sys
from transformers import TrainerCallback
from sailvit_hf.refinement import pipeline
from sailvit_hf.refinement.recipes.recipe import load_recipe

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

original = pipeline.trainer_class
def trainer_class(stage):
    def build(**kwargs):
        return original(stage)(callbacks=[Kill()] if stage.key == sys.argv[2] else [], **kwargs)
    return build

pipeline.trainer_class = trainer_class
pipeline.run_recipe(load_recipe(sys.argv[1]), resume=True)
"""

# Loads what a run left where sailvit_hf cannot be imported, and saves the outputs.
STRANGER = """
import sys
sys.modules["sailvit_hf"] = None
import torch
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

run, inputs, outputs = sys.argv[1:]
given = torch.load(inputs, weights_only=True)
found = {}
for state in ("start", "coarse", "fine", "world"):
    AutoProcessor.from_pretrained(f"{run}/{state}", trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(f"{run}/{state}", trust_remote_code=True)
    base = AutoModel.from_pretrained(f"{run}/{state}", trust_remote_code=True)
    for loaded in (model, base):
        assert type(loaded).__module__.startswith("transformers_modules"), type(loaded).__module__
    with torch.no_grad():
        found[state] = model(**given).logits
        found[f"{state} base"] = base(**given).last_hidden_state
AutoImageProcessor.from_pretrained(f"{run}/backbone", trust_remote_code=True)
model = AutoModel.from_pretrained(f"{run}/backbone", trust_remote_code=True)
with torch.no_grad():
    found["backbone"] = model(given["pixel_values"]).last_hidden_state
save_file(found, outputs)
"""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def run_python(code: str, *arguments, cwd=None) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_MODULES_CACHE": str(cwd or Path.cwd() / ".modules")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300)


def assert_equal_runs(first: Path, second: Path) -> None:
    for state in [*STATES, "backbone"]:
        ours, theirs = weights(first / state), weights(second / state)
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert (first / "metrics.json").read_bytes() == (second / "metrics.json").read_bytes()
    for stage in STATES[1:]:
        assert (first / stage / "history.json").read_bytes() == (second / stage / "history.json").read_bytes()


def test_a_run_leaves_what_it_promises(tiny_run):
    for state in STATES:
        names = {path.name for path in (tiny_run / state).iterdir()}
        assert {"model.safetensors", "config.json", "processor_config.json", "tokenizer.json", "README.md"} <= names
        assert {"refinement.json", "chat_template.jinja", "modeling_sailvit_vlm.py", "modeling_sailvit.py"} <= names
        assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
        Lineage.load(tiny_run / state).verify(tiny_run / state)
    assert [record.stage for record in Lineage.load(tiny_run / "backbone").stages] == STATES[1:]
    assert {path.name for path in (tiny_run / "backbone").iterdir()} >= {"model.safetensors", "modeling_sailvit.py"}
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert metrics["states"] == STATES and list(metrics["vlm"]) == STATES
    assert set(metrics["encoder_swap"]) == {"original", "second"}
    assert metrics["encoder_swap"]["second"]["unrefined"].keys() == metrics["vlm"]["start"].keys()
    assert {"question_accuracy", "reading_accuracy"} <= set(metrics["chance"])
    assert metrics["stages"]["fine"]["steps"] == 5 and metrics["stages"]["fine"]["samples_seen"] == 20
    assert "OpenMoji" in metrics["credit"]
    history = json.loads((tiny_run / "world" / "history.json").read_text())
    assert [entry["step"] for entry in history] == [1, 2, 3, 4, 5]
    record = json.loads((tiny_run / "run.json").read_text())["sessions"][0]
    assert record["peak_memory_bytes"] < 6e9 and record["versions"]["torch"] == torch.__version__
    assert (tiny_run / "report.html").stat().st_size > 10_000


def test_each_stage_changes_exactly_its_modules(tiny_run):
    trained = {"coarse": MODULES[1:2], "fine": MODULES[:2], "world": MODULES}
    for previous, stage in zip(STATES, STATES[1:], strict=False):
        before, after = weights(tiny_run / previous), weights(tiny_run / stage)
        assert before.keys() == after.keys()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {name for name in before if module_of(name) in trained[stage]}
    tower = {name.removeprefix("model.vision_tower."): tensor for name, tensor in weights(tiny_run / "world").items()}
    backbone = weights(tiny_run / "backbone")
    assert all(torch.equal(tensor, tower[name]) for name, tensor in backbone.items())


def test_checkpoints_load_where_the_package_is_absent(tiny_run, tmp_path):
    from sailvit_hf import SAILViTForConditionalGeneration, SAILViTModel, SAILViTProcessor

    processor = SAILViTProcessor.from_pretrained(tiny_run / "world")
    from PIL import Image

    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe"}]},
        {"role": "assistant", "content": "a cat"},
    ]
    inputs = processor.encode_conversations([chat], [[picture]])
    inputs.pop("labels")
    torch.save(inputs, tmp_path / "inputs.pt")
    expected = {}
    with torch.no_grad():
        for state in ("start", "coarse", "fine", "world"):
            model = SAILViTForConditionalGeneration.from_pretrained(tiny_run / state)
            expected[state] = model(**inputs).logits
            expected[f"{state} base"] = model.model(**inputs).last_hidden_state
        backbone = SAILViTModel.from_pretrained(tiny_run / "backbone")
        expected["backbone"] = backbone(inputs["pixel_values"]).last_hidden_state
    done = run_python(STRANGER, tiny_run, tmp_path / "inputs.pt", tmp_path / "outputs.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(tmp_path / "outputs.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)


def test_equal_seeds_give_equal_metrics_and_a_kill_changes_nothing(tiny_run, tiny_recipe, tmp_path):
    """One kill in the fine stage here; every stage in the slow test below."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(tmp_path / "killed")))
    killed = run_python(KILLED, recipe, "fine")
    assert killed.returncode == -9, killed.stderr[-2000:]
    folder = tmp_path / "killed"
    assert not (folder / "fine" / "model.safetensors").exists()
    checkpoint = last_complete_checkpoint(folder / "fine" / "checkpoints")
    assert checkpoint is not None and checkpoint.name == "checkpoint-2"
    # A checkpoint that the kill cut off while it was written: no trainer state yet.
    broken = folder / "fine" / "checkpoints" / "checkpoint-4"
    shutil.copytree(checkpoint, broken)
    (broken / "trainer_state.json").write_text('{"global_step": 4, "log')
    run_recipe(parse_recipe(tiny_recipe(folder)), resume=True)
    assert_equal_runs(tiny_run, folder)
    again = run_recipe(parse_recipe(tiny_recipe(folder)), resume=True)
    assert again.metrics == json.loads((tiny_run / "metrics.json").read_text())


@pytest.mark.slow
def test_a_kill_in_every_stage_changes_nothing(tiny_run, tiny_recipe, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(tmp_path / "killed")))
    for stage in STATES[1:]:
        assert run_python(KILLED, recipe, stage).returncode == -9
    run_recipe(parse_recipe(tiny_recipe(tmp_path / "killed")), resume=True)
    assert_equal_runs(tiny_run, tmp_path / "killed")


def test_another_seed_gives_other_weights(tiny_run, tiny_recipe, tmp_path):
    stages = {"coarse": tiny_recipe(tmp_path)["stages"]["coarse"]}
    foundations = {**tiny_recipe(tmp_path)["foundations"], "seed": 0}
    changes = {"stages": stages, "foundations": foundations, "evaluation": None, "report": False}
    recipe = tiny_recipe(tmp_path / "run", seed=1, **changes)
    result = run_recipe(parse_recipe(recipe))
    assert result.report is None and "vlm" not in result.metrics
    ours, theirs = weights(tmp_path / "run" / "coarse"), weights(tiny_run / "coarse")
    differing = {module_of(name) for name in ours if not torch.equal(ours[name], theirs[name])}
    assert differing == {"multi_modal_projector"}


def test_probes_follow_the_tower_and_precision_the_stage(tiny_recipe, tmp_path, monkeypatch):
    from sailvit_hf.evaluation import probing

    monkeypatch.setattr(probing, "probe_backbone", lambda *parts, **options: {"scene_knn_seen": 0.5})
    stages = {key: tiny_recipe(tmp_path)["stages"][key] for key in ("coarse", "fine")}
    stages["fine"]["arguments"]["bf16"] = True  # stages of different precision, in one process
    evaluation = {"samples": 4, "probes": True}
    recipe = tiny_recipe(tmp_path / "run", stages=stages, evaluation=evaluation)
    result = run_recipe(parse_recipe(recipe))
    assert result.metrics["probes"] == {"start": {"scene_knn_seen": 0.5}, "fine": {"scene_knn_seen": 0.5}}
    assert "encoder_swap" not in result.metrics
    precisions = [record.arguments["bf16"] for record in Lineage.load(tmp_path / "run" / "fine").stages]
    assert precisions == [False, True]


def test_a_run_goes_on_from_a_whole_checkpoint_with_own_data(tiny_run, tiny_recipe, tmp_path):
    from PIL import Image

    Image.new("RGB", (80, 40), "red").save(tmp_path / "red.png")
    line = {
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe"}]},
            {"role": "assistant", "content": "red"},
        ],
        "images": ["red.png"],
    }
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for _ in range(4)))
    messages = {"messages": str(tmp_path / "mine.jsonl")}
    stage = {"data": [messages, messages], "arguments": {"max_steps": 2, "per_device_train_batch_size": 4}}
    swap = {"steps": 1, "learning_rate": 1e-3, "batch_size": 2, "data": messages}
    recipe = tiny_recipe(
        tmp_path / "run",
        start={"model": str(tiny_run / "fine")},
        stages={"world": stage},
        evaluation={**messages, "encoder_swap": swap},
    )
    result = run_recipe(parse_recipe(recipe))
    assert set(result.metrics["vlm"]["world"]) == {"held_out_loss", "held_out_accuracy"}
    assert result.metrics["samples"] == {"held_out": 4}
    assert set(result.metrics["encoder_swap"]) == {"original"}
    assert result.metrics["parts"]["vision_tower"]["source"] == "demo foundation"
    lineage = Lineage.load(tmp_path / "run" / "world")
    assert [record.stage for record in lineage.stages] == ["coarse", "fine", "world"]
    assert lineage.stages[-1].data["samples"] == 8
    assert result.report is not None and result.report.exists()


def test_folders_that_are_taken(tiny_run, tiny_recipe, tmp_path):
    recipe = parse_recipe(tiny_recipe(tiny_run))
    with pytest.raises(SailvitError, match="holds a run already; go on by --resume, or choose another output_dir"):
        run_recipe(recipe)
    other = parse_recipe(tiny_recipe(tiny_run, seed=5))
    with pytest.raises(SailvitError, match=r"another recipe's run \(seed is 0 there and 5 here\); choose another"):
        run_recipe(other, resume=True)
    raised = tiny_recipe(tiny_run)  # as the error past a limit tells one to do
    raised["stages"]["world"]["arguments"]["bad_sample_limit"] = 0.5
    assert check_folder(parse_recipe(raised), resume=True)
    with pytest.raises(SailvitError, match="another recipe's run"):
        check_folder(parse_recipe(raised), resume=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SailvitError, match="holds files that are not of a run"):
        run_recipe(parse_recipe(tiny_recipe(tmp_path)))
    with pytest.raises(SailvitError, match="is a file"):
        run_recipe(parse_recipe(tiny_recipe(tmp_path / "notes.txt")))


def test_arguments_that_contradict_the_stage_are_found_before_anything_runs(tiny_recipe, tmp_path):
    recipe = tiny_recipe(tmp_path / "run")
    recipe["stages"]["coarse"]["arguments"]["language_model_learning_rate"] = 1e-3
    with pytest.raises(SailvitError, match="stages.coarse.arguments: language_model_learning_rate is set, but stage"):
        run_recipe(parse_recipe(recipe))
    assert not (tmp_path / "run").exists()


def test_parts_that_do_not_exist_are_named(tiny_recipe, tmp_path):
    start = {"vision_tower": "demo", "language_model": str(tmp_path / "absent")}
    with pytest.raises(SailvitError, match="start.language_model: .*absent cannot be loaded: "):
        run_recipe(parse_recipe(tiny_recipe(tmp_path / "run", start=start)))


def resume(folder, tiny_recipe):
    return run_recipe(parse_recipe(tiny_recipe(folder, report=False)), resume=True)


@pytest.fixture
def finished(tiny_run, tiny_recipe, tmp_path):
    """A copy of the tiny run that may be written to."""
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    (folder / "recipe.yaml").write_text(parse_recipe(tiny_recipe(folder, report=False)).to_yaml())
    return folder


def test_a_finished_stage_that_is_damaged_says_what_makes_it_again(finished, tiny_run, tiny_recipe):
    marks = sorted((finished / "state").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    first = next(number for number, path in enumerate(marks) if path.stem == "coarse")
    for path in marks[first + 1 :]:
        path.unlink()
    with (finished / "coarse" / "model.safetensors").open("r+b") as file:
        file.truncate(100_000)
    said = r"coarse/model.safetensors is .* damaged \(.*\): remove .*state/coarse.json and there what follows it"
    for _ in range(2):  # cut off, then gone
        with pytest.raises(SailvitError, match=f"{said}, and --resume makes it again from its last checkpoint"):
            resume(finished, tiny_recipe)
        (finished / "coarse" / "model.safetensors").unlink(missing_ok=True)
    marks[first].unlink()
    resume(finished, tiny_recipe)
    assert_equal_runs(tiny_run, finished)


def test_a_stage_without_a_complete_checkpoint_says_that_it_begins_anew(finished, tiny_recipe, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("sailvit_hf"), "propagate", True)
    (finished / "state" / "world.json").unlink()
    for path in (finished / "world" / "checkpoints").glob("*/optimizer.pt"):
        path.unlink()
    resume(finished, tiny_recipe)
    assert "There is no complete checkpoint of stage world: it begins anew." in caplog.messages
    (finished / "state" / "world.json").unlink()
    shutil.rmtree(finished / "world" / "checkpoints")
    caplog.clear()
    resume(finished, tiny_recipe)
    assert "begins anew" not in caplog.text  # nothing was lost that anybody could miss


def test_a_full_disk_at_the_start(tiny_run, tiny_recipe, tmp_path, monkeypatch):
    def no_room(*_args, **_kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", no_room)
    with pytest.raises(SailvitError, match=r"run could not be written \(.*No space left.*\): make room there"):
        run_recipe(parse_recipe(tiny_recipe(tmp_path / "run")))
    cache = {"foundations": {**tiny_recipe(tmp_path)["foundations"], "cache_dir": str(tmp_path / "cache")}}
    with pytest.raises(SailvitError, match="cache could not be written"):
        run_recipe(parse_recipe(tiny_recipe(tmp_path / "other", **cache)))


@pytest.mark.slow
def test_two_processes_share_a_run(tiny_run, tiny_recipe, tmp_path):
    recipe = tiny_recipe(tmp_path / "run")
    del recipe["stages"]["world"]
    recipe["evaluation"]["encoder_swap"]["steps"] = 1
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "sailvit_hf.cli", "refine", str(tmp_path / "recipe.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Refined backbone") == 1
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["stages"]["coarse"]["samples_seen"] == 36, "five steps of twice four samples, the third one short"
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]) == 1
