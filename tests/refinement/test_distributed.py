# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Two processes over gloo give what one process gives for the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from sailvit_hf.refinement import Lineage

from .tiny import main

ROOT = Path(__file__).parents[2]


def test_two_processes_of_which_one_sees_no_pictures(tmp_path):
    reference = main(tmp_path / "one", micro_batch=8)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "tests.refinement.tiny"]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "two"), "4"],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = load_file(tmp_path / "one" / "w.st"), load_file(tmp_path / "two" / "w.st")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    one, two = (Lineage.load(tmp_path / folder / "checkpoint-3").stages[0] for folder in ("one", "two"))
    assert (one.hardware["processes"], two.hardware["processes"]) == (1, 2)
    assert one.samples_seen == two.samples_seen == 24
    assert abs(one.train_loss - two.train_loss) < 1e-5
    assert reference.history[0]["loss"] > 0
