# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What processes must do together when a model's weights are spread over them."""

import torch
import torch.distributed as dist
from torch import nn

_MARKS = ("device_mesh", "ds_id")  # of a parameter in pieces: torch's fully_shard, DeepSpeed's ZeRO-3
_WRAPPERS = frozenset(("FSDPModule", "FullyShardedDataParallel"))


def in_pieces(*modules: nn.Module) -> bool:
    """Whether calling these modules brings weights together, for which every process must call them as often.

    Also where the pieces lie together just now: the backward pass takes them apart again. What is gathered by a parent
    of theirs, when that is called, does not count.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return False
    return any(
        any(kind.__name__ in _WRAPPERS for kind in type(part).__mro__)
        or any(hasattr(parameter, mark) for parameter in part._parameters.values() for mark in _MARKS)
        for module in modules
        for part in module.modules()
    )


def most_of_all(count: int, device: torch.device) -> int:
    """The largest `count` of all processes, which must all ask."""
    counts = torch.tensor(count, device=device)
    dist.all_reduce(counts, dist.ReduceOp.MAX)
    return int(counts)


__all__ = ["in_pieces", "most_of_all"]
