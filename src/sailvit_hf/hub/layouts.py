# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""How each library names and stacks the tensors of the same vision transformer, and how one becomes another.

Every layout is a list of tensors, each made of pieces stacked along the first axis; pieces are the finest parts that
any layout keeps apart (query, key and value of the attention). Two layouts of one model have the same pieces, so a
tensor of one is a run of byte ranges of the other's. Sources: the published weight index of SAIL-VL2-2B (SAILViT),
`Aimv2VisionModel` of transformers, `VisionTransformer` and `SwiGLU` of timm 1.0 (`fc1_g` is the gate, as `fc1` is in
SAILViT).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isqrt, prod
from typing import Any

from ..errors import SailvitError
from ..modeling.configuration_sailvit import SAILViTConfig
from .weights import DTYPES, NewTensor, Slice, StoredTensor

# What a tensor is -> its name in (SAILViT and original AIMv2, transformers' AIMv2, timm). The q, k and v of
# transformers are one tensor elsewhere.
LAYOUTS = ("sailvit", "aimv2", "timm")
EMBEDDINGS = {
    "patch": ("preprocessor.patchifier.proj.{}", "embeddings.patch_embed.{}", "patch_embed.proj.{}"),
    "patch_norm": ("preprocessor.patchifier.norm.weight", "embeddings.rms_norm.weight", "patch_embed.norm.weight"),
    "positions": ("preprocessor.pos_embed", "embeddings.position_embedding.weight", "pos_embed"),
}
BLOCK_PREFIXES = ("trunk.blocks.{}.", "encoder.layers.{}.", "blocks.{}.")
BLOCK = {
    "norm_1": ("norm_1.weight", "rms_norm1.weight", "norm1.weight"),
    "qkv": ("attn.qkv.{}", ("attention.q_proj.{}", "attention.k_proj.{}", "attention.v_proj.{}"), "attn.qkv.{}"),
    "out": ("attn.proj.{}", "attention.out_proj.{}", "attn.proj.{}"),
    "norm_2": ("norm_2.weight", "rms_norm2.weight", "norm2.weight"),
    "gate": ("mlp.fc1.{}", "ffn.gate_proj.{}", "mlp.fc1_g.{}"),
    "up": ("mlp.fc3.{}", "ffn.up_proj.{}", "mlp.fc1_x.{}"),
    "down": ("mlp.fc2.{}", "ffn.down_proj.{}", "mlp.fc2.{}"),
}
FINAL_NORM = ("trunk.post_trunk_norm.weight", "rms_norm.weight", "norm.weight")

# Where a vision tower may stand in a checkpoint, and the names by which each layout gives itself away.
PREFIXES = ("", "vision_model.", "model.vision_tower.", "vision_tower.", "sailvit.", "timm_model.")
_SIGNS = {
    "sailvit": re.compile(r"(preprocessor\.patchifier\.|trunk\.blocks\.\d+\.)"),
    "aimv2": re.compile(r"(encoder\.layers\.\d+\.(ffn|rms_norm\d)\.|embeddings\.rms_norm\.)"),
    "timm": re.compile(r"(blocks\.\d+\.mlp\.fc1_[gx]\.|patch_embed\.norm\.)"),
}
_HEADS = {
    "sailvit": ("classifier.", "head."),
    "aimv2": ("head.", "classifier."),
    "timm": ("head.", "fc_norm.", "attn_pool."),
}

# timm's registered sizes: width, intermediate size, layers, heads (its aimv2_*_patch14_* functions).
TIMM_SIZES = {
    "large": (1024, 2816, 24, 8),
    "huge": (1536, 4096, 24, 12),
    "1b": (2048, 5632, 24, 16),
    "3b": (3072, 8192, 24, 24),
}
TIMM_RATIOS = {"large": 2.75, "huge": 2.6667, "1b": 2.75, "3b": 2.6667}


