# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What may make GPUs wait: the packs, which every process plans for itself while its GPU works."""

import numpy as np

# Packs of a step, and the seconds of one core in which a process plans them, the sizes of all samples known: the
# slower of both kinds of data in benchmarks/results/rehearsal.txt.
MEASURED = ((512, 0.214), (2048, 1.295))


def planning_seconds(packs: int) -> float:
    """Seconds of one core for the packs of a step; a pack costs more where a step has many."""
    counts = [count for count, _ in MEASURED]
    return packs * float(np.interp(packs, counts, [seconds / count for count, seconds in MEASURED]))
