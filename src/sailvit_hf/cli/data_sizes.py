# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""`sailvit data sizes`: the tokens and tiles of every sample of a recipe, as tables beside the data."""

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

from ..errors import SailvitError
from .recipe_options import read_recipe


def measure_recipe(options: argparse.Namespace) -> int:
    """Write the tables of all data sets of the recipe's stages that have none yet; a line on stdout for each."""
    from ..data.packing.rows import PackingRows
    from ..data.sizes import load_table, table_file
    from ..refinement.pipeline import Run
    from ..refinement.samples import encoded_dataset

    recipe = read_recipe(options)
    wanted = options.stages or list(recipe.stages)
    if unknown := [stage for stage in wanted if stage not in recipe.stages]:
        raise SailvitError(f"the recipe has no stage {unknown[0]}: choose from {', '.join(recipe.stages)}")
    run, processor, done = Run(recipe, claim=False), _processor(recipe, options.processor), set()
    for stage in wanted:
        arguments = run.arguments[stage]
        for name, rows in _data_sets(recipe, stage, arguments):
            found = PackingRows(encoded_dataset(rows, processor, arguments))
            assert found.encoder is not None
            file = table_file(rows, found.encoder)
            if file in done:
                continue
            done.add(file)
            if load_table(rows, found.encoder) is None:
                _measure(name, rows, found, options.workers)
            else:
                print(f"{name}: known, {file}")
    if not done:
        raise SailvitError("the recipe has no data set that is read by index: streams are measured on the way")
    return 0


def _processor(recipe: Any, named: str | None) -> Any:
    from ..refinement.assembly import build_start, load_processor
    from ..refinement.pipeline import demo_world, recipe_foundations

    if named is not None:
        return load_processor(named, None, "--processor")
    foundations = recipe_foundations(recipe, demo_world()) if recipe.demo_parts() else None
    return build_start(recipe, foundations)[1]


def _data_sets(recipe: Any, stage: str, arguments: Any) -> Iterator[tuple[str, Any]]:
    from ..refinement.samples import open_source, source_name

    for source in recipe.stages[stage].data:
        if source.demo is None and not source.streaming:
            yield source_name(source), open_source(source, recipe.seed, arguments.match_image_extension)


def _measure(name: str, rows: Any, found: Any, workers: int) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..data.sizes import write_table

    console = Console(stderr=True)
    columns = (TextColumn("Measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(rows))
        written = write_table(rows, found.encoder, found.measure, workers, partial(progress.advance, task))
    broken = f", {written['unreadable']:,} unreadable" if written["unreadable"] else ""
    print(f"{name}: {written['samples']:,} samples, {written['tokens']:,} tokens, {written['tiles']:,} tiles{broken}")
    print(f"Table: {written['file']}")
