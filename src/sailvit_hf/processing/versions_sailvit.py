# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Says in one sentence that transformers is too old, before an import of what it lacks fails in words of its own.

It is imported first by every travelling file that a checkpoint is entered by. modeling/ and processing/ each have it,
because files travel with their own folder only; the two are the same.
"""

import re
import warnings

import transformers

OLDEST, NEXT_MAJOR = (5, 17), (6, 0)


def check_transformers(version: str) -> None:
    """Check a version of transformers against the range that the tests run in.

    Args:
        version: As in `transformers.__version__`; what does not look like one is let through.

    Raises:
        ImportError: it is older than 5.17. A version from 6 on gets a warning only: a checkpoint may outlive it.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    found = tuple(map(int, numbers.groups())) if numbers else OLDEST
    wanted = "transformers>={}.{},<{}".format(*OLDEST, NEXT_MAJOR[0])
    if found < OLDEST:
        raise ImportError(f"This model needs {wanted}, and {version} is installed: pip install -U '{wanted}'")
    if found >= NEXT_MAJOR:
        warnings.warn(
            f"This model was tested with {wanted}, and {version} is installed: if it fails, pip install '{wanted}'",
            stacklevel=2,
        )


check_transformers(transformers.__version__)

__all__ = ["check_transformers"]
