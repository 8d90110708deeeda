# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The model files. They are flat, and travel as remote code beside every checkpoint: torch and transformers only."""

from .versions_sailvit import check_transformers  # noqa: F401

# isort: split
# First, so that our classes are registered before one of the files below is half imported.
import transformers.modeling_utils  # noqa: F401
import transformers.models.auto.configuration_auto  # noqa: F401
import transformers.models.auto.modeling_auto  # noqa: F401
