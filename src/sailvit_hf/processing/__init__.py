# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The processor files. They are flat, and travel as remote code beside every checkpoint."""

from .versions_sailvit import check_transformers  # noqa: F401

# isort: split
# First, so that our classes are registered before one of the files below is half imported.
import transformers.models.auto.image_processing_auto  # noqa: F401
import transformers.models.auto.processing_auto  # noqa: F401
import transformers.processing_utils  # noqa: F401
