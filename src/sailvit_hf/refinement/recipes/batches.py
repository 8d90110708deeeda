# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The same optimiser step on any number of devices: how often each of them accumulates gradients."""

from ...errors import SailvitError


def accumulation_steps(global_batch_size: int, processes: int, per_device_batch_size: int = 1) -> int:
    """How many micro-batches each process adds up, so that all together make the global batch.

    Args:
        global_batch_size: samples (with packing: packs) of an optimiser step over all processes.
        processes: how many train, one a device.
        per_device_batch_size: samples that a process computes at once.

    Raises:
        SailvitError: there is no such whole number; the sentence says what would go.
    """
    micro_batch = per_device_batch_size * processes
    if global_batch_size >= 1 and global_batch_size % micro_batch == 0:
        return global_batch_size // micro_batch
    raise SailvitError(
        f"global_batch_size {global_batch_size} is not a multiple of {micro_batch} ({processes} processes of "
        f"{per_device_batch_size} samples): {_mend(global_batch_size, processes, per_device_batch_size)}"
    )


def _mend(batch: int, processes: int, per_device: int) -> str:
    """What makes the batch possible: fewer samples at once, fewer processes, or another batch."""
    ways = []
    fitting = [n for n in range(per_device - 1, 0, -1) if batch >= 1 and batch % (n * processes) == 0]
    if fitting:
        ways.append(f"per_device_train_batch_size {fitting[0]}")
    fewer = [n for n in range(processes - 1, 0, -1) if batch >= 1 and batch % (n * per_device) == 0]
    if fewer:
        ways.append(f"{fewer[0]} processes")
    micro_batch = per_device * processes
    near = sorted({max(1, batch // micro_batch) * micro_batch, (max(0, batch) // micro_batch + 1) * micro_batch})
    ways.append(f"another batch, global_batch_size {' or '.join(map(str, near))}")
    return f"use {', or '.join(ways)}"
