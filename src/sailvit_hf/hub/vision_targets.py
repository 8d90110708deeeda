# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What stands beside the weights of a converted vision tower: configuration, code, image processor."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Aimv2VisionConfig, Aimv2VisionModel
from transformers.utils import logging

from ..errors import SailvitError
from ..modeling.configuration_sailvit import SAILViTConfig
from ..modeling.modeling_sailvit import SAILViTModel
from . import preprocessing as pictures
from .layouts import TIMM_SIZES
from .weights import WEIGHTS_NAME

_TIMM_IMAGES = (224, 336, 448)


def write_sailvit(folder: Path, config: SAILViTConfig, prepared: pictures.Preprocessing, dtype: str | None) -> None:
    """The files of a SAILViT: configuration, code, image processor."""
    save_without_weights(folder, SAILViTModel, config, dtype)
    pictures.write_sailvit(folder, prepared)


def save_without_weights(folder: Path, kind: Any, config: Any, dtype: str | None) -> None:
    """Write all that `save_pretrained` of a model class writes, but its weights."""
    with torch.device("meta"):
        model = kind(config)
    if dtype is not None:
        model.to(getattr(torch, dtype))
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # of nothing
    try:
        model.save_pretrained(folder, state_dict={})
    finally:
        if shown:
            logging.enable_progress_bar()
    (folder / WEIGHTS_NAME).unlink(missing_ok=True)


def aimv2_config(config: SAILViTConfig) -> Aimv2VisionConfig:
    """The configuration of the `Aimv2VisionModel` that computes the same: a table of positions, no head."""
    fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels")
    more = ("image_size", "patch_size", "rms_norm_eps", "attention_dropout", "qkv_bias", "initializer_range")
    values = {name: getattr(config, name) for name in (*fields, *more)}
    return Aimv2VisionConfig(**values, mlp_bias=config.use_bias, hidden_act="silu", use_head=False, is_native=False)


def write_aimv2(folder: Path, config: SAILViTConfig, prepared: pictures.Preprocessing, dtype: str | None) -> None:
    """The files of an `Aimv2VisionModel`."""
    save_without_weights(folder, Aimv2VisionModel, aimv2_config(config), dtype)
    pictures.write_aimv2(folder, prepared)


def timm_config(config: SAILViTConfig, prepared: pictures.Preprocessing) -> dict[str, Any]:
    """timm's `config.json`: a registered AIMv2 where there is one, else one with other arguments.

    Raises:
        SailvitError: timm's AIMv2 cannot be told what the configuration asks for.
    """
    if config.rms_norm_eps != 1e-5:
        raise SailvitError(f"rms_norm_eps is {config.rms_norm_eps}, and timm's AIMv2 knows 1e-05 only: choose aimv2")
    sizes = (config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads)
    size = next((name for name, known in TIMM_SIZES.items() if known == sizes), None)
    image = config.image_size if config.image_size in _TIMM_IMAGES else 448
    arguments: dict[str, Any] = {}
    if config.image_size != image:
        arguments["img_size"] = config.image_size
    if config.patch_size != 14:
        arguments["patch_size"] = config.patch_size
    if config.num_channels != 3:
        arguments["in_chans"] = config.num_channels
    if size is None:
        ratio = config.intermediate_size / config.hidden_size
        if int(config.hidden_size * ratio) != config.intermediate_size:  # timm cuts the product off
            ratio = (config.intermediate_size + 0.5) / config.hidden_size
        arguments.update(
            embed_dim=config.hidden_size,
            depth=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            mlp_ratio=ratio,
        )
    if config.qkv_bias:
        arguments["qkv_bias"] = True
    if config.use_bias:
        arguments["proj_bias"] = True
    values: dict[str, Any] = {
        "architecture": f"aimv2_{size or 'large'}_patch14_{image}",
        "num_classes": 0,
        "num_features": config.hidden_size,
        "global_pool": "avg",
    }
    if arguments:
        values["model_args"] = arguments
    values["pretrained_cfg"] = {
        "tag": "sailvit",
        "custom_load": False,
        "input_size": [config.num_channels, config.image_size, config.image_size],
        "fixed_input_size": True,
        **prepared.as_timm(),
        "num_classes": 0,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    return values


def write_timm(folder: Path, config: SAILViTConfig, prepared: pictures.Preprocessing, dtype: str | None) -> None:
    """The files that `timm.create_model("local-dir:FOLDER", pretrained=True)` reads."""
    text = json.dumps(timm_config(config, prepared), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


WRITERS = {"sailvit": write_sailvit, "aimv2": write_aimv2, "timm": write_timm}
