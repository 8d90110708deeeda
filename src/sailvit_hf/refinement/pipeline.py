# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A whole run from a recipe: foundations, start, stages with their evaluations, backbone, encoder swap, report.

Every stage starts from the checkpoint that the step before saved, never from memory, so that an uninterrupted run and
a resumed one do the same. What each step yields is kept in the run folder (see `run_folder`); `metrics.json` is put
together from it at the end and holds no time, path or date, so that equal seeds give equal files.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.utils import logging

from ..errors import SailvitError, Unpublished
from ..modeling.vision_towers import native_size
from .adapters.injection import adapted_stage, adapter_targets, lora_config, refuse_conflicts
from .arguments import RefinementArguments
from .assembly import (
    build_start,
    causal_language_model,
    load_language_model,
    load_processor,
    load_vlm,
    load_vlm_in_4bit,
    make_processor,
    on_device,
    save_backbone,
    save_checkpoint,
)
from .launching import forget_layout, run_alone
from .lineage import Lineage, parent_name
from .recipes.recipe import Recipe, Source
from .run_folder import (
    CHECKPOINTS,
    RECIPE_FILE,
    STATE_DIR,
    RunFolder,
    first_ones,
    is_main_process,
    wait_for_everyone,
    write_json,
    writing,
)
from .samples import join_sources, open_source, source_name
from .saving.checkpoints import last_complete_checkpoint, numbered, settle_drafts
from .saving.damage import find_damage
from .saving.interruption import Watch, watched
from .saving.safe_trainer import account
from .stages import STAGES, RefinementStage, get_stage
from .trainer import RefinementTrainer

logger = logging.get_logger(__name__)

START, BACKBONE = "start", "backbone"
SWAP_SEED_OFFSET = 1000  # the swap's connector learns from other samples than the refinement did
EVALUATION_SEED = 0  # the same held-out samples in every run, so that runs can be compared sample by sample
FEATURE_PICTURES = 48  # on which the colours of the feature maps are fitted

# Defaults of a stage's arguments in a run: five checkpoints a stage, of which the last two stay, about fifty points
# on the loss curve. A recipe can set each.
DEFAULT_ARGUMENTS: Mapping[str, Any] = {
    "save_strategy": "steps",
    "save_steps": 0.2,
    "save_total_limit": 2,
    "logging_steps": 0.02,
}


@dataclass(frozen=True)
class RunResult:
    """What a finished run left: its folder, the metrics as in `metrics.json`, and the report if one was asked for."""

    folder: Path
    metrics: dict[str, Any]
    backbone: Path
    report: Path | None


def accelerator_available() -> bool:
    """Whether training can run on anything but the CPU (without `use_cpu`, accelerate runs no processes there)."""
    import torch

    return torch.accelerator.is_available()


def demo_world(sentences: bool = False) -> Any:
    """The demo world of all recipes, told in words or in sentences.

    Raises:
        SailvitError: its packages are not installed.
    """
    try:
        from ..data.demo_world import DemoWorld
    except ImportError as error:
        raise SailvitError(f"The demo world needs a package ({error}): pip install 'sailvit_hf[demo]'.") from error
    return DemoWorld(seed=0, sentences=sentences)


def recipe_foundations(recipe: Recipe, world: Any) -> Any:
    """The demo foundations that a recipe needs, from their cache or made now."""
    from .foundations import FoundationSettings, cache_folder, make_foundations

    plan = recipe.foundations
    with writing(Path(plan.cache_dir) if plan.cache_dir is not None else cache_folder()):
        return make_foundations(
            world,
            cache_dir=plan.cache_dir,
            seed=recipe.foundations_seed,
            settings=FoundationSettings(**plan.settings()),
            parts=recipe.demo_parts(),
        )


def trainer_class(stage: RefinementStage) -> type[RefinementTrainer]:
    """The trainer of a stage."""
    from .coarse_alignment import CoarseAlignmentTrainer
    from .fine_alignment import FineAlignmentTrainer
    from .world_knowledge import WorldKnowledgeTrainer

    classes = (CoarseAlignmentTrainer, FineAlignmentTrainer, WorldKnowledgeTrainer)
    return dict(zip(STAGES, classes, strict=True)).get(stage.key, RefinementTrainer)


def run_recipe(recipe: Recipe, resume: bool = False) -> RunResult:
    """Run a recipe to its end.

    Args:
        recipe: what to do; see `load_recipe`.
        resume: go on with a run in `recipe.output_dir` (or start one, if there is none).

    Raises:
        SailvitError: a mistake in the recipe, its data or its folder; everything that can be checked is checked before
            the first training step.
    """
    return Run(recipe, resume).go()


