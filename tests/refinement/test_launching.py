# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a launch starts and hands back, and the launches that would silently be others."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import DistributedType
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from sailvit_hf.errors import RESUME_STATUS, SailvitError
from sailvit_hf.refinement import launching
from sailvit_hf.refinement.launching import LAYOUTS, Launch, check_environment, check_layout, config_file, launch
from sailvit_hf.refinement.saving.checkpoints import MARKER, last_complete_checkpoint, mark
from sailvit_hf.refinement.saving.layouts import choose_layers, fit_checkpoint, renamed

from .tiny import tiny_model, tiny_trainer

ROOT = Path(__file__).parents[2]
KINDS = ("MULTI_GPU", "FSDP", "DEEPSPEED", "DEEPSPEED")


@pytest.fixture(autouse=True)
def not_launched(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "SLURM_", "TORCHELASTIC_")) or name in ("WORLD_SIZE", "LOCAL_RANK", "RANK"):
            monkeypatch.delenv(name)


# --- the configs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "kind"), zip(LAYOUTS, KINDS, strict=True))
def test_configs_are_known_to_accelerate(layout, kind):
    config = load_config_from_file(str(config_file(layout)))
    assert config.distributed_type == kind
    assert config.mixed_precision == "no"  # the recipe's arguments decide


def test_checkpoints_of_the_configs_are_whole():
    fsdp = yaml.safe_load(config_file("fsdp2").read_text())["fsdp_config"]
    assert (fsdp["fsdp_version"], fsdp["fsdp_state_dict_type"]) == (2, "FULL_STATE_DICT")
    zero3 = yaml.safe_load(config_file("zero3").read_text())["deepspeed_config"]
    assert (zero3["zero_stage"], zero3["zero3_save_16bit_model"], zero3["zero3_init_flag"]) == (3, True, False)


# --- launches that would be others ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (Launch("fsdp2", 2), "--launch fsdp2 needs a GPU.*would train without sharding"),
        (Launch("zero3", 2), "--launch zero3 needs a GPU"),
        (Launch("ddp"), "say how many processes"),
        (Launch("nope", 2), "There is no launch nope: choose out of ddp, fsdp2, zero2, zero3"),
        (Launch("ddp", 3, 2, 0, "one"), "3 processes are not as many on each of 2 machines"),
        (Launch("ddp", 4, 2, 2, "one"), "--machine-rank 2: 2 machines count from 0"),
        (Launch("ddp", 4, 2), "--machines needs --main-address"),
    ],
)
def test_refused_launches(asked, sentence, monkeypatch):
    monkeypatch.setattr(launching, "accelerators", lambda: 0)
    with pytest.raises(SailvitError, match=sentence):
        launch(asked, [])


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(launching, "accelerators", lambda: 2)
    with pytest.raises(SailvitError, match="4 processes a machine, but torch sees 2 GPUs"):
        launch(Launch("ddp", 4), [])


def test_without_deepspeed(monkeypatch):
    monkeypatch.setattr(launching, "accelerators", lambda: 2)
    monkeypatch.setattr(launching, "find_spec", lambda name: None)
    with pytest.raises(SailvitError, match="needs the package deepspeed: pip install deepspeed, or take fsdp2"):
        launch(Launch("zero2", 2), [])


@pytest.mark.parametrize("config", [{"distributed_type": "MULTI_CPU"}, {"distributed_type": "NO"}, {"use_cpu": True}])
def test_configs_of_which_accelerate_makes_one_process(config, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"distributed_type": "MULTI_GPU", **config}))
    with pytest.raises(SailvitError, match="accelerate starts one process"):
        launch(Launch(str(path), 2), [])


@pytest.mark.parametrize("text", ["stages: {}", "- 1", "{"])
def test_a_file_that_is_no_config(text, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SailvitError, match="is no config of accelerate"):
        launch(Launch(str(tmp_path / "mine.yaml"), 2), [])


