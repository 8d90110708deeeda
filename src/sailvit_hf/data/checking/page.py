# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The findings about a data set as one self-contained page: numbers, histograms, what is broken, samples to see."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ... import html_page as html
from .check import Findings, Shown
from .summary import COLUMNS, LABELS, Asked, count_of, is_clean, lengths, measured_with, overview, share

ROWS = 1_000  # of the list of broken samples
SIGNS = 1_200  # of a text
TURNS = 12  # of a conversation
LONGEST = 10
NOTICES = 20  # of each kind
PLACES = 6  # of a group of equal things
MOST_BARS = 45
MEASURES = ("text_tokens", "image_tokens", "tiles", "characters", "pictures", "turns")

# Of a histogram, in its own units: wide enough for a phone, where one unit is one pixel.
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 340, 170, 44, 24, 8

CSS = """
main { overflow-wrap: anywhere; }
ul.verdicts li b { display: inline-block; min-width: 10.5rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(310px, 100%), 1fr)); gap: 14px; }
.charts figure { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 12px 14px;
  margin: 0; } .charts svg { width: 100%; height: auto; display: block; } .charts figcaption b { color: var(--ink); }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); } svg .bar { fill: var(--accent); }
svg .rest { fill: var(--bad); } svg .axis { stroke: var(--line); } svg .mark { stroke: var(--bad);
  stroke-dasharray: 4 3; }
.chat .kind { text-transform: none; letter-spacing: 0; }
.chat .pictures { display: flex; flex-wrap: wrap; gap: 8px; margin: .6rem 0; }
.card.chat img { width: auto; height: auto; max-width: 100%; max-height: 200px; image-rendering: auto;
  border: 1px solid var(--line); }
.chat .said { white-space: pre-wrap; margin: .15rem 0 .7rem; } .chat .of { color: var(--soft); font-size: .74rem;
  font-weight: 600; text-transform: uppercase; letter-spacing: .06em; }
td.where, th.text { text-align: left; }
ul.broken { list-style: none; padding: 0; font-size: .92rem; } ul.broken li { padding: .5rem 0;
  border-bottom: 1px solid var(--line); } ul.broken b { margin-right: .6rem; } ul.broken p { margin: .1rem 0 0; }
@media (max-width: 560px) { ul.verdicts li b { display: block; } }
"""


def page(found: Findings, asked: Asked) -> str:
    """The whole page. Whatever comes from the data is text on it, and it loads nothing from anywhere."""
    title = f"Data check: {_clean(asked.source)}"
    body = [
        f"<h1>{html.esc(title)}</h1>",
        html.paragraph(_lead(found, asked), "lead"),
        _overview(found, asked),
        _lengths(found, asked),
        _broken(found),
        _noticed(found),
        _samples(found),
        f"<footer>{html.esc(_clean(measured_with(found, asked)))} Written by sailvit data check.</footer>",
    ]
    return html.page(title, "\n".join(body), CSS)


def _lead(found: Findings, asked: Asked) -> str:
    read = count_of(found.entries, "sample")
    if not found.complete:
        return f"Interrupted after {read}; this page is about those."
    if is_clean(found, asked):
        return f"{read} read, none is broken."
    wrong = []
    if found.broken_count:
        wrong.append(f"{found.broken_count:,} {'is' if found.broken_count == 1 else 'are'} broken")
    if asked.max_length is not None and (over := found.overlong_count(asked.max_length)):
        wrong.append(f"{over:,} {'has' if over == 1 else 'have'} more than {asked.max_length:,} tokens")
    return f"{read} read, {' and '.join(wrong)}."


def _overview(found: Findings, asked: Asked) -> str:
    items = (
        f'<li class="{html.esc(row.kind or "plain")}"><b>{html.esc(row.label)}</b> {html.esc(_clean(row.text))}</li>'
        for row in overview(found, asked)
    )
    return f'<ul class="verdicts">{"".join(items)}</ul>'


def _lengths(found: Findings, asked: Asked) -> str:
    rows = lengths(found)
    if not rows:
        return ""
    charts = []
    for name in MEASURES if not found.numbers["tokens"] else ("tokens", *MEASURES):
        values = np.frombuffer(found.numbers[name], dtype=np.uint32)
        if len(values) and (values.max() > 0):
            charts.append(histogram(values, LABELS[name], "sample", asked.max_length if name == "tokens" else None))
    if found.pictures:
        sides = np.maximum(np.frombuffer(found.heights, np.uint32), np.frombuffer(found.widths, np.uint32))
        charts.append(histogram(sides, "longer side in pixels", "picture"))
    name = "tokens" if found.numbers["tokens"] else "characters"
    longest: list[list[html.Cell]] = [[(_clean(where), "text"), f"{number:,}"]
                                      for where, number in found.longest(name, LONGEST)]  # fmt: skip
    return (
        f"<h2>Lengths</h2>{html.table(COLUMNS, rows)}"
        f'<div class="charts">{"".join(charts)}</div>'
        f"<h3>The longest</h3>{html.table(('sample', LABELS[name]), longest)}"
    )


