# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What `data/images.py` is made of: the errors, where pictures come from, how they are decoded and coloured."""
