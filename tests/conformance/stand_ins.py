# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What the common tests import and the source distribution of transformers does not carry; ours, not theirs."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from .generation import GenerationTesterMixin

__all__ = ["ExportTesterMixin", "GenerationTesterMixin", "config_common_kwargs", "url_to_local_path"]

# Values that no configuration has by default: each must be taken from the keyword arguments.
config_common_kwargs: dict[str, Any] = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["SomeModel"],
    "id2label": {0: "only"},
    "label2id": {"only": 0},
    "problem_type": "regression",
}


class ExportTesterMixin:
    """Tests of transformers' own exporters: they need packages and helpers of its repository."""


@functools.cache
def _picture() -> str:
    from PIL import Image

    folder = tempfile.mkdtemp(prefix="conformance-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "picture.png"
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(path)
    return str(path)


def url_to_local_path(url: str) -> str:
    """A local file in place of a picture on the Hub: the tests run offline. Other addresses stay as they are."""
    return _picture() if url.endswith((".png", ".jpg", ".jpeg")) else url
