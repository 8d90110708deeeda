# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Checking a data set: every kind of breakage by its line, and numbers that are exact."""

import json
import tracemalloc
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sailvit_hf.data.checking.check import DataCheck, Distribution, Places, distribution
from sailvit_hf.data.checking.summary import Asked, is_clean, lengths, overview, share, to_json
from sailvit_hf.data.reading import BrokenEntry, Entry, read_entries

from .checked import ASKED, check, count_words, encoded, entry, write_broken_set


@pytest.fixture(scope="module")
def broken_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_broken_set(tmp_path_factory.mktemp("broken"))


def test_every_breakage_is_named_with_its_line(broken_set: Path) -> None:
    found = DataCheck().run(read_entries(broken_set))
    reasons = {int(where.removeprefix("pets.jsonl, line ")): reason for where, reason, _ in found.broken}
    assert reasons == {
        2: "not JSON", 3: "not an object", 4: "unknown layout", 5: "empty answer", 6: "pictures do not match",
        7: "unknown role", 8: "picture: missing", 9: "picture: truncated", 10: "picture: truncated",
        11: "picture: damaged", 12: "picture: not a picture", 13: "picture: empty",
        14: "picture: outside the folder", 15: "picture: an address", 16: "picture: loop of links",
        18: "picture: wrong extension", 22: "picture: missing",
    }  # fmt: skip
    assert (found.entries, found.good, found.broken_count, found.text_only()) == (21, 4, 17, 1)
    assert found.reasons["picture: truncated"] == 2
    assert found.first["picture: missing"] == "pets.jsonl, line 8"
    said = {broken.where: broken.message for broken in found.broken}
    assert said["pets.jsonl, line 13"] == "zero.png is empty (zero bytes): replace it with the picture"
    assert "<!doctype" not in " ".join(said.values())
    # What is no fault: line 19 says what line 1 says, and two files are one picture.
    assert [[found.places[i] for i in group] for group in found.duplicate_samples()] == [
        ["pets.jsonl, line 1", "pets.jsonl, line 19"]
    ]
    assert [[found.places[i] for i in group] for group in found.picture_copies()] == [["pets.jsonl, line 17"] * 2]
    assert found.formats == {"PNG": 2, "JPEG": 2} and found.pictures == 4 and found.distinct_pictures == 2


def test_wrong_extensions_are_broken_unless_allowed(broken_set: Path) -> None:
    said = "named.png is a JPEG file in spite of its name: rename or convert it"
    strict = DataCheck().run(read_entries(broken_set))
    assert ("pets.jsonl, line 18", "picture: wrong extension", said) in strict.broken and not strict.wrong_extensions
    lenient = DataCheck(match_extension=False).run(read_entries(broken_set))
    assert lenient.wrong_extensions == [("pets.jsonl, line 18", said)] and lenient.good == strict.good + 1
    rows = {row.label: row.text for row in overview(lenient, ASKED)}
    assert rows["wrong extension"] == "1 picture is named like another format, first pets.jsonl, line 18"


@pytest.mark.parametrize("options", [{"workers": 3}, {"decode": True}, {"decode": True, "workers": 2}])
def test_neither_threads_nor_decoding_change_what_is_found(broken_set: Path, options: dict) -> None:
    expected = to_json(DataCheck().run(read_entries(broken_set)), ASKED)
    values = to_json(DataCheck(**options).run(read_entries(broken_set)), ASKED)
    for broken in [*expected["broken"], *values["broken"]]:
        if options.get("decode") and broken["reason"] == "picture: damaged":
            del broken["message"]  # a checksum says otherwise than a decoder what is wrong
    assert values == expected


