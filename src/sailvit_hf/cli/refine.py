# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Refine a vision backbone as a recipe says, and leave checkpoints, metrics and a report in its output folder."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SailvitError
from .recipe_options import add_recipe_arguments, read_recipe

if TYPE_CHECKING:
    from ..refinement.launching import Launch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_recipe_arguments(parser)
    parser.add_argument("--seed", type=int, help="instead of the recipe's seed")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output folder, if any")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything that can be checked without training, and show it"
    )
    parser.add_argument("--offline-check", action="store_true", help="with --dry-run: do not ask the Hub")
    add_launch_arguments(parser)


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """What `--launch` starts; see docs/scaling.md."""
    group = parser.add_argument_group("several processes, through accelerate")
    group.add_argument("--launch", metavar="LAYOUT", help="ddp, fsdp2, zero2, zero3, or a config file of accelerate")
    group.add_argument("--processes", type=int, metavar="N", help="on all machines together; default: one a GPU")
    group.add_argument("--machines", type=int, metavar="N", help="how many machines take part; default: 1")
    group.add_argument("--machine-rank", type=int, metavar="RANK", help="which of them this is, from 0")
    group.add_argument("--main-address", metavar="HOST[:PORT]", help="of machine 0")
    group.add_argument("--max-restarts", type=int, metavar="N", help="start again, with --resume, after a failure")


LAUNCH_OPTIONS = ("processes", "machines", "machine_rank", "main_address", "max_restarts")


LEAST = {"processes": 1, "machines": 1, "machine_rank": 0, "max_restarts": 0}


def _check_numbers(options: argparse.Namespace) -> None:
    """Refuse numbers that no launch has; 0 processes are not all GPUs."""
    for name, least in LEAST.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise SailvitError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")


def command_of(options: argparse.Namespace) -> list[str]:
    """The arguments of `sailvit` for each of the launched processes: all but those of the launch."""
    command = ["refine", options.recipe, *(f"--set={override}" for override in options.overrides)]
    apart = {"command", "recipe", "overrides", "launch", *LAUNCH_OPTIONS}
    for name, value in vars(options).items():
        if name not in apart and value is not None and value is not False:
            flag = f"--{name.replace('_', '-')}"
            command.append(flag if value is True else f"{flag}={value}")
    return command


def _asked(options: argparse.Namespace) -> "Launch":
    from ..refinement.launching import Launch

    given = {name: getattr(options, name) for name in LAUNCH_OPTIONS if getattr(options, name) is not None}
    return Launch(options.launch, **given)


def _launch(options: argparse.Namespace, output_dir: str) -> int:
    from ..refinement.launching import launch
    from ..refinement.run_folder import RECIPE_FILE

    if options.max_restarts and not options.resume:
        # torchrun starts the same command again, and does not count the restarts of other machines.
        if not options.machine_rank and (Path(output_dir) / RECIPE_FILE).exists():
            raise SailvitError(f"{output_dir} holds a run already; go on by --resume, or choose another output_dir.")
        options.resume = True
    return launch(_asked(options), command_of(options))


def _dry_run(options: argparse.Namespace) -> int:
    from ..refinement.recipes.dry_run import dry_run

    ask_hub, launch = not options.offline_check, None
    if options.launch is not None:
        launch = _asked(options)
    found = dry_run(read_recipe(options), options.processes, options.resume, ask_hub, options.recipe, launch)
    if found.missing:
        found.lines.append(("would stop the run", found.missing))
    if found.unchecked:
        found.lines.append(("not checked: not to be had here, or no answer from the Hub", found.unchecked))
    for title, lines in found.lines:
        print("\n  ".join([title, *lines]))
    return 1 if found.missing else 0


def run(options: argparse.Namespace) -> int:
    """Run the recipe; the last lines on stdout say where its results are."""
    _check_numbers(options)
    if options.dry_run or options.offline_check:
        return _dry_run(options)
    if options.launch is None and any(getattr(options, name) is not None for name in LAUNCH_OPTIONS):
        raise SailvitError("--processes, --machines and the like are of --launch: say which, as in --launch ddp")
    recipe = read_recipe(options)  # a mistake in it is told once, before any process starts
    if options.launch is not None:
        return _launch(options, recipe.output_dir)
    from ..refinement.launching import check_environment

    check_environment()
    # After a failure torchrun starts the same command again, also under plain accelerate launch --max_restarts.
    options.resume = options.resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    from ..refinement.pipeline import run_recipe
    from ..refinement.run_folder import is_main_process

    result = run_recipe(recipe, resume=options.resume)
    if is_main_process():
        print(f"Refined backbone: {result.backbone}")
        print(f"Metrics:          {result.folder / 'metrics.json'}")
        if result.report is not None:
            print(f"Report:           {result.report}")
    return 0
