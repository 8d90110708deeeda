# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Recipes: one short YAML file that says what a refinement run starts from, trains on and measures.

The parser is strict: an unknown key or a value of a wrong type is an error that names the dotted key, and the nearest
valid one. The layout is the dataclasses below, `Recipe` on top; `docs/recipes.md` shows it with examples.
"""

import dataclasses
import difflib
import functools
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, Union

import yaml

from ...data.formats import FORMATS
from ...errors import SailvitError
from ..adapters.plan import AdaptersPlan
from .borrowed import borrow_stages

T = TypeVar("T")

STAGE_KEYS = ("coarse", "fine", "world", "direct", "basic", "multitask")
"""Keys allowed under `stages`; `direct` is the comparison that trains everything at once (ours), the last two train a
model that uses a refined tower."""

RESERVED_ARGUMENTS = {
    "output_dir": "`output_dir` at the top of the recipe",
    "seed": "`seed` at the top of the recipe",
    "resume_from_checkpoint": "the command's --resume",
    "remove_unused_columns": "nothing: the collator needs every column",
    "hub_token": "`hf auth login` or HF_TOKEN, for a recipe is copied into the run's folder",
    "logging_dir": "`output_dir` at the top of the recipe",
}
"""Fields of `RefinementArguments` that the pipeline sets itself, and what to use instead."""


@dataclass(frozen=True, kw_only=True)
class DemoSource:
    """Samples of the demo world. `stage` names whose samples they are; None: the stage's own."""

    samples: int
    stage: str | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetSource:
    """A data set of conversations: a file, folder, pattern or Hub id; see `data.reading.read_entries`.

    `streaming`: read it on the way instead of preparing it. `shuffle_buffer`: of a stream, how many rows that follow
    each other are shuffled together; None is its own default.
    """

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    format: str = "auto"
    streaming: bool = False
    image_root: str | None = None
    shuffle_buffer: int | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """One source of training samples: exactly one of `demo`, `messages` (a JSONL file) and `dataset`.

    `weight`: its share of the samples; `max_samples`: use no more of them; `epochs`: how often they come in one pass;
    see `data.mixture`.
    """

    demo: DemoSource | None = None
    messages: str | None = None
    image_root: str | None = None
    dataset: DatasetSource | None = None
    weight: float | None = None
    max_samples: int | None = None
    epochs: float | None = None

    @property
    def streaming(self) -> bool:
        """Whether it is read on the way."""
        return self.dataset is not None and self.dataset.streaming

    @property
    def mixed(self) -> bool:
        """Whether it says how much of it there is to be."""
        return (self.weight, self.max_samples, self.epochs) != (None, None, None)


@dataclass(frozen=True, kw_only=True)
class PicturesPlan:
    """SAILViT's image processor instead of the tower's own: pictures become squares of the tower's size, large ones
    up to `max_tiles` of them and a thumbnail; `statistics` are `imagenet`'s (SAILViT) or `clip`'s (AIMv2)."""

    statistics: str = "imagenet"
    max_tiles: int = 1


@dataclass(frozen=True, kw_only=True)
class Start:
    """What refinement starts from: two parts, or one whole vision-language checkpoint (`model`).

    `vision_feature_layer`: the output of the tower that is used and refined, the final one when not given.
    `pictures`: how pictures are prepared, as the tower's own image processor says when not given.
    """

    vision_tower: str | None = None
    vision_tower_revision: str | None = None
    vision_feature_layer: int | None = None
    language_model: str | None = None
    language_model_revision: str | None = None
    model: str | None = None
    model_revision: str | None = None
    pictures: PicturesPlan | None = None


