# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The GPUs that can be planned for."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ...errors import SailvitError
from ..flops import PEAK_TFLOPS


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU: its memory in GiB, and dense products in half precision in TFLOP/s."""

    name: str
    memory_gib: float
    tflops: float


def _gpu(name: str, gigabytes: float, peak: str) -> Gpu:
    return Gpu(name, gigabytes, PEAK_TFLOPS[peak])


# Memory: the data sheet's number, which the makers count in units between GB and GiB; the reserve of a plan covers the
# difference (an H100 of 80 GB has 79.1 GiB for programs).
GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        "h100": _gpu("H100 SXM, 80 GB", 80, "H100"),
        "h100-pcie": _gpu("H100 PCIe, 80 GB", 80, "H100 PCIe"),
        "h100-nvl": _gpu("H100 NVL, 94 GB", 94, "H100 NVL"),
        "h200": _gpu("H200 SXM, 141 GB", 141, "H200"),
        "h800": _gpu("H800 SXM, 80 GB", 80, "H800"),
        "b200": _gpu("B200, 180 GB", 180, "B200"),
        "a100": _gpu("A100, 80 GB", 80, "A100"),
        "a100-40gb": _gpu("A100, 40 GB", 40, "A100"),
        "a800": _gpu("A800, 80 GB", 80, "A800"),
        "l40s": _gpu("L40S, 48 GB", 48, "L40S"),
        "l4": _gpu("L4, 24 GB", 24, "L4"),
        "rtx4090": _gpu("RTX 4090, 24 GB", 24, "RTX 4090"),
        "rtx3090": _gpu("RTX 3090, 24 GB", 24, "RTX 3090"),
        "mi300x": _gpu("MI300X, 192 GB", 192, "MI300X"),
    }
)


def count_gpus(count: int) -> str:
    """So many GPUs, in words."""
    return f"{count} GPU{'' if count == 1 else 's'}"


def find_gpu(name: str) -> Gpu:
    """A GPU by its short name.

    Raises:
        SailvitError: it is not known.
    """
    if name.lower() not in GPUS:
        raise SailvitError(f"there are no numbers for the GPU {name!r}: choose one of {', '.join(GPUS)}")
    return GPUS[name.lower()]
