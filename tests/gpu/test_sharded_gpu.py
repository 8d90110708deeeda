# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""accelerate's FSDP2 and DeepSpeed's ZeRO on GPUs: their checkpoints are those of one process.

One GPU is enough to run each layout (its collectives then have one member); with more, all are used.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
ROOT = Path(__file__).parents[2]
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the package deepspeed")
WORKER = """
import os, sys
from pathlib import Path
from tests.distributed import whole
name, folder, resume = sys.argv[1:4]
trainer = whole.train(name, Path(folder) / name, int(os.environ["WORLD_SIZE"]), resume or None,
                      int(sys.argv[4]) if len(sys.argv) > 4 else None, use_cpu=False)
print(trainer.accelerator.distributed_type)
trainer.accelerator.end_training()
"""


def train(layout, name, folder, resume="", steps=""):
    """A training in a shipped layout, under `accelerate launch`."""
    worker = folder / "worker.py"
    folder.mkdir(exist_ok=True)
    worker.write_text(WORKER)
    count = 2 if torch.cuda.device_count() > 1 else 1
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(count)]
    config = ROOT / f"src/sailvit_hf/accelerate_configs/{layout}.yaml"
    command += ["--config_file", str(config), "--main_process_port", "0"]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    arguments = [name, str(folder), str(resume), *([str(steps)] if steps else [])]
    done = subprocess.run(
        [*command, str(worker), *arguments], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def same(folder, reference, name):
    found = load_file(folder / name / "checkpoint-6" / "model.safetensors")
    expected = load_file(reference / name / "checkpoint-6" / "model.safetensors")
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["world", "coarse", "fine"])
@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        ("fsdp2", "FSDP"),
        pytest.param("zero2", "DEEPSPEED", marks=needs_deepspeed),
        pytest.param("zero3", "DEEPSPEED", marks=needs_deepspeed),
    ],
)
def test_whole_checkpoints_agree(layout, kind, name, tmp_path):
    """With frozen modules, too: coarse trains the connector alone, fine also the tower."""
    assert kind in train(layout, name, tmp_path / layout)
    train("ddp", name, tmp_path / "ddp")
    same(tmp_path / layout, tmp_path / "ddp", name)


@pytest.mark.parametrize("layout", ["fsdp2", pytest.param("zero3", marks=needs_deepspeed)])
def test_going_on_in_the_same_layout(layout, tmp_path):
    train(layout, "world", tmp_path / layout)
    train(layout, "world", tmp_path / "parts", steps=2)
    train(layout, "world", tmp_path / "parts", resume=tmp_path / "parts/world/checkpoint-2")
    same(tmp_path / "parts", tmp_path / layout, "world")


def test_from_sharded_to_whole(tmp_path):
    train("fsdp2", "world", tmp_path / "parts", steps=2)
    train("ddp", "world", tmp_path / "parts", resume=tmp_path / "parts/world/checkpoint-2")
    train("ddp", "world", tmp_path / "ddp")
    same(tmp_path / "parts", tmp_path / "ddp", "world")
