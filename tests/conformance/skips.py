# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Which common tests may skip: those that an in-tree model skips too, and those explained here, in one line each.

`conftest.py` fails a test that skips without an explanation, and one that runs in spite of an explanation in `NEVER`.
"""

import json
from functools import cache
from pathlib import Path

# What the in-tree models skip; written by `test_yardstick.py`, see README.md.
RECORD = Path(__file__).with_name("yardstick.json")

# Our test classes, and the one of `test_yardstick.py` that each is measured by.
MEASURED_BY = {
    "SAILViTModelTest": "Aimv2VisionModelTest",
    "SAILViTBackboneModelTest": "Aimv2VisionModelTest",
    "SAILViTForImageClassificationTest": "Aimv2VisionModelTest",
    "SAILViTVLMTest": "LlavaTest",
    "OtherPartsTest": "LlavaTest",
    "SAILViTImageProcessorTest": "CLIPImageProcessorTest",
    "SAILViTProcessorTest": "LlavaProcessorTest",
}

# Skips that no in-tree yardstick has, whatever is installed.
_NO_RECORDER = "our forward pass collects its outputs itself; there is no decorator of transformers to chain"
_ONE_LAYOUT = "no older layout is converted on loading: `sailvit convert` reads those, and an error names it"
NEVER = {
    "SAILViTModelTest": {"test_capture_outputs_decorator": _NO_RECORDER},
    "SAILViTBackboneModelTest": {"test_capture_outputs_decorator": _NO_RECORDER},
    "SAILViTForImageClassificationTest": {"test_capture_outputs_decorator": _NO_RECORDER},
    "SAILViTVLMTest": {
        "test_reverse_loading_mapping": _ONE_LAYOUT,
        "test_can_load_from_already_mapped_keys": _ONE_LAYOUT,
    },
}

# Skips that depend on what is installed.
_OLD_COUNT = "before 5.23 transformers left the embeddings out when it counted states; we count as it does now"
NOT_HERE = {
    "SAILViTModelTest": {"test_can_capture_specific_layers_hidden_states": _OLD_COUNT},
    "SAILViTBackboneModelTest": {"test_can_capture_specific_layers_hidden_states": _OLD_COUNT},
    "SAILViTForImageClassificationTest": {"test_can_capture_specific_layers_hidden_states": _OLD_COUNT},
    "SAILViTImageProcessorTest": {
        "test_pil_can_load_without_torchvision": "our class is not in transformers; tests/processing has the same",
    },
}


@cache
def recorded() -> dict[str, dict[str, str]]:
    """For each class of `test_yardstick.py` the tests that it skips, and why."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def explanation(test_class: str, test: str) -> str | None:
    """Why this test may skip; `None` if nobody said so."""
    for explained in (NEVER, NOT_HERE):
        if test in explained.get(test_class, {}):
            return explained[test_class][test]
    return recorded().get(MEASURED_BY.get(test_class, test_class), {}).get(test)


def record(test_class: str, test: str, reason: str) -> None:
    """Add a skip of an in-tree model to the record, beside those of other versions and machines."""
    recorded().setdefault(test_class, {}).setdefault(test, reason)
    text = json.dumps(recorded(), indent=1, sort_keys=True)
    RECORD.write_text(text + "\n")
