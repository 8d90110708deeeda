# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What of a run can be checked without training: its recipe, arguments, batch, parts, data and folder.

Nothing is written or trained, and no weights are read: the model is made of its configurations alone, without memory.
What lies on the Hub is asked for by a few small requests; if it does not answer, the result says what was not checked.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import get_session
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import is_flash_attn_2_available

from ...data.sources import find_place
from ...data.streams import ConversationStream
from ...errors import SailvitError
from ...modeling.configuration_sailvit import SAILViTConfig
from ...modeling.modeling_sailvit_vlm import SAILViTForConditionalGeneration
from ...modeling.vision_towers import vision_half
from ..adapters.injection import adapter_targets
from ..callbacks import module_summary
from ..launching import Launch, accelerators, layout_kind
from ..pipeline import Run, demo_world
from ..planning.parts import model_config
from ..run_folder import check_folder
from ..samples import open_source, source_name
from ..stages import RefinementStage
from .batches import accumulation_steps
from .recipe import Recipe, Source, StagePlan

_APPLE_FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size",
    "patch_size",
)  # fmt: skip
_BATCH = "global_batch_size"


@dataclass
class DryRun:
    """What was found.

    Attributes:
        lines: a title and what stands under it, for each part of the recipe.
        missing: what would stop the run, each in a sentence.
        unchecked: what could not be looked at, each in a sentence.
    """

    lines: list[tuple[str, list[str]]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def note(self, work: Callable[[], Any]) -> Any:
        """The result of a check, or None and what it says is missing."""
        try:
            return work()
        except SailvitError as error:
            self.missing.append(" ".join(str(error).split()))
        return None


def hub_answers(seconds: float = 5.0) -> bool:
    """Whether the Hub may be asked and answers."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=seconds)
    except Exception:  # the client's own errors, whichever client it is
        return False
    return True


def dry_run(
    recipe: Recipe,
    processes: int | None = None,
    resume: bool = False,
    ask_hub: bool = True,
    path: str | Path | None = None,
    launch: Launch | None = None,
) -> DryRun:
    """Check a recipe as far as that goes without training.

    Args:
        recipe: see `load_recipe`.
        processes: how many are to train; by default as many as `launch` would start, else as there are now.
        resume: whether the run in the output folder is to go on.
        ask_hub: whether to ask the Hub for what lies there.
        path: the recipe's file; what recipes beside it will have made is known by them.
        launch: how the processes are to be started, if they are.

    Raises:
        SailvitError: a mistake in the arguments of a stage.
    """
    found = DryRun()
    run = Run(_without_batches(recipe), claim=False)
    if launch is not None:
        processes = _launched(launch, found)
    ask_hub = ask_hub and hub_answers()
    claimed = found.note(lambda: check_folder(recipe, resume))
    folder = "goes on there" if claimed else "is not empty" if claimed is None else "is new"
    found.lines.append((f"{recipe.name}, seed {recipe.seed}", [f"output folder {recipe.output_dir}: {folder}"]))
    if recipe.attention == "flash_attention_2" and not is_flash_attn_2_available():
        found.unchecked.append("attention: flash_attention_2, which needs a GPU and pip install 'sailvit_hf[flash]'")
    model = _start(recipe, found, ask_hub, path)
    if model is not None and claimed is False:
        _room(recipe, model, found)
    for stage in run.stages:
        plan, arguments = recipe.stages[stage.key], run.arguments[stage.key]
        lines = [_batch(stage.key, plan, arguments, processes, found), _length(plan, arguments)]
        lines += _trains(stage, arguments, plan, model, found)
        found.lines.append((f"{stage.key}: {stage.title}", lines))
    _data(recipe, run, found, ask_hub)
    _revisions(recipe, found, ask_hub)
    return found


def _without_batches(recipe: Recipe) -> Recipe:
    """The recipe without its global batch sizes, which would be held against the number of processes of now."""
    stages = {
        key: replace(plan, arguments={name: value for name, value in plan.arguments.items() if name != _BATCH})
        for key, plan in recipe.stages.items()
    }
    return replace(recipe, stages=stages)


def _launched(launch: Launch, found: DryRun) -> int | None:
    """The number of processes of a launch, whose layout is checked as far as it can be here; None: it is not known."""
    config = found.note(lambda: layout_kind(launch.layout))
    if config is not None and not accelerators() and not config[1].startswith("MULTI_"):
        found.unchecked.append(f"--launch {launch.layout}: it needs a GPU, none here")
    if launch.processes is None and not accelerators():
        found.unchecked.append("the number of processes: there is no GPU to count, so it is 1 here; say --processes")
        return None
    return launch.processes or accelerators() * launch.machines


def _room(recipe: Recipe, model: Any, found: DryRun) -> None:
    """Refuse a disk on which not even the weights that the run leaves have room."""
    folder = next(place for place in Path(recipe.output_dir).absolute().parents if place.exists())
    states = 1 + len(recipe.stages)
    needed, free = 4 * states * sum(p.numel() for p in model.parameters()), shutil.disk_usage(folder).free
    if free < needed:
        found.missing.append(
            f"output_dir {recipe.output_dir}: {folder} has room for {free / 1e9:.3g} GB, and the weights of its "
            f"{states} states alone, in fp32, are {needed / 1e9:.3g} GB; make room, or choose another output_dir"
        )


def _batch(key: str, plan: StagePlan, arguments: Any, processes: int | None, found: DryRun) -> str:
    processes = arguments.world_size if processes is None else processes
    each, steps = arguments.train_batch_size, arguments.gradient_accumulation_steps
    batch = plan.arguments.get(_BATCH)
    if batch is not None:
        try:
            steps = accumulation_steps(batch, processes, each)
        except SailvitError as error:
            found.missing.append(f"stages.{key}.arguments: {error}")
            return f"batch: {batch} is not possible with {processes} processes x {each}"
    what = f"packs of {arguments.max_length} tokens" if arguments.packing else "samples"
    many = f"{processes} process{'es' * (processes != 1)}"
    return f"batch: {processes * each * steps} {what} = {many} x {each} x {steps} accumulation steps"


def _length(plan: StagePlan, arguments: Any) -> str:
    if arguments.max_steps > 0:
        return f"length: {arguments.max_steps} steps"
    samples = "the samples of its sources" if plan.samples is None else f"{plan.samples:,} samples"
    return f"length: {arguments.num_train_epochs:g} x {samples}"


def _trains(stage: RefinementStage, arguments: Any, plan: StagePlan, model: Any, found: DryRun) -> list[str]:
    rates = arguments.module_learning_rates(stage)
    adapters = plan.adapters.given()
    if model is None:
        return [f"trains: {name} at {rate:g}{_adapted(name, adapters)}" for name, rate in rates.items()]
    found.note(lambda: stage.apply(model, arguments.freeze_vision_layers))
    for module, given in adapters.items():
        found.note(lambda m=module, t=given.targets: _targets(model, stage, m, t))  # type: ignore[misc]
    lines = []
    for row in module_summary(model, rates):
        name, parameters = row["module"], f"{row['parameters']:,} parameters"
        if name in adapters:
            lines.append(f"trains: {name} at {rates[name]:g}{_adapted(name, adapters)}, {parameters}")
        elif row["trainable"]:
            lines.append(f"trains: {name} at {rates[name]:g}, {row['trainable']:,} of {parameters}")
        else:
            lines.append(f"frozen: {name}, {parameters}")
    return lines


def _targets(model: Any, stage: RefinementStage, module: str, asked: Any) -> None:
    try:
        adapter_targets(model, module, asked)
    except SailvitError as error:
        raise SailvitError(f"stages.{stage.key}.adapters.{module}: {error}") from error


def _adapted(name: str, adapters: Any) -> str:
    return f" by adapters ({adapters[name].method})" if name in adapters else ""


# The start


def _start(recipe: Recipe, found: DryRun, ask_hub: bool, path: str | Path | None) -> Any:
    """The model at its start, without weights; None if its sizes are not known."""
    start, lines = recipe.start, list[str]()
    found.lines.append(("start", lines))
    if start.model is not None:
        lines.append(f"model: {start.model}")
        whole = _config(start.model, start.model_revision, "start.model", found, ask_hub)
        return _sized(whole, recipe, found, path)
    lines += [f"vision_tower: {start.vision_tower}", f"language_model: {start.language_model}"]
    if start.pictures is not None:
        lines.append(f"pictures: {start.pictures.statistics} statistics, at most {start.pictures.max_tiles} tiles")
    if "demo" in (start.vision_tower, start.language_model):
        from ..foundations import FoundationSettings, demo_configs

        demo = demo_configs(demo_world(), FoundationSettings(**recipe.foundations.settings()))
    configs = []
    for number, key in enumerate(("vision_tower", "language_model")):
        source, revision = getattr(start, key), getattr(start, f"{key}_revision")
        configs.append(demo[number] if source == "demo" else _config(source, revision, f"start.{key}", found, ask_hub))
    if None in configs:
        return _sized(None, recipe, found, path)
    layer = {} if start.vision_feature_layer is None else {"vision_feature_layer": start.vision_feature_layer}

    def join() -> Any:
        tower = vision_half(AutoModel.from_config(configs[0]))
        return SAILViTForConditionalGeneration.from_parts(
            tower, AutoModelForCausalLM.from_config(configs[1]), image_token_id=0, **layer
        )

    return found.note(lambda: _made(join))


def _sized(config: Any, recipe: Recipe, found: DryRun, path: str | Path | None) -> Any:
    """A model of a configuration; of none of what the planner knows without asking anybody for weights."""
    if config is None:
        try:
            config = model_config(recipe, path)[0]
        except SailvitError:
            return None
    return found.note(lambda: _made(lambda: SAILViTForConditionalGeneration(config)))


def _made(make: Callable[[], Any]) -> Any:
    try:
        with torch.device("meta"):
            return make()
    except (ValueError, TypeError, AttributeError) as error:
        raise SailvitError(f"start: the model cannot be made: {error}") from error


def _config(source: str, revision: str | None, key: str, found: DryRun, ask_hub: bool) -> Any:
    """A part's configuration, from its folder, the Hub or the cache; None, and a note, if it is not at hand."""
    local = Path(source).expanduser().exists()
    if not local and source.count("/") != 1:
        found.missing.append(f"{key}: there is no folder {source} (yet): run what makes it first, or mend the name")
        return None
    try:
        offline = not (local or ask_hub)
        values, _ = PreTrainedConfig.get_config_dict(source, revision=revision, local_files_only=offline)
        if values.get("model_type") == "aimv2" and "vision_config" not in values:  # Apple's
            return SAILViTConfig(**{name: values[name] for name in _APPLE_FIELDS if name in values})
        return AutoConfig.from_pretrained(source, revision=revision, local_files_only=offline)
    except (OSError, ValueError, KeyError) as error:
        if local or ask_hub:
            found.missing.append(f"{key}: {source} cannot be read: {next(iter(str(error).strip().splitlines()), '')}")
        else:
            found.unchecked.append(f"{key}: {source} on the Hub")
    return None


# Data and revisions


def _data(recipe: Recipe, run: Run, found: DryRun, ask_hub: bool) -> None:
    """Look at every source once: local ones as a run would, of one on the Hub the first row with its pictures."""
    on_hub: dict[str, int] = {}
    seen: list[Source] = []
    lines = []
    for key, plan in recipe.stages.items():
        for source in plan.data:
            bare = Source(messages=source.messages, image_root=source.image_root, dataset=source.dataset)
            if source.demo is not None or bare in seen:
                continue
            seen.append(bare)
            match = run.arguments[key].match_image_extension
            remote = source.dataset is not None and not Path(source.dataset.path).expanduser().exists()
            if source.dataset is not None and remote:
                place = found.note(lambda path=source.dataset.path: find_place(path))  # type: ignore[misc]
                if place is None:
                    continue
                if place.kind == "hub" and not ask_hub:
                    on_hub[source.dataset.path] = on_hub.get(source.dataset.path, 0) + 1
                    continue
                if place.kind == "hub":
                    found.note(lambda source=source: _first_row(source))  # type: ignore[misc]
                    continue
            rows = found.note(lambda source=source, match=match: open_source(source, 0, match))  # type: ignore[misc]
            if hasattr(rows, "__len__"):
                lines.append(f"{source_name(source)}: {len(rows):,} rows")
    if lines:
        found.lines.append(("data", lines))
    for path, count in on_hub.items():
        found.unchecked.append(f"data: {path} on the Hub" + (f" ({count} of its parts)" if count > 1 else ""))


def _first_row(source: Source) -> None:
    dataset = source.dataset
    assert dataset is not None
    names = ("format", "image_root", "split", "name", "revision")
    ConversationStream(dataset.path, **{name: getattr(dataset, name) for name in names})


def _revisions(recipe: Recipe, found: DryRun, ask_hub: bool) -> None:
    """Name what is taken from the Hub at no certain commit, with the commit if it can be asked for."""
    start = recipe.start
    taken = {
        (getattr(start, key), getattr(start, f"{key}_revision"), "model")
        for key in ("vision_tower", "language_model", "model")
    }
    sets = [source.dataset for plan in recipe.stages.values() for source in plan.data if source.dataset is not None]
    taken |= {(dataset.path, dataset.revision, "dataset") for dataset in sets}
    lines = []
    for name, revision, kind in sorted(taken, key=str):
        if name in (None, "demo") or name.count("/") != 1 or Path(name).expanduser().exists():
            continue
        if revision is not None and len(revision) == 40:
            continue
        commit = found.note(lambda n=name, r=revision, k=kind: _commit(n, r, k)) if ask_hub else None  # type: ignore[misc]
        lines.append(f"{name} at {revision or 'main'}" + (f", now {commit}" if commit else ""))
    if lines:
        found.lines.append(("not pinned to a commit", lines))


def _commit(name: str, revision: str | None, kind: str) -> str | None:
    try:
        return HfApi().repo_info(name, revision=revision, repo_type=kind).sha
    except Exception as error:  # the client's own errors, whichever client it is
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SailvitError(f"{name} cannot be asked for its commit: {reason}") from error
