# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Training and evaluation with torch's `fully_shard`, or with one process: run under torchrun, or imported.

accelerate enters FSDP on accelerators only, so the loop is our own.
"""

import sys
import traceback
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from sailvit_hf.cli.__main__ import leave
from sailvit_hf.data.packing.batch import PackCollator
from sailvit_hf.modeling.vision_towers import find_layers
from sailvit_hf.refinement import STAGES
from tests.refinement.tiny import tiny_model

from .parts import COLLECTIVE_SECONDS, collate, samples

SIZES = ((16, 16), (8, 16), (16, 24))
MIXED = [1, 2, 0, 3, 0, 0, 0, 0]  # the second process gets the second half of every eight
NONE, NEVER_FIRST, TURNS = [0] * 8, [0, 0, 0, 0, 1, 0, 2, 1], [*[0] * 4, 1, 2, 0, 1, *MIXED]


@dataclass(frozen=True)
class Case:
    """One comparison: what trains, on which pictures, how it is sharded."""

    pictures: list[int]
    stage: str | None = "world"
    steps: int = 3
    micro_batches: int = 1
    model: dict[str, Any] = field(default_factory=dict)
    sizes: tuple = ((16, 16),)
    checkpointing: bool = False
    autocast: bool = False
    skip_logits: bool = False
    reshard: bool | None = None
    per_layer: bool = True
    evaluates: bool = False
    replicated: bool = False  # two copies, each with a shard of its own: as in hybrid sharding
    half: bool = False  # gathered as bfloat16
    packed: bool = False  # two processes pack what one process pads


CASES = {
    **{f"{stage}-mixed": Case(MIXED, stage) for stage in STAGES},
    **{f"{stage}-none": Case(NONE, stage) for stage in STAGES},
    **{f"{stage}-never": Case(NEVER_FIRST, stage) for stage in STAGES},
    "language-mixed": Case(MIXED, None),
    "language-none": Case(NONE, None),
    "ten-steps": Case([1, 0, 3, 2, 0, 1, 0, 0] + TURNS, steps=10),
    "accumulated": Case([1, 0, 3, 2, 0, 1, 0, 0] + TURNS, steps=10, micro_batches=4),
    "whole-parts": Case(TURNS, per_layer=False),
    "kept-whole": Case(TURNS, reshard=False, micro_batches=2, evaluates=True),
    "checkpointing": Case(TURNS, checkpointing=True),
    "checkpointing-coarse": Case(TURNS, "coarse", checkpointing=True),
    "skip-logits": Case(TURNS, skip_logits=True),
    "clip": Case(TURNS, model={"tower": "clip"}),
    "early-layer": Case(TURNS, "fine", model={"vision_feature_layer": 1}),
    "early-layer-clip": Case(TURNS, model={"tower": "clip", "vision_feature_layer": -2}, checkpointing=True),
    "sizes": Case(TURNS, sizes=SIZES),
    "sizes-coarse": Case(TURNS, "coarse", sizes=SIZES, evaluates=True),
    "sizes-language": Case(TURNS, None, sizes=SIZES, evaluates=True),
    "sizes-checkpointing": Case(TURNS, sizes=SIZES, checkpointing=True, reshard=False, micro_batches=2),
    "autocast": Case(TURNS, autocast=True),
    "half": Case(TURNS, half=True, evaluates=True),
    "replicated": Case(TURNS, replicated=True, sizes=SIZES, evaluates=True),
    "packed": Case(TURNS, packed=True, checkpointing=True),
    "packed-sizes": Case(MIXED, None, packed=True, sizes=SIZES, evaluates=True),
    "evaluation": Case(TURNS, evaluates=True),
    "evaluation-none": Case(NONE, "coarse", evaluates=True),
}


def make(case, sharded):
    model = tiny_model(**case.model)
    if case.stage is None:
        model.requires_grad_(False)
        model.model.language_model.requires_grad_(True)
    else:
        STAGES[case.stage].apply(model)
    if case.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if sharded:
        options: dict[str, Any] = {} if case.reshard is None else {"reshard_after_forward": case.reshard}
        if case.replicated:
            options["mesh"] = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicas", "shards"))
        if case.half:
            options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        inner = model.model
        if case.per_layer:
            for layer in (*find_layers(inner.vision_tower)[1], *inner.language_model.layers):
                fully_shard(layer, **options)
        fully_shard(inner.vision_tower, **options)
        fully_shard(inner.multi_modal_projector, **options)
        fully_shard(model, **options)
    return model


def whole(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def summed(value):
    value = value.detach().double()
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def run(case, rank=0, processes=1):
    """Losses, the gradients of every step, evaluation losses, in the words of one process."""
    model = make(case, processes > 1)
    data = samples(case.pictures * (8 * case.steps // len(case.pictures) + 1), case.sizes)[: 8 * case.steps]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    found: dict[str, Any] = {"loss": [], "gradients": [], "evaluation": []}
    cast = torch.autocast("cpu", torch.bfloat16) if case.autocast else nullcontext()
    for step in range(case.steps):
        chosen = data[8 * step : 8 * step + 8]
        items = sum(int((one["labels"][1:] != -100).sum()) for one in chosen)
        share = chosen[8 // processes * rank :][: 8 // processes]
        size = len(share) // case.micro_batches
        together = PackCollator() if case.packed and processes > 1 else collate
        micro = [share[start : start + size] for start in range(0, len(share), size)]
        micro = [together([each] if together is not collate else each) for each in micro]
        if case.evaluates:
            for training in (False, True):
                model.train(training)
                with torch.no_grad(), cast:
                    losses = [model(**each, num_items_in_batch=items).loss for each in micro]
                found["evaluation"].append(summed(torch.stack(losses).sum()).item())
        model.train()
        losses = []
        for place, batch in enumerate(micro):
            if processes > 1:
                model.set_requires_gradient_sync(place == len(micro) - 1)
            with cast:
                options = {"skip_logits": True} if case.skip_logits else {}
                loss = model(**batch, num_items_in_batch=items, **options).loss
            (loss * processes).backward()  # fully_shard takes the mean
            losses.append(loss.detach())
        found["loss"].append(summed(torch.stack(losses).sum()).item())
        trained = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
        assert [name for name, each in trained if each.grad is None] == []
        found["gradients"].append({name: whole(each.grad) for name, each in trained})
        optimizer.step()
        optimizer.zero_grad()
    return found


def main(folder, *names):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=COLLECTIVE_SECONDS))
    rank, processes = dist.get_rank(), dist.get_world_size()
    for name in names or CASES:
        try:
            found = run(CASES[name], rank, processes)
        except Exception as error:
            # The other process may wait for this one: nothing after it can be trusted.
            (folder / f"{name}.{rank}.error").write_text(f"{error}\n{traceback.format_exc()}")
            sys.stdout.flush()
            raise
        if rank == 0:
            torch.save(found, folder / f"{name}.pt")
        dist.barrier()
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
