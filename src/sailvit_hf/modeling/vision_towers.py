# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What the vision-language model needs to know of *any* vision transformer of transformers.

Towers name their parts differently, put class tokens and registers among the patches, and carry heads that the patches
never go through. All of that is found out here: the layers from the structure, the rest from a small twin of the tower
(two layers, random weights, on the CPU), which is asked instead of trusting names.
"""

import copy
import inspect
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.integrations import is_deepspeed_zero3_enabled

ADVICE = "choose a plain vision transformer, such as SAILViT, AIMv2, SigLIP, CLIP, DINOv2, DINOv3, ViT or InternViT"


@dataclass(frozen=True)
class LayerGroup:
    """Parameters at one height of a model: `embeddings`, `layer_0`, `layer_1`, ..., `head` (final norm and heads)."""

    name: str
    parameter_names: tuple[str, ...]


@dataclass(frozen=True)
class TowerFacts:
    """What a tower's twin showed.

    Attributes:
        leading (`int`, *optional*): Tokens before the patches (class tokens, registers); `None`: all but the patches.
        trailing (`int`): Tokens after them.
        fixed_size (`bool`): Whether it reads pictures of its native size only.
        interpolates (`bool`): Whether its `forward` must be told to read other sizes (`interpolate_pos_encoding`).
        unused (`frozenset[str]`): Parameters that the final patch features do not depend on (heads, poolers, mask
            tokens).
    """

    leading: int | None = 0
    trailing: int = 0
    fixed_size: bool = False
    interpolates: bool = False
    unused: frozenset[str] = frozenset()


_FACTS: dict[tuple[type, str], TowerFacts] = {}


# --- sizes ------------------------------------------------------------------------------------------------------


def vision_half(part: Any) -> Any:
    """Of a contrastive pair (CLIP, SigLIP, AIMv2), model or configuration, the vision half; else the thing itself."""
    name = "vision_config" if isinstance(part, PreTrainedConfig) else "vision_model"
    return getattr(part, name, part)


def patch_sides(config: PreTrainedConfig) -> tuple[int, int]:
    """Height and width of a patch in pixels.

    Raises:
        ValueError: if the tower has no patches.
    """
    size = getattr(config, "patch_size", None)
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    raise ValueError(f"A vision tower of type {config.model_type!r} has no patch grid (no patch_size); {ADVICE}.")


def native_size(config: PreTrainedConfig) -> tuple[int, int]:
    """Height and width in pixels of the pictures that a tower was made for."""
    size = getattr(config, "image_size", None)
    if size is None:  # SigLIP 2 with any aspect ratio says the number of patches of its square position table
        side = math.isqrt(getattr(config, "num_patches", None) or 256)
        height, width = patch_sides(config)
        return side * height, side * width
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def patch_grid(config: PreTrainedConfig, pixel_values: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of patches in pictures `(B, C, H, W)`; what is left over at the edges is not seen."""
    height, width = patch_sides(config)
    return pixel_values.shape[-2] // height, pixel_values.shape[-1] // width


# --- layers -----------------------------------------------------------------------------------------------------


def find_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The stack of a model's transformer layers and its dotted name.

    Raises:
        ValueError: if there is no list of `config.num_hidden_layers` modules of one kind.
    """
    config: Any = model.config
    count = getattr(config, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and len({type(layer) for layer in module}) == 1:
            return name, module
    raise ValueError(f"{type(model).__name__} has no single stack of transformer layers; {ADVICE}.")


def layer_groups(model: nn.Module) -> list[LayerGroup]:
    """A vision model's parameters from the input to the output: embeddings, each layer, final norm and heads.

    Freezing and layer-wise learning rates go by this list. Every parameter is in exactly one group; a group without
    parameters is left out.

    Args:
        model: a vision tower, or a model with a head around one (`SAILViTForImageClassification`).

    Raises:
        ValueError: if the model has no single stack of transformer layers.
    """
    path, layers = find_layers(model)
    after = [f"{name}." for name in _modules_after(model, path)]
    members: dict[str, list[str]] = {
        name: [] for name in ("embeddings", *(f"layer_{index}" for index in range(len(layers))), "head")
    }
    for name, _ in model.named_parameters():
        if name.startswith(f"{path}."):
            group = f"layer_{name.removeprefix(f'{path}.').split('.')[0]}"
        else:
            group = "head" if name.startswith(tuple(after)) else "embeddings"
        members[group].append(name)
    return [LayerGroup(name, tuple(names)) for name, names in members.items() if names]


def _modules_after(model: nn.Module, path: str) -> list[str]:
    """Dotted names of the modules that follow the layers; transformers registers modules in the order of their use."""
    names, module, prefix = [], model, ""
    for step in path.split("."):
        children = list(module._modules)
        names += [prefix + name for name in children[children.index(step) + 1 :]]
        module, prefix = module._modules[step], f"{prefix}{step}."
    return names


class _PassThrough(nn.Module):
    """Stands for a final norm or a head that does not run."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden_states


