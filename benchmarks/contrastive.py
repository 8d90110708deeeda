# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What the contrastive option does to the demo: gradual refinement without it and with it, over seeds.

    python benchmarks/contrastive.py --write

In a seed every arm starts from the same foundations and the same fresh connector, and sees the same samples, so that
the differences are paired. Judged are the vision tower alone (nearest neighbours and linear probes, pooled over a
picture and within a scene), the encoder swap into two language models, and the model that was refined. A finished job
is kept in --folder and not run again. A job takes four to five minutes of a CPU core, and --seeds times
(1 + --kinds times --weights) of them are run, --workers at a time.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import Report, command_of, machine, versions

from sailvit_hf.evaluation.arms import JUDGES, SWAP_METRICS, arm_recipe
from sailvit_hf.evaluation.comparison import compare_arms, number
from sailvit_hf.evaluation.evidence import Job, Jobs
from sailvit_hf.refinement.recipes.recipe import Recipe, load_recipe, parse_recipe

ROOT = Path(__file__).parents[1]
UNREFINED, WITHOUT = "unrefined", "without"
PROBES = tuple(f"{kind}_{probe}_{group}" for kind in ("pooled", "scene") for probe in ("knn", "linear")
               for group in ("seen", "unseen"))  # fmt: skip
JUDGED = {"probes": PROBES, "swap_original": SWAP_METRICS, "swap_second": SWAP_METRICS, "own": SWAP_METRICS}
STAGES = ("coarse", "fine")


def with_contrast(recipe: Recipe, kind: str, weight: float, temperature: float) -> Recipe:
    """The recipe with the contrast in the stages that can have it."""
    data = copy.deepcopy(recipe.to_dict())
    for stage in STAGES:
        data["stages"][stage]["arguments"] |= {
            "contrastive_loss": kind, "contrastive_weight": weight, "contrastive_temperature": temperature,
        }  # fmt: skip
    return parse_recipe(data)


def arms(options: argparse.Namespace) -> dict[str, tuple[str, float] | None]:
    """The arms by name: kind and weight of their contrast, or None."""
    pairs = [(kind, weight) for kind in options.kinds for weight in options.weights]
    return {UNREFINED: None, WITHOUT: None, **{f"{kind} {weight:g}": (kind, weight) for kind, weight in pairs}}


def run(options: argparse.Namespace) -> dict[str, dict[int, dict[str, Any]]]:
    """The results by arm and seed."""
    recipe = load_recipe(options.recipe, options.overrides)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    jobs = Jobs(Path(options.folder) / "jobs", options.workers)
    jobs.run(
        [Job("foundations", arm_recipe(recipe, "unrefined", seed), options.split) for seed in seeds], "Foundations"
    )
    cells = [(arm, seed) for seed in seeds for arm in arms(options)]
    finals = []
    for arm, seed in cells:
        of, contrast = UNREFINED if arm == UNREFINED else "gradual", arms(options)[arm]
        own = arm_recipe(recipe, of, seed)
        if contrast is not None:
            own = with_contrast(own, *contrast, options.temperature)
        finals.append(Job(of, own, options.split))
    results: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in arms(options)}
    for (arm, seed), result in zip(cells, jobs.run(finals, "Arms"), strict=True):
        results[arm][seed] = result
    return results


def table(judge: str, metrics: Sequence[str], results: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    """Means by arm, and each contrast's paired differences to the run without."""
    names = list(results)
    lines = [JUDGES[judge], f"  {'':<22}" + "".join(f"{name:>16}" for name in names)]
    by_arm = {arm: {seed: result[judge] for seed, result in found.items()} for arm, found in results.items()}
    for metric in metrics:
        values = [[result[metric] for result in found.values() if metric in result] for found in by_arm.values()]
        if all(values):
            lines.append(f"  {metric:<22}" + "".join(f"{statistics.mean(own):>16.3f}" for own in values))
    for name in names[2:]:
        lines.append(f"  {name} minus {WITHOUT}: mean, 95 % interval, seeds in which it is better")
        for found in compare_arms(by_arm[name], by_arm[WITHOUT], metrics):
            interval = f"{number(found.low, sign=True)} to {number(found.high, sign=True)}"
            seeds = f"{found.wins} of {len(found.differences)}"
            line = f"  {found.metric:<22}{number(found.mean, sign=True):>16}   {interval:<18} {seeds:<8}"
            lines.append(f"{line} {found.verdict}")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Run the jobs that are missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=str(ROOT / "recipes" / "demo.yaml"))
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    parser.add_argument("--kinds", nargs="+", default=["infonce", "sigmoid"], choices=["infonce", "sigmoid"])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1], help="an arm for each kind and weight")
    parser.add_argument("--temperature", type=float, default=0.07)
    parser.add_argument(
        "--split", default="test", choices=["validation", "test"], help="validation: to choose a weight"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes at a time, of one thread each")
    parser.add_argument("--folder", default="runs/contrastive", help="keeps the jobs' results")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="KEY=VALUE in the recipe")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/contrastive.txt")
    options = parser.parse_args(argv)
    results = run(options)
    report = Report("contrastive.txt" if options.write else None, command_of(__file__, argv))
    import torch

    report.add(f"{machine(torch.device('cpu'))}; {versions()}")
    seeds = ", ".join(map(str, next(iter(results.values()))))
    report.add(f"Seeds {seeds}, {options.split} split; contrast in the stages {' and '.join(STAGES)}, temperature "
               f"{options.temperature:g}; number: its weight")  # fmt: skip
    seconds = [
        json.loads(path.read_text())["seconds"] for path in (Path(options.folder) / "jobs").glob("gradual*.json")
    ]
    report.add(f"Median time of a job, one thread: {statistics.median(seconds):.0f} s")
    for judge, metrics in JUDGED.items():
        report.add()
        for line in table(judge, metrics, results):
            report.add(line)


if __name__ == "__main__":
    main()
