# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Lets the common tests see our classes as they see transformers' own, and lets no skip pass unexplained."""

import os

import pytest
import transformers.models.auto.modeling_auto as modeling_auto

from . import skips

MARKERS = (
    "accelerate_tests flash_attn_test flash_attn_3_test flash_attn_4_test is_expert_parallel_test is_fsdp_test "
    "is_pipeline_test is_tensor_parallel_test is_training_test order torch_compile_test"
)

# Much of the common tests goes by tables of class names: which class takes labels, which has no loss, and so on.
NAMES = {
    "MODEL_MAPPING_NAMES": {"sailvit": "SAILViTModel", "sailvit_vlm": "SAILViTVLMModel"},
    "MODEL_FOR_BACKBONE_MAPPING_NAMES": {"sailvit": "SAILViTBackbone"},
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES": {"sailvit": "SAILViTForImageClassification"},
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES": {"sailvit_vlm": "SAILViTForConditionalGeneration"},
}

skipped = set()


def pytest_configure(config):
    for marker in MARKERS.split():
        config.addinivalue_line("markers", f"{marker}: set by transformers' common tests")


@pytest.fixture(autouse=True)
def names_in_tables(monkeypatch):
    """Our classes' names in transformers' tables, while a test runs."""
    for table, names in NAMES.items():
        for model_type, name in names.items():
            monkeypatch.setitem(getattr(modeling_auto, table), model_type, name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fail a test that skips without an explanation, and one whose explanation no longer holds."""
    report = yield
    if item.cls is None or hasattr(report, "wasxfail"):
        return report
    name, test = item.cls.__name__, item.originalname
    if report.skipped:
        skipped.add(item.nodeid)
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "test_yardstick" in item.nodeid and os.environ.get("SAILVIT_RECORD_YARDSTICK"):
            skips.record(name, test, reason.removeprefix("Skipped: "))
        elif skips.explanation(name, test) is None:
            report.outcome = "failed"
            report.longrepr = f"{name}.{test} skips without an explanation in skips.py or yardstick.json: {reason}"
    elif report.passed and call.when == "call" and item.nodeid not in skipped and test in skips.NEVER.get(name, {}):
        report.outcome = "failed"
        report.longrepr = f"{name}.{test} runs, though skips.py explains why it cannot: take the explanation out."
    return report
