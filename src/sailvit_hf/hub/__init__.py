# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of the family: converted from any of its layouts to any other."""

from .convert import ConversionResult, convert_checkpoint

__all__ = ["ConversionResult", "convert_checkpoint"]
