# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Two processes over gloo give what one process gives for the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sailvit_hf.refinement import STAGES, Lineage

from .tiny import collate, main, tiny_model, tiny_samples

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("tower", ["sailvit", pytest.param("clip", marks=pytest.mark.slow)])
def test_two_processes_of_which_one_sees_no_pictures(tower, tmp_path):
    reference = main(tmp_path / "one", 8, tower)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "tests.refinement.tiny"]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "two"), "4", tower],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = load_file(tmp_path / "one" / "w.st"), load_file(tmp_path / "two" / "w.st")
    for name, tensor in expected.items():
        if name.endswith("k_proj.bias"):
            continue  # attention does not depend on it: its gradient is rounding noise, which Adam makes large
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    one, two = (Lineage.load(tmp_path / folder / "checkpoint-3").stages[0] for folder in ("one", "two"))
    assert (one.hardware["processes"], two.hardware["processes"]) == (1, 2)
    assert one.samples_seen == two.samples_seen == 24
    assert abs(one.train_loss - two.train_loss) < 1e-5
    assert reference.history[0]["loss"] > 0


@pytest.fixture
def one_process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "config", [{"tower": "clip"}, {"tower": "clip", "vision_feature_layer": -2}, {"vision_feature_layer": 1}]
)
def test_data_parallel_training_waits_for_nothing(one_process_group, config):
    """Every parameter that a stage trains gets a gradient in every batch, with pictures or without."""
    batches = [collate(tiny_samples(2)), collate(tiny_samples(2, text_only=[0, 1]))] * 2

    def train(model):
        parallel = torch.nn.parallel.DistributedDataParallel(model.train(), find_unused_parameters=False)
        for batch in batches:
            parallel(**batch).loss.backward()

    model = tiny_model(**config)
    STAGES["world"].apply(model)
    train(model)
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="parameters that were not used in producing loss"):
        train(tiny_model(**config))  # as it would be had the stage not frozen what nothing depends on
