# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of one process, of DDP and of FSDP2 are the same whole models, and each layout goes on from any other.

FSDP2 is accelerate's own, over gloo; see `whole.shard_on_cpus`.
"""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from . import whole
from .parts import launch

QUICK = {"world", "coarse", "accumulated"}
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in whole.SETTINGS]
TOLERANCE = 1e-6
WITHOUT_PACKAGE = """
import sys, torch
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True)
assert "sailvit_hf" not in sys.modules
torch.save(model.state_dict(), sys.argv[2])
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run jobs of `whole.main` in a layout; by layout one folder."""
    base = tmp_path_factory.mktemp("whole")

    def go(layout, *jobs, folder=None):
        folder = base / (folder or layout)
        folder.mkdir(exist_ok=True)
        if layout == "one":
            for job in jobs:
                name, _, rest = job.partition(":")
                steps, _, checkpoint = rest.partition(":")
                whole.train(name, folder / name, 1, checkpoint or None, int(steps) if steps else None)
        else:
            status, output = launch("tests.distributed.whole", folder, layout, *jobs)
            errors = [path.read_text() for path in folder.glob("*.error")]
            assert status == 0, "\n".join(errors) or output
        return folder

    return go


@pytest.fixture(scope="module")
def layouts(run, request):
    """All settings that a session tests, in each layout: one launch for each."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    names = [item.callspec.params["name"] for item in items if "name" in item.callspec.params] or ["world"]
    return {layout: run(layout, *dict.fromkeys([*names, "world"])) for layout in ("one", "ddp", "fsdp")}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_whole_checkpoints_agree(name, layouts):
    for step in (2, 4, 6):
        expected = load_file(layouts["one"] / name / f"checkpoint-{step}" / "model.safetensors")
        for layout in ("ddp", "fsdp"):
            folder = layouts[layout] / name / f"checkpoint-{step}"
            assert_same(load_file(folder / "model.safetensors"), expected)
            files = [each / name / f"checkpoint-{step}" / "config.json" for each in layouts.values()]
            configs = [json.loads(file.read_text()) for file in files]
            assert configs[0] == configs[1] == configs[2]


def test_the_sharded_one_loads_without_the_package(layouts, tmp_path):
    folder = layouts["fsdp"] / "world" / "checkpoint-6"
    files = {layout: (each / "world/checkpoint-6").glob("*.py") for layout, each in layouts.items()}
    names = {layout: {path.name for path in found} for layout, found in files.items()}
    assert names["fsdp"] == names["ddp"] == names["one"]
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", WITHOUT_PACKAGE, str(folder), str(tmp_path / "found.pt")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "found.pt")
    for name, tensor in load_file(layouts["one"] / "world" / "checkpoint-6" / "model.safetensors").items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=TOLERANCE)


CHAINS = {
    "sharded, whole, sharded": ("fsdp", "one", "fsdp"),
    "two, one, two": ("ddp", "one", "ddp"),
    "two, sharded, one": ("ddp", "fsdp", "one"),
}


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_going_on_in_another_layout(chain, layouts, run):
    """Weights and optimiser: what comes out is what one process had got."""
    folder = f"chain-{list(CHAINS).index(chain)}"
    first, second, third = CHAINS[chain]
    done = run(first, "world:2", folder=folder)
    run(second, f"world:4:{done / 'world/checkpoint-2'}", folder=folder)
    run(third, f"world::{done / 'world/checkpoint-4'}", folder=folder)
    expected = load_file(layouts["one"] / "world" / "checkpoint-6" / "model.safetensors")
    assert_same(load_file(done / "world" / "checkpoint-6" / "model.safetensors"), expected)
