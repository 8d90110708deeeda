# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Packing: several samples in one sequence, none of which sees another."""