def histogram(values: np.ndarray, label: str, what: str, mark: int | None = None) -> str:
    """A figure of how often each number occurs; the last half per cent is one bar when it is far away.

    Args:
        values (array of whole numbers): one for each sample or picture.
        label (`str`): what they count.
        what (`str`): what has them, in the singular.
        mark (`int`, *optional*): where to draw a line.
    """
    low, high = int(values.min()), int(values.max())
    far = int(np.percentile(values, 99.5, method="inverted_cdf"))
    step = _nice((far - low + 1) / 26)
    start = low // step * step
    if (high - start) // step < MOST_BARS:
        far = high
    bins = (far - start) // step + 1
    edge = start + bins * step  # what lies from here on is the last bar
    counts = np.bincount(((values.astype(np.int64) - start) // step).clip(max=bins), minlength=bins + 1).tolist()
    if high < edge:
        counts.pop()
    top = max(counts)
    unit = (WIDTH - LEFT - 6) / len(counts)
    parts = [_axes(top, start, step, bins, unit, extra=len(counts) > bins)]
    notes = ["the last bar holds all above"] if len(counts) > bins else []
    for place, count in enumerate(counts):
        first, last = start + place * step, start + (place + 1) * step - 1
        if not count:
            continue
        text = f"{edge:,} and more" if place == bins else f"{first:,}" if step == 1 else f"{first:,} to {last:,}"
        tall = max(1.0, (HEIGHT - BOTTOM - TOP) * count / top)
        parts.append(
            f'<rect class="{"rest" if place == bins else "bar"}" x="{LEFT + place * unit + unit * 0.06:.1f}" '
            f'y="{HEIGHT - BOTTOM - tall:.1f}" width="{unit * 0.88:.1f}" height="{tall:.1f}">'
            f"<title>{html.esc(text)}: {html.esc(count_of(count, what))}</title></rect>"
        )
    if mark is not None and start <= mark < edge:
        notes.append(f"dashed: {mark:,}")
        x = LEFT + (mark - start) / step * unit
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    middle = int(np.percentile(values, 50, method="inverted_cdf"))
    said = f"{label}: from {low:,} to {high:,}, median {middle:,}"
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.esc(f"Histogram of {said}")}">'
        f"{''.join(parts)}</svg><figcaption><b>{html.esc(label)}</b> median {middle:,}, most {high:,}"
        f"{''.join(f'; {note}' for note in notes)}</figcaption></figure>"
    )


def _axes(top: int, start: int, step: int, bins: int, unit: float, extra: bool) -> str:
    floor = HEIGHT - BOTTOM
    parts = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - 6}" y1="{floor}" y2="{floor}"/>']
    for share_of_top in (0.5, 1.0):
        y = floor - (floor - TOP) * share_of_top
        if share_of_top == 1.0 or (top % 2 == 0 and top > 1):
            parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - 6}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{_brief(top * share_of_top)}</text>')
    every = max(1, math.ceil(bins / 5))
    for place in range(0, bins, every):
        # Whole numbers one by one are named below the middle of their bar, ranges below their beginning.
        x = LEFT + (place + (0.5 if step == 1 else 0)) * unit
        parts.append(f'<text x="{x:.1f}" y="{floor + 15}" text-anchor="middle">{_brief(start + place * step)}</text>')
    if extra and (bins - 1) % every >= every / 2:
        x = LEFT + (bins + 0.5) * unit
        parts.append(f'<text x="{min(x, WIDTH - 14):.1f}" y="{floor + 15}" text-anchor="middle">more</text>')
    return "".join(parts)


