# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What befalls one of two processes: both skip the same step, save at the same one, and end, when one is lost."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ..refinement.tiny import weights
from .faulty import make

ROOT = Path(__file__).parents[2]


def launch(folder, faults):
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*command, "-m", "tests.distributed.faulty", str(folder), faults],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def assert_close(folder, trainer):
    found = load_file(folder / "w.st")
    for name, tensor in weights(trainer.model).items():
        if not name.endswith("k_proj.bias"):  # attention does not depend on it: rounding noise, which Adam makes large
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def test_both_agree_on_what_one_of_them_knows(tmp_path):
    """A NaN in process 1, no room for process 0, a SIGTERM for process 1; then the rest of the run."""
    folder = tmp_path / "two"
    done = launch(folder, "nan+disk+term")
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((folder / f"process-{process}.json").read_text()) for process in (0, 1))
    said = one.pop("said"), two.pop("said")
    assert one == two == {
        "status": 75, "step": 4, "began": 0, "left_out": [2], "checkpoints": ["checkpoint-2", "checkpoint-4"],
    }  # fmt: skip
    assert said[1].startswith("SIGTERM came: training ended at step 4 of 6") and said[0].startswith("a signal to")
    assert "The checkpoint of step 3 could not be written" in done.stderr
    assert "loss of stage 'world' is no number in another process at step 2: the step is left out" in done.stderr
    assert "loss of stage 'world' is nan at step 2: the step is left out" in done.stderr
    done = launch(folder, "nan+resume")
    assert done.returncode == 0, done.stderr[-3000:]
    one = json.loads((folder / "process-0.json").read_text())
    assert (one["status"], one["began"], one["step"], one["left_out"]) == (0, 4, 6, [2])
    reference = make(tmp_path / "one", "nan")
    reference.train()
    assert reference.nonfinite.recent == [2]
    assert_close(folder, reference)


def test_a_signal_for_one_of_them_in_an_evaluation(tmp_path):
    """Both save at the same batch; killed before the evaluation ends, they go on from there."""
    folder = tmp_path / "two"
    done = launch(folder, "evalterm")
    assert done.returncode != 0
    assert "A signal to another process came during an evaluation: step 2 is saved now" in done.stderr
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"]
    done = launch(folder, "eval+resume")
    assert done.returncode == 0, done.stderr[-3000:]
    one = json.loads((folder / "process-1.json").read_text())
    assert (one["status"], one["began"], one["step"]) == (0, 2, 6)
    reference = make(tmp_path / "one", "")
    reference.train()
    assert_close(folder, reference)


@pytest.mark.slow
def test_a_full_disk_under_fsdp(tmp_path):
    """What the first process could not write, no other waits for."""
    folder = tmp_path / "two"
    done = launch(folder, "fsdp+disk")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The checkpoint of step 3 could not be written" in done.stderr
    assert json.loads((folder / "process-1.json").read_text())["checkpoints"] == ["checkpoint-5", "checkpoint-6"]


@pytest.mark.slow
def test_a_lost_process_ends_the_other_and_nothing_is_lost(tmp_path):
    folder = tmp_path / "two"
    start = time.monotonic()
    done = launch(folder, "kill")
    assert done.returncode != 0 and time.monotonic() - start < 120
    assert "exitcode  : -9" in done.stderr or "Signal 9 (SIGKILL)" in done.stderr
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    done = launch(folder, "resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((folder / "process-1.json").read_text())["began"] == 3
    reference = make(tmp_path / "one", "")
    reference.train()
    assert_close(folder, reference)
