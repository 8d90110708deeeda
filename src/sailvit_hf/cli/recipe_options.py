# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The options that all commands on a recipe share."""

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..refinement.recipes.recipe import Recipe


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE and what may be changed in it from the command line."""
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, such as recipes/demo.yaml")
    parser.add_argument("--output-dir", metavar="DIR", help="instead of the recipe's output_dir")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """`--set`."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change a key of the recipe, as in --set stages.fine.arguments.max_steps=10 (may be repeated)",
    )


def read_recipe(options: argparse.Namespace, with_output_dir: bool = True) -> "Recipe":
    """The recipe with the command line's changes in it."""
    from ..refinement.recipes.recipe import load_recipe

    overrides = list(options.overrides)
    if with_output_dir and options.output_dir is not None:
        overrides.append(f"output_dir={json.dumps(options.output_dir)}")
    if getattr(options, "seed", None) is not None:
        overrides.append(f"seed={options.seed}")
    return load_recipe(options.recipe, overrides)
