# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Look at a data set before anything learns from it: sizes, lengths, broken samples, duplicates, a page to look at."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SailvitError
from .recipe_options import add_recipe_arguments

if TYPE_CHECKING:
    from rich.console import Console

    from ..data.checking.check import Findings
    from ..data.checking.summary import Asked

WIDTH = 100
PAGE = "data-check.html"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_STYLES = {"bad": "bold red", "good": "green", "plain": "yellow", "": ""}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "read a data set once; exit status 0 if all is well, 1 if samples are broken or longer than --max-length"
    check = actions.add_parser("check", help=text, description=f"{text[0].upper()}{text[1:]}.")
    check.add_argument("path", metavar="PATH", help="a file (JSONL, JSON, Parquet, tar), a folder of them, a saved "
                       "data set, or one of the Hub")  # fmt: skip
    _add_reading(check)
    _add_counting(check)
    check.add_argument("--decode", action="store_true", help="decode every picture, not only those that look cut")
    check.add_argument("--match-image-extension", action=argparse.BooleanOptionalAction, default=True,
                       help="a picture that is named like another format is broken, as for training")  # fmt: skip
    check.add_argument("--workers", type=_positive, default=1, metavar="N", help="threads that read pictures")
    check.add_argument("--orphans", action="store_true", help="look for picture files that no good sample shows")
    check.add_argument("--list", type=_natural, default=10, metavar="N", help="broken samples to name (default: 10)")
    check.add_argument("--page", default=PAGE, metavar="FILE", help=f"the page to write (default: {PAGE})")
    check.add_argument("--no-page", action="store_true", help="write no page")
    check.add_argument("--samples", type=_natural, default=24, metavar="N", help="samples on the page (default: 24)")
    check.add_argument("--seed", type=int, default=0, help="chooses the samples on the page")
    check.add_argument("--json", metavar="FILE", help="write all findings as JSON")
    text = "measure all samples of a recipe that packs, once and in parallel, so that training begins at once"
    sizes = actions.add_parser("sizes", help=text, description=f"{text[0].upper()}{text[1:]}.")
    add_recipe_arguments(sizes)
    sizes.add_argument("--stages", nargs="+", metavar="STAGE", help="only these (default: all)")
    sizes.add_argument("--processor", metavar="PATH_OR_ID", help="the processor, if not that of the recipe's start")
    sizes.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes that measure (default: 1)")


def _add_reading(check: argparse.ArgumentParser) -> None:
    check.add_argument("--format", default="auto", help="how the data are written, if their names do not tell")
    check.add_argument("--image-root", metavar="DIR", help="the folder that pictures must lie in")
    check.add_argument("--split", default="train", help="split of a data set of the Hub (default: train)")
    check.add_argument("--name", help="configuration of a data set of the Hub")
    check.add_argument("--revision", help="branch, tag or commit of a data set of the Hub")
    check.add_argument("--streaming", action=argparse.BooleanOptionalAction, default=True,
                       help="read a data set of the Hub without keeping it")  # fmt: skip
    check.add_argument("--limit", type=_positive, metavar="N", help="read the first N samples only")


def _add_counting(check: argparse.ArgumentParser) -> None:
    check.add_argument("--processor", metavar="PATH_OR_ID", help="count tokens and tiles as this processor does")
    check.add_argument("--processor-revision", metavar="REVISION", help="its branch, tag or commit on the Hub")
    check.add_argument("--max-length", type=_positive, metavar="N", help="report samples of more tokens than this")
    check.add_argument("--max-image-tokens", type=_positive, metavar="N", help="what pictures of a sample may take")
    check.add_argument("--max-tiles", type=_positive, metavar="N", help="without a processor: count tiles of 448")


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def run(options: argparse.Namespace) -> int:
    """Check the data set; the table is on stdout, its last lines say what was written. Or measure a recipe's."""
    if options.action == "sizes":
        from .data_sizes import measure_recipe

        return measure_recipe(options)
    _check_options(options)
    from ..data.checking.check import DataCheck
    from ..data.checking.summary import Asked, is_clean, to_json

    asked = Asked(options.path, options.processor, options.max_length, options.max_tiles, options.decode,
                  options.limit)  # fmt: skip
    check = DataCheck(
        count=_token_counter(options),
        tiles=_tile_counter(options.max_tiles),
        decode=options.decode,
        match_extension=options.match_image_extension,
        workers=options.workers,
        samples=0 if options.no_page else options.samples,
        seed=options.seed,
    )
    found = _read(check, options)
    if not found.entries and found.complete:
        raise SailvitError(f"{options.path} holds no samples: name a file or folder that does")
    if options.orphans and found.complete:
        found.find_orphans(_orphan_root(options))
    _print(found, asked, options.list)
    if not options.no_page:
        from ..data.checking.page import page

        _write(options.page, page(found, asked))
        print(f"Page: {options.page}")
    if options.json is not None:
        _write(options.json, json.dumps(to_json(found, asked), indent=1) + "\n")
        print(f"JSON: {options.json}")
    if not found.complete:
        print("interrupted; the above is about what was read until then", file=sys.stderr)
        return 130
    return 0 if is_clean(found, asked) else 1