@dataclass(frozen=True, kw_only=True)
class FoundationsPlan:
    """How the demo foundations are made: the fields of `FoundationSettings`, whose defaults hold for None.

    `seed` None is the recipe's; `cache_dir` None is the user's cache.
    """

    seed: int | None = None
    cache_dir: str | None = None
    vision_steps: int | None = None
    vision_learning_rate: float | None = None
    vision_batch_size: int | None = None
    language_steps: int | None = None
    language_learning_rate: float | None = None
    language_batch_size: int | None = None
    samples: int | None = None
    vision_hidden_size: int | None = None
    vision_intermediate_size: int | None = None
    vision_layers: int | None = None
    vision_heads: int | None = None
    vision_image_size: int | None = None
    vision_patch_size: int | None = None

    def settings(self) -> dict[str, Any]:
        """The fields of `FoundationSettings` that the recipe sets."""
        values = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {name: value for name, value in values.items() if name not in ("seed", "cache_dir")}


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage: where its samples come from (several sources are put together) and its `RefinementArguments`.

    `samples`: how many samples one pass holds, each source by its weight; small ones come again. None: as many as
    `data.mixture` makes of the sources. `adapters`: modules that train through adapters, in whatever stage.
    """

    data: list[Source]
    samples: int | None = None
    adapters: AdaptersPlan = field(default_factory=AdaptersPlan)
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EncoderSwapPlan:
    """The budget of a fresh connector in the encoder swap. `data` None: captions, pages and questions of the demo.

    `bf16`: train it under autocast.
    """

    steps: int
    learning_rate: float
    batch_size: int = 64
    bf16: bool = False
    data: list[Source] | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What is measured: `samples` a data set of the demo world, and/or a held-out `messages` file of your own."""

    samples: int = 512
    messages: str | None = None
    image_root: str | None = None
    batch_size: int = 128
    encoder_swap: EncoderSwapPlan | None = None
    probes: bool = True


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run. `stages` keeps the order of the file; paths are relative to the folder the command runs in.

    `attention`: transformers' `attn_implementation` while a stage trains; its own default when not given.
    `demo_sentences`: the demo world's texts are English sentences, for a language model that is not the demo's.
    """

    name: str
    output_dir: str
    start: Start
    stages: dict[str, StagePlan]
    seed: int = 0
    demo_sentences: bool = False
    attention: str | None = None
    foundations: FoundationsPlan = field(default_factory=FoundationsPlan)
    evaluation: EvaluationPlan | None = None
    report: bool = True

    @property
    def foundations_seed(self) -> int:
        """The seed of the demo foundations."""
        return self.seed if self.foundations.seed is None else self.foundations.seed

    def uses_demo(self) -> bool:
        """Whether any part or any training sample comes from the demo world."""
        sources = [source for plan in self.stages.values() for source in plan.data]
        return bool(self.demo_parts()) or any(source.demo is not None for source in sources)

    def demo_parts(self) -> tuple[str, ...]:
        """The demo foundations that the run needs, by the names of `Foundations`."""
        parts = [name for name in ("vision_tower", "language_model") if getattr(self.start, name) == "demo"]
        swaps = self.evaluation is not None and self.evaluation.encoder_swap is not None
        return (*parts, "second_language_model") if swaps and "language_model" in parts else tuple(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `parse_recipe` turns into an equal recipe."""
        return dataclasses.asdict(self)

    def to_yaml(self) -> str:
        """The recipe as YAML, every default written out."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file.

    Args:
        path: a YAML file.
        overrides: `dotted.key=value` texts applied on top (`seed=3`, `stages.fine.arguments.max_steps=10`); the value
            is read as YAML.

    Raises:
        SailvitError: the file cannot be read, is not YAML, or does not fit the layout.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SailvitError(f"There is no recipe {path}; name a YAML file, such as recipes/demo.yaml.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SailvitError(f"The recipe {path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise SailvitError(f"The recipe {path} is not valid YAML: {_one_line(error)}.") from None
    if not isinstance(data, dict):
        raise SailvitError(f"The recipe {path} holds no keys; it needs at least {', '.join(_required(Recipe))}.")
    borrow_stages(data, path)
    for text in overrides:
        _apply_override(data, text)
    return parse_recipe(data)


def parse_recipe(data: Mapping[str, Any]) -> Recipe:
    """Turn plain values, as read from YAML, into a checked `Recipe`; see `load_recipe` for the errors."""
    recipe: Recipe = _build(Recipe, data, "")
    _check_start(recipe.start, recipe.demo_sentences)
    _check_stages(recipe)
    _check_evaluation(recipe)
    return recipe


def describe_difference(ours: Recipe, theirs: Recipe, may_differ: Collection[str] = ()) -> str | None:
    """The first dotted key in which two recipes differ, with both values, or None.

    `output_dir` does not count, nor do the stages' arguments that `may_differ`.
    """
    left, right = _flatten(ours.to_dict()), _flatten(theirs.to_dict())
    left["output_dir"] = right["output_dir"]
    # The order of the stages is part of a recipe, and a flat dictionary does not show it.
    if list(ours.stages) != list(theirs.stages):
        return f"stages are {', '.join(theirs.stages)} there and {', '.join(ours.stages)} here"
    for key in [*left, *(key for key in right if key not in left)]:
        here, there = left.get(key, "absent"), right.get(key, "absent")
        if here != there and not (key.startswith("stages.") and key.rpartition(".")[2] in may_differ):
            return f"{key} is {there} there and {here} here"
    return None


def _build(cls: type[T], data: Any, key: str) -> T:
    """Make a dataclass of a mapping, checking every key and the type of every value."""
    if not isinstance(data, Mapping):
        raise _wrong_type(key, "a group of keys", data)
    hints = typing.get_type_hints(cls)
    for name in data:
        if name not in hints:
            raise _unknown_key(_join(key, name), str(name), hints, key)
    for name in _required(cls):
        if name not in data:
            raise SailvitError(f"The recipe lacks the key {_join(key, name)}; add it.")
    return cls(**{name: _value(hints[name], value, _join(key, name)) for name, value in data.items()})


def _value(hint: Any, value: Any, key: str) -> Any:
    """Check one value against a type hint of the dataclasses above, and convert it."""
    if _is_union(hint):
        if value is None:
            return None
        (hint,) = (option for option in typing.get_args(hint) if option is not type(None))
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, key)
    if origin is list:
        (item,) = typing.get_args(hint)
        # One source may be written without the dash of a list.
        items = [value] if isinstance(value, Mapping) else value
        if not isinstance(items, list) or not items:
            raise _wrong_type(key, "a list" if item is str else "a source of samples or a list of them", value)
        single = len(items) == 1
        return [_value(item, entry, key if single else f"{key}[{i}]") for i, entry in enumerate(items)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong_type(key, "a group of keys", value)
        return _stages(value, key) if typing.get_args(hint)[1] is StagePlan else dict(value)
    return scalar(hint, value, key)


def _stages(data: Mapping[str, Any], key: str) -> dict[str, StagePlan]:
    for name in data:
        if name not in STAGE_KEYS:
            raise _unknown_key(_join(key, name), str(name), STAGE_KEYS, key)
    return {name: _build(StagePlan, value, _join(key, name)) for name, value in data.items()}


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_NAMES: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def scalar(hint: type, value: Any, key: str) -> Any:
    """Check a text, number or truth value; a float may be a whole number, or a text like 1e-3 (YAML 1.1 reads no
    number there)."""
    if hint is float:
        if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            return float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise _wrong_type(key, _NAMES[hint], value)


def _check_start(start: Start, sentences: bool) -> None:
    parts = {name: getattr(start, name) for name in ("vision_tower", "language_model")}
    if start.model is not None:
        for name in (*parts, "vision_tower_revision", "vision_feature_layer", "language_model_revision", "pictures"):
            if getattr(start, name) is not None:
                raise SailvitError(f"start.{name} and start.model exclude each other; keep one of the two.")
        return
    if start.pictures is not None:
        if start.pictures.statistics not in ("imagenet", "clip"):
            raise SailvitError(
                f"start.pictures.statistics must be imagenet or clip, not {start.pictures.statistics}."
            )
        _check_at_least(start.pictures.max_tiles, 1, "start.pictures.max_tiles")
    for name, value in parts.items():
        if value is None:
            raise SailvitError(f"The recipe lacks the key start.{name}; give both parts, or a whole start.model.")
    if sentences and start.language_model == "demo":
        raise SailvitError("demo_sentences: the demo's language models know its words only; remove it.")


def _check_stages(recipe: Recipe) -> None:
    for name, number in recipe.foundations.settings().items():
        if number <= 0:
            raise SailvitError(f"foundations.{name} must be greater than 0, not {number}.")
    if not recipe.stages:
        raise SailvitError(f"stages is empty; give at least one of {', '.join(STAGE_KEYS)}.")
    for name, plan in recipe.stages.items():
        key = f"stages.{name}"
        _check_sources(plan.data, f"{key}.data", name)
        check_arguments(plan.arguments, f"{key}.arguments")
        plan.adapters.check(f"{key}.adapters")
        _check_samples(plan, key)
        if any(source.streaming for source in plan.data) and plan.arguments.get("max_steps", -1) < 0:
            raise SailvitError(
                f"The recipe lacks the key {key}.arguments.max_steps; a stream has no length that could say it."
            )


def _check_samples(plan: StagePlan, key: str) -> None:
    if plan.samples is None:
        return
    _check_at_least(plan.samples, len(plan.data), f"{key}.samples")
    if any(source.weight is None for source in plan.data) and len(plan.data) > 1:
        raise SailvitError(f"{key}.samples needs to know how much of each source; give all of them a weight.")
    if any(source.streaming for source in plan.data):
        raise SailvitError(f"{key}.samples: a stream has no end; use {key}.arguments.max_steps.")
    if any(source.epochs is not None for source in plan.data):
        raise SailvitError(f"{key}.data.epochs: {key}.samples says already how much there is; keep one of the two.")


def _check_evaluation(recipe: Recipe) -> None:
    plan = recipe.evaluation
    if plan is None:
        return
    for name, number in (("samples", plan.samples), ("batch_size", plan.batch_size)):
        _check_at_least(number, 0 if name == "samples" else 1, f"evaluation.{name}")
    if plan.encoder_swap is not None:
        swap, key = plan.encoder_swap, "evaluation.encoder_swap"
        _check_at_least(swap.steps, 1, f"{key}.steps")
        _check_at_least(swap.batch_size, 1, f"{key}.batch_size")
        if swap.data is not None:
            _check_sources(swap.data, f"{key}.data", None)
            if any(source.streaming for source in swap.data):
                raise SailvitError(f"{key}.data.dataset.streaming: the swap needs samples by index; remove it.")
        elif not recipe.uses_demo():
            raise SailvitError(f"The recipe lacks the key {key}.data; without the demo world the swap needs samples.")


def _check_sources(sources: list[Source], key: str, stage: str | None) -> None:
    if len({source.weight is None for source in sources}) > 1:
        raise SailvitError(f"{key}: some sources have a weight and some have none; give one to all, or to none.")
    for source in sources:
        if sum(kind is not None for kind in (source.demo, source.messages, source.dataset)) != 1:
            raise SailvitError(f"{key} needs exactly one of demo, messages and dataset for each source.")
        _check_amounts(source, key, any(other.streaming for other in sources))
        if source.dataset is not None:
            _check_dataset(source.dataset, f"{key}.dataset")
        if source.image_root is not None and source.messages is None:
            if source.demo is not None:
                raise SailvitError(f"{key}.image_root belongs to messages, not to demo; remove it.")
            raise SailvitError(f"{key}.image_root belongs to messages; did you mean {key}.dataset.image_root?")
        if source.demo is None:
            continue
        _check_at_least(source.demo.samples, 1, f"{key}.demo.samples")
        whose = source.demo.stage or stage
        if whose not in STAGE_KEYS[:3]:
            raise SailvitError(
                f"{key}.demo.stage must be one of {', '.join(STAGE_KEYS[:3])}{_nearest(str(whose), STAGE_KEYS[:3])}."
            )


def _check_amounts(source: Source, key: str, streaming: bool) -> None:
    for name in ("weight", "epochs"):
        number = getattr(source, name)
        if number is not None and not number > 0:
            raise SailvitError(f"{key}.{name} must be greater than 0, not {number}; leave the source out instead.")
    if source.max_samples is not None:
        _check_at_least(source.max_samples, 1, f"{key}.max_samples")
    if streaming and source.epochs is not None and source.epochs != int(source.epochs):
        raise SailvitError(f"{key}.epochs must be a whole number beside a stream, not {source.epochs}.")


def _check_dataset(source: DatasetSource, key: str) -> None:
    layouts = ("auto", *FORMATS)
    if source.format not in layouts:
        raise SailvitError(
            f"{key}.format must be one of {', '.join(layouts)}{_nearest(source.format, layouts)}, not {source.format}."
        )
    if source.shuffle_buffer is not None:
        _check_at_least(source.shuffle_buffer, 0, f"{key}.shuffle_buffer")
        if not source.streaming:
            raise SailvitError(f"{key}.shuffle_buffer belongs to streaming: true; remove it.")


def _check_at_least(number: float, least: float, key: str) -> None:
    if number < least:
        raise SailvitError(f"{key} must be at least {least}, not {number}.")


@functools.cache
def _argument_types() -> dict[str, Any]:
    """The fields of `RefinementArguments` and their types (imports transformers' Trainer, which takes seconds)."""
    from ..arguments import RefinementArguments

    hints = typing.get_type_hints(RefinementArguments)
    return {f.name: hints[f.name] for f in dataclasses.fields(RefinementArguments) if f.init}


def check_arguments(arguments: dict[str, Any], key: str) -> None:
    """Check training arguments against the fields of `RefinementArguments`, converting numbers in place."""
    if not arguments:
        return
    for name, instead in RESERVED_ARGUMENTS.items():
        if name in arguments:
            raise SailvitError(f"{key}.{name} is set by the pipeline; use {instead}.")
    hints = _argument_types()
    for name, value in arguments.items():
        if name not in hints:
            raise _unknown_key(_join(key, name), str(name), [n for n in hints if n not in RESERVED_ARGUMENTS], key)
        arguments[name] = _argument(hints[name], value, _join(key, name))
    # transformers notices these only when it divides by them.
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        _check_at_least(arguments.get(name, 1), 1, f"{key}.{name}")
    steps, epochs = arguments.get("max_steps", -1), arguments.get("num_train_epochs", 1)
    if steps == 0 or steps < 0 and epochs <= 0:
        name = "max_steps" if steps == 0 else "num_train_epochs"
        raise SailvitError(f"{key}.{name} must be greater than 0, not {arguments[name]}; leave a stage out instead.")


def _argument(hint: Any, value: Any, key: str) -> Any:
    """Check a value against any type hint; hints that are neither scalars nor enumerations accept everything."""
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    if value is None:
        if _is_union(hint) and type(None) in options or hint is Any:
            return None
        raise _wrong_type(key, _NAMES.get(hint, "a value"), value)
    wanted = []
    for option in options:
        origin = typing.get_origin(option) or option
        if origin in _NAMES:
            wanted.append(_NAMES[origin])
            try:
                return scalar(origin, value, key)
            except SailvitError:
                continue
        if option is type(None):
            continue
        if isinstance(origin, type) and issubclass(origin, Enum):
            names = [str(member.value) for member in origin]
            wanted.append("one of " + ", ".join(names))
            if value in names:
                return value
        elif origin is Any or not isinstance(origin, type) or isinstance(value, origin):
            return value
        else:
            wanted.append("a group of keys" if origin is dict else f"a {origin.__name__}")
    raise _wrong_type(key, " or ".join(dict.fromkeys(wanted)), value)


def _unknown_key(key: str, name: str, valid: Iterable[str], group: str) -> SailvitError:
    valid = list(valid)
    nearest = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if nearest:
        return SailvitError(f"Unknown key {key} in the recipe; did you mean {_join(group, nearest[0])}?")
    listed = ", ".join(valid) if len(valid) <= 12 else "the fields of RefinementArguments"
    return SailvitError(f"Unknown key {key} in the recipe; valid here are {listed}.")


def _wrong_type(key: str, wanted: str, value: Any) -> SailvitError:
    if value is None:
        found = "nothing"
    elif isinstance(value, bool):
        found = str(value).lower()
    elif isinstance(value, (int, float, str)):
        found = f"the {'text' if isinstance(value, str) else 'number'} {value!r}"
    else:
        found = "a group of keys" if isinstance(value, Mapping) else f"a {type(value).__name__}"
    return SailvitError(f"{key or 'The recipe'} must be {wanted}, but is {found}.")


def _nearest(name: str, valid: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""


def _required(cls: Any) -> list[str]:
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(cls) if f.default is missing and f.default_factory is missing]


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (Union, types.UnionType)


def _join(group: str, name: Any) -> str:
    return f"{group}.{name}" if group else str(name)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _flatten(data: Any, key: str = "") -> dict[str, Any]:
    if isinstance(data, dict) and data:
        return {k: v for name, value in data.items() for k, v in _flatten(value, _join(key, name)).items()}
    return {key: data}


def _apply_override(data: dict[str, Any], text: str) -> None:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise SailvitError(f"--set needs key=value, as in --set stages.fine.arguments.max_steps=10, but got {text!r}.")
    *groups, last = name.strip().split(".")
    node = data
    for depth, group in enumerate(groups):
        node = node.setdefault(group, {})
        if not isinstance(node, dict):
            raise SailvitError(f"--set {name}: {'.'.join(groups[: depth + 1])} is no group of keys in the recipe.")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise SailvitError(f"--set {name}: {value!r} is not valid YAML.") from None
