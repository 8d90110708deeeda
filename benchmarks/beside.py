# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Imported first: lets benchmarks use what the tests use, and with `--torchvision` fetches one where there is none.

transformers looks for torchvision once, when it is imported.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

if "--torchvision" in sys.argv:
    from tests.torchvision_beside import make_importable

    make_importable()
