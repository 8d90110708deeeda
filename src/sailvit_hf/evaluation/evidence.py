# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The comparison over seeds: gradual, direct, II without I and unrefined, judged as MLLMs and as backbones.

A job is one arm of one seed. Jobs run as processes of one thread each, a few at a time; a finished job leaves a JSON
file and is not run again. First the rates of gradual and direct are chosen over one grid on another seed and the
validation split; the final seeds are judged on the test split.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..errors import SailvitError
from ..refinement.recipes.recipe import Recipe, parse_recipe
from ..refinement.run_folder import write_json
from .arms import ARM_TITLES, ARMS, JUDGED, JUDGES, PAIRS, TUNED, arm_recipe
from .comparison import compare_arms

logger = logging.get_logger(__name__)

# What a rate is chosen by, lower is better: the tower's worth to another MLLM, reading and captions counted alike.
CRITERION = "mean of caption loss and reading loss after the swap into the original language model, validation split"


def _without_places(recipe: Recipe) -> dict[str, Any]:
    """A recipe's values but for the folders it writes to."""
    data = recipe.to_dict()
    del data["output_dir"], data["foundations"]["cache_dir"]
    return data


@dataclass(frozen=True)
class Job:
    """One process: the foundations of a seed, or one arm of it."""

    arm: str
    recipe: Recipe
    split: str

    def specification(self) -> dict[str, Any]:
        """Everything that the result depends on (where it is written does not matter)."""
        return {"arm": self.arm, "split": self.split, "recipe": _without_places(self.recipe)}

    @property
    def name(self) -> str:
        """`<arm>-seed<seed>-<digest>`: by the digest, another recipe's results are never taken for this one's."""
        digest = hashlib.sha256(json.dumps(self.specification(), sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.arm}-seed{self.recipe.seed}-{digest}"


def run_job(arm: str, recipe: Recipe, split: str) -> dict[str, dict[str, float]]:
    """Train one arm and judge it (in this process).

    Returns:
        `{"own": metrics, "swap_original": metrics, "swap_second": metrics, "probes": accuracies}`; of the foundations,
        which are only made, `{}`.
    """
    from ..refinement.assembly import build_start
    from ..refinement.pipeline import EVALUATION_SEED, Run, trainer_class

    with tempfile.TemporaryDirectory(prefix="sailvit-arm-") as scratch:
        run = Run(parse_recipe({**recipe.to_dict(), "output_dir": str(Path(scratch) / "run")}))
        foundations = run.foundations
        if arm == "foundations":
            return {}
        model, processor, lineage = build_start(run.recipe, foundations)
        for stage in run.stages if arm != "unrefined" else ():
            trainer = trainer_class(stage)(
                model=model,
                args=run.arguments[stage.key],
                train_dataset=run.training_data[stage.key],
                processing_class=processor,
                stage=stage,
                lineage=lineage,
            )
            trainer.train()
            lineage = trainer.current_lineage()
        plan = run.recipe.evaluation
        assert plan is not None
        held_out = run.world.evaluation(split, plan.samples, EVALUATION_SEED)
        return _judge(run, model, processor, foundations, held_out)


def _judge(run: Any, model: Any, processor: Any, foundations: Any, held_out: Mapping[str, Any]) -> dict[str, Any]:
    """All judgements of a trained arm."""
    from ..refinement.assembly import load_language_model, make_processor
    from .probing import probe_backbone
    from .vlm import evaluate_vlm

    model = model.to("cpu")
    tower, layer = model.model.vision_tower, model.config.vision_feature_layer
    results = {"own": evaluate_vlm(model, processor, held_out)}
    results["probes"] = probe_backbone(tower, processor.image_processor, run.world, layer=layer)
    pictured = {key: data for key, data in held_out.items() if key != "text"}  # a frozen LM answers text as ever
    for name in ("language_model", "second_language_model"):
        language_model, tokenizer = load_language_model(getattr(foundations, name))
        swapped = make_processor(processor.image_processor, tokenizer, language_model, tower.config)
        key = "swap_original" if name == "language_model" else "swap_second"
        results[key] = run.swap(tower, language_model, swapped, pictured, vision_feature_layer=layer)
    return results


class Jobs:
    """Runs jobs as processes and keeps their results in a folder."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self.workers = workers
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, jobs: Sequence[Job], what: str) -> list[dict[str, Any]]:
        """The results of the jobs, in order; those that a file holds are not run again."""
        missing = [job for job in jobs if not self._path(job).exists()]
        logger.info(f"{what}: {len(jobs)} jobs, {len(jobs) - len(missing)} of them done before")
        done = 0
        with ThreadPoolExecutor(self.workers) as pool:
            for job, seconds in pool.map(self._run_one, missing):
                done += 1
                logger.info(f"{what} {done}/{len(missing)}: {job.arm}, seed {job.recipe.seed}, {seconds:.0f} s")
        return [json.loads(self._path(job).read_text(encoding="utf-8"))["result"] for job in jobs]

    def _path(self, job: Job) -> Path:
        return self.folder / f"{job.name}.json"

    def _run_one(self, job: Job) -> tuple[Job, float]:
        start = time.monotonic()
        specification, log = self.folder / f"{job.name}.job", self.folder / f"{job.name}.log"
        data = {"arm": job.arm, "split": job.split, "recipe": job.recipe.to_dict()}
        write_json(specification, {**data, "result": str(self._path(job))})
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "sailvit_hf.evaluation.evidence", str(specification)]
        with log.open("w", encoding="utf-8") as output:
            status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment).returncode
        specification.unlink()
        if status:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise SailvitError(f"The job {job.name} failed ({''.join(last) or f'status {status}'}); its log is {log}.")
        log.unlink()
        return job, time.monotonic() - start


def tuning_score(result: Mapping[str, Mapping[str, float]]) -> float:
    """`CRITERION`, lower is better."""
    swap = result["swap_original"]
    return (swap["caption_loss"] + swap["reading_loss"]) / 2


def _tune(jobs: Jobs, recipe: Recipe, seed: int, rates: Sequence[float]) -> dict[str, Any]:
    """Choose the rate of each tuned arm; every arm is tried at every rate."""
    grid = [(arm, rate) for arm in TUNED for rate in rates]
    results = jobs.run([Job(arm, arm_recipe(recipe, arm, seed, rate), "validation") for arm, rate in grid], "Tuning")
    scores: dict[str, dict[str, float]] = {arm: {} for arm in TUNED}
    for (arm, rate), result in zip(grid, results, strict=True):
        scores[arm][f"{rate:g}"] = tuning_score(result)
    chosen = {arm: min(zip(scores[arm].values(), rates, strict=True))[1] for arm in TUNED}  # a tie: the lower rate
    return {"seed": seed, "criterion": CRITERION, "rates": list(rates), "scores": scores, "chosen": chosen}


def run_evidence(
    recipe: Recipe,
    seeds: Sequence[int],
    output_dir: str | Path,
    tuning_seed: int,
    rates: Sequence[float],
    workers: int = 2,
    command: str | None = None,
) -> Path:
    """Run the whole comparison, or go on with it.

    Args:
        recipe: a demo recipe with the three stages and an encoder swap; its own `output_dir` is not used.
        seeds: final seeds, judged on the test split; foundations, connector, samples and swap all follow the seed.
        output_dir: gets `evidence.json`, `evidence.md`, `evidence.png` and `jobs/`.
        tuning_seed: another seed, on whose validation split the rates are chosen.
        rates: the grid; gradual's is the peak rate of its fine stage (the other stages keep their ratio to it),
            direct's the one rate of everything.
        workers: processes at a time.
        command: how to run this again, for `evidence.md`.

    Returns:
        The path of `evidence.md`.

    Raises:
        SailvitError: the recipe does not fit, a seed is used twice, or a job failed (its log is named).
    """
    from ..refinement.lineage import package_versions
    from .evidence_report import write_evidence

    if not seeds or len(set(seeds)) < len(seeds) or tuning_seed in seeds:
        raise SailvitError("The comparison needs at least one final seed, each once, and another seed to tune on.")
    if not rates or min(rates) <= 0:
        raise SailvitError("The comparison needs at least one learning rate, and all of them above 0.")
    output_dir = Path(output_dir)
    jobs = Jobs(output_dir / "jobs", workers)
    all_seeds = [tuning_seed, *seeds]
    jobs.run([Job("foundations", arm_recipe(recipe, "unrefined", seed), "test") for seed in all_seeds], "Foundations")
    tuning = _tune(jobs, recipe, tuning_seed, rates)
    chosen = {**tuning["chosen"], "fine_first": tuning["chosen"]["gradual"], "unrefined": None}
    cells = [(arm, seed) for seed in seeds for arm in ARMS]
    finals = [Job(arm, arm_recipe(recipe, arm, seed, chosen[arm]), "test") for arm, seed in cells]
    results: dict[str, dict[str, Any]] = {arm: {} for arm in ARMS}
    for (arm, seed), result in zip(cells, jobs.run(finals, "Final seeds"), strict=True):
        results[arm][str(seed)] = result
    evidence = {
        "format": 1,
        "name": recipe.name,
        "command": command,
        "seeds": list(seeds),
        "arms": ARM_TITLES,
        "judges": JUDGES,
        "tuning": tuning,
        "results": results,
        "comparisons": compare_results(results),
        "versions": package_versions(),
        "recipe": _without_places(recipe),
    }
    return write_evidence(evidence, output_dir)


def compare_results(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, list[dict]]]:
    """Paired comparisons of results by arm and seed: `{"gradual - direct": {judge: [PairedComparison.to_dict()]}}`."""
    comparisons: dict[str, dict[str, list[dict]]] = {}
    for first, second in PAIRS:
        by_judge = {}
        for judge, metrics in JUDGED.items():
            one, other = (
                {seed: result[judge] for seed, result in results[arm].items() if judge in result}
                for arm in (first, second)
            )
            by_judge[judge] = [comparison.to_dict() for comparison in compare_arms(one, other, metrics)]
        comparisons[f"{first} - {second}"] = {judge: entries for judge, entries in by_judge.items() if entries}
    return comparisons


def _main(specification: str) -> None:
    """The process of one job."""
    import torch

    torch.set_num_threads(1)
    data = json.loads(Path(specification).read_text(encoding="utf-8"))
    start = time.monotonic()
    result = run_job(data["arm"], parse_recipe(data["recipe"]), data["split"])
    write_json(Path(data["result"]), {"seconds": round(time.monotonic() - start, 1), "result": result})


if __name__ == "__main__":
    _main(sys.argv[1])
