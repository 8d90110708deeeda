# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The page about a data set: whole, inert whatever the data say, and the same each time."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sailvit_hf.data.checking import page as check_page
from sailvit_hf.data.checking.check import DataCheck
from sailvit_hf.data.checking.page import histogram
from sailvit_hf.data.checking.summary import Asked
from sailvit_hf.data.reading import BrokenEntry, Entry, read_entries

from .checked import ASKED, chat, check, count_words, encoded, entry, write_broken_set


@pytest.fixture(scope="module")
def broken_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_broken_set(tmp_path_factory.mktemp("broken"))


class Outline(HTMLParser):
    """What a browser would make of a page."""

    VOID = ("meta", "img", "line")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


HOSTILE = '<script>alert("x")</script><img src=http://a.example/x onerror="y()">\u202e\x1b[31m\x00</style>'


@pytest.fixture(scope="module")
def hostile() -> Outline:
    """The page of a set that attacks it through every text that a set has."""
    bad = BrokenEntry(f"{HOSTILE}, line 1", HOSTILE, f"{HOSTILE} is no sample")
    messages = [{"role": HOSTILE, "content": [{"type": "text", "text": HOSTILE}]}, *chat(HOSTILE)]
    good = Entry(f"{HOSTILE}, line 2", messages, [{"bytes": encoded(30, 40, format="JPEG"), "path": f"{HOSTILE}.jpg"}])
    found = check(bad, good, good, Entry(f"{HOSTILE}, line 3", chat(), [f"{HOSTILE}.jpg"]), count=count_words)
    assert (found.good, found.broken_count) == (2, 2)
    outline = Outline(check_page.page(found, Asked(HOSTILE, processor=HOSTILE, max_length=1)))
    assert not outline.open
    return outline


def test_nothing_from_the_data_acts_on_the_page(hostile: Outline) -> None:
    assert {tag for tag, _ in hostile.tags} <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "ul", "li", "b", "span",
        "div", "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "svg", "rect", "line", "text",
        "article", "img", "bdi", "footer",
    }  # fmt: skip
    for tag, attributes in hostile.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "srcset", "style")], tag
    assert all(str(picture["src"]).startswith("data:image/jpeg;base64,") for picture in hostile.all("img"))
    policies = [meta["content"] for meta in hostile.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    shown = "".join(hostile.text)
    assert '<script>alert("x")</script>' in shown  # as text
    assert not re.search("[\u202e\x1b\x00]", shown)


def test_pictures_and_charts_have_words(hostile: Outline) -> None:
    alts = [str(picture["alt"]) for picture in hostile.all("img")]
    assert len(alts) == 2 and all(alt.startswith("picture 1 of") and alt.endswith("30 x 40 pixels") for alt in alts)
    charts = hostile.all("svg")
    assert str(charts[0]["aria-label"]).startswith("Histogram of all tokens: from ")
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)


def test_the_page_tells_all_that_is_broken(broken_set: Path) -> None:
    found = DataCheck(match_extension=False).run(read_entries(broken_set))
    page = Outline(check_page.page(found, ASKED))
    text = "\n".join(page.text)
    assert "21 samples read, 16 are broken." in text
    for broken in found.broken:
        assert broken.where in text and broken.message in text
    assert "pets.jsonl, line 1 = pets.jsonl, line 19" in page.text
    assert "pets.jsonl, line 18: named.png is a JPEG file in spite of its name: rename or convert it" in page.text
    assert len(page.all("img")) == 5 and len(page.all("article")) == 5


def test_a_page_without_samples() -> None:
    assert "0 samples read" in check_page.page(check(), ASKED)


def test_lists_on_the_page_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_page, "ROWS", 3)
    found = check(*(BrokenEntry(f"a, line {n}", "not JSON", "bad") for n in range(5)), entry(6, answer="x" * 5000))
    text = "".join(Outline(check_page.page(found, ASKED)).text)
    assert "a, line 2" in text and "a, line 3" not in text and "The first 3 of 5" in text
    assert "(3,800 characters more)" in text


def test_the_samples_shown_follow_from_the_seed() -> None:
    entries = [entry(n, answer=f"answer {n}") for n in range(300)]
    first, again, threads = (check(*entries, samples=5, workers=n) for n in (1, 1, 2))
    assert [shown.where for shown in first.shown] == [shown.where for shown in again.shown]
    assert check_page.page(first, ASKED) == check_page.page(threads, ASKED)
    assert [shown.number for shown in first.shown] == sorted(shown.number for shown in first.shown)
    other = check(*entries, samples=5, seed=1)
    assert len(other.shown) == 5 and [shown.where for shown in other.shown] != [shown.where for shown in first.shown]
    assert len(check(*entries, samples=400).shown) == 300 and check(*entries, samples=0).shown == []


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 50), min_size=1, max_size=300))
def test_a_histogram_shows_each_number_once(numbers: list[int]) -> None:
    figure = Outline(histogram(np.array(numbers, dtype=np.uint32), "tokens", "sample"))
    bars = [re.search(r": ([\d,]+) samples?$", text) for text in figure.text]
    assert sum(int(bar[1].replace(",", "")) for bar in bars if bar) == len(numbers)
    assert len(figure.all("rect")) <= check_page.MOST_BARS + 2
    for bar in figure.all("rect"):
        x, y, width, height = (float(str(bar[name])) for name in ("x", "y", "width", "height"))
        assert x >= check_page.LEFT and y >= check_page.TOP - 0.1 and width > 0 and height >= 1
        assert x + width <= check_page.WIDTH and y + height <= check_page.HEIGHT - check_page.BOTTOM + 0.1


def test_a_histogram_of_few_numbers_has_a_bar_for_each() -> None:
    figure = Outline(histogram(np.array([1, 1, 1, 3], dtype=np.uint32), "pictures", "sample", mark=2))
    assert [text for text in figure.text if "sample" in text] == ["1: 3 samples", "3: 1 sample"]
    assert [line["class"] for line in figure.all("line")].count("mark") == 1
    assert " median 1, most 3; dashed: 2" in figure.text


def test_numbers_far_away_share_the_last_bar() -> None:
    numbers = np.array([*range(1000), 10**6], dtype=np.uint32)
    figure = Outline(histogram(numbers, "tokens", "sample"))
    assert [bar["class"] for bar in figure.all("rect")].count("rest") == 1
    assert "1,000 and more: 1 sample" in figure.text
    assert "tokens: from 0 to 1,000,000, median 500" in str(figure.all("svg")[0]["aria-label"])
