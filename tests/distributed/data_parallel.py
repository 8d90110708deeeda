# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Training with the `RefinementTrainer`, data-parallel or with one process: run under torchrun, or imported."""

import sys
import traceback
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from sailvit_hf.cli.__main__ import leave
from sailvit_hf.refinement import STAGES, RefinementArguments, RefinementTrainer
from tests.refinement.tiny import tiny_model

from .parts import COLLECTIVE_SECONDS, collate, samples
from .sharded import MIXED, NEVER_FIRST, NONE, SIZES, TURNS

RAGGED = [1, 0, 3, 2, 0, 1, 0, 0, *TURNS]


@dataclass(frozen=True)
class Case:
    """One comparison: `micro` samples at a time and process, `accumulated` times; one process takes all at once."""

    pictures: list[int]
    stage: str = "world"
    steps: int = 3
    micro: int = 4
    accumulated: int = 1
    length: int | None = None  # samples of an epoch; the data repeats `pictures`
    arguments: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    sizes: tuple = ((16, 16),)
    evaluates: bool = False
    iterable: bool = False
    resumes: int = 0  # after so many steps the run of two processes stops, and goes on from its checkpoint


def uneven(length, drop_last=False, **options):
    """Two epochs of a number of samples that nothing divides."""
    arguments = {"num_train_epochs": 2, "dataloader_drop_last": drop_last}
    return Case(RAGGED, steps=-1, length=length, arguments=arguments, **options)


CASES = {
    **{f"{stage}-mixed": Case(MIXED, stage) for stage in STAGES},
    **{f"{stage}-none": Case(NONE, stage) for stage in STAGES},
    **{f"{stage}-never": Case(NEVER_FIRST, stage) for stage in STAGES},
    "ten-steps": Case(RAGGED, steps=10),
    "ten-steps-accumulated": Case(RAGGED, steps=10, micro=2, accumulated=2),
    "ten-steps-one-by-one": Case(RAGGED, steps=10, micro=1, accumulated=4),
    "shuffled": Case(RAGGED, steps=10, length=24, arguments={"train_sampling_strategy": "random"}),
    "per-sample": Case(RAGGED, steps=10, micro=2, accumulated=2, arguments={"loss_weighting": "sample"}),
    "checkpointing": Case(TURNS, arguments={"gradient_checkpointing": True}),
    "early-layer-clip": Case(
        TURNS, "fine", model={"tower": "clip", "vision_feature_layer": -2}, arguments={"gradient_checkpointing": True}
    ),
    "sizes": Case(TURNS, sizes=SIZES),
    "autocast": Case(TURNS, arguments={"bf16": True}, evaluates=True),
    "cached-features": Case(TURNS, "coarse", arguments={"vision_feature_cache": "features"}),
    "evaluation": Case(TURNS, evaluates=True),
    "iterable": Case(TURNS, iterable=True),
    "resumed": Case(RAGGED, steps=10, length=29, resumes=6, arguments={"train_sampling_strategy": "random"}),
    "uneven-29": uneven(29),  # four and one
    "uneven-26": uneven(26),  # one and one
    "uneven-25": uneven(25),  # nothing is left for the second process
    "uneven-3": uneven(3),  # less than a batch
    "uneven-29-accumulated": uneven(29, micro=2, accumulated=2),
    "uneven-29-one-by-one": uneven(29, micro=1, accumulated=4),
    "uneven-dropped-29": uneven(29, drop_last=True),
    "uneven-dropped-26-accumulated": uneven(26, drop_last=True, micro=2, accumulated=2),
}
if "packing" in {each.name for each in fields(RefinementArguments)}:
    packed = {"packing": True, "max_length": 32}
    CASES |= {
        "packed": Case(RAGGED, steps=10, micro=1, accumulated=2, length=240, arguments=packed),
        "packed-mixed": Case(MIXED, micro=1, accumulated=2, length=240, arguments=packed),
        "packed-none": Case(NONE, "coarse", micro=1, accumulated=2, length=240, arguments=packed),
    }


class Stream(torch.utils.data.IterableDataset):
    """Samples one after the other, without a length."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(self.data)


class Gradients(TrainerCallback):
    """Keeps the gradients of every step."""

    def __init__(self):
        self.found = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        trained = [(name.removeprefix("module."), each) for name, each in model.named_parameters()]
        self.found.append({name: each.grad.detach().clone() for name, each in trained if each.requires_grad})


def run(case, folder, processes=1):
    """Losses and gradients of every step, and the losses of an evaluation."""
    batch = {"per_device_train_batch_size": case.micro, "gradient_accumulation_steps": case.accumulated}
    if processes == 1:
        batch = {"per_device_train_batch_size": 2 * case.micro * case.accumulated}
    length = case.length or 8 * case.steps
    data = samples((case.pictures * (length // len(case.pictures) + 1))[:length], case.sizes)
    options = {
        "output_dir": str(folder), "max_steps": case.steps, "learning_rate": 0.05, "optim": "sgd", "logging_steps": 1,
        "lr_scheduler_type": "constant", "warmup_steps": 0, "max_grad_norm": 0.0, "save_strategy": "no",
        "train_sampling_strategy": "sequential", "use_cpu": True, "disable_tqdm": True,
        "ddp_timeout": COLLECTIVE_SECONDS, "seed": 3,
        "per_device_eval_batch_size": 8 // processes, "remove_unused_columns": False, "report_to": "none",
    }  # fmt: skip
    options |= batch | case.arguments
    if "vision_feature_cache" in options:
        options["vision_feature_cache"] = str(folder / options["vision_feature_cache"])
    gradients = Gradients()

    def trainer_for(**changes):
        return RefinementTrainer(
            tiny_model(**case.model), RefinementArguments(**{**options, **changes}), data_collator=collate,
            train_dataset=Stream(data) if case.iterable else data, eval_dataset=data, stage=case.stage,
            callbacks=[gradients],
        )  # fmt: skip

    trainer, checkpoint = trainer_for(), None
    if case.resumes and processes > 1:
        stopped = {"max_steps": case.resumes, "save_strategy": "steps", "save_steps": case.resumes}
        trainer_for(**stopped).train()
        checkpoint = str(folder / f"checkpoint-{case.resumes}")
    evaluation = [trainer.evaluate()["eval_loss"]] if case.evaluates else []
    trainer.train(checkpoint)
    evaluation += [trainer.evaluate()["eval_loss"]] if case.evaluates else []
    losses = [entry["loss"] for entry in trainer.history]
    samples_seen = trainer.current_lineage().stages[-1].samples_seen if not case.iterable else 8 * case.steps
    return {"loss": losses, "gradients": gradients.found, "evaluation": evaluation, "samples": samples_seen}, trainer


def main(folder, *names):
    torch.set_num_threads(1)
    for name in names or CASES:
        try:
            found, trainer = run(CASES[name], folder / f"run-{name}", 2)
        except Exception as error:
            # The other process may wait for this one: nothing after it can be trusted.
            (folder / f"{name}.{error.__class__.__name__}.error").write_text(f"{error}\n{traceback.format_exc()}")
            sys.stdout.flush()
            raise
        if trainer.is_world_process_zero():
            torch.save(found, folder / f"{name}.pt")
        trainer.accelerator.wait_for_everyone()
    trainer.accelerator.wait_for_everyone()
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
