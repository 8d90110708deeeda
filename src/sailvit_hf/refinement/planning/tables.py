# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What `sailvit data sizes` measured: how long the samples of a stage are on average."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.mixture import pass_sizes
from ...data.sizes import FOLDER
from ...errors import SailvitError
from ..recipes.recipe import Source, StagePlan


@dataclass(frozen=True)
class Table:
    """The sums of one table: `samples` that can be read, their `tokens` and `tiles`."""

    path: str
    samples: int
    tokens: int
    tiles: int


@dataclass(frozen=True)
class Means:
    """What the tables say of one pass over a stage's data; `source` for people."""

    samples: float
    tokens: float
    tiles: float
    source: str


def read_table(path: Path) -> Table:
    """The sums that lie beside a table.

    Raises:
        SailvitError: the file is something else, or no sample of it can be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        table = Table(str(path), found["samples"] - found["unreadable"], found["tokens"], found["tiles"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SailvitError(f"{path} is no file of sizes: name the .json that `sailvit data sizes` wrote") from error
    if table.samples < 1:
        raise SailvitError(f"{path} has no sample that can be read: leave it out")
    return table


def available(source: Source, rows: float) -> float:
    """How many samples of a source there are to use in a pass."""
    return min(rows, source.max_samples or rows) * (source.epochs or 1.0)


def means_of(plan: StagePlan, tables: Sequence[Table]) -> Means:
    """The mean sample of a stage.

    Where every source's table can be told, each counts as often as a pass holds its samples; else as it has rows.
    """
    mine = _by_source(plan, tables)
    if mine is None:
        mine, shares, how = list(tables), [float(table.samples) for table in tables], "by their rows"
    else:
        rows = [available(source, table.samples) for source, table in zip(plan.data, mine, strict=True)]
        shares = [float(size) for size in pass_sizes(rows, [source.weight for source in plan.data], plan.samples)]
        how = "as the recipe mixes them"
    total = sum(shares)
    pairs = list(zip(shares, mine, strict=True))
    many = f"{len(pairs)} tables, weighted {how}" if len(pairs) > 1 else "a table"
    return Means(
        total,
        sum(share * table.tokens / table.samples for share, table in pairs) / total,
        sum(share * table.tiles / table.samples for share, table in pairs) / total,
        f"tokens and tiles: {many}",
    )


def _by_source(plan: StagePlan, tables: Sequence[Table]) -> list[Table] | None:
    """The table of each source of the stage; None if that of any cannot be told."""
    if len(plan.data) == len(tables) == 1:
        return list(tables)
    found = []
    for source in plan.data:
        path = Path(source.messages or (source.dataset.path if source.dataset is not None else ""))
        # A table does not name its data, but lies beside it; that of a data set of the Hub, in the cache, with others.
        near = {folder / FOLDER for folder in (path.resolve(), path.resolve().parent)} if path.exists() else set()
        mine = [table for table in tables if Path(table.path).resolve().parent in near]
        if source.demo is not None or len(mine) != 1:
            return None
        found += mine
    return found
