# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Runs of one or two processes that are stopped and gone on with: run under torchrun, or imported."""

import json
import sys
from pathlib import Path

import torch

from sailvit_hf.cli.__main__ import leave
from tests.refinement.resumed import outcome, trainer_of

from .parts import COLLECTIVE_SECONDS

STOPS = {"plain": (2, 5), "packing": (3, 7), "streaming": (1, 6), "both": (4, 5)}


def run(folder, mode, processes, stop=None, checkpoint=None, seed=0, dropout=0.1, name=""):
    """One part of a run whose global batch is eight samples or packs; it remembers the samples of every batch."""
    accumulated = 4 // processes
    trainer = trainer_of(
        folder / "data", folder / f"{mode}{name}", mode, stop=stop, seed=seed, dropout=dropout,
        gradient_accumulation_steps=accumulated, ddp_timeout=COLLECTIVE_SECONDS,
    )  # fmt: skip
    trainer.seen = []
    original = trainer.get_batch_samples

    def remembering(*arguments):
        batches, items = original(*arguments)
        trainer.seen.append([batch["input_ids"].tolist() for batch in batches])
        return batches, items

    trainer.get_batch_samples = remembering
    trainer.train(checkpoint)
    return trainer


def stopped_twice(folder, mode):
    """Whether the run of two processes that is stopped twice is the one that is not, to the bit."""
    whole = run(folder, mode, 2, name="whole")
    checkpoint = None
    for seed, stop in enumerate([*STOPS[mode], None]):
        resumed = run(folder, mode, 2, stop, checkpoint, seed)
        checkpoint = str(folder / mode / f"checkpoint-{stop}")
    (expected, logs), (found, own_logs) = outcome(whole), outcome(resumed)
    for counted in (logs, own_logs):
        del counted["asked"]  # the first process counts on from what all have counted
    same = found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    return {"weights": same, "logs": logs == own_logs, "seen": resumed.seen == whole.seen[STOPS[mode][1] :]}


def main(folder, what, *arguments):
    torch.set_num_threads(1)
    if what == "twice":
        for mode in arguments:
            found = stopped_twice(folder, mode)
            process = int(torch.distributed.get_rank())
            (folder / f"{mode}-{process}.json").write_text(json.dumps(found))
    else:
        mode, stop, checkpoint = arguments
        name = what if what == "whole" else ""
        trainer = run(folder, mode, 2, int(stop) or None, checkpoint or None, dropout=0.0, name=name)
        process = trainer.args.process_index
        (folder / f"seen-{mode}-{what}-{process}.json").write_text(json.dumps(trainer.seen))
        if process == 0:
            torch.save(outcome(trainer), folder / f"{mode}-{what}.pt")
    torch.distributed.barrier()
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
