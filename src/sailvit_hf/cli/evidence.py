# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Compare gradual refinement with direct co-training, no coarse stage and no refinement, over several seeds."""

import argparse
import os
import shlex
import shutil
from pathlib import Path

from .recipe_options import add_recipe_arguments, read_recipe

DEFAULT_OUTPUT = "docs/results"
# The grid in which both gradual and direct look for their rate, around the demo recipe's (ours).
DEFAULT_RATES = (1e-3, 2e-3, 4e-3)
TUNING_SEED_OFFSET = 1000  # far from the final seeds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_recipe_arguments(parser)
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="final seeds, counted from the recipe's")
    parser.add_argument("--rates", type=float, nargs="+", default=list(DEFAULT_RATES), metavar="RATE",
                        help="the grid of peak learning rates that both ways of training are tuned over")  # fmt: skip
    parser.add_argument("--tuning-seed", type=int, metavar="SEED", help="seed that the rates are tuned on")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes at a time")


def command_line(options: argparse.Namespace) -> str:
    """The command that runs this comparison again; how many processes it takes does not change the result."""
    words = ["sailvit", "evidence", options.recipe, "--seeds", options.seeds]
    words += ["--rates", *(f"{rate:g}" for rate in options.rates)]
    if options.tuning_seed is not None:
        words += ["--tuning-seed", options.tuning_seed]
    for override in options.overrides:
        words += ["--set", override]
    if options.output_dir is not None:
        words += ["--output-dir", options.output_dir]
    return shlex.join(map(str, words))


def run(options: argparse.Namespace) -> int:
    """Run the comparison (it goes on where an earlier call stopped)."""
    recipe = read_recipe(options, with_output_dir=False)
    from ..evaluation.evidence import run_evidence

    first = recipe.seed
    page = run_evidence(
        recipe,
        seeds=range(first, first + options.seeds),
        output_dir=options.output_dir or DEFAULT_OUTPUT,
        tuning_seed=first + TUNING_SEED_OFFSET if options.tuning_seed is None else options.tuning_seed,
        rates=options.rates,
        workers=options.workers,
        command=command_line(options),
    )
    print(f"Results: {page}")
    report = _add_to_report(Path(page).parent / "evidence.json", Path(recipe.output_dir))
    if report is not None:
        print(f"Report:  {report}")
    return 0


def _add_to_report(evidence: Path, run: Path) -> Path | None:
    """Show the comparison in the report of the recipe's own run, if there is a finished one."""
    if not (run / "report.html").exists():
        return None
    from ..evaluation.report import write_report

    shutil.copyfile(evidence, run / "evidence.json")
    return write_report(run)