class Run:
    """One run of a recipe; `go` does all its steps in order. With `claim=False` only its arguments are checked."""

    def __init__(self, recipe: Recipe, resume: bool = False, claim: bool = True) -> None:
        self.recipe = recipe
        self.stages = [adapted_stage(get_stage(key), plan.adapters.given()) for key, plan in recipe.stages.items()]
        self.arguments = {key: self._arguments(key) for key in recipe.stages}
        if not claim:
            return
        # Reading the data before claiming the folder: a mistake in it leaves nothing behind.
        self.training_data = {
            key: self._samples(plan.data, key, samples=plan.samples) for key, plan in recipe.stages.items()
        }
        self.swap_samples  # noqa: B018
        self.evaluation  # noqa: B018
        self.folder = RunFolder.open(recipe, resume)

    def go(self) -> RunResult:
        """All steps, each done at most once over all sessions of the run.

        Raises:
            Preempted: SIGTERM or SIGUSR1 came; what is done is saved.
            Unpublished: all is done, but for pushes to a Hub that did not answer.
            SailvitError: a folder could not be written, or what an earlier session left cannot be read.
        """
        with watched() as watch, writing(self.folder.path):
            return self._go(watch)

    def _go(self, watch: Watch) -> RunResult:
        folder = self.folder
        steps = self._steps()
        folder.total = len(steps)
        results: dict[str, Any] = {}
        unpublished: list[tuple] = []
        for step, *rest in steps:
            watch.check()
            if step.startswith("publish-"):
                unpublished = self._push_all([*unpublished, (step, *rest)])
            else:
                results[step] = folder.once(step, *rest)
        unpublished = self._push_all(unpublished)
        metrics = self._metrics(results)
        report = folder / "report.html" if self.recipe.report else None
        if is_main_process():
            write_json(folder / "metrics.json", metrics)
            write_json(folder / "timings.json", folder.timings())
            folder.write_run_record()
            if self.recipe.report:
                from ..evaluation.report import write_report

                report = Path(write_report(folder.path))
        wait_for_everyone()
        if unpublished:
            names = ", ".join(step.removeprefix("publish-") for step, *_ in unpublished)
            raise Unpublished(f"{folder.path} is done, but not pushed, for the Hub did not answer: {names}; resume it")
        return RunResult(folder.path, metrics, folder / BACKBONE, report)

    def _push_all(self, steps: list[tuple]) -> list[tuple]:
        """Push what is to be pushed, and return the steps for which the Hub did not answer."""
        once = partial(self.folder.once, may_wait=True)
        return [step for step in steps if once(*step) is None]

    def _steps(self) -> list[tuple]:
        """(name, title, function, whether all processes take part) of every step, in order."""
        steps: list[tuple] = []
        if self.recipe.demo_parts():
            steps.append(("foundations", "Foundations of the demo", self._make_foundations))
        steps.append((START, "Start: the parts and a fresh connector", self._start))
        states = [START, *self.recipe.stages]
        for previous, state in zip([None, *states[:-1]], states, strict=True):
            if previous is not None:
                stage = self._stage(state)
                steps.append((state, f"Stage {state}: {stage.title}", partial(self._train, stage, previous), True))
            if self.recipe.evaluation is not None:
                steps.append((f"evaluate-{state}", f"Evaluation after {state}", partial(self._evaluate, state)))
            if previous is not None and self.arguments[state].push_to_hub:
                steps.append((f"publish-{state}", f"Publishing {state}", partial(self._publish, state)))
        steps.append((BACKBONE, "The refined backbone alone", self._save_backbone))
        if self.recipe.evaluation is not None and self.recipe.evaluation.encoder_swap is not None:
            for name in self._swap_language_models():
                for which in ("unrefined", "refined"):
                    title = f"Encoder swap: {which} backbone, {name} language model"
                    steps.append((f"swap-{name}-{which}", title, partial(self._swap, name, which), True))
        return steps

    # Data

    @cached_property
    def world(self) -> Any:
        """The demo world."""
        return demo_world(self.recipe.demo_sentences)

    def _samples(
        self, sources: Sequence[Source], stage: str, seed_offset: int = 0, samples: int | None = None
    ) -> Any:
        """The samples of one or more sources, one after the other, or mixed if they say how much of each."""
        seed = self.recipe.seed + seed_offset
        match_extension = self.arguments[stage].match_image_extension if stage in self.arguments else True
        parts = []
        for source in sources:
            if source.demo is not None:
                parts.append(self.world.dataset(source.demo.stage or stage, "train", source.demo.samples, seed))
            else:
                parts.append(open_source(source, seed, match_extension))
        return join_sources(sources, parts, seed, samples)

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """The held-out data sets by name: the demo world's test split, and the recipe's own messages as `held_out`."""
        plan, sets = self.recipe.evaluation, {}
        if plan is None:
            return {}
        if self.recipe.uses_demo() and plan.samples:
            sets.update(self.world.evaluation("test", plan.samples, EVALUATION_SEED))
        if plan.messages is not None:
            from ..data.conversations import load_messages

            sets["held_out"] = load_messages(plan.messages, image_root=plan.image_root, decode=True)
        return sets

    @cached_property
    def swap_samples(self) -> Any:
        """What the fresh connectors of the encoder swap learn from; None without a swap."""
        plan = self.recipe.evaluation and self.recipe.evaluation.encoder_swap
        if not plan:
            return None
        if plan.data is not None:
            return self._samples(plan.data, "fine", SWAP_SEED_OFFSET)
        # Captions and pages of the fine stage, questions of the world stage: what the evaluation asks for.
        from torch.utils.data import ConcatDataset

        samples, seed = plan.steps * plan.batch_size, self.recipe.seed + SWAP_SEED_OFFSET
        sizes = {"fine": samples - samples // 2, "world": samples // 2}
        return ConcatDataset([self.world.dataset(key, "train", size, seed) for key, size in sizes.items() if size])

    # Steps

    @cached_property
    def foundations(self) -> Any:
        """The demo foundations, from their cache or made now."""
        return recipe_foundations(self.recipe, self.world)

    def _make_foundations(self) -> dict[str, str]:
        run_alone(["foundations", str(self.folder / RECIPE_FILE)])  # the parts are too small to be divided
        return {name: str(getattr(self.foundations, name)) for name in self.recipe.demo_parts()}

    def _start(self) -> None:
        foundations = self.foundations if self.recipe.demo_parts() else None
        model, processor, lineage = build_start(self.recipe, foundations)
        for stage in self.stages:  # what the tower's depth contradicts shows now, not when the stage begins
            stage.apply(model, self.arguments[stage.key].freeze_vision_layers)
            for module, adapters in self.recipe.stages[stage.key].adapters.given().items():
                adapter_targets(model, module, adapters.targets)
        save_checkpoint(self.folder / START, model, processor, lineage)

    def _arguments(self, key: str) -> RefinementArguments:
        folder = Path(self.recipe.output_dir) / key / CHECKPOINTS
        values = {**DEFAULT_ARGUMENTS, "use_cpu": not accelerator_available(), **self.recipe.stages[key].arguments}
        try:
            arguments = RefinementArguments(output_dir=str(folder), seed=self.recipe.seed, **values)
            arguments.module_learning_rates(self._stage(key))
            refuse_conflicts(arguments, self.recipe.stages[key].adapters.given())
            if arguments.push_to_hub and arguments.hub_model_id is None:
                raise SailvitError("push_to_hub needs the repository: set hub_model_id to owner/name")
        except (ValueError, TypeError, ImportError) as error:
            raise SailvitError(f"stages.{key}.arguments: {' '.join(str(error).split())}") from error
        return arguments

    def _source_name(self, key: str) -> str:
        names = [
            f"demo world, {source.demo.stage or key}" if source.demo is not None else source_name(source)
            for source in self.recipe.stages[key].data
        ]
        return " + ".join(dict.fromkeys(names))

    def _train(self, stage: RefinementStage, previous: str) -> dict[str, Any]:
        """Train one stage from the checkpoint before it, or go on from the stage's own last checkpoint."""
        folder, origin = self.folder / stage.key, self.folder / previous
        checkpoint = None
        if is_main_process():
            settle_drafts(folder / CHECKPOINTS)
            checkpoint = last_complete_checkpoint(folder / CHECKPOINTS)
            if checkpoint is None and numbered(folder / CHECKPOINTS):
                logger.warning(f"There is no complete checkpoint of stage {stage.key}: it begins anew.")
        checkpoint = first_ones(checkpoint)
        forget_layout()
        adapters = self.recipe.stages[stage.key].adapters.given()
        with self._reading(previous):
            model, processor, lineage = self._model(origin, stage.key), load_processor(origin), Lineage.load(origin)
        trainer = trainer_class(stage)(
            model=model,
            args=self.arguments[stage.key],
            train_dataset=self.training_data[stage.key],
            processing_class=processor,
            stage=stage,
            lineage=lineage,
            data_source=self._source_name(stage.key),
            peft_config={module: lora_config(plan) for module, plan in adapters.items()} or None,
        )
        if checkpoint is not None:
            logger.info(f"Going on from {checkpoint}")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        trainer.save_model(str(folder), _internal_call=True)  # published as a step of its own, with its metrics
        if is_main_process():
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle; refinement.json has what matters of it
            # Sorted: the Trainer's own order differs between entries from before and after a resume.
            write_json(folder / "history.json", [dict(sorted(entry.items())) for entry in trainer.history])
        record = trainer.current_lineage().stages[-1]
        logger.info(account(record))
        return {
            "title": stage.title,
            "trains": list(stage.trains),
            "learning_rates": record.learning_rates,
            "steps": record.steps,
            "samples_seen": record.samples_seen,
        }

    @contextmanager
    def _reading(self, state: str) -> Iterator[None]:
        """Read a state in here; if that fails for a damaged file, tell what makes it again.

        Raises:
            SailvitError: a file of it is damaged or gone.
        """
        folder = self.folder / state
        try:
            yield
        except Exception as error:
            found = find_damage(folder, without=CHECKPOINTS)
            if found is None and not any(folder.glob("*.safetensors")):
                found = folder / "model.safetensors", "it is gone"
            if found is None:
                raise
            path, reason = found
            again = "makes it again" if state == START else "makes it again from its last checkpoint"
            raise SailvitError(
                f"{path} is cut off or damaged ({reason}): remove {self.folder / STATE_DIR / state}.json and there "
                f"what follows it, and --resume {again}"
            ) from error

    def _model(self, origin: Path, key: str) -> Any:
        """What a stage starts from; with `load_in_4bit` its language model is quantised."""
        adapters = self.recipe.stages[key].adapters.given()
        if any(plan.load_in_4bit for plan in adapters.values()):
            return load_vlm_in_4bit(origin, self.arguments[key], self.recipe.attention)
        return load_vlm(origin, attention=self.recipe.attention)

    def _publish(self, key: str) -> dict[str, str]:
        """Push a stage's checkpoint, as the Trainer would; a push that fails is tried again by `--resume`."""
        from ..hub.publish import publish_checkpoint

        arguments = self.arguments[key]
        commit = publish_checkpoint(
            self.folder / key,
            str(arguments.hub_model_id),
            private=arguments.hub_private_repo is not False,
            pull_request=False,
            branch=arguments.hub_revision,
        ).commit
        logger.info(f"Pushed to {commit.repo}, commit {commit.oid}")
        return {"repo": commit.repo, "revision": commit.oid}

    def _evaluate(self, state: str) -> dict[str, Any]:
        """Metrics of a state; also its answers to the sample questions and its feature maps, for the report."""
        from ..evaluation import gallery, probing, vlm

        plan = self.recipe.evaluation
        assert plan is not None
        folder = self.folder.path
        with self._reading(state):
            processor, lineage = load_processor(folder / state), Lineage.load(folder / state)
            model = load_vlm(folder / state)
        result: dict[str, Any] = {}
        with on_device(model, self._device):
            result["vlm"] = vlm.evaluate_vlm(model, processor, self.evaluation, batch_size=plan.batch_size)
            rows = gallery.choose_samples(self.evaluation, EVALUATION_SEED)
            if state == START:
                gallery.record_samples(folder, rows)
            gallery.record_answers(folder, state, model, processor, rows)
        tower, layer = model.model.vision_tower, model.config.vision_feature_layer
        if self._changed_the_tower(state):
            pictures = self._feature_pictures(tower.config)
            if len(pictures):
                gallery.record_feature_maps(folder, state, tower, processor.image_processor, pictures, layer=layer)
            if plan.probes and self.recipe.uses_demo():
                result["probes"] = probing.probe_backbone(tower, processor.image_processor, self.world, layer=layer)
        lineage.with_metrics(result).write(folder / state)
        return result

    def _changed_the_tower(self, state: str) -> bool:
        return state == START or "vision_tower" in self._stage(state).trains

    def _stage(self, key: str) -> RefinementStage:
        return next(stage for stage in self.stages if stage.key == key)

    @property
    def _device(self) -> Any:
        return next(iter(self.arguments.values())).device

    def _feature_pictures(self, vision_config: Any) -> np.ndarray:
        """Held-out pictures (n, H, W, 3) uint8 of one size."""
        pictures: list[Any] = []
        for dataset in self.evaluation.values():
            for i in range(min(len(dataset), FEATURE_PICTURES - len(pictures))):
                pictures += [image.convert("RGB") for image in dataset[i]["images"]][:1]
        if len({picture.size for picture in pictures}) > 1:
            height, width = native_size(vision_config)
            pictures = [picture.resize((width, height)) for picture in pictures]
        arrays = [np.asarray(picture) for picture in pictures]
        return np.stack(arrays) if arrays else np.zeros((0, 1, 1, 3), np.uint8)

    def _save_backbone(self) -> None:
        last = list(self.recipe.stages)[-1]
        with self._reading(last):
            save_backbone(self.folder / BACKBONE, self.folder / last)

    def _swap_language_models(self) -> list[str]:
        return ["original", "second"] if self.recipe.start.language_model == "demo" else ["original"]

    def _swap(self, name: str, which: str) -> dict[str, float]:
        """Metrics of a fresh connector between a frozen vision tower and a frozen, never refined language model."""
        state = START if which == "unrefined" else list(self.recipe.stages)[-1]
        with self._reading(state):
            refined = load_vlm(self.folder / state)
        tower, layer = refined.model.vision_tower, refined.config.vision_feature_layer
        if name == "original":
            with self._reading(START):
                processor = load_processor(self.folder / START)
                language_model = causal_language_model(load_vlm(self.folder / START))
        else:
            language_model, tokenizer = load_language_model(self.foundations.second_language_model)
            image_processor = load_processor(self.folder / START).image_processor
            processor = make_processor(image_processor, tokenizer, language_model, tower.config)
        forget_layout()
        device = {"use_cpu": not accelerator_available(), "disable_tqdm": False}
        return self.swap(
            tower, language_model, processor, self.evaluation, vision_feature_layer=layer, **device
        )

    def swap(
        self, tower: Any, language_model: Any, processor: Any, evaluation: Mapping[str, Any], **arguments: Any
    ) -> dict[str, float]:
        """`encoder_swap` with the recipe's seed, and the budget and samples of its `evaluation.encoder_swap`."""
        from ..evaluation.encoder_swap import encoder_swap

        plan = self.recipe.evaluation and self.recipe.evaluation.encoder_swap
        assert plan
        return encoder_swap(
            tower,
            language_model,
            processor,
            self.swap_samples,
            evaluation,
            steps=plan.steps,
            learning_rate=plan.learning_rate,
            batch_size=plan.batch_size,
            seed=self.recipe.seed,
            **{"bf16": plan.bf16, **arguments},
        )

    # Result

    def _metrics(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """What `metrics.json` holds; its layout is described in `evaluation/report.py`."""
        states = [START, *self.recipe.stages]
        metrics: dict[str, Any] = {
            "format": 1,
            "name": self.recipe.name,
            "seed": self.recipe.seed,
            "states": states,
            "stages": {stage.key: results[stage.key] for stage in self.stages},
            "parts": self._parts(),
        }
        plan = self.recipe.evaluation
        if plan is not None:
            evaluated = {state: results[f"evaluate-{state}"] for state in states}
            metrics["samples"] = {name: len(data) for name, data in self.evaluation.items()}
            metrics["vlm"] = {state: result["vlm"] for state, result in evaluated.items()}
            probes = {state: result["probes"] for state, result in evaluated.items() if "probes" in result}
            if probes:
                metrics["probes"] = probes
            if plan.encoder_swap is not None:
                metrics["encoder_swap"] = {
                    name: {which: results[f"swap-{name}-{which}"] for which in ("unrefined", "refined")}
                    for name in self._swap_language_models()
                }
        if self.recipe.uses_demo():
            metrics["credit"] = self.world.credit
            if plan is not None and plan.samples:
                metrics["chance"] = self.world.chance()
        return metrics

    def _parts(self) -> dict[str, Any]:
        """Source and number of parameters of each module at the start."""
        from .callbacks import module_summary

        with self._reading(START):
            lineage, model = Lineage.load(self.folder / START), load_vlm(self.folder / START)
        parents = {module: parent_name(parent) for module, parent in lineage.parents.items()}
        whole = parents.get("model")
        sources = {"multi_modal_projector": whole or "fresh", **parents}
        return {
            row["module"]: {"source": sources.get(row["module"], whole), "parameters": row["parameters"]}
            for row in module_summary(model, {})
        }