def test_a_launch_within_a_launch(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(SailvitError, match="started by a launcher already"):
        launch(Launch("ddp", 2), [])


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "2"}, "ACCELERATE_USE_FSDP=true.*needs a GPU"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "WORLD_SIZE": "2"}, "ACCELERATE_USE_DEEPSPEED=true.*needs a GPU"),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}, "asked for several processes"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "srun started several tasks"),
    ],
)
def test_environments_that_are_refused(environment, sentence, monkeypatch):
    monkeypatch.setattr(launching, "accelerators", lambda: 0)
    check_environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SailvitError, match=sentence):
        check_environment()


@pytest.mark.parametrize("options", [["--cpu"], pytest.param([], marks=pytest.mark.slow)])
def test_plain_accelerate_launch_of_one_process(options, tmp_path):
    """accelerate says nothing of it, and sets everything but WORLD_SIZE."""
    if torch.accelerator.is_available() and not options:
        pytest.skip("with GPUs it starts two")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\noutput_dir: x\nstart: {model: x}\nstages: {coarse: {data: {messages: x.jsonl}}}\n")
    command = ["-m", "accelerate.commands.launch", *options, "--num_processes", "2", "-m", "sailvit_hf.cli", "refine"]
    done = subprocess.run(
        [sys.executable, *command, str(recipe)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
    )  # fmt: skip
    assert "error: accelerate was asked for several processes and started one" in done.stderr


def accelerator(kind="NO", processes=1, **plugins):
    state = SimpleNamespace(fsdp_plugin=None, deepspeed_plugin=None)
    for name, values in plugins.items():
        setattr(state, name, SimpleNamespace(**values))
    return SimpleNamespace(distributed_type=DistributedType(kind), num_processes=processes, state=state)


FSDP = {"fsdp_version": 2, "state_dict_type": "StateDictType.FULL_STATE_DICT"}
ZERO = {"zero_stage": 3, "zero3_init_flag": False, "zero3_save_16bit_model": True}


@pytest.mark.parametrize(
    ("args", "made", "sentence"),
    [
        ({"fsdp": True}, accelerator(), "FSDP was asked for, but on cpu accelerate runs NO"),
        ({"deepspeed": "zero.json"}, accelerator("MULTI_CPU"), "DEEPSPEED was asked for, but on cpu.*MULTI_CPU"),
        ({"n_gpu": 8}, accelerator(), "one process sees 8 GPUs.*--launch ddp"),
        ({}, accelerator("FSDP", fsdp_plugin={**FSDP, "fsdp_version": 1}), "set fsdp_version to 2"),
        ({}, accelerator("FSDP", fsdp_plugin={**FSDP, "state_dict_type": "SHARDED_STATE_DICT"}), "no whole model"),
        ({}, accelerator("FSDP"), "lost its FSDP settings"),
        ({"clip_per_module": True}, accelerator("DEEPSPEED", deepspeed_plugin=ZERO), "clip_per_module"),
        ({}, accelerator("DEEPSPEED", deepspeed_plugin={**ZERO, "zero3_init_flag": True}), "zero3_init_flag"),
        ({}, accelerator("DEEPSPEED", deepspeed_plugin={**ZERO, "zero3_save_16bit_model": False}), "no whole model"),
        ({}, accelerator(), None),
        ({}, accelerator("FSDP", fsdp_plugin=FSDP), None),
        ({}, accelerator("DEEPSPEED", deepspeed_plugin=ZERO), None),
    ],
)
def test_layouts_that_are_not_what_was_asked_for(args, made, sentence):
    common = {"fsdp": False, "deepspeed": None, "n_gpu": 0, "clip_per_module": False, "device": torch.device("cpu")}
    args = SimpleNamespace(**{**common, **args})
    if sentence is None:
        return check_layout(args, made)
    with pytest.raises(SailvitError, match=sentence):
        check_layout(args, made)


def test_processes_that_do_not_know_of_each_other(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    args = SimpleNamespace(fsdp=False, deepspeed=None, n_gpu=0, clip_per_module=False, device=torch.device("cpu"))
    check_layout(args, accelerator("MULTI_CPU", 2))
    with pytest.raises(SailvitError, match="2 processes were started .WORLD_SIZE. but 1 train together"):
        check_layout(args, accelerator())


def test_the_trainer_notices_it_itself(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SailvitError, match="FSDP was asked for, but on cpu accelerate runs NO"):
        tiny_trainer(tmp_path)


# --- what is started -----------------------------------------------------------------------------------------------


def started(folder, what, **asked):
    """A launch of `launched.py` as a process."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    options = json.dumps({"layout": "ddp", "processes": 2, **asked})
    command = [sys.executable, "-m", "tests.refinement.launched", "launch", options, str(folder), what]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL)


def wait_for(*paths, seconds=60):
    end = time.monotonic() + seconds
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, paths
        time.sleep(0.1)


@pytest.mark.parametrize("status", [*(pytest.param(each, marks=pytest.mark.slow) for each in (0, 2)), RESUME_STATUS])
def test_the_status_arrives(status, tmp_path):
    assert started(tmp_path, str(status)).wait(60) == status
    given = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("started-*"))]
    assert [each["WORLD_SIZE"] for each in given] == ["2", "2"]


@pytest.mark.parametrize(("restarts", "status"), [pytest.param(0, 137, marks=pytest.mark.slow), (1, 0)])
def test_a_killed_process(restarts, status, tmp_path):
    """Those that are started again find each other, and not the addresses of those before them."""
    what = "dies-once" if restarts else "dies"
    assert started(tmp_path, what, max_restarts=restarts).wait(90) == status
    assert len(list(tmp_path.glob("started-*-1.json"))) == 2 * restarts


@pytest.mark.parametrize(
    ("exitcode", "status", "said"),
    [
        (-9, 137, "process 1 was killed by SIGKILL (often memory): --resume goes on"),
        (-11, 139, "process 1 was killed by SIGSEGV: --resume goes on"),
        (2, 2, None),
    ],
)
def test_what_killed_a_process_is_told(exitcode, status, said, tmp_path, capsys):
    failure = ProcessFailure(local_rank=1, pid=1, exitcode=exitcode, error_file=str(tmp_path / "none"))

    def start(args):
        raise ChildFailedError("sailvit", {1: failure})

    assert launching._status_of(start, None) == status
    assert capsys.readouterr().err == (f"{said} from the last complete checkpoint\n" if said else "")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_asked_to_stop(number, tmp_path):
    """All processes are told and waited for, none is started again, and the status says that the run can go on."""
    run = started(tmp_path, "wait", max_restarts=3)
    wait_for(tmp_path / "waits-0", tmp_path / "waits-1")
    run.send_signal(number)
    assert run.wait(60) == RESUME_STATUS
    assert (tmp_path / "saved-0").exists() and (tmp_path / "saved-1").exists()
    assert not list(tmp_path.glob("started-*-1.json"))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["0", "dies-once"])
def test_two_machines(what, tmp_path):
    """The first machine's process is started again, too, when that of the second one dies."""
    port = 20000 + os.getpid() % 10000
    asked = {"machines": 2, "main_address": f"127.0.0.1:{port}", "max_restarts": 2}
    runs = [started(tmp_path, what, machine_rank=rank, **asked) for rank in (0, 1)]
    assert [run.wait(100) for run in runs] == [0, 0]
    given = json.loads((tmp_path / "started-1-0.json").read_text())
    assert (given["WORLD_SIZE"], given["LOCAL_WORLD_SIZE"]) == ("2", "1")


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_twice(tiny_recipe, tmp_path):
    """SIGTERM and SIGUSR1, each to the launcher in the middle of a stage, change nothing of what comes out."""
    folders = tmp_path / "stopped", tmp_path / "whole"
    steps = {"coarse": 20, "fine": 20, "world": 2}

    def refine(folder, *options):
        recipe = tiny_recipe(folder, evaluation=None, report=False)
        for stage, count in steps.items():
            recipe["stages"][stage]["data"]["demo"]["samples"] = 8 * count
            recipe["stages"][stage]["arguments"]["max_steps"] = count
        path = folder.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(recipe))
        command = [sys.executable, "-m", "sailvit_hf.cli", "refine", str(path), "--launch", "ddp", "--processes", "2"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return subprocess.Popen([*command, *options], env=environment, stderr=subprocess.PIPE, text=True)

    stopped, whole = folders
    for stage, number, options in (("coarse", signal.SIGTERM, []), ("fine", signal.SIGUSR1, ["--resume"])):
        run = refine(stopped, *options)
        checkpoints = stopped / stage / "checkpoints"
        wait_for(checkpoints / "checkpoint-2" / MARKER, seconds=200)
        run.send_signal(number)
        said = run.communicate(timeout=300)[1]
        assert run.returncode == RESUME_STATUS, said[-3000:]
        last = last_complete_checkpoint(checkpoints)
        assert f"{number.name} came: training ended at step {last.name[11:]} of 20" in said
        assert not (stopped / stage / "model.safetensors").exists()
    for folder in folders:
        run = refine(folder, "--resume")
        said = run.communicate(timeout=600)[1]
        assert run.returncode == 0, said[-3000:]
    for stage in steps:
        found, expected = (load_file(folder / stage / "model.safetensors") for folder in folders)
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
        found, expected = ((folder / stage / "history.json").read_bytes() for folder in folders)
        assert found == expected


# --- what FSDP is told, and what becomes of an optimiser's state ---------------------------------------------------


@pytest.mark.parametrize(("tower", "layer"), [("sailvit", "SAILViTBlock"), ("clip", "CLIPEncoderLayer")])
def test_the_layers_that_are_gathered(tower, layer):
    plugin = SimpleNamespace(transformer_cls_names_to_wrap=None)
    choose_layers(plugin, tiny_model(tower=tower))
    assert {layer, "LlamaDecoderLayer"} <= set(plugin.transformer_cls_names_to_wrap)
    assert "CLIPTextEmbeddings" not in plugin.transformer_cls_names_to_wrap


def test_renaming_an_optimiser_state_and_back():
    names = [["b", "a"], ["c"]]
    groups = [{"lr": 1.0, "params": [0, 1]}, {"lr": 2.0, "params": [2]}]
    state = {"state": {0: {"step": 1}, 2: {"step": 3}}, "param_groups": groups}
    named = renamed(state, names)
    assert named["state"] == {"b": {"step": 1}, "c": {"step": 3}}
    assert [group["params"] for group in named["param_groups"]] == names
    named["param_groups"][0]["params"].reverse()  # FSDP may have another order within a group
    assert renamed(named, names) == state
    for other in ([["b"], ["a", "c"]], [["b", "x"], ["c"]]):
        with pytest.raises(SailvitError, match="of other parameters"):
            renamed(named, other)


@pytest.mark.parametrize(
    ("processes", "deepspeed", "zero", "sentence"),
    [
        (2, True, True, None),
        (4, True, True, "saved by 2 processes with DeepSpeed, which goes on with as many, and not with 4: start 2"),
        (2, False, True, "saved with DeepSpeed.*this launch has no DeepSpeed"),
        (2, True, False, "saved without DeepSpeed.*this launch has DeepSpeed"),
    ],
)
def test_checkpoints_of_deepspeed(processes, deepspeed, zero, sentence, tmp_path):
    (tmp_path / ("global_step2" if zero else "optimizer.pt")).mkdir()
    mark(tmp_path, 2, 2)
    trainer = SimpleNamespace(is_deepspeed_enabled=deepspeed, args=SimpleNamespace(world_size=processes))
    if sentence is None:
        return fit_checkpoint(trainer, tmp_path)
    with pytest.raises(SailvitError, match=f"{sentence}.*weights_only=True"):
        fit_checkpoint(trainer, tmp_path)


def test_the_weights_of_a_checkpoint_of_deepspeed(tmp_path):
    """Its safetensors are whole; the rest stands in for DeepSpeed's own files."""
    first = tiny_trainer(tmp_path / "first", max_steps=2, save_strategy="steps", save_steps=2)
    first.train()
    folder = tmp_path / "first" / "checkpoint-2"
    (folder / MARKER).unlink()
    (folder / "global_step2").mkdir()
    (folder / "optimizer.pt").rename(folder / "global_step2" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    trainer = tiny_trainer(tmp_path / "second", model=tiny_model(seed=5), max_steps=1, learning_rate=0.0)
    with pytest.raises(SailvitError, match="saved with DeepSpeed"):
        trainer.train(str(folder))
    trainer.train(str(folder), weights_only=True)
    expected = load_file(folder / "model.safetensors")
    found = trainer.model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