def _copy_of_frame(module: nn.Module) -> Any:
    """A module of its own with the same parameters, children and hooks."""
    frame: Any = object.__new__(module.__class__)  # a sharded module's own __new__ would build another tower
    # A `forward` on the instance, or a compiled call, belongs to the module that it was made for.
    frame.__dict__ = {key: value for key, value in module.__dict__.items() if key != "forward"}
    frame.__dict__["_compiled_call_impl"] = None
    frame.__dict__["_modules"] = dict(module._modules)
    return frame


def first_layers(tower: nn.Module, count: int) -> Any:
    """A view of a tower that runs its first `count` layers and nothing after them: its output is their output.

    The view shares everything with the tower, which stays whole. It lives as long as one call.
    """
    path, layers = find_layers(tower)
    steps = path.split(".")
    top = frame = _copy_of_frame(tower)
    for step in steps:
        children = list(frame._modules)
        for name in children[children.index(step) + 1 :]:
            if frame._modules[name] is not None and any(True for _ in frame._modules[name].parameters()):
                frame._modules[name] = _PassThrough()
        if step is not steps[-1]:
            frame._modules[step] = _copy_of_frame(frame._modules[step])
            frame = frame._modules[step]
    frame._modules[steps[-1]] = nn.ModuleList(list(layers)[:count])
    return top


def layers_run(config: PreTrainedConfig, layer: int) -> int:
    """How many layers run for `vision_feature_layer` (an index into the hidden states, embeddings first; -1: all).

    Raises:
        ValueError: if there is no such hidden state.
    """
    count: int = config.num_hidden_layers
    if not -count - 1 <= layer <= count:
        raise ValueError(
            f"vision_feature_layer is {layer}, but a tower of {count} layers has the hidden states 0 to {count}; "
            "choose one of them, or -1 for the final output."
        )
    return count if layer == -1 else layer % (count + 1)


def unused_parameters(tower: PreTrainedModel, layer: int = -1) -> frozenset[str]:
    """Names of a tower's parameters that the patch features of `vision_feature_layer` do not depend on.

    They get no gradient: the layers after that one, the final norm (unless `layer` is -1), heads and mask tokens.
    """
    unused = set(tower_facts(tower).unused)
    depth = layers_run(tower.config, layer)
    if layer != -1:
        idle = {"head", *(f"layer_{index}" for index in range(depth, tower.config.num_hidden_layers))}
        unused |= {name for group in layer_groups(tower) if group.name in idle for name in group.parameter_names}
    return frozenset(unused & {name for name, _ in tower.named_parameters()})


# --- features ---------------------------------------------------------------------------------------------------


