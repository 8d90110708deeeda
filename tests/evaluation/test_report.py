# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The report of made-up runs: complete, self-contained, escaped, and honest about both outcomes."""

import json
import re
from html.parser import HTMLParser

import pytest

from sailvit_hf.errors import SailvitError
from sailvit_hf.evaluation.comparison import paired
from sailvit_hf.evaluation.report import write_report

from .synthetic_run import STATES, metrics_of, write_json, write_run


class Page(HTMLParser):
    """Checks that tags are balanced; collects the text, the pictures' sources and the tag names."""

    VOID = {"meta", "img", "source", "br"}

    def __init__(self, html):
        super().__init__()
        self.stack, self.tags, self.sources, self.text = [], set(), [], ""
        self.feed(html)
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.sources += [value for name, value in attributes if name in ("src", "srcset", "href")]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ("style", "title"):
            self.text += data + "\n"


def page_of(folder):
    path = write_report(folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return page_of(write_run(tmp_path_factory.mktemp("good")))


def test_every_section_is_there(good):
    for heading in ("The stages", "Before and after, stage by stage", "Questions and answers", "Encoder swap",
                    "What the ViT sees: feature maps", "Probing the ViT alone"):  # fmt: skip
        assert heading in good.text
    assert "OpenMoji, CC BY-SA 4.0" in good.text


def test_it_is_self_contained(good):
    assert good.tags.isdisjoint({"script", "link", "iframe", "a"})
    assert good.sources and all(source.startswith("data:image/png;base64,") for source in good.sources)
    # 3 sample pictures, 4 rows of feature maps of 1 input and 3 states, 3 charts for light and dark pages
    assert len(good.sources) == 3 + 16 + 6


def test_the_numbers_are_the_run_s(good):
    world = metrics_of()["vlm"]["world"]
    assert f"{world['caption_loss']:.3f}" in good.text
    assert f"{100 * world['reading_accuracy']:.1f}\u00a0%" in good.text
    assert "31.0\u00a0%" in good.text  # chance
    assert "of 0.75 against 1.65 for the unrefined one, 45\u00a0% of it" in good.text
    assert "40" in good.text and "2,560" in good.text and "121 s" in good.text


def test_right_and_wrong_answers_are_told_apart(tmp_path):
    write_run(tmp_path)
    html = write_report(tmp_path).read_text(encoding="utf-8")
    right = 3 * 2  # three samples, right after II and after III
    assert len(re.findall('class="yes"', html)) == right
    assert len(re.findall('class="no"', html)) == 4 * len(STATES) - right


def test_a_run_that_got_worse_says_so(tmp_path):
    text = page_of(write_run(tmp_path, gain=-0.6)).text
    assert "Not every stage helps: stages I, II and III did not lower" in text
    assert text.count("refinement did not help there") == 2
    assert "no better than chance" in text
    assert "Each stage improves" not in text


def test_texts_are_escaped(tmp_path):
    write_run(tmp_path, question='<script>alert("x")</script> & more')
    metrics = metrics_of() | {"name": "<b>x</b>", "credit": "a < b"}
    metrics["vlm"]["start"]["own<i>_loss"] = 1.0
    write_json(tmp_path / "metrics.json", metrics)
    page = page_of(tmp_path)
    assert page.tags.isdisjoint({"script"})
    assert '<script>alert("x")</script> & more' in page.text and "What refinement changed: " in page.text
    assert "<b>x</b>" in page.text and "a < b" in page.text and "own<i> loss" in page.text


def test_a_run_without_demo_world(tmp_path):
    """Your own data: no chance, no probes, no swap, no pictures."""
    metrics = {"format": 1, "name": "mine", "seed": 3, "states": ["start", "fine"], "stages": {},
               "vlm": {"start": {"held_out_loss": 2.0}, "fine": {"held_out_loss": 1.0}}}  # fmt: skip
    write_json(tmp_path / "metrics.json", metrics)
    text = page_of(tmp_path).text
    assert "held out loss" in text and "after II" in text and "2.000" in text
    assert "Encoder swap" not in text and "feature maps" not in text
    write_json(tmp_path / "metrics.json", {"format": 1, "name": "bare"})
    assert "What refinement changed" in page_of(tmp_path).text


def test_the_comparison_over_seeds_is_included(tmp_path):
    write_run(tmp_path)
    worse = paired("caption_loss", [2.0, 2.1, 2.05], [1.0, 1.2, 1.1]).to_dict()
    evidence = {"seeds": [0, 1, 2], "arms": {"gradual": "gradual (I)", "direct": "direct (all)"},
                "judges": {"swap_original": "Swap"},
                "comparisons": {"gradual - direct": {"swap_original": [worse]}}}  # fmt: skip
    write_json(tmp_path / "evidence.json", evidence)
    text = page_of(tmp_path).text
    assert "Over seeds" in text and text.count("Swap: gradual loses to direct") == 2
    assert "+0.950" in text and "0/3" in text


def test_equal_runs_give_equal_reports(tmp_path):
    first, second = (write_report(write_run(tmp_path / name)) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_broken_folders(tmp_path):
    with pytest.raises(SailvitError, match=r"no metrics\.json"):
        write_report(tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(SailvitError, match="not valid JSON"):
        write_report(tmp_path)
    assert json.loads(json.dumps(metrics_of())) == metrics_of()
