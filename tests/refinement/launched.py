# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Stands in for `sailvit` in the processes that a launch starts; started by itself it is the launcher.

python -m tests.refinement.launched launch JSON FOLDER WHAT
"""

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from sailvit_hf.cli.__main__ import leave


def end_well(folder, rank):
    (folder / f"asked-{rank}").touch()
    time.sleep(0.5)  # as long as a checkpoint takes
    (folder / f"saved-{rank}").touch()
    sys.exit(75)


def wait(folder, rank):
    """As a training does: save when it is asked to."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: end_well(folder, rank))
    (folder / f"waits-{rank}").touch()
    time.sleep(100)


def wait_for(folder, *patterns):
    while not all(any(folder.glob(pattern)) for pattern in patterns):
        time.sleep(0.05)


def together():
    """As a training does: meet the other processes."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    number = torch.ones(1)
    dist.all_reduce(number)
    assert number == dist.get_world_size()
    dist.barrier()


def main(folder, what):
    rank, restarts = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    started = {name: os.environ[name] for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")}
    (folder / f"started-{rank}-{restarts}.json").write_text(json.dumps(started))
    if what.isdigit():
        wait_for(folder, "started-0-*", "started-1-*")  # the first end is that of all
        sys.exit(int(what))
    if what.startswith("dies"):
        together()  # what is started again must not find the addresses of those that are gone
    if what == "dies-once" and (folder / "died").exists():
        leave(0)
    if what.startswith("dies") and rank == 1:
        wait_for(folder, "waits-0")
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    wait(folder, rank)


if __name__ == "__main__":
    if sys.argv[1] == "launch":
        from sailvit_hf.refinement import launching

        launching.MODULE = "tests.refinement.launched"
        sys.exit(launching.launch(launching.Launch(**json.loads(sys.argv[2])), sys.argv[3:]))
    main(Path(sys.argv[1]), sys.argv[2])
