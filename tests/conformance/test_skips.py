# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The explanations of skipped tests are about tests that there are, and each is one line."""

import pytest

from . import skips, test_backbone, test_classification, test_processing, test_vit, test_vlm, test_yardstick

CLASSES = {}
for module in (test_backbone, test_classification, test_processing, test_vit, test_vlm, test_yardstick):
    CLASSES |= {name: value for name, value in vars(module).items() if isinstance(value, type)}


@pytest.mark.parametrize("explained", [skips.NEVER, skips.NOT_HERE, skips.recorded()], ids=["ours", "here", "theirs"])
def test_explanations_are_of_tests_that_there_are(explained):
    for test_class, reasons in explained.items():
        for test, reason in reasons.items():
            assert reason.strip() and "\n" not in reason
            if explained is not skips.recorded():  # the record is of several versions of transformers
                assert callable(getattr(CLASSES[test_class], test))


def test_every_class_is_measured_by_one_that_there_is():
    assert set(skips.MEASURED_BY) <= set(CLASSES)
    assert set(skips.MEASURED_BY.values()) == set(skips.recorded())
    assert set(skips.MEASURED_BY.values()) <= set(CLASSES)


def test_what_a_yardstick_skips_is_not_explained_again():
    for explained in (skips.NEVER, skips.NOT_HERE):
        for test_class, reasons in explained.items():
            assert not set(reasons) & set(skips.recorded()[skips.MEASURED_BY[test_class]])
