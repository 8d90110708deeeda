# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The configuration of the model that a recipe trains, found without its weights and if possible without network."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from transformers import CONFIG_MAPPING, AutoConfig

from ...errors import SailvitError
from ...modeling.configuration_sailvit import SAILViTConfig, SAILViTVLMConfig
from ..recipes.recipe import Recipe, load_recipe

_QWEN3 = {"model_type": "qwen3", "vocab_size": 151936, "head_dim": 128, "tie_word_embeddings": True}
_QWEN2 = {"model_type": "qwen2", "vocab_size": 151936, "tie_word_embeddings": True}


def _sizes(hidden: int, inner: int, layers: int, heads: int, groups: int) -> dict[str, int]:
    return {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": groups}  # fmt: skip


# What plans need of the `config.json` of models that the recipes name, so that they can be planned without network.
# Source: that file in the repository of each; Qwen3-1.7B is also inside of the one published with SAIL-VL2-2B.
KNOWN: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "Qwen/Qwen3-0.6B": {**_QWEN3, **_sizes(1024, 3072, 28, 16, 8)},
        "Qwen/Qwen3-1.7B": {**_QWEN3, **_sizes(2048, 6144, 28, 16, 8)},
        "Qwen/Qwen3-4B": {**_QWEN3, **_sizes(2560, 9728, 36, 32, 8)},
        "Qwen/Qwen3-8B": {**_QWEN3, **_sizes(4096, 12288, 36, 32, 8), "tie_word_embeddings": False},
        "Qwen/Qwen2.5-0.5B-Instruct": {**_QWEN2, **_sizes(896, 4864, 24, 14, 2)},
        "Qwen/Qwen2.5-1.5B-Instruct": {**_QWEN2, **_sizes(1536, 8960, 28, 12, 2)},
        "Qwen/Qwen2.5-7B-Instruct": {
            **_QWEN2, **_sizes(3584, 18944, 28, 28, 4), "vocab_size": 152064, "tie_word_embeddings": False,
        },
        "HuggingFaceTB/SmolLM2-135M": {
            "model_type": "llama", "vocab_size": 49152, "tie_word_embeddings": True, **_sizes(576, 1536, 30, 9, 3),
        },
        "HuggingFaceTB/SmolLM2-360M": {
            "model_type": "llama", "vocab_size": 49152, "tie_word_embeddings": True, **_sizes(960, 2560, 32, 15, 5),
        },
        "HuggingFaceTB/SmolLM2-1.7B": {
            "model_type": "llama", "vocab_size": 49152, "tie_word_embeddings": True, **_sizes(2048, 8192, 24, 32, 32),
        },
    }
)  # fmt: skip
# Towers in Apple's layout, which become SAILViT's (the same network) when they are read.
_TOWERS = MappingProxyType(
    {"apple/aimv2-large-patch14-448": "large", "apple/aimv2-huge-patch14-448": "huge"},
)
# One model under further names.
_SAME = MappingProxyType(
    {
        "Qwen/Qwen3-1.7B-Instruct": "Qwen/Qwen3-1.7B",
        "HuggingFaceTB/SmolLM2-135M-Instruct": "HuggingFaceTB/SmolLM2-135M",
        "HuggingFaceTB/SmolLM2-360M-Instruct": "HuggingFaceTB/SmolLM2-360M",
        "HuggingFaceTB/SmolLM2-1.7B-Instruct": "HuggingFaceTB/SmolLM2-1.7B",
    }
)


def model_config(recipe: Recipe, path: str | Path | None = None) -> tuple[SAILViTVLMConfig, int]:
    """The configuration of the model that a recipe trains, and into how many tiles it cuts a picture at most.

    A part is looked for in this order: a local folder; what another recipe will have left there (those in the same
    folder as `path` and in its neighbours); the table of known models; the Hub.

    Raises:
        SailvitError: a part is found nowhere.
    """
    start, pictures = recipe.start, recipe.start.pictures
    tiles = 1 if pictures is None else pictures.max_tiles
    if start.model is not None:
        earlier = _recipe_that_leaves(start.model, path)
        if not _is_local(start.model) and earlier is not None:
            return model_config(*earlier)
        return _load("start.model", start.model, start.model_revision), _tiles_of(start.model)
    tower = _vision_config(recipe, path)
    text = _text_config(recipe)
    options = {} if start.vision_feature_layer is None else {"vision_feature_layer": start.vision_feature_layer}
    return SAILViTVLMConfig(vision_config=tower, text_config=text, image_token_id=0, **options), tiles


def _tiles_of(folder: str) -> int:
    """What the processor beside a checkpoint says; 1 where there is none to read."""
    try:
        values = json.loads((Path(folder) / "processor_config.json").read_text(encoding="utf-8"))
        return int(values["image_processor"].get("max_tiles", 1))
    except (OSError, ValueError, KeyError, AttributeError):
        return 1


def _is_local(source: str) -> bool:
    return (Path(source) / "config.json").is_file()


def _vision_config(recipe: Recipe, path: str | Path | None) -> Any:
    source = str(recipe.start.vision_tower)
    if source == "demo":
        from ..foundations import FoundationSettings

        return FoundationSettings(**recipe.foundations.settings()).vision_config()
    earlier = None if _is_local(source) else _recipe_that_leaves(source, path)
    if earlier is not None:
        return model_config(*earlier)[0].vision_config
    if source in _TOWERS and not _is_local(source):
        return SAILViTConfig.preset(_TOWERS[source])
    found = _load("start.vision_tower", source, recipe.start.vision_tower_revision)
    return getattr(found, "vision_config", found)


def _text_config(recipe: Recipe) -> Any:
    source = str(recipe.start.language_model)
    if source == "demo":
        from ..foundations import _first_language_config
        from ..pipeline import demo_world

        return _first_language_config(demo_world().tokenizer())
    name = _known(source)
    if name is not None and not _is_local(source):
        values = dict(KNOWN[name])
        return CONFIG_MAPPING[values.pop("model_type")](**values)
    return _load("start.language_model", source, recipe.start.language_model_revision)


def _known(source: str) -> str | None:
    """The known model of this name; a folder that is not there yet is known by its last word."""
    for name in (*KNOWN, *_SAME):
        if source == name or Path(source).name == name.split("/")[-1]:
            return _SAME.get(name, name)
    return None


def _load(key: str, source: str, revision: str | None) -> Any:
    try:
        return AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SailvitError(
            f"{key}: the sizes of {source} are not known here, and its configuration cannot be read: {reason}"
        ) from error


def _recipe_that_leaves(folder: str, path: str | Path | None) -> tuple[Recipe, Path] | None:
    """The recipe whose run will have made `folder`."""
    wanted = Path(folder)
    for other in _recipes_near(path):
        try:
            values = yaml.safe_load(other.read_text(encoding="utf-8"))
            made = Path(values["output_dir"])
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
            continue  # no recipe
        if made in wanted.parents:
            return load_recipe(other), other
    return None


def _recipes_near(path: str | Path | None) -> Iterator[Path]:
    if path is None:
        return
    here = Path(path).resolve().parent
    seen = {Path(path).resolve()}
    for other in (*sorted(here.glob("*.yaml")), *sorted(here.parent.glob("*/*.yaml"))):
        if other not in seen:
            seen.add(other)
            yield other
