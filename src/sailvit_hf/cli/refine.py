# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Refine a vision backbone as a recipe says, and leave checkpoints, metrics and a report in its output folder."""

import argparse

from .recipe_options import add_recipe_arguments, read_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_recipe_arguments(parser)
    parser.add_argument("--seed", type=int, help="instead of the recipe's seed")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output folder, if any")


def run(options: argparse.Namespace) -> int:
    """Run the recipe; the last lines on stdout say where its results are."""
    recipe = read_recipe(options)
    from ..refinement.pipeline import run_recipe
    from ..refinement.run_folder import is_main_process

    result = run_recipe(recipe, resume=options.resume)
    if is_main_process():
        print(f"Refined backbone: {result.backbone}")
        print(f"Metrics:          {result.folder / 'metrics.json'}")
        if result.report is not None:
            print(f"Report:           {result.report}")
    return 0
