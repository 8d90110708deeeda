# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a conversion starts from: a folder, a file or a Hub repository, its configuration and its vision tower."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from ..errors import SailvitError
from ..modeling.configuration_sailvit import PRESETS, SAILViTConfig
from .layouts import TIMM_RATIOS, TIMM_SIZES, config_of_shapes, find_vision_tower
from .weights import StoredTensor, read_headers, read_json, weight_files

_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*", "NOTICE*"]


@dataclass(frozen=True)
class Source:
    """A checkpoint as it is found.

    Attributes:
        name: What the caller called it.
        path: A folder, or one safetensors file.
        revision: Commit of the Hub repository, if it is one.
        tensors: What its safetensors files hold.
        layout, prefix: Of the vision tower among them.
        preset: Name of the configuration to use instead of `config.json`.
    """

    name: str
    path: Path
    revision: str | None
    tensors: Mapping[str, StoredTensor] = field(repr=False)
    layout: str
    prefix: str
    preset: str | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json` beside the weights; empty if there is none."""
        path = self.file("config.json")
        return read_json(path) if path is not None and self.preset is None else {}

    def file(self, name: str) -> Path | None:
        """A file of the checkpoint, if it is there."""
        path = self.folder / name
        return path if path.is_file() else None

    @property
    def folder(self) -> Path:
        """Where the files beside the weights are."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def described(self) -> str:
        """The name and the commit, for the card; of what was on this machine, no more than its last name."""
        if self.revision:
            return f"{self.name} at revision {self.revision}"
        return f"`{self.path.resolve().name}`, a local {'folder' if self.path.is_dir() else 'file'}"

    @property
    def license(self) -> str | None:
        """What the source's card says in its `license` field."""
        path = self.file("README.md")
        try:
            card = metadata_load(path) if path is not None else None
        except ValueError:
            return None
        value = (card or {}).get("license")
        return value if isinstance(value, str) else None

    @cached_property
    def vision_config(self) -> SAILViTConfig:
        """The configuration of the vision tower, whatever library wrote it.

        Raises:
            SailvitError: the configuration describes another kind of model, or nothing tells the model's sizes.
        """
        return read_vision_config(self)


def open_source(name: str, revision: str | None = None, preset: str | None = None) -> Source:
    """Find a checkpoint and read the headers of its weights.

    Args:
        name: Folder, safetensors file, or Hub repository.
        revision: Branch, tag or commit of the repository.
        preset: Name of a configuration for weights without a `config.json`.

    Raises:
        SailvitError: nothing is there, or it holds no vision tower of this family.
    """
    if preset is not None and preset not in PRESETS:
        raise SailvitError(f"There is no preset {preset!r}: choose one of {', '.join(PRESETS)}")
    path, commit = _locate(name, revision)
    tensors = read_headers(weight_files(path))
    found = find_vision_tower(tensors)
    if found is None:
        seen = ", ".join(list(tensors)[:4]) or "no tensor"
        raise SailvitError(
            f"{name} holds no vision tower of the SAILViT family (SAILViT, AIMv2 of Apple, transformers or timm); it "
            f"holds {seen}{' ...' if len(tensors) > 4 else ''}: name a checkpoint of one of these"
        )
    return Source(name, path, commit, tensors, *found, preset)


def _locate(name: str, revision: str | None) -> tuple[Path, str | None]:
    path = Path(name).expanduser()
    if path.exists():
        if revision is not None:
            raise SailvitError(f"{name} is on this machine, where it has no revisions: leave the revision out")
        return path, None
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise SailvitError(f"{name} does not exist: name a folder, a safetensors file or a Hub repository")
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_PATTERNS))
    except LocalEntryNotFoundError as error:
        raise SailvitError(
            f"{name} is neither on this machine nor in the cache, and the Hub was not asked or did not answer: "
            "check the name and the connection"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SailvitError(f"{name} cannot be fetched from the Hub ({reason}): check the name and revision") from error
    return folder, folder.name


def read_vision_config(source: Source) -> SAILViTConfig:
    """See [`Source.vision_config`]."""
    if source.preset is not None:
        return SAILViTConfig.preset(source.preset)
    values = source.config.get("vision_config") or source.config
    fields = _fields(values, source)
    if _needs_shapes(values, fields):
        fields = {**config_of_shapes(source.layout, source.prefix, source.tensors), **fields}
    if "num_attention_heads" not in fields:
        raise SailvitError(
            f"{source.name} has no config.json, and its width {fields.get('hidden_size')} does not tell the number of "
            "attention heads: give the folder with its config.json, or a preset"
        )
    try:
        return SAILViTConfig(**fields)
    except (ValueError, TypeError) as error:
        raise SailvitError(f"config.json of {source.name} describes no SAILViT ({error}): mend it") from error


_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
_SHARED = (*_SIZES, "num_channels", "rms_norm_eps", "attention_dropout", "qkv_bias", "initializer_range")


def _needs_shapes(values: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    # Of these two kinds a file may leave out what is the default.
    return not {*_SIZES} <= fields.keys() and values.get("model_type") not in ("sailvit", "aimv2_vision_model")


def _fields(values: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """The fields of a [`SAILViTConfig`] that a vision configuration of any library sets."""
    if "architecture" in values or "pretrained_cfg" in values:
        return _timm_fields(values, source)
    fields = {key: values[key] for key in _SHARED if key in values}
    for key in ("image_size", "patch_size"):
        if key in fields:
            fields[key] = _square(fields[key], key, source)
    if source.layout == "aimv2":
        if values.get("is_native"):
            raise SailvitError(
                f"{source.name} computes its positions (is_native), it has no table of them: convert a checkpoint of "
                "a fixed image size, as the ones for 224, 336 or 448 pixels"
            )
        if values.get("hidden_act", "silu") != "silu":
            raise SailvitError(f"hidden_act of {source.name} is {values['hidden_act']}: SAILViT knows silu only")
        if not _needs_shapes(values, fields):
            fields = {"image_size": 224, "use_bias": False, **fields}  # transformers' defaults; ours is 448
        if "mlp_bias" in values:
            fields["use_bias"] = values["mlp_bias"]
    else:
        fields.update({key: values[key] for key in ("use_bias", "projection_dropout") if key in values})
    return fields


def _timm_fields(values: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """What timm's `config.json` says: the sizes of a registered architecture, and the arguments that differ."""
    architecture = str(values.get("architecture"))
    known = re.fullmatch(r"aimv2_([^_]+)_patch(\d+)_(\d+)", architecture)
    if known is None or known.group(1) not in TIMM_SIZES:
        raise SailvitError(f"{source.name} is timm's {architecture}, which is no AIMv2: convert one of its aimv2_*")
    arguments = values.get("model_args") or {}
    width, inner, layers, heads = TIMM_SIZES[known.group(1)]
    width = arguments.get("embed_dim", width)
    if "mlp_ratio" in arguments or "embed_dim" in arguments:
        # As timm does: the product, cut off.
        inner = int(width * arguments.get("mlp_ratio", TIMM_RATIOS[known.group(1)]))
    sides = (values.get("pretrained_cfg") or values).get("input_size", [3, int(known.group(3))])[1:]
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": arguments.get("depth", layers),
        "num_attention_heads": arguments.get("num_heads", heads),
        "num_channels": arguments.get("in_chans", 3),
        "image_size": _square(arguments.get("img_size", sides), "img_size", source),
        "patch_size": _square(arguments.get("patch_size", int(known.group(2))), "patch_size", source),
        "qkv_bias": arguments.get("qkv_bias", False),
        "use_bias": arguments.get("proj_bias", False),
    }


def _square(size: Any, key: str, source: Source) -> Any:
    """The side of a square size, that may be written as one number or as one for each side."""
    if not isinstance(size, (list, tuple)):
        return size
    if len({*size}) != 1:
        raise SailvitError(f"{key} of {source.name} is {list(size)}: only square ones can be converted")
    return size[0]
