# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The findings about a data set in words and rows, the same for the terminal, the page and the JSON file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from .check import MEASURES, TINY, Findings

LABELS = {
    "text_tokens": "text tokens",
    "image_tokens": "picture tokens",
    "tokens": "all tokens",
    "tiles": "tiles",
    "pictures": "pictures",
    "characters": "characters",
    "turns": "turns",
}
COLUMNS = ("in each sample", "least", "median", "90 %", "99 %", "most", "in all")
GROUPS = 1_000  # of equal samples, in the JSON file


@dataclass(frozen=True)
class Asked:
    """What was checked and how: what the findings are to be read with."""

    source: str
    processor: str | None = None
    max_length: int | None = None
    max_tiles: int | None = None
    decoded: bool = False
    limit: int | None = None


class Row(NamedTuple):
    """A line of the overview. `kind` is "good", "bad", or "plain" for what is worth knowing but no fault."""

    label: str
    text: str
    kind: str = ""


def share(part: int, whole: int) -> str:
    """A percentage that is 0 or 100 only if it is exactly that."""
    percentage = 100 * part / whole if whole else 0.0
    if 0 < percentage < 0.1:
        return "under 0.1 %"
    if 99.9 < percentage < 100:
        return "over 99.9 %"
    return f"{percentage:.1f} %" if percentage % 1 else f"{percentage:.0f} %"


