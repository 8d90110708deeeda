# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""`sailvit refine` with faults that are ordered, and a ledger of the samples that it trained on (see test_faults.py).

Run as a script: RECIPE LEDGER FAULTS. Faults are JSON, {stage: {step: [fault, ...]}}, and come at the end of the step.
"""

import json
import multiprocessing
import os
import re
import resource
import signal
import sys

import torch
from transformers import TrainerCallback

from sailvit_hf.cli import main
from sailvit_hf.refinement import pipeline

# Words that the demo's tokenizer knows; two of them in the question are the number of a sample.
DIGITS = ["one", "two", "three", "cat", "eagle", "zebra", "candle", "orange", "green", "yellow"]


def question(number):
    return f"what is {DIGITS[number // 10]} {DIGITS[number % 10]}"


def numbers(text):
    found = re.findall(r"what is (\w+) (\w+)", text)
    return [10 * DIGITS.index(tens) + DIGITS.index(ones) for tens, ones in found]


class Faults(TrainerCallback):
    """`kill`, `term`, a `worker` killed, a full `disk` for the checkpoint of this step."""

    def __init__(self, faults):
        self.faults = {int(step): kinds for step, kinds in faults.items()}

    def on_step_end(self, args, state, control, **kwargs):
        for kind in self.faults.get(state.global_step, ()):
            if kind == "disk":
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
            elif kind == "worker":
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            else:
                os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM}[kind])

    def on_save(self, args, state, control, **kwargs):
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def faulty_trainers(ledger, faults):
    original = pipeline.trainer_class

    def trainer_class(stage):
        class WithLedger(original(stage)):
            def training_step(self, model, inputs, num_items_in_batch=None):
                text = "\n".join(self.processing_class.tokenizer.batch_decode(inputs["input_ids"]))
                entry = {"stage": stage.key, "step": self.state.global_step + 1, "samples": numbers(text)}
                with open(ledger, "a") as file:
                    file.write(json.dumps(entry) + "\n")
                return super().training_step(model, inputs, num_items_in_batch)

        return lambda **options: WithLedger(callbacks=[Faults(faults.get(stage.key, {}))], **options)

    return trainer_class


if __name__ == "__main__":
    torch.set_num_threads(1)
    pipeline.trainer_class = faulty_trainers(sys.argv[2], json.loads(sys.argv[3]))
    sys.exit(main(["refine", sys.argv[1], "--resume"]))
