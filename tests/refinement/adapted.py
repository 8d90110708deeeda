# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Trainers of the tiny model with adapters, shared by the tests.

Run as a script under torchrun it trains, or shards and saves (see test_adapters_training.py).
"""

import sys
from pathlib import Path

import torch
from torch.distributed.fsdp import fully_shard

from sailvit_hf.cli.__main__ import leave
from sailvit_hf.refinement import DIRECT, RefinementArguments, RefinementTrainer
from sailvit_hf.refinement.adapters.injection import adapter_configs, add_adapters, lora_config
from sailvit_hf.refinement.adapters.plan import AdapterPlan

from .tiny import collate, tiny_model, tiny_samples


def both(rank=2, **options):
    return {name: AdapterPlan(rank=rank, **options) for name in ("vision_tower", "language_model")}


def drawn(model, **configs):
    """The model with adapters that do something: peft's would begin with zero."""
    DIRECT.apply(model)
    given = {name: lora_config(plan) if isinstance(plan, AdapterPlan) else plan for name, plan in configs.items()}
    add_adapters(model, adapter_configs(given, DIRECT), seed=0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "multi_modal_projector" not in name:
            torch.nn.init.normal_(parameter, mean=1.0 if "magnitude" in name else 0.0, std=0.2)
    return model.eval()


def outputs(model):
    with torch.no_grad():
        return model(**collate(tiny_samples(4))).logits


def adapted_trainer(folder, plans, model=None, stage="world", samples=None, **arguments):
    options = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 2,
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
    }
    return RefinementTrainer(
        tiny_model(dropout=0.1) if model is None else model,
        RefinementArguments(**{**options, **arguments}),
        data_collator=collate,
        train_dataset=tiny_samples(32) if samples is None else samples,
        stage=stage,
        peft_config={name: lora_config(plan) for name, plan in plans.items()},
    )


def train(folder, micro_batch):
    """Three steps of eight samples of which the second half has no picture, in the given order."""
    samples = tiny_samples(24, text_only=[i for i in range(24) if i % 8 >= 4])
    trainer = adapted_trainer(
        folder, {"vision_tower": AdapterPlan(rank=2), "language_model": AdapterPlan(rank=2, method="dora")},
        tiny_model(), samples=samples, max_steps=3, save_steps=3, per_device_train_batch_size=micro_batch,
        train_sampling_strategy="sequential", gradient_checkpointing=True,
    )  # fmt: skip
    trainer.train()
    return trainer


def shard_and_save(folder):
    """Save a model whose weights are spread over the processes, none of which holds it whole."""
    torch.distributed.init_process_group("gloo")
    model = drawn(tiny_model(tied=False), **both(method="dora"))
    for block in [*model.model.vision_tower.trunk.blocks, *model.model.language_model.layers]:
        fully_shard(block)
    fully_shard(model)
    model.save_pretrained(folder, is_main_process=torch.distributed.get_rank() == 0)
    torch.distributed.barrier()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[2] == "shard":
        shard_and_save(Path(sys.argv[1]))
    else:
        train(Path(sys.argv[1]), int(sys.argv[2])).accelerator.wait_for_everyone()
    leave(0)
