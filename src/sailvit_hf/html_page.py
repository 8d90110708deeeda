# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The bricks of the pages that are written here: escaped text, tables, pictures as data, one style; no script."""

import base64
import html
from collections.abc import Callable, Iterable, Sequence

CSS = """
:root { --paper: #fbfaf7; --card: #ffffff; --ink: #22262d; --soft: #646b76; --line: #e4e2dc; --accent: #0072b2;
  --good: #00795a; --bad: #b34a00; --tint: #eef4f8; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171b; --card: #1d2026; --ink: #e4e6ea; --soft: #9aa2ae;
  --line: #32363e; --accent: #6cc0f0; --good: #4cc9a0; --bad: #f0995a; --tint: #1c2831; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 20px 60px; }
h1 { font-size: clamp(1.7rem, 5vw, 2.5rem); line-height: 1.15; letter-spacing: -.02em; margin: 0 0 .4rem; }
h2 { font-size: 1.35rem; letter-spacing: -.01em; margin: 3.2rem 0 .5rem; padding-top: 1.1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { margin: .5rem 0; max-width: 72ch; }
.lead { color: var(--soft); font-size: 1.05rem; }
.note { color: var(--soft); font-size: .88rem; }
ul.verdicts { list-style: none; margin: 1.6rem 0; padding: 1.1rem 1.3rem; background: var(--tint); border-radius:
14px; } ul.verdicts li { padding: .38rem 0 .38rem 1.6rem; position: relative; max-width: 84ch; } ul.verdicts
li::before { position: absolute; left: 0; font-weight: 700; } li.good::before { content: "\\25B2"; color:
var(--good); } li.bad::before { content: "\\25BC"; color: var(--bad); } li.plain::before { content: "\\25CF"; color:
var(--soft); } .tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px;
margin: 1.4rem 0; } .tile { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding:
14px 16px; } .tile b { display: block; font-size: 1.9rem; line-height: 1.2; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.tile .was { font-style: normal; color: var(--soft); font-size: 1.15rem; font-weight: 500; }
.tile span { color: var(--soft); font-size: .86rem; display: block; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; min-width: 100%; }
th, td { text-align: right; padding: .42rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { color: var(--soft); font-weight: 600; font-size: .82rem; vertical-align: bottom; }
td.best { font-weight: 700; color: var(--accent); } tr.sub td:first-child { padding-left: 1.1rem; color: var(--soft); }
td.text { text-align: left; white-space: normal; min-width: 9rem; } td.dim { color: var(--soft); }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .4rem; max-width: 72ch; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 14px;
  margin: 1rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 14px; }
.card .top { display: flex; gap: 14px; } .card .top > div { min-width: 0; }
.card img { width: 112px; height: 112px; border-radius: 8px; image-rendering: pixelated; flex: none; }
.kind { color: var(--soft); font-size: .74rem; font-weight: 600; text-transform: uppercase; letter-spacing: .06em; }
.question { font-weight: 600; white-space: pre-line; overflow-wrap: anywhere; }
.right { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .28rem .7rem; margin: .8rem 0 0; font-size: .92rem; }
dt { color: var(--soft); white-space: nowrap; } dd { margin: 0; overflow-wrap: anywhere; }
dd.yes::after { content: " \\2713"; color: var(--good); font-weight: 700; }
dd.no { color: var(--soft); } dd.no::after { content: " \\2717"; color: var(--bad); font-weight: 700; }
.maps { display: grid; gap: 10px; margin: 1rem 0; max-width: 860px; }
.maps span { font-size: .8rem; color: var(--soft); align-self: end; }
.maps img { width: 100%; aspect-ratio: 1; border-radius: 6px; image-rendering: pixelated; display: block; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft); font-size:
.86rem; } code { font-size: .9em; overflow-wrap: anywhere; } figure { overflow-x: auto; }
@media (max-width: 560px) { figure img { max-width: 640px; }
  th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); white-space: normal;
  min-width: 8rem; } main { padding: 24px 14px
40px; } .maps { gap: 5px; } .tile b { font-size: 1.6rem; }
  ul.verdicts { padding: .8rem .9rem; } }
"""


CHART_SCALE = 0.68  # figures have 160 dots per inch; this shows their 8 pt text about as large as a table's


def esc(value: object) -> str:
    """Any value as HTML text, safe inside attributes too."""
    return html.escape(str(value), quote=True)


def data_uri(content: bytes, kind: str = "png") -> str:
    """A picture's file as a `data:` address."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")


def image(png: bytes, alt: str, scale: float = 0.0) -> str:
    """A picture with its text alternative; with a `scale`, shown at that multiple of its pixels."""
    width = ""
    if scale:
        width = f' width="{round(int.from_bytes(png[16:20], byteorder="big") * scale)}"'  # the width in PNG's header
    return f'<img src="{data_uri(png)}" alt="{esc(alt)}"{width}>'


def chart(draw: Callable[[bool], bytes], alt: str, caption: str = "") -> str:
    """A figure drawn twice, for light and dark pages; `draw` takes `dark` and returns a PNG."""
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{data_uri(draw(True))}">'
    text = f"<figcaption>{esc(caption)}</figcaption>" if caption else ""
    return f"<figure><picture>{dark}{image(draw(False), alt, CHART_SCALE)}</picture>{text}</figure>"


Cell = str | tuple[str, str]  # text, or text and its class


def table(headers: Sequence[Cell], rows: Iterable[Sequence[Cell]], sub: Sequence[bool] = ()) -> str:
    """A table that scrolls sideways on a narrow screen. `sub` marks rows that belong to the one above."""

    def cell(value: Cell, name: str = "td") -> str:
        text, kind = value if isinstance(value, tuple) else (value, "")
        opening = f'{name} scope="col"' if name == "th" else name
        return f'<{opening} class="{esc(kind)}">{esc(text)}</{name}>' if kind else f"<{opening}>{esc(text)}</{name}>"

    head = "".join(cell(header, "th") for header in headers)
    lines = []
    for i, row in enumerate(rows):
        opening = '<tr class="sub">' if i < len(sub) and sub[i] else "<tr>"
        lines.append(f"{opening}{''.join(map(cell, row))}</tr>")
    body = "".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{esc(kind)}">{esc(text)}</p>' if kind else f"<p>{esc(text)}</p>"


def page(title: str, body: str, css: str = "") -> str:
    """The whole document, with further style rules; its policy lets a browser load nothing from anywhere."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{esc(title)}</title><style>{CSS}{css}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )
