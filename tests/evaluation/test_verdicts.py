# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Sentences for both signs of every outcome."""

import pytest

from sailvit_hf.evaluation.comparison import paired
from sailvit_hf.evaluation.verdicts import (
    answers_verdict,
    comparison_verdict,
    metric_label,
    percent,
    probe_verdict,
    stages_verdict,
    swap_verdict,
    text_skill_verdict,
)

STATES = ["start", "coarse", "fine"]


def vlm(metric, *values):
    return {state: {metric: value} for state, value in zip(STATES, values, strict=True)}


def tones(verdicts):
    return [verdict.tone for verdict in verdicts]


@pytest.mark.parametrize(
    ("before", "after", "tone", "words"),
    [
        (0.1, 0.8, "good", "answers 80\u00a0% of the held-out questions"),
        (0.8, 0.5, "bad", "before refinement it was 80\u00a0%"),
        (0.1, 0.25, "bad", "no better than chance"),
        (0.5, 0.51, "plain", "within the sampling error"),
    ],
)
def test_answers(before, after, tone, words):
    values = vlm("question_accuracy", before, before, after)
    (verdict,) = answers_verdict(values, STATES, {"question_accuracy": 0.3}, {"questions": 500})
    assert verdict.tone == tone and words in verdict.text and "commonest answer scores 30\u00a0%" in verdict.text


def test_stages():
    (good,) = stages_verdict(vlm("caption_loss", 3.0, 2.0, 1.0), STATES)
    assert good.tone == "good" and "3.00 → 2.00 → 1.00" in good.text
    (bad,) = stages_verdict(vlm("caption_loss", 3.0, 3.5, 1.0), STATES)
    assert bad.tone == "bad" and "stage I did not lower" in bad.text
    (worse,) = stages_verdict(vlm("caption_loss", 1.0, 1.5, 2.0), STATES)
    assert "stages I and II did not lower" in worse.text
    assert stages_verdict({state: {} for state in STATES}, STATES) == []


@pytest.mark.parametrize(
    ("after", "samples", "tone", "words"),
    [
        (0.7, {}, "good", "kept"),
        (0.69, {"text": 500}, "good", "did not measurably change"),
        (0.6, {"text": 500}, "bad", "cost the language model 10.0 points"),
        (0.8, {"text": 500}, "good", "gained 10.0 points"),
        (0.69, {}, "bad", "1.0 points"),
    ],
)
def test_text_skill(after, samples, tone, words):
    (verdict,) = text_skill_verdict(vlm("text_accuracy", 0.7, 0.7, after), STATES, samples)
    assert verdict.tone == tone and words in verdict.text


def test_swap():
    swap = {
        "original": {"unrefined": {"caption_loss": 2.0}, "refined": {"caption_loss": 1.0}},
        "second": {"unrefined": {"caption_loss": 1.0}, "refined": {"caption_loss": 1.5}},
        "third": {"unrefined": {}},
    }
    good, bad = swap_verdict(swap)
    assert good.tone == "good" and "its own language model" in good.text and "50\u00a0% of it" in good.text
    assert bad.tone == "bad" and "did not help" in bad.text


def test_probes():
    before = {"scene_linear_unseen": 0.1, "pooled_linear_unseen": 0.5, "scene_chance_unseen": 0.01}
    after = {"scene_linear_unseen": 0.3, "pooled_linear_unseen": 0.2, "scene_chance_unseen": 0.01}
    verdicts = probe_verdict(before, after)
    assert tones(verdicts) == ["good", "bad"] and "10\u00a0% → 30\u00a0%; chance 1\u00a0%" in verdicts[0].text
    assert probe_verdict({}, {}) == []


def test_comparisons_over_seeds():
    low, high = [1.0, 1.1, 1.05], [2.0, 2.2, 2.1]
    cases = [(low, high, "good", "gradual beats direct"), (high, low, "bad", "gradual loses to direct")]
    cases += [([1.0, 2.0], [2.0, 1.0], "plain", "gradual is ahead in 1 of 2 seeds")]
    cases += [([1.0], [2.0], "plain", "One seed proves nothing"), ([2.0], [1.0], "plain", "not ahead of")]
    for first, second, tone, words in cases:
        verdict = comparison_verdict(paired("caption_loss", first, second).to_dict(), "gradual", "direct", "Swap")
        assert verdict.tone == tone and words in verdict.text


def test_labels_and_percentages():
    assert metric_label("question_accuracy/count") == "count"
    assert metric_label("held_out_loss") == "held out loss"
    assert [percent(value) for value in (0.0, 0.001, 0.5, 0.999, 1.0)] == [
        "0\u00a0%", "0.1\u00a0%", "50\u00a0%", "99.9\u00a0%", "100\u00a0%",
    ]  # fmt: skip