def patchify(pixel_values: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Pictures `(B, C, H, W)` cut into patches `(B, N, height * width * C)`, channels last, row by row."""
    batch, channels = pixel_values.shape[:2]
    rows, columns = pixel_values.shape[-2] // height, pixel_values.shape[-1] // width
    whole = pixel_values[:, :, : rows * height, : columns * width]
    patches = whole.reshape(batch, channels, rows, height, columns, width).permute(0, 2, 4, 3, 5, 1)
    return patches.reshape(batch, rows * columns, -1)


def tower_inputs(tower: PreTrainedModel, pixel_values: torch.Tensor, facts: TowerFacts) -> dict[str, Any]:
    """What a tower's `forward` wants to be given for pictures `(B, C, H, W)`.

    Raises:
        ValueError: if the pictures are not of the size that the tower is bound to.
    """
    config, size = tower.config, tuple(pixel_values.shape[-2:])
    pixel_values = pixel_values.to(tower.dtype)
    if config.model_type == "siglip2_vision_model":
        # On the CPU: the numbers are read there. No mask: no patch is padding.
        shapes = torch.tensor([patch_grid(config, pixel_values)] * len(pixel_values), device="cpu")
        patches = patchify(pixel_values, *patch_sides(config))
        return {"pixel_values": patches, "pixel_attention_mask": None, "spatial_shapes": shapes}
    native = native_size(config)
    if size == native:
        return {"pixel_values": pixel_values}
    if facts.fixed_size:
        raise ValueError(
            f"The pictures are {size[0]}x{size[1]} pixels, but {type(tower).__name__} reads {native[0]}x{native[1]} "
            "only; set the image processor's size to that."
        )
    return {"pixel_values": pixel_values, **({"interpolate_pos_encoding": True} if facts.interpolates else {})}


def run_tower(
    tower: PreTrainedModel, pixel_values: torch.Tensor, layer: int = -1, facts: TowerFacts | None = None, **kwargs: Any
) -> Any:
    """Run a tower up to `vision_feature_layer`; layers after it, and then the final norm and heads, do not run.

    Args:
        tower ([`~transformers.PreTrainedModel`]): A vision tower.
        pixel_values (`torch.Tensor` of shape `(B, C, H, W)`): Pictures; cast to the tower's dtype.
        layer (`int`, *optional*, defaults to -1): -1 for the final output; else an index into the hidden states,
            embeddings first.
        facts ([`TowerFacts`], *optional*): From [`tower_facts`], so that they need not be looked up.
        kwargs: Passed on to the tower. One that is asked for `output_hidden_states` or `output_attentions` runs to its
            end, and gives them all.

    Returns:
        The tower's output. Its `last_hidden_state` `(B, tokens, h)` is what was asked for, class tokens included.

    Raises:
        ValueError: if the tower has no such hidden state, or does not read pictures of this size.
    """
    inputs = tower_inputs(tower, pixel_values, facts or tower_facts(tower))
    if layer == -1:
        return tower(**inputs, return_dict=True, **kwargs)
    recorded = ("output_hidden_states", "output_attentions")
    if any(kwargs.get(name, getattr(tower.config, name, False)) for name in recorded):
        outputs = tower(**inputs, return_dict=True, **{**kwargs, "output_hidden_states": True})
        outputs.last_hidden_state = outputs.hidden_states[layer]
        return outputs
    view = first_layers(tower, layers_run(tower.config, layer))
    # Hidden states are recorded by hooks that transformers would add to the shared layers at every call of a view.
    return view(**inputs, return_dict=True, output_hidden_states=False, output_attentions=False)


def only_patches(features: torch.Tensor, rows: int, columns: int, facts: TowerFacts) -> torch.Tensor:
    """The patches `(B, rows * columns, h)` of a tower's output, without class tokens and registers.

    Raises:
        ValueError: if the output is not made of these tokens.
    """
    patches = rows * columns
    leading = features.shape[1] - patches if facts.leading is None else facts.leading
    wanted = leading + patches + facts.trailing
    if features.ndim != 3 or features.shape[1] != wanted:
        raise ValueError(
            f"The vision tower gives features of shape {tuple(features.shape)} for a grid of {rows}x{columns} "
            f"patches, not {wanted} tokens a picture; {ADVICE}."
        )
    return features[:, leading : leading + patches]


def patch_features(
    tower: PreTrainedModel, pixel_values: torch.Tensor, layer: int = -1
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Patch features `(B, rows * columns, h)` of pictures `(B, C, H, W)`, row by row, and `(rows, columns)`.

    Args and errors as in [`run_tower`].
    """
    facts = tower_facts(tower)
    grid = patch_grid(tower.config, pixel_values)
    return only_patches(run_tower(tower, pixel_values, layer, facts).last_hidden_state, *grid, facts), grid


# --- the twin ---------------------------------------------------------------------------------------------------


def tower_facts(tower: PreTrainedModel) -> TowerFacts:
    """Where a tower keeps its patches, and what else it does not say; found once for each configuration.

    Raises:
        ValueError: if the tower has no patch grid (convolutional, merging patches on the way, not taking pictures).
    """
    if tower.config.model_type == "sailvit":
        return TowerFacts()  # ours: patches only, any size, nothing unused
    key = (type(tower), tower.config.to_json_string())
    if key not in _FACTS:
        patch_sides(tower.config)
        _, layers = find_layers(tower)
        if len({tuple(parameter.shape for parameter in layer.parameters()) for layer in layers}) != 1:
            name = type(tower).__name__
            raise ValueError(f"The layers of {name} differ in size, as if patches were merged; {ADVICE}.")
        if is_deepspeed_zero3_enabled():
            # A twin's weights would be spread over the devices. Class tokens stand first in all towers named above.
            return TowerFacts(leading=None, interpolates=_takes_interpolation(tower))
        _FACTS[key] = _ask_twin(tower)
    return _FACTS[key]


def _takes_interpolation(tower: PreTrainedModel) -> bool:
    return "interpolate_pos_encoding" in inspect.signature(type(tower).forward).parameters


def _ask_twin(tower: PreTrainedModel) -> TowerFacts:
    """Build a tower of two layers and look at how its tokens and parameters answer to pictures.

    With real numbers: transformers keeps some index tables in caches of the process, which tensors without values (of
    the meta device) would spoil for the tower itself.
    """
    kind, config = type(tower), copy.deepcopy(tower.config)
    config.num_hidden_layers = min(2, config.num_hidden_layers)
    config._attn_implementation = "eager"  # runs anywhere
    # It may be asked while another model is being built: on the meta device, in half precision, without gradients.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.inference_mode(False), torch.enable_grad():
        try:
            with init.no_init_weights():
                twin = kind(config).float().eval()
            generator = torch.Generator("cpu").manual_seed(0)
            for parameter in twin.parameters():
                parameter.data.normal_(std=0.1, generator=generator)
            pictures = torch.randn(2, _channels(config), *native_size(config), generator=generator)
            leading, trailing = _places_of_patches(twin, pictures)
            facts = TowerFacts(leading, trailing, interpolates=_takes_interpolation(tower))
            output = run_tower(twin, pictures[:1], facts=facts).last_hidden_state
            only_patches(output, *patch_grid(config, pictures), facts).sum().backward()
        except Exception as error:
            if ADVICE in str(error):
                raise
            raise ValueError(f"{kind.__name__} gives no grid of patches for pictures ({error}); {ADVICE}.") from error
        unused = [name for name, parameter in twin.named_parameters() if parameter.grad is None]
        fixed_size = not _reads_other_sizes(twin, pictures[:1], facts)
    return replace(facts, unused=frozenset(_in_all_layers(unused, tower)), fixed_size=fixed_size)


def _in_all_layers(names: list[str], tower: PreTrainedModel) -> list[str]:
    """The twin's parameters as the tower's: its last layer stands for the last one, its first for all before."""
    path, layers = find_layers(tower)
    found = []
    for name in names:
        number, _, rest = name.removeprefix(f"{path}.").partition(".")
        if name == f"{path}.{number}.{rest}":
            last = len(layers) - 1
            indices = range(last) if number == "0" and last > 0 else [last]
            found += [f"{path}.{index}.{rest}" for index in indices]
        else:
            found.append(name)
    return found


def _channels(config: PreTrainedConfig) -> int:
    return getattr(config, "num_channels", 3)


def _places_of_patches(twin: PreTrainedModel, pictures: torch.Tensor) -> tuple[int, int]:
    """Number of tokens before and after the patches.

    Changing the second and the last patch of a picture must change two tokens of the embeddings and no other; where
    they are says where the patches begin and that they are in row-major order.
    """
    (rows, columns), (height, width) = patch_grid(twin.config, pictures), patch_sides(twin.config)
    chosen, changed = sorted({1 % (rows * columns), rows * columns - 1}), pictures.clone()
    for row, column in (divmod(index, columns) for index in chosen):
        changed[:, :, row * height : (row + 1) * height, column * width : (column + 1) * width] += 1.0
    with torch.no_grad():
        before, after = (run_tower(twin, batch, 0, TowerFacts()).last_hidden_state for batch in (pictures, changed))
    if before.ndim != 3:
        raise ValueError(f"its embeddings have the shape {tuple(before.shape)}")
    tokens = (before != after).any(-1).any(0).nonzero().flatten().tolist()
    leading = tokens[0] - chosen[0] if tokens else 0
    if tokens != [leading + index for index in chosen]:
        raise ValueError(f"of {rows}x{columns} patches, changing two changes the tokens {tokens}")
    return leading, before.shape[1] - leading - rows * columns


def _reads_other_sizes(twin: PreTrainedModel, pictures: torch.Tensor, facts: TowerFacts) -> bool:
    """Whether pictures with one more row of patches are read, too."""
    taller = nn.functional.pad(pictures, (0, 0, 0, patch_sides(twin.config)[0]))
    try:
        with torch.no_grad():
            output = run_tower(twin, taller, facts=facts).last_hidden_state
        only_patches(output, *patch_grid(twin.config, taller), facts)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    return True


__all__ = ["LayerGroup", "layer_groups", "patch_features", "unused_parameters"]
