# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a recipe costs on so many GPUs: memory, time, and which layout fits."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import SailvitError
from ..launching import REFUSALS, refusal
from ..recipes.batches import accumulation_steps
from ..recipes.recipe import Recipe, StagePlan
from ..stages import MODULES, RefinementStage, get_stage
from .checkpoints import Saving, saving_of
from .compute import Compute, Tile, compute_of, days, tile_of
from .data_sizes import Sizes, said_samples, sizes_of
from .machines import Gpu, count_gpus
from .memory import (
    DIVIDES_EVERY_MICRO_BATCH,
    LAYOUTS,
    SINGLE,
    DeviceMemory,
    Parameters,
    device_memory,
    optimizer_bytes,
)
from .notes import assumptions, stage_notes
from .parts import model_config
from .simulation import MicroBatch, StepMemory, build_model, simulate_step
from .tables import Table

# Ours: what the driver, CUDA's and NCCL's contexts and cuBLAS hold, what the allocator cannot use for holes, packs
# with more tiles than the mean, and the difference between a data sheet's gigabytes and what programs get.
RESERVE_GIB = 6.0
GIB = 2**30
# Where nothing is gathered for a pack: the mean of how full packs are, see benchmarks/results/packing.txt.
PACK_FULLNESS = 0.98

_MUCH_HOST_MEMORY = 4 * GIB


@dataclass(frozen=True)
class Question:
    """What is asked besides the recipe.

    Attributes:
        gpus: how many GPUs, one answer for each number; memory is that on the first one.
        gpu: of which kind.
        mfu: the share of the GPU's peak that learning gets.
        sharding: one of `LAYOUTS`, or `auto`.
        samples, tokens, tiles, tables: see `data_sizes.sizes_of`.
        reserve_gib: memory to keep free.
        price: of a GPU hour, in any currency.
    """

    gpus: tuple[int, ...]
    gpu: Gpu
    mfu: float = 0.4
    sharding: str = "auto"
    samples: float | None = None
    tokens: float | None = None
    tiles: float | None = None
    tables: tuple[Table, ...] = ()
    reserve_gib: float = RESERVE_GIB
    price: float | None = None

    def __post_init__(self) -> None:
        if not self.gpus or min(self.gpus) < 1:
            raise SailvitError("--gpus must be at least 1")
        if not 0 < self.mfu <= 1:
            raise SailvitError(
                f"--mfu is {self.mfu}: give a share of the GPU's peak above 0 and at most 1, such as 0.4"
            )
        if self.sharding in LAYOUTS and max(self.gpus) == 1:
            raise SailvitError(
                f"--sharding {self.sharding} divides nothing on one GPU: leave it out, or give more --gpus"
            )
        if self.sharding != "auto" and self.sharding not in LAYOUTS:
            raise SailvitError(f"--sharding is {self.sharding!r}: choose auto, {', '.join(LAYOUTS)}")
        if self.samples is not None and self.samples <= 0:
            raise SailvitError(f"--samples is {self.samples:g}: give more than 0")
        if self.reserve_gib < 0:
            raise SailvitError("--reserve must be at least 0 GiB")


@dataclass(frozen=True)
class Batch:
    """How a stage's global batch lies on so many GPUs.

    Attributes:
        per_device, accumulation: micro-batches of so many rows, and how many of them make a step on each GPU.
        whole: whether the global batch that the recipe asks for is met.
    """

    gpus: int
    per_device: int
    accumulation: int
    wanted: int | None

    @property
    def rows(self) -> int:
        """Rows (packs, or samples) of a step over all GPUs."""
        return self.gpus * self.per_device * self.accumulation

    @property
    def whole(self) -> bool:
        """Whether it is the global batch that the recipe asks for."""
        return self.wanted is None or self.rows == self.wanted


@dataclass(frozen=True)
class Answer:
    """A stage on so many GPUs: `memory` of one of them by layout, the layout that was `chosen` (None: none fits).

    `refused` are the layouts in which the stage would not begin.
    """

    gpus: int
    batch: Batch
    steps: int
    days: float
    memory: dict[str, DeviceMemory]
    chosen: str | None
    refused: tuple[str, ...] = ()

    @property
    def step_seconds(self) -> float:
        """Seconds of a step."""
        return self.days * 86_400 / self.steps

    @property
    def gpu_hours(self) -> float:
        """Hours of all GPUs together."""
        return self.days * 24 * self.gpus