def count_of(number: int, what: str, many: str | None = None) -> str:
    """1 sample, 1,200 samples."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def overview(found: Findings, asked: Asked) -> list[Row]:
    """What is in the set, line by line."""
    broken = found.broken_count
    read = f"{found.entries:,} read" + ("" if found.complete else ", then interrupted")
    if found.complete and asked.limit is not None and found.entries >= asked.limit:
        read += f" (--limit {asked.limit})"
    faulty = f"{broken:,} ({share(broken, found.entries)})" if broken else "none"
    rows = [Row("samples", read), Row("broken", faulty, "bad" if broken else "good")]
    if asked.max_length is not None:
        rows.append(_overlong(found, asked.max_length))
    rows.append(Row("text only", count_of(found.text_only(), "sample")))
    if found.pictures:
        seen = f"{found.pictures:,} shown, {found.distinct_pictures:,} different"
        formats = ", ".join(f"{name} {number:,}" for name, number in found.formats.most_common())
        rows += [Row("pictures", seen), Row("formats", formats), Row("width x height", _sizes(found))]
    return [*rows, *_notices(found)]


def _overlong(found: Findings, max_length: int) -> Row:
    over = found.overlong_count(max_length)
    text = f"{over:,} of more than {max_length:,} tokens"
    if over:
        text += f" ({share(over, found.good)}), first {found.overlong(max_length, 1)[0][0]}"
    return Row("too long", text, "bad" if over else "good")


def _sizes(found: Findings) -> str:
    sizes = found.sizes()
    assert sizes is not None
    words = (f"{width} x {height} {what}" for (height, width), what in
             zip(sizes, ("smallest", "median", "largest"), strict=True))  # fmt: skip
    return ", ".join(words)


def _notices(found: Findings) -> list[Row]:
    rows = []
    if groups := found.duplicate_samples():
        repeats = sum(len(group) - 1 for group in groups)
        first = _pair(found, groups[0])
        verb = "repeats" if repeats == 1 else "repeat"
        rows.append(Row("duplicates", f"{count_of(repeats, 'sample')} {verb} another, first {first}", "plain"))
    if groups := found.picture_copies():
        copies = sum(len(group) - 1 for group in groups)
        first = _pair(found, groups[0])
        what = count_of(copies, "file equals", "files equal")
        rows.append(Row("picture copies", f"{what} another byte for byte, first {first}", "plain"))
    if tiny := found.tiny_pictures():
        text = f"{count_of(len(tiny), 'picture')} with a side below {TINY} pixels, first {found.places[tiny[0]]}"
        rows.append(Row("tiny pictures", text, "plain"))
    if found.wrong_extension_count:
        named = count_of(found.wrong_extension_count, "picture is named", "pictures are named")
        text = f"{named} like another format, first {found.wrong_extensions[0][0]}"
        rows.append(Row("wrong extension", text, "plain"))
    if found.orphans:
        what = count_of(found.orphan_count, "picture file")
        rows.append(Row("orphans", f"{what} that no good sample shows, first {found.orphans[0]}", "plain"))
    return rows


def _pair(found: Findings, group: list[int]) -> str:
    """Two places in brief: train.jsonl, line 3 = line 9."""
    one, other = (found.places[number] for number in group[:2])
    if one.rpartition(", ")[0] == other.rpartition(", ")[0]:
        other = other.rpartition(", ")[2]
    return f"{one} = {other}"


def lengths(found: Findings) -> list[tuple[str, ...]]:
    """A row of `COLUMNS` for each number that was counted."""
    rows = []
    for name in MEASURES:
        spread = found.distribution(name)
        if spread is not None:
            numbers = (spread.least, spread.p50, spread.p90, spread.p99, spread.most, spread.total)
            rows.append((LABELS[name], *(f"{number:,}" for number in numbers)))
    return rows


def measured_with(found: Findings, asked: Asked) -> str:
    """How the numbers came about, in a sentence."""
    if asked.processor is not None:
        counted = f"Tokens and tiles as {asked.processor} counts them."
    elif asked.max_tiles is not None:
        counted = f"Tiles of 448 pixels, at most {asked.max_tiles} and a thumbnail; tokens only with --processor."
    else:
        counted = "Tokens and tiles only with --processor."
    if not found.pictures:
        return counted
    how = "Every picture was decoded." if asked.decoded else (
        "Pictures were checked by header, length, checksum and end mark; --decode decodes every one."
    )  # fmt: skip
    return f"{counted} {how}"


def is_clean(found: Findings, asked: Asked) -> bool:
    """Whether all samples that were read can be trained on."""
    return not found.broken_count and (asked.max_length is None or not found.overlong_count(asked.max_length))


def to_json(found: Findings, asked: Asked) -> dict[str, Any]:
    """All findings as values that JSON knows. Of very many, lists hold the first; the counts are those of all."""
    sizes = found.sizes()
    spreads = {name: found.distribution(name) for name in MEASURES}
    overlong = None
    if asked.max_length is not None:
        first = found.overlong(asked.max_length, 10_000)
        overlong = {"count": found.overlong_count(asked.max_length),
                    "samples": [{"where": where, "tokens": tokens} for where, tokens in first]}  # fmt: skip
    duplicates, copies = found.duplicate_samples(), found.picture_copies()

    def places(groups: list[list[int]]) -> list[list[str]]:
        return [[found.places[number] for number in group] for group in groups[:GROUPS]]

    return {
        "format": 1,
        "asked": asdict(asked),
        "complete": found.complete,
        "samples": {"read": found.entries, "good": found.good, "broken": found.broken_count,
                    "text_only": found.text_only()},
        "per_sample": {name: spread._asdict() for name, spread in spreads.items() if spread is not None},
        "pictures": {
            "shown": found.pictures,
            "different": found.distinct_pictures,
            "formats": dict(found.formats.most_common()),
            "height_and_width": dict(zip(("smallest", "median", "largest"), sizes, strict=True)) if sizes else None,
            "wrong_extensions": {"count": found.wrong_extension_count,
                                 "pictures": [{"where": where, "message": text}
                                              for where, text in found.wrong_extensions]},
            "tiny": len(found.tiny_pictures()),
            "copies": {"count": sum(len(group) - 1 for group in copies), "groups": places(copies)},
        },
        "orphans": None if found.orphans is None else {"count": found.orphan_count, "files": found.orphans},
        "overlong": overlong,
        "duplicates": {"count": sum(len(group) - 1 for group in duplicates), "groups": places(duplicates)},
        "reasons": {reason: {"count": number, "first": found.first[reason]}
                    for reason, number in found.reasons.most_common()},
        "broken": [entry._asdict() for entry in found.broken],
    }  # fmt: skip
