# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Say what a recipe will cost before it runs: parameters, memory of a GPU, FLOPs, time, and which layout fits."""

import argparse
import json
from pathlib import Path

from ..errors import SailvitError
from .recipe_options import add_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("recipe", metavar="RECIPE", nargs="+", help="a YAML file, or several that follow each other")
    add_overrides(parser)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8], metavar="N", help="how many; several to compare")
    parser.add_argument("--gpu", default="h100", help="h100, h200, a100, l40s, ...; a wrong name lists all")
    parser.add_argument("--mfu", type=float, default=0.4,
                        help="share of the GPU's peak that learning gets (default: 0.4)")  # fmt: skip
    parser.add_argument(
        "--sharding", default="auto", help="auto (the first of these that fits), ddp, zero2, fsdp2, zero3"
    )
    parser.add_argument("--samples", type=float,
                        help="of one pass of each stage of which the recipe and its files do not say it")  # fmt: skip
    parser.add_argument("--tokens-per-sample", type=float, metavar="N",
                        help="on average, pictures included; goes before what is measured or assumed")  # fmt: skip
    parser.add_argument("--tiles-per-sample", type=float, metavar="N", help="on average; likewise")
    parser.add_argument("--sizes", nargs="+", metavar="FILE", type=Path, default=[],
                        help="the .json files that `sailvit data sizes` left: the means of tokens and tiles, and how "
                        "many samples there are where nobody else says it")  # fmt: skip
    parser.add_argument("--reserve", type=float, metavar="GIB", help="memory of each GPU to keep free (default: 6)")
    parser.add_argument("--price", type=float, help="of a GPU hour, for a column of costs")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="write a picture of it, as PNG")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all numbers: bytes, FLOPs, days")


def run(options: argparse.Namespace) -> int:
    """Print the plan; the status is 1 if a stage fits in no way."""
    from ..refinement.planning import Question, find_gpu, plan_recipes
    from ..refinement.planning.plan import RESERVE_GIB
    from ..refinement.planning.tables import read_table
    from ..refinement.planning.text import plan_text
    from ..refinement.recipes.recipe import load_recipe

    question = Question(
        gpus=tuple(options.gpus), gpu=find_gpu(options.gpu), mfu=options.mfu, sharding=options.sharding,
        samples=options.samples, tokens=options.tokens_per_sample, tiles=options.tiles_per_sample,
        tables=tuple(map(read_table, options.sizes)),
        reserve_gib=RESERVE_GIB if options.reserve is None else options.reserve, price=options.price,
    )  # fmt: skip
    plan = plan_recipes([(load_recipe(path, options.overrides), path) for path in options.recipe], question)
    print(plan_text(plan))
    if options.json is not None:
        _write(options.json, (json.dumps(plan.to_dict(), indent=2) + "\n").encode())
    if options.plot is not None:
        from ..refinement.planning.plot import plan_picture

        _write(options.plot, plan_picture(plan))
    return int(any(answer.chosen is None for stage in plan.stages for answer in stage.answers))


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise SailvitError(f"{path} cannot be written: {error.strerror}") from error