@dataclass(frozen=True)
class StageAnswer:
    """What a stage costs; `seen` samples in all epochs."""

    stage: str
    title: str
    trains: tuple[str, ...]
    parameters: Parameters
    sizes: Sizes
    micro: MicroBatch
    seen: float
    compute: Compute
    checkpointing: tuple[str, ...]
    saving: Saving
    answers: tuple[Answer, ...]

    def seconds_between(self, answer: Answer) -> float | None:
        """Seconds from one checkpoint to the next; None: none is saved on the way."""
        every = self.saving.every(answer.steps)
        return None if every is None else every * answer.step_seconds

    @property
    def tokens(self) -> float:
        """Tokens of all samples."""
        return self.seen * self.sizes.tokens

    @property
    def flops(self) -> float:
        """What learning needs in the whole stage."""
        return self.seen * self.compute.total


@dataclass(frozen=True)
class Plan:
    """The answer: every stage of every recipe, and what was assumed."""

    name: str
    question: Question
    stages: tuple[StageAnswer, ...]
    assumptions: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; bytes, FLOPs, days."""
        values = dataclasses.asdict(self)
        for stage, found in zip(values["stages"], self.stages, strict=True):
            stage |= {"tokens": found.tokens, "flops": found.flops}
            for answer, known in zip(stage["answers"], found.answers, strict=True):
                answer["gpu_hours"] = known.gpu_hours
                answer["checkpoints"] = found.saving.count(known.steps)
                answer["seconds_between_checkpoints"] = found.seconds_between(known)
        return values


def plan_recipes(recipes: Sequence[tuple[Recipe, str | Path | None]], question: Question) -> Plan:
    """Plan recipes that follow each other.

    Args:
        recipes: each with the path of its file, near which the recipes are looked for that it starts from.
        question: the machines and what is assumed.

    Raises:
        SailvitError: a model or a data size is not known, or `samples` is given where every stage has its own.
    """
    if question.samples is not None:
        _check_samples([(key, plan) for recipe, _ in recipes for key, plan in recipe.stages.items()], question.samples)
    stages: list[StageAnswer] = []
    notes: list[str] = []
    for recipe, path in recipes:
        planner = _Planner(recipe, path, question)
        stages += [planner.stage(key) for key in recipe.stages]
        notes += planner.notes
    names = " + ".join(dict.fromkeys(recipe.name for recipe, _ in recipes))
    return Plan(names, question, tuple(stages), (*assumptions(question, stages), *dict.fromkeys(notes)))


def _check_samples(stages: Sequence[tuple[str, StagePlan]], samples: float) -> None:
    """Refuse a number that no stage has a use for; it replaces nothing."""
    if all(said_samples(plan, key) is not None for key, plan in stages):
        raise SailvitError(
            "the recipe or its files say of every stage how many samples there are, so --samples changes nothing: "
            f"leave it out, or say --set stages.{stages[0][0]}.samples={samples:.0f}"
        )


class _Planner:
    """Plans the stages of one recipe, whose model is built once for each precision of its weights."""

    def __init__(self, recipe: Recipe, path: str | Path | None, question: Question) -> None:
        self.recipe, self.question, self.notes = recipe, question, list[str]()
        self.config, self.max_tiles = model_config(recipe, path)
        self._models: dict[torch.dtype, Any] = {}

    def _model(self, dtype: torch.dtype, stage: RefinementStage, plan: StagePlan) -> tuple[Any, Any]:
        """The model, without content, as the stage trains it."""
        if plan.adapters.given():  # a model of its own: adapters stay where they are put
            return build_model(self.config, dtype, lambda model: _adapt(model, stage, plan))
        if dtype not in self._models:
            self._models[dtype] = build_model(self.config, dtype)
        model, mode = self._models[dtype]
        stage.apply(model, _argument(plan, "freeze_vision_layers"))
        return model, mode

    def stage(self, key: str) -> StageAnswer:
        plan, stage = self.recipe.stages[key], get_stage(key)
        half = bool(_argument(plan, "bf16") or _argument(plan, "fp16"))
        if not half:
            self.notes.append(f"{key} says neither bf16 nor fp16: it trains in fp32, and will not reach this MFU")
        self._note_samples(key, plan)
        model, mode = self._model(torch.float32, stage, plan)
        tile = tile_of(model)
        asked = self.question
        sizes = sizes_of(
            self.recipe, key, tile.tokens, self.max_tiles, asked.samples, asked.tokens, asked.tiles, asked.tables
        )
        checkpointing = _checkpointing(plan)
        tower_runs = not _argument(plan, "vision_feature_cache")
        micro = _micro_batch(plan, sizes, tile)
        compute = compute_of(model, sizes, tile, checkpointing, tower_runs)
        parameters = Parameters.of(model, _in_four_bits(plan))
        options: dict[str, Any] = {
            "chunked": _argument(plan, "chunked_loss"), "checkpointing": checkpointing, "tower_runs": tower_runs,
        }  # fmt: skip
        steps = {"whole": simulate_step(model, mode, micro, autocast=half, **options)}
        if asked.sharding != "ddp" and max(asked.gpus) > 1:
            low, low_mode = self._model(torch.bfloat16 if half else torch.float32, stage, plan)
            steps["divided"] = simulate_step(low, low_mode, micro, autocast=half, **options)
        rows = sizes.tokens / (_argument(plan, "max_length") * PACK_FULLNESS) if _argument(plan, "packing") else 1.0
        answers = tuple(
            self._answer(key, plan, gpus, sizes.samples * rows, micro, parameters, steps, half) for gpus in asked.gpus
        )
        seen = sizes.samples * _argument(plan, "num_train_epochs")
        if _argument(plan, "max_steps") > 0:
            seen = answers[0].steps * answers[0].batch.rows / rows
            if answers[0].batch.wanted is None and len(answers) > 1:
                self.notes.append(
                    f"{key} says max_steps and no global_batch_size: planned are the samples of "
                    f"{count_gpus(asked.gpus[0])}"
                )
        answers = tuple(
            dataclasses.replace(each, days=days(seen * compute.total, each.gpus, asked.gpu.tflops, asked.mfu))
            for each in answers
        )
        trains = tuple(module for module in MODULES if parameters.trained[module])
        saving = saving_of(plan, parameters, _state(plan), _argument(plan, "vision_tower_ema") is not None)
        found = StageAnswer(
            key, stage.title, trains, parameters, sizes, micro, seen, compute, checkpointing, saving, answers
        )
        self.notes += stage_notes(found, bool(_argument(plan, "packing")))
        return found

    def _answer(
        self,
        key: str,
        plan: StagePlan,
        gpus: int,
        rows: float,
        micro: MicroBatch,
        parameters: Parameters,
        steps: dict[str, StepMemory],
        half: bool,
    ) -> Answer:
        batch = self._batch(key, plan, gpus)
        packing = _argument(plan, "packing")
        if packing:
            self._note_host(key, batch, micro)
        state = _state(plan)
        layouts: Iterable[str] = (self.question.sharding,)
        if self.question.sharding == "auto":
            layouts = LAYOUTS if gpus > 1 else (SINGLE,)
        memory = {
            layout: device_memory(
                layout, parameters, steps["whole" if layout in (SINGLE, "ddp") else "divided"], gpus, optimizer=state,
                half=half, accumulated=batch.accumulation > 1, divides_every=_divides_every(plan),
                batches=1 if packing else batch.accumulation,
                ema=_argument(plan, "vision_tower_ema") is not None, reserve=self.question.reserve_gib * GIB,
            )
            for layout in layouts
        }  # fmt: skip
        limit = self.question.gpu.memory_gib * GIB
        refused = self._refused(key, plan, layouts)
        fitting = (layout for layout, found in memory.items() if found.total <= limit and layout not in refused)
        chosen = next(fitting, None)
        most = _argument(plan, "max_steps")
        count = most if most > 0 else math.ceil(rows * _argument(plan, "num_train_epochs") / batch.rows)
        return Answer(gpus, batch, count, 0.0, memory, chosen, refused)

    def _refused(self, key: str, plan: StagePlan, layouts: Iterable[str]) -> tuple[str, ...]:
        options = [name for name in REFUSALS if name != "load_in_4bit" and _argument(plan, name)]
        options += ["load_in_4bit"] if _in_four_bits(plan) else []
        found = {layout: refusal(layout, options) for layout in layouts}
        for why in dict.fromkeys(filter(None, found.values())):
            names = " and ".join(layout for layout, said in found.items() if said == why)
            note = f"{key} would be refused in {names}: {why}"
            self.notes += [note] if note not in self.notes else []
        return tuple(layout for layout, why in found.items() if why is not None)

    def _batch(self, key: str, plan: StagePlan, gpus: int) -> Batch:
        per_device, wanted = _argument(plan, "per_device_train_batch_size"), _argument(plan, "global_batch_size")
        if wanted is None:
            return Batch(gpus, per_device, _argument(plan, "gradient_accumulation_steps"), None)
        micro = gpus * per_device
        batch = Batch(gpus, per_device, max(1, round(wanted / micro)), wanted)
        try:
            accumulation_steps(wanted, gpus, per_device)
        except SailvitError as error:
            self.notes.append(
                f"{key} on {count_gpus(gpus)} would be refused ({error}); planned is a batch of {batch.rows}"
            )
        return batch

    def _note_samples(self, key: str, plan: StagePlan) -> None:
        """Where `--samples` is of use to other stages only."""
        said = said_samples(plan, key) if self.question.samples is not None else None
        if said is not None:
            self.notes.append(
                f"{key} has {said[0]:,.0f} samples ({said[1].removeprefix('samples: ')}), which --samples does not "
                f"change; --set stages.{key}.samples=N does"
            )

    def _note_host(self, key: str, batch: Batch, micro: MicroBatch) -> None:
        """The Trainer fetches all micro-batches of a step before the first; packed ones wait in host memory."""
        held = batch.accumulation * micro.pictures * 3 * 4 * math.prod(micro.size)
        if held > _MUCH_HOST_MEMORY:
            self.notes.append(
                f"{key} on {count_gpus(batch.gpus)}: the pictures of a step's {batch.accumulation} micro-batches take "
                f"{held / GIB:.1f} GiB of host memory a process"
            )


def _argument(plan: StagePlan, name: str) -> Any:
    """An argument of a stage, or its default."""
    from ..arguments import RefinementArguments

    if name in plan.arguments:
        return plan.arguments[name]
    default = next(field for field in dataclasses.fields(RefinementArguments) if field.name == name).default
    return getattr(default, "value", default)


def _checkpointing(plan: StagePlan) -> tuple[str, ...]:
    modules = _argument(plan, "gradient_checkpointing_modules")
    if modules is not None:
        return tuple(modules)
    # The newer name, which goes first, is no argument of older versions of transformers.
    newer = plan.arguments.get("activation_checkpointing")
    return MODULES if (_argument(plan, "gradient_checkpointing") if newer is None else newer) else ()


def _state(plan: StagePlan) -> float:
    return optimizer_bytes(str(_argument(plan, "optim")))


def _divides_every(plan: StagePlan) -> bool:
    """What the stage says of FSDP2's gradients between micro-batches, or the trainer's own choice."""
    said = plan.arguments.get("accelerator_config")
    options = said.get("gradient_accumulation_kwargs") if isinstance(said, dict) else None
    return bool((options or {}).get("sync_each_batch", DIVIDES_EVERY_MICRO_BATCH))


def _in_four_bits(plan: StagePlan) -> bool:
    return any(adapter.load_in_4bit for adapter in plan.adapters.given().values())


def _micro_batch(plan: StagePlan, sizes: Sizes, tile: Tile) -> MicroBatch:
    rows, length = _argument(plan, "per_device_train_batch_size"), math.ceil(sizes.tokens)
    samples = float(rows)
    if _argument(plan, "packing"):
        length = _argument(plan, "max_length")
        samples = rows * length / sizes.tokens
    tiles = math.ceil(samples * sizes.tiles)
    most = _argument(plan, "max_tiles_per_pack")
    if most is not None:
        tiles = min(tiles, rows * most)
    tiles = min(tiles, rows * length // tile.tokens)
    learnt = math.ceil(samples * sizes.learnt)
    return MicroBatch(rows, length, tiles, tile.size, learnt, tiles * tile.tokens)


def _adapt(model: Any, stage: RefinementStage, plan: StagePlan) -> None:
    from ..adapters.injection import adapted_stage, adapter_configs, add_adapters, lora_config

    given = plan.adapters.given()
    configs = adapter_configs({module: lora_config(each) for module, each in given.items()}, stage)
    adapted_stage(stage, configs).apply(model, _argument(plan, "freeze_vision_layers"))
    add_adapters(model, configs, seed=0)
