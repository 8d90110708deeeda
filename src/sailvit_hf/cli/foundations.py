# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Make the demo's pre-trained parts that a recipe needs, or find them in the cache, and print their folders."""

import argparse

from .recipe_options import add_recipe_arguments, read_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_recipe_arguments(parser)
    parser.add_argument("--seed", type=int, help="instead of the recipe's seed")


def run(options: argparse.Namespace) -> int:
    """Make the foundations and print one line for each."""
    recipe = read_recipe(options)
    if not recipe.demo_parts():
        print("This recipe starts from parts of its own; it needs no demo foundations.")
        return 0
    from ..refinement.pipeline import demo_world, recipe_foundations

    made = recipe_foundations(recipe, demo_world())
    for name in recipe.demo_parts():
        print(f"{name}: {getattr(made, name)}")
    return 0