def _check_options(options: argparse.Namespace) -> None:
    if options.processor is None:
        for option in ("max_length", "max_image_tokens", "processor_revision"):
            if getattr(options, option) is not None:
                name = option.replace("_", "-")
                raise SailvitError(f"--{name} needs a processor that counts tokens: give --processor PATH_OR_ID")
    elif options.max_tiles is not None:
        raise SailvitError("--max-tiles and --processor contradict each other: the processor has its own setting")
    # Before millions of lines are read, not after.
    if options.orphans:
        if options.limit is not None:
            raise SailvitError("--orphans needs all samples to be read: leave --limit out")
        _orphan_root(options)
    for file in (None if options.no_page else options.page, options.json):
        if file is not None and (Path(file).is_dir() or not Path(file).absolute().parent.is_dir()):
            raise SailvitError(f"{file} cannot be written: name a file in a folder that exists")


def _orphan_root(options: argparse.Namespace) -> Path:
    from ..data.sources import find_place

    root = find_place(options.path).root if options.image_root is None else Path(options.image_root)
    if root is None:
        raise SailvitError("--orphans needs a folder of pictures: give --image-root")
    return root


def _token_counter(options: argparse.Namespace) -> Callable[..., Any] | None:
    if options.processor is None:
        return None
    if not Path(options.processor).is_dir() and not _HUB_ID.fullmatch(options.processor):
        raise SailvitError(f"there is no folder {options.processor}: name a checkpoint's folder, or a Hub repository")
    from functools import partial

    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(
            options.processor, revision=options.processor_revision or "main", trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise SailvitError(f"{options.processor} gives no processor ({error}): name a checkpoint") from error
    if not hasattr(processor, "count_tokens"):
        raise SailvitError(f"{type(processor).__name__} does not count tokens: name a checkpoint of sailvit_hf")
    return partial(processor.count_tokens, max_image_tokens=options.max_image_tokens)


def _tile_counter(max_tiles: int | None) -> Callable[[int, int], int] | None:
    if max_tiles is None:
        return None
    # Takes seconds to import, and nothing else here needs it.
    from ..processing.tiling_sailvit import choose_grid, number_of_tiles

    return lambda height, width: number_of_tiles(choose_grid(height, width, 1, max_tiles, 448, 448), True)


def _read(check: Any, options: argparse.Namespace) -> "Findings":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ..data.reading import read_entries

    entries: Iterable[Any] = read_entries(
        options.path, format=options.format, image_root=options.image_root, split=options.split, name=options.name,
        revision=options.revision, streaming=options.streaming)  # fmt: skip
    columns = (TextColumn("Reading"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[broken]:,} broken"),
               TimeElapsedColumn())  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=options.limit, broken=0)

        def on_progress(read: int, broken: int) -> None:
            if not read % 50 or read == options.limit:
                progress.update(task, completed=read, broken=broken)

        return check.run(entries, options.limit, on_progress)


def _write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SailvitError(f"{file} cannot be written ({error.strerror}): name another file") from error


def _print(found: "Findings", asked: "Asked", listed: int) -> None:
    from rich.console import Console

    from ..data.checking.summary import COLUMNS, lengths, measured_with, overview, share

    console = Console(highlight=False)
    if not console.is_terminal or console.width > WIDTH:
        console = Console(width=WIDTH, highlight=False)
    rows = [(_text(label), _text(text, _STYLES[kind])) for label, text, kind in overview(found, asked)]
    _table(console, asked.source, ("", ""), rows, "left")
    spread = lengths(found)
    if spread:
        _table(console, "", COLUMNS, [tuple(map(_text, row)) for row in spread], "right")
    if found.reasons:
        reasons = [(_text(reason), _text(f"{number:,}"), _text(share(number, found.entries)),
                    _text(found.first[reason])) for reason, number in found.reasons.most_common()]  # fmt: skip
        _table(console, "", ("broken because", "samples", "share", "first"), reasons, "mixed")
    for entry in found.broken[:listed]:
        console.print(_text(f"{entry.where}: {entry.message}"), soft_wrap=False)
    more = found.broken_count - min(listed, len(found.broken))
    if more and listed:
        console.print(_text(f"and {more:,} more: --list, --json FILE or the page name them"))
    console.print(_text(measured_with(found, asked), "dim"))


def _table(console: "Console", title: str, headers: tuple[str, ...], rows: list[Any], justify: str) -> None:
    from rich import box
    from rich.table import Table

    if title:
        console.print(_text(title, "bold"))
    table = Table(box=box.SIMPLE_HEAD, show_header=any(headers), pad_edge=False, show_edge=False, padding=(0, 1))
    for place, header in enumerate(headers):
        right = place and (justify == "right" or (justify == "mixed" and place < len(headers) - 1))
        table.add_column(header, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()


def _text(line: str, style: str = "") -> Any:
    """A line as it is: what a data set says is no markup, and steers no terminal."""
    from rich.text import Text

    return Text("".join(sign if sign.isprintable() else "?" for sign in line), style=style)
