# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""`python -m sailvit_hf.cli`, which launchers such as torchrun need."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