def test_numbers_are_exact() -> None:
    small, large = encoded(30, 40), encoded(100, 50, 1)
    entries = [entry(n, *[small] * (n % 3), answer="word " * n) for n in range(1, 101)]
    found = check(*entries, entry(101, large, large), count=count_words)
    assert found.distribution("text_tokens") == Distribution(sum(range(4, 104)) + 5, 4, 53, 93, 102, 103)
    assert found.distribution("image_tokens") == Distribution(4 * 102, 0, 4, 8, 8, 8)
    assert found.distribution("tiles") == Distribution(102, 0, 1, 2, 2, 2)
    assert found.distribution("turns") == Distribution(202, 2, 2, 2, 2, 2)
    assert found.sizes() == ((40, 30), (40, 30), (50, 100))
    assert (found.text_only(), found.pictures, found.distinct_pictures) == (33, 102, 2)
    tokens = [n + 3 + 4 * (n % 3) for n in range(1, 101)]
    assert found.longest("tokens", 1) == [("pets.jsonl, line 98", max(tokens))]
    assert found.overlong_count(99) == sum(n > 99 for n in tokens)
    assert found.overlong(99, 2) == [("pets.jsonl, line 89", 100), ("pets.jsonl, line 92", 103)]


def test_characters_are_those_of_the_texts() -> None:
    found = check(entry(1, answer="four"), entry(2, answer="\U0001f600"))
    assert list(found.numbers["characters"]) == [len("what is it") + 4, len("what is it") + 1]
    assert not found.numbers["tokens"] and not found.numbers["tiles"]
    assert found.distribution("tokens") is None


def test_tiles_can_be_counted_without_a_processor() -> None:
    found = check(entry(1, encoded(30, 40), encoded(60, 40)), tiles=lambda height, width: height * width)
    assert list(found.numbers["tiles"]) == [40 * 30 + 40 * 60]


def test_what_the_processor_refuses_is_broken() -> None:
    found = check(entry(1), entry(2, answer="refuse this"), count=count_words)
    assert found.broken == [
        ("pets.jsonl, line 2", "cannot be encoded", "the processor refuses it ('roles must alternate')")
    ]
    assert list(found.numbers["turns"]) == [2]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=60))
def test_percentiles_are_the_least_that_so_many_do_not_exceed(numbers: list[int]) -> None:
    spread = distribution(array("I", numbers))
    assert spread is not None
    for percent, value in ((50, spread.p50), (90, spread.p90), (99, spread.p99)):
        assert 100 * sum(number <= value for number in numbers) >= percent * len(numbers)
        assert 100 * sum(number < value for number in numbers) < percent * len(numbers)
    assert (spread.total, spread.least, spread.most) == (sum(numbers), min(numbers), max(numbers))


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.text(alphabet="a0159, .\n\u0663", max_size=25)))
def test_places_come_back_as_they_were(texts: list[str]) -> None:
    places = Places()
    for text in texts:
        places.add(text)
    assert [places[i] for i in range(len(places))] == texts


def test_places_of_many_lines_share_their_text() -> None:
    tracemalloc.start()
    try:
        places = Places()
        for number in range(100_000):
            places.add(f"a/long/name/of/a/file/of/many/samples.jsonl, line {number}")
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()
    assert places[99_999].endswith("samples.jsonl, line 99999")


def test_an_interrupt_keeps_what_was_read() -> None:
    def entries(count: int) -> Iterator[Entry]:
        yield from (entry(n, encoded(30, 40)) for n in range(1, count))
        raise KeyboardInterrupt

    for workers in (1, 2):
        found = DataCheck(workers=workers).run(entries(40))
        assert not found.complete
        assert found.good == found.entries == found.pictures <= 39
        assert workers == 2 or found.entries == 39
        assert {len(values) for values in (found.numbers["turns"], found.places, found.widths, found.owners)} == {
            found.good
        }
        assert "then interrupted" in overview(found, ASKED)[0].text


def test_an_interrupt_while_a_sample_is_recorded_leaves_no_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    add = Places.add

    def interrupted(places: Places, where: str) -> None:
        if where.endswith("line 3"):
            raise KeyboardInterrupt
        add(places, where)

    monkeypatch.setattr(Places, "add", interrupted)
    picture = encoded(30, 40)
    found = check(*(entry(n, picture, picture) for n in range(1, 6)))
    assert (found.entries, found.good, found.pictures, len(found.shown)) == (2, 2, 4, 2)
    assert list(found.numbers["pictures"]) == [2, 2]