def _nice(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50 ... that is not below `least`."""
    power = 10 ** max(0, math.floor(math.log10(max(least, 1))))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)


def _brief(number: float) -> str:
    """1,200 or 35k or 1.2M: short enough for an axis."""
    for size, sign in ((1e6, "M"), (1e4, "k")):
        if number >= size:
            short = f"{number / (1e3 if sign == 'k' else size):.1f}"
            return f"{short.removesuffix('.0')}{sign}"
    return f"{number:,.0f}"


def _broken(found: Findings) -> str:
    if not found.reasons:
        return ""
    reasons: list[list[html.Cell]] = [[(_clean(reason), "where"), f"{number:,}", share(number, found.entries),
                (_clean(found.first[reason]), "text")] for reason, number in found.reasons.most_common()]  # fmt: skip
    items = (
        f'<li><b>{html.esc(_clean(entry.where))}</b> <span class="right">{html.esc(_clean(entry.reason))}</span>'
        f"{html.paragraph(_clean(entry.message))}</li>"
        for entry in found.broken[:ROWS]
    )
    more = ""
    if found.broken_count > ROWS:
        more = html.paragraph(f"The first {ROWS:,} of {found.broken_count:,}; --json FILE names more.", "note")
    headers: list[html.Cell] = ["reason", "samples", "share", ("first", "text")]
    return f'<h2>Broken samples</h2>{html.table(headers, reasons)}<ul class="broken">{"".join(items)}</ul>{more}'


def _noticed(found: Findings) -> str:
    """What is no fault, by name: equal samples, equal pictures, wrong extensions."""

    def places(groups: list[list[int]]) -> list[str]:
        named = ((found.places[number] for number in group[:PLACES]) for group in groups[:NOTICES])
        return [" = ".join(dict.fromkeys(names)) for names in named]

    duplicates, copies = found.duplicate_samples(), found.picture_copies()
    wrong = [f"{where}: {message}" for where, message in found.wrong_extensions[:NOTICES]]
    parts = []
    for title, lines, number in (
        ("Equal samples", places(duplicates), len(duplicates)),
        ("Samples that show equal pictures from different files", places(copies), len(copies)),
        ("Wrong extensions", wrong, found.wrong_extension_count),
        ("Picture files that no good sample shows", (found.orphans or [])[:NOTICES], found.orphan_count),
    ):
        if lines:
            more = html.paragraph(f"The first {NOTICES:,} of {number:,}.", "note") if number > NOTICES else ""
            items = "".join(f"<li>{html.esc(_clean(line))}</li>" for line in lines)
            parts.append(f'<h3>{html.esc(title)}</h3><ul class="broken">{items}</ul>{more}')
    return f"<h2>Worth knowing</h2>{''.join(parts)}" if parts else ""


def _samples(found: Findings) -> str:
    if not found.shown:
        return ""
    note = f"{len(found.shown):,} of {count_of(found.good, 'sample')}, drawn by chance, in their order."
    return f'<h2>Samples</h2>{html.paragraph(note, "note")}<div class="cards">{"".join(map(_card, found.shown))}</div>'


def _card(shown: Shown) -> str:
    where = _clean(shown.where)
    pictures = []
    for number, (small, (height, width)) in enumerate(zip(shown.thumbnails, shown.sizes, strict=False), start=1):
        alt = f"picture {number} of {where}, {width} x {height} pixels"
        pictures.append(f'<img src="{html.data_uri(small, "jpeg")}" alt="{html.esc(alt)}" title="{html.esc(alt)}">')
    if len(shown.sizes) > len(shown.thumbnails):
        pictures.append(html.paragraph(f"and {len(shown.sizes) - len(shown.thumbnails):,} more", "note"))
    row = f'<div class="pictures">{"".join(pictures)}</div>' if pictures else ""
    names = [name for name in ("tokens", "tiles", "characters") if name in shown.numbers]
    numbers = ", ".join(f"{shown.numbers[name]:,} {LABELS[name].removeprefix('all ')}" for name in names)
    turns = "".join(map(_turn, shown.messages[:TURNS]))
    if len(shown.messages) > TURNS:
        turns += html.paragraph(f"and {len(shown.messages) - TURNS:,} turns more", "note")
    kind = f'<div class="kind">{html.esc(where)}</div>'
    return f'<article class="card chat">{kind}{row}{turns}{html.paragraph(numbers, "note")}</article>'


def _turn(message: Mapping[str, Any]) -> str:
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    said = "".join(part["text"] if part.get("text") else f"[{part.get('type')}] " for part in parts)
    if len(said) > SIGNS:
        said = f"{said[:SIGNS]} ... ({len(said) - SIGNS:,} characters more)"
    # Isolated, so that a text written from right to left, or signs that turn the direction, stay within it.
    return (
        f'<div class="of">{html.esc(_clean(str(message["role"])))}</div>'
        f'<div class="said"><bdi>{html.esc(_clean(said, chr(10)))}</bdi></div>'
    )


def _clean(text: str, allowed: str = "") -> str:
    """The text without signs that HTML does not know or that are not seen."""
    return "".join(sign if sign.isprintable() or sign in allowed else "\ufffd" for sign in text)