@dataclass(frozen=True)
class Tensor:
    """A tensor that a layout wants: its shape and its pieces, (name, number of elements) in their order."""

    shape: tuple[int, ...]
    pieces: tuple[tuple[str, int], ...]


def vision_tensors(layout: str, config: SAILViTConfig, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of a vision tower in a layout, by name.

    Raises:
        SailvitError: the layout cannot say what the configuration asks for.
    """
    column = LAYOUTS.index(layout)
    if layout == "aimv2" and config.qkv_bias != config.use_bias:
        raise SailvitError(
            f"qkv_bias is {config.qkv_bias} and use_bias {config.use_bias}: Aimv2VisionModel has one switch for all "
            "biases of the attention, so such a model can only be converted between sailvit and timm"
        )
    width, inner, patch = config.hidden_size, config.intermediate_size, config.patch_size
    positions = (config.image_size // patch) ** 2
    tensors: dict[str, Tensor] = {}

    def add(name: str, piece: str, *shape: int) -> None:
        tensors[prefix + name] = Tensor(shape, ((piece, prod(shape)),))

    add(EMBEDDINGS["patch"][column].format("weight"), "patch.weight", width, config.num_channels, patch, patch)
    add(EMBEDDINGS["patch"][column].format("bias"), "patch.bias", width)
    add(EMBEDDINGS["patch_norm"][column], "patch_norm", width)
    add(EMBEDDINGS["positions"][column], "positions", *([1] if layout != "aimv2" else []), positions, width)
    linears = {
        "qkv": (width, width, config.qkv_bias),
        "out": (width, width, config.use_bias),
        "gate": (inner, width, config.use_bias),
        "up": (inner, width, config.use_bias),
        "down": (width, inner, config.use_bias),
    }
    for number in range(config.num_hidden_layers):
        start = BLOCK_PREFIXES[column].format(number)
        for part, names in BLOCK.items():
            name: Any = names[column]
            if part not in linears:
                add(start + name, f"{number}.{part}", width)
                continue
            rows, columns, bias = linears[part]
            for kind, shape in (("weight", (rows, columns)), ("bias", (rows,)))[: 1 + bias]:
                pieces = [f"{number}.{part}.{kind}"]
                if part == "qkv":
                    pieces = [f"{number}.{letter}.{kind}" for letter in "qkv"]
                if isinstance(name, tuple):
                    for one, piece in zip(name, pieces, strict=True):
                        add(start + one.format(kind), piece, *shape)
                else:
                    whole = (shape[0] * len(pieces), *shape[1:])
                    sized = tuple((piece, prod(shape)) for piece in pieces)
                    tensors[prefix + start + name.format(kind)] = Tensor(whole, sized)
    add(FINAL_NORM[column], "norm", width)
    return tensors


def find_vision_tower(names: Iterable[str]) -> tuple[str, str] | None:
    """Layout and prefix of the vision tower among some tensor names; `None` if there is none of this family."""
    names = list(names)
    votes = {
        (layout, prefix): sum(1 for name in names if name.startswith(prefix) and sign.match(name[len(prefix) :]))
        for layout, sign in _SIGNS.items()
        for prefix in PREFIXES
    }
    best = max(votes, key=lambda place: votes[place])
    return best if votes[best] else None


def is_head(layout: str, prefix: str, name: str) -> bool:
    """Whether a tensor belongs to a head on the tower: a classifier or an attention pooling."""
    inside = name[len(prefix) :] if name.startswith(prefix) else name
    return inside.startswith(_HEADS[layout])


def config_of_shapes(layout: str, prefix: str, stored: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """The fields of a [`SAILViTConfig`] that the shapes of the tensors tell; heads are AIMv2's, 128 channels each.

    Raises:
        SailvitError: a tensor that tells one is missing or misshapen.
    """
    column = LAYOUTS.index(layout)

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        tensor = stored.get(prefix + name)
        if tensor is None or len(tensor.shape) != dimensions:
            found = "missing" if tensor is None else f"of shape {tensor.shape}"
            raise SailvitError(
                f"{prefix + name} is {found}, and there is no config.json that would tell the model's sizes: "
                "give the folder with its config.json, or a preset"
            )
        return tensor.shape

    width, channels, patch, _ = shape(EMBEDDINGS["patch"][column].format("weight"), 4)
    positions = shape(EMBEDDINGS["positions"][column], 2 if layout == "aimv2" else 3)[-2]
    if isqrt(positions) ** 2 != positions:
        raise SailvitError(
            f"{prefix}{EMBEDDINGS['positions'][column]} has {positions} positions, which is no square grid: give the "
            "config.json that goes with the weights"
        )
    block = re.compile(re.escape(prefix) + BLOCK_PREFIXES[column].replace(".", r"\.").format(r"(\d+)"))
    numbers = {int(found.group(1)) for name in stored if (found := block.match(name))}
    start = BLOCK_PREFIXES[column].format(0)
    qkv: Any = BLOCK["qkv"][column]
    qkv = qkv[0] if isinstance(qkv, tuple) else qkv
    gate, _ = shape(start + str(BLOCK["gate"][column]).format("weight"), 2)
    fields = {
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": isqrt(positions) * patch,
        "intermediate_size": gate,
        "num_hidden_layers": max(numbers) + 1 if numbers else 0,
        "qkv_bias": prefix + start + qkv.format("bias") in stored,
        "use_bias": prefix + start + str(BLOCK["down"][column]).format("bias") in stored,
    }
    if width % 128 == 0:
        fields["num_attention_heads"] = width // 128
    return fields


def check(
    wanted: Mapping[str, Tensor], found: Mapping[str, StoredTensor], unexpected: Iterable[str], what: str
) -> None:
    """Compare the tensors of a checkpoint with the layout's, before anything is written.

    Args:
        unexpected: Names that are neither of the layout nor meant to be left out.

    Raises:
        SailvitError: naming what is missing, unexpected or misshapen.
    """
    missing = [name for name in wanted if name not in found]
    misshapen = [
        f"{name} is {_times(found[name].shape)} instead of {_times(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems = []
    for kind, names in (("missing", missing), ("unexpected", sorted(unexpected)), ("misshapen", misshapen)):
        if names:
            problems.append(f"{kind}: {_some(names)}")
    if problems:
        raise SailvitError(
            f"The checkpoint is not a whole {what}; {'; '.join(problems)}; fetch it again, or mend its config.json"
        )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def _some(names: list[str], shown: int = 6) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def assemble(
    target: Mapping[str, Tensor],
    source: Mapping[str, Tensor],
    stored: Mapping[str, StoredTensor],
    dtype: str | None = None,
) -> dict[str, NewTensor]:
    """Say for each tensor of the target which bytes of the source it is made of.

    Args:
        dtype: Type to store numbers as; as in the source when not given.

    Raises:
        SailvitError: parts of one tensor are stored as different types, or one is stored as a type that cannot change.
    """
    places: dict[str, Slice] = {}
    for name, tensor in source.items():
        first = 0
        for piece, count in tensor.pieces:
            places[piece] = stored[name].part(first, count)
            first += count
    new = {}
    for name, tensor in target.items():
        slices = tuple(places[piece] for piece, _ in tensor.pieces)
        kinds = {piece.dtype for piece in slices}
        if dtype is None and len(kinds) > 1:
            found = " and ".join(sorted(kinds))
            raise SailvitError(f"The parts of {name} are stored as {found}: choose one dtype for all (--dtype)")
        if dtype is not None and not kinds <= DTYPES.keys():
            raise SailvitError(f"{name} is stored as {kinds.pop()}, which cannot become {dtype}: keep the dtype")
        new[name] = NewTensor(tensor.shape, dtype or kinds.pop(), slices)
    return new
