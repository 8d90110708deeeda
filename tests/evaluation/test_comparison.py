# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Paired comparisons against values from tables and by hand."""

import pytest

from sailvit_hf.errors import SailvitError
from sailvit_hf.evaluation.comparison import (
    compare_arms,
    lower_is_better,
    markdown_table,
    number,
    paired,
    t_critical,
    t_within,
)


# Two-sided critical values as printed in every table of Student's t.
@pytest.mark.parametrize(
    ("degrees", "confidence", "value"),
    [(1, 0.95, 12.706), (2, 0.95, 4.303), (3, 0.95, 3.182), (4, 0.95, 2.776), (5, 0.95, 2.571), (9, 0.95, 2.262),
     (30, 0.95, 2.042), (1, 0.90, 6.314), (4, 0.99, 4.604), (10, 0.99, 3.169)],
)  # fmt: skip
def test_t_critical_values(degrees, confidence, value):
    assert t_critical(degrees, confidence) == pytest.approx(value, abs=6e-4)


def test_t_is_symmetric_and_tends_to_the_normal():
    assert t_within(-2.0, 7) == t_within(2.0, 7)
    assert t_within(1.96, 2000) == pytest.approx(0.95, abs=5e-4)
    with pytest.raises(ValueError, match="at least 1 degree"):
        t_within(1.0, 0)


def test_paired_by_hand():
    c = paired("caption_loss", [1.0, 2.0, 3.0], [2.0, 2.0, 5.0])
    assert c.differences == (-1.0, 0.0, -2.0)
    assert (c.mean, c.sd) == (-1.0, 1.0)
    half = 4.302653 / 3**0.5
    assert (c.low, c.high) == (pytest.approx(-1 - half, abs=1e-5), pytest.approx(-1 + half, abs=1e-5))
    assert (c.wins, c.ties, c.losses) == (2, 1, 0)
    assert c.verdict == "unclear"
    assert c.to_dict()["verdict"] == "unclear" and c.to_dict()["differences"] == [-1.0, 0.0, -2.0]


def test_verdicts_know_the_direction_of_a_metric():
    low, high = [0.1, 0.11, 0.1], [0.9, 0.92, 0.91]
    assert paired("caption_loss", low, high).verdict == "better"
    assert paired("caption_loss", high, low).verdict == "worse"
    assert paired("question_accuracy/count", low, high).verdict == "worse"
    assert paired("question_accuracy/count", high, low).wins == 3
    assert lower_is_better("reading_loss") and not lower_is_better("scene_knn_seen")


def test_one_seed_has_no_interval():
    c = paired("caption_loss", [1.0], [2.0])
    assert (c.mean, c.sd, c.low, c.high, c.verdict) == (-1.0, None, None, None, "unclear")


def test_unequal_arms_are_an_error():
    with pytest.raises(SailvitError, match="same seeds"):
        paired("caption_loss", [1.0], [1.0, 2.0])
    with pytest.raises(SailvitError, match="same seeds"):
        paired("caption_loss", [], [])


def test_arms_are_compared_on_common_seeds_and_metrics():
    first = {0: {"a_loss": 1.0}, 1: {"a_loss": 2.0}, 2: {"a_loss": 9.0}}
    second = {1: {"a_loss": 3.0}, 0: {"a_loss": 1.5, "b": 1.0}}
    (only,) = compare_arms(first, second, ["a_loss", "b"])
    assert only.differences == (-0.5, -1.0)


def test_tables():
    rows = [["caption_loss", number(1.5), number(-0.75, sign=True)], ["x", "–", "1/1"]]
    assert markdown_table(["metric", "first", "difference"], rows) == (
        "| metric       | first | difference |\n"
        "|--------------|------:|-----------:|\n"
        "| caption_loss | 1.500 |     -0.750 |\n"
        "| x            |     – |        1/1 |\n"
    )
    assert "a\\|b" in markdown_table(["a|b"], [["1"]])
    assert number(None) == number(float("nan")) == "–" and number(0.5, 1, sign=True) == "+0.5"