def test_limit_and_progress() -> None:
    seen: list[tuple[int, int]] = []
    entries = [entry(1), BrokenEntry("pets.jsonl, line 2", "not JSON", "it is not JSON"), entry(3), entry(4)]
    found = DataCheck().run(iter(entries), limit=3, on_progress=lambda read, broken: seen.append((read, broken)))
    assert seen == [(1, 0), (2, 1), (3, 1)] and found.entries == 3
    asked = Asked("pets.jsonl", limit=3)
    assert overview(found, asked)[0].text == "3 read (--limit 3)"
    assert not is_clean(found, asked)


def test_equal_samples_are_told_by_content_and_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(30, 40))
    (tmp_path / "b.png").write_bytes(encoded(30, 40))
    (tmp_path / "c.png").write_bytes(encoded(30, 40, 5))
    names = ("a.png", "c.png", "b.png", "./a.png", "a.png")
    found = check(*(entry(n, name, root=tmp_path) for n, name in enumerate(names, start=1)), entry(6), entry(7))
    assert found.duplicate_samples() == [[0, 2, 3, 4], [5, 6]]
    # Two files of three are one picture; that a file is shown twice makes no copy.
    assert found.picture_copies() == [[0, 2]]
    other = check(entry(1, answer="one"), entry(2, answer="two"), entry(3, question="one", answer="what is it"))
    assert other.duplicate_samples() == []


def test_pictures_stored_in_the_rows_are_copies_of_each_other() -> None:
    inside = {"bytes": encoded(30, 40), "path": "x.png"}
    assert check(entry(1, inside), entry(2, inside, answer="b")).picture_copies() == [[0, 1]]


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 5, "0 %"), (5, 5, "100 %"), (1, 3, "33.3 %"), (1, 10_000, "under 0.1 %"), (9_999, 10_000, "over 99.9 %"),
     (0, 0, "0 %")],
)  # fmt: skip
def test_shares_are_whole_only_when_exact(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


def test_overlong_samples_are_reported_only_when_asked_for() -> None:
    found = check(entry(1, answer="word " * 9), entry(2), count=count_words)
    asked = Asked("pets.jsonl", processor="folder", max_length=10)
    assert is_clean(found, ASKED) and not is_clean(found, asked)
    rows = {row.label: row for row in overview(found, asked)}
    assert rows["too long"].text == "1 of more than 10 tokens (50 %), first pets.jsonl, line 1"
    assert rows["too long"].kind == "bad"
    assert "too long" not in {row.label for row in overview(found, ASKED)}
    assert to_json(found, asked)["overlong"] == {
        "count": 1, "samples": [{"where": "pets.jsonl, line 1", "tokens": 12}]
    }  # fmt: skip


def test_an_empty_set_has_findings_too() -> None:
    found = check()
    assert lengths(found) == [] and found.sizes() is None and found.duplicate_samples() == []
    assert found.picture_copies() == [] and to_json(found, ASKED)["samples"]["read"] == 0


def test_tiny_pictures_are_worth_knowing() -> None:
    found = check(entry(1, encoded(28, 28)), entry(2, encoded(400, 27)))
    rows = {row.label: row.text for row in overview(found, ASKED)}
    assert rows["tiny pictures"] == "1 picture with a side below 28 pixels, first pets.jsonl, line 2"


def test_json_is_json_and_says_everything(broken_set: Path) -> None:
    values = json.loads(json.dumps(to_json(DataCheck().run(read_entries(broken_set)), ASKED)))
    assert values["samples"] == {"read": 21, "good": 4, "broken": 17, "text_only": 1}
    assert len(values["broken"]) == 17
    assert values["broken"][0] == {
        "where": "pets.jsonl, line 2", "reason": "not JSON",
        "message": "it is not JSON (Expecting value at column 15): write one JSON object a line",
    }  # fmt: skip
    assert values["pictures"]["height_and_width"] == {"smallest": [40, 30], "median": [40, 30], "largest": [40, 60]}
    assert values["pictures"]["copies"] == {"count": 1, "groups": [["pets.jsonl, line 17", "pets.jsonl, line 17"]]}
    assert values["duplicates"] == {"count": 1, "groups": [["pets.jsonl, line 1", "pets.jsonl, line 19"]]}
