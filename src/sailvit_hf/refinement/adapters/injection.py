# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Adapters (LoRA, DoRA and their kin) on the language model and on the vision tower; see docs/adapters.md.

The model keeps its class: peft puts the adapters into the two parts, and whatever saves the model merges a copy. So a
checkpoint is whole as always, and what goes on from it needs neither peft nor this module.
"""

import copy
import functools
import json
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ...errors import SailvitError
from ...modeling.vision_towers import find_layers
from ..launching import refuse
from ..stages import MODULES, RefinementStage, find_module, module_of
from .plan import METHODS, AdapterPlan

ADAPTERS = "adapters"
"""Folder of a checkpoint with the adapters alone, one folder a module, as peft writes them."""

ADAPTABLE = ("vision_tower", "language_model")
_CONNECTOR = "multi_modal_projector"
_WEIGHTS, _CONFIG, _PREFIX = "adapter_model.safetensors", "adapter_config.json", "base_model.model."

# Settings of peft that train or change weights of the model itself, which are then not those of its start.
_TRAIN_MORE = ("modules_to_save", "target_parameters", "trainable_token_indices", "layer_replication")
_INITIAL = (True, False, "gaussian", "orthogonal")
# Evenly spaced layers of a module whose weights a resume looks at: all would take time, one may be untrained.
_LAYERS_CHECKED = 4


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise SailvitError(f"adapters need the package peft ({error}): pip install peft") from error
    return peft


# --- which adapters -----------------------------------------------------------------------------------------------


def lora_config(plan: AdapterPlan) -> Any:
    """The `peft.LoraConfig` of what a recipe says.

    Raises:
        SailvitError: peft is not installed.
    """
    return _peft().LoraConfig(
        r=plan.rank,
        lora_alpha=2 * plan.rank if plan.alpha is None else plan.alpha,
        lora_dropout=plan.dropout,
        target_modules=plan.targets or "all-linear",
        **METHODS[plan.method],
    )


def adapter_configs(peft_config: Any, stage: RefinementStage) -> dict[str, Any]:
    """The adapters of each module, as copies.

    Args:
        peft_config: a `peft.PeftConfig`, which is then meant for each of the two modules that the stage trains, or one
            for each module by name. None: no adapters.

    Raises:
        SailvitError: a module that cannot have adapters, or a setting that would train something else besides.
    """
    if peft_config is None:
        return {}
    if not isinstance(peft_config, Mapping):
        peft_config = {module: peft_config for module in ADAPTABLE if module in stage.trains}
        if not peft_config:
            raise SailvitError(
                f"stage {stage.key!r} trains neither the vision tower nor the language model: say which is to have "
                "adapters, such as peft_config={'language_model': ...}"
            )
    unknown = [name for name in peft_config if name not in ADAPTABLE]
    if unknown:
        raise SailvitError(
            f"{', '.join(unknown)} cannot have adapters: give them to {' or '.join(ADAPTABLE)}; the connector is "
            "always trained as a whole"
        )
    given = {name: copy.deepcopy(peft_config[name]) for name in ADAPTABLE if peft_config.get(name) is not None}
    for name, config in given.items():
        _check_config(name, config)
    return given


def _check_config(name: str, config: Any) -> None:
    peft = _peft()
    if not isinstance(config, peft.PeftConfig) or not hasattr(config, "target_modules") or config.is_prompt_learning:
        raise SailvitError(f"the adapters of {name} are no adapters of linear layers: give a peft.LoraConfig")
    if getattr(config, "modules_to_save", None) and set(config.modules_to_save) == {_CONNECTOR}:
        config.modules_to_save = None  # it is trained anyway
    more = [setting for setting in _TRAIN_MORE if getattr(config, setting, None)]
    if more or getattr(config, "bias", "none") != "none":
        raise SailvitError(
            f"{', '.join(more) or 'bias'} of the adapters of {name} would train weights that are no adapters: remove "
            "it; the connector is trained anyway"
        )
    if getattr(config, "init_lora_weights", True) not in _INITIAL:
        raise SailvitError(
            f"init_lora_weights {config.init_lora_weights!r} changes the weights below the adapters: use True, "
            "'gaussian' or 'orthogonal'"
        )


def adapted_stage(stage: RefinementStage, modules: Any) -> RefinementStage:
    """The stage with adapters in these modules: they train, too, whatever the stage, and so does the connector."""
    if not modules:
        return stage
    return replace(stage, trains=tuple(name for name in MODULES if name in {*stage.trains, *modules, _CONNECTOR}))


def describe(config: Any) -> dict[str, Any]:
    """What a lineage tells of one module's adapters; `config` as an object or as read from its JSON file."""
    values = config if isinstance(config, Mapping) else config.to_dict()
    targets = values.get("target_modules")
    method = str(getattr(values["peft_type"], "value", values["peft_type"])).lower()
    method = "dora" if values.get("use_dora") else "rslora" if values.get("use_rslora") else method
    return {
        "method": method,
        "rank": values.get("r"),
        "alpha": values.get("lora_alpha"),
        "dropout": values.get("lora_dropout"),
        "targets": targets if isinstance(targets, str) or targets is None else sorted(targets),
    }


def describe_all(configs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a lineage tells of the adapters of each module."""
    return {name: describe(config) for name, config in configs.items()}


def refuse_conflicts(args: Any, configs: Mapping[str, Any]) -> None:
    """Refuse arguments that do not go with adapters, before anything is changed.

    Raises:
        SailvitError: the sentence names the argument.
    """
    if not configs:
        return
    if args.vision_tower_ema is not None and "vision_tower" in configs:
        raise SailvitError("vision_tower_ema averages whole weights, not adapters: remove one of the two")
    if args.load_best_model_at_end:
        raise SailvitError("load_best_model_at_end cannot take back adapters: load the best checkpoint yourself")


def refuse_quantized_pieces(trainer: Any) -> None:
    """Refuse quantised weights where a trainer would spread them over processes.

    Raises:
        SailvitError: FSDP or DeepSpeed and four bits.
    """
    if any(map(is_quantized, trainer.model.modules())):
        refuse(trainer, "load_in_4bit")


# --- putting them in ----------------------------------------------------------------------------------------------


def has_adapters(model: nn.Module) -> bool:
    """Whether a model carries adapters of peft, or is wrapped by it."""
    if "peft" not in sys.modules:
        return False
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(module, (BaseTunerLayer, PeftModel)) for module in model.modules())


def adapted_parts(model: nn.Module) -> dict[str, tuple[str, Any]]:
    """Of each module that `add_adapters` gave adapters: its dotted name and itself."""
    named = ((path.split(".")[-1], path, module) for path, module in model.named_modules())
    parts = {name: (path, module) for name, path, module in named if getattr(module, "peft_config", None)}
    return {name: parts[name] for name in ADAPTABLE if name in parts}


def is_quantized(module: nn.Module) -> bool:
    """Whether a linear layer keeps its weight in some packed form, as bitsandbytes' do."""
    return isinstance(module, nn.Linear) and getattr(module.weight, "quant_state", None) is not None


def adapter_targets(model: nn.Module, module: str, asked: Any = None) -> list[str]:
    """Names, within a module, of the linear layers that get adapters; call it once a stage was applied.

    Without a wish these are all linear layers of the language model (the head lies outside of it), and in the vision
    tower all in its transformer layers. In the tower those that stay frozen (`freeze_vision_layers`, layers after the
    one whose output is used) get none.

    Args:
        asked: ends of names, or a pattern of the whole name, as peft takes them; None or `"all-linear"` for all.

    Raises:
        SailvitError: nothing matches.
    """
    _, part = find_module(model, module, "adapters")
    within = f"{find_layers(part)[0]}." if module == "vision_tower" else ""
    linear = [
        name
        for name, layer in part.named_modules()
        if isinstance(layer, (nn.Linear, Conv1D))
        and name.startswith(within)
        and (layer.weight.requires_grad or is_quantized(layer))
    ]
    if asked is None or (isinstance(asked, str) and asked.lower() == "all-linear"):
        chosen, missing = linear, [] if linear else ["all-linear"]
    elif isinstance(asked, str):
        chosen = [name for name in linear if re.fullmatch(asked, name)]
        missing = [] if chosen else [asked]
    else:
        chosen = [name for name in linear if any(f".{name}".endswith(f".{end}") for end in asked)]
        missing = [end for end in asked if not any(f".{name}".endswith(f".{end}") for name in chosen)]
    if missing:
        ends = ", ".join(sorted({name.split(".")[-1] for name in linear})) or "none"
        raise SailvitError(
            f"no linear layer of {module} that this stage could train is called {', '.join(sorted(missing))}: they "
            f"are called {ends}"
        )
    return chosen


def refuse_prepared(model: nn.Module) -> None:
    """Refuse a model that carries adapters already: a stage would train the weights below them, too.

    Raises:
        SailvitError: it does.
    """
    if has_adapters(model):
        raise SailvitError(
            "the model carries adapters already: give it without them, and peft_config=..., or merge them first "
            "(merge_adapters, merge_and_unload)"
        )


def add_adapters(model: nn.Module, configs: Mapping[str, Any], seed: int) -> None:
    """Put adapters into modules of a model that a stage was applied to; of these modules nothing else trains.

    Args:
        configs: of `adapter_configs`; their `target_modules` become names of layers.
        seed: from which the adapters are drawn, the same in every process.

    Raises:
        SailvitError: nothing matches the targets, or a module is quantised and has no adapters, or otherwise than
            in four bits.
    """
    for path, parameter in model.named_parameters():
        if not parameter.is_floating_point() and module_of(path) not in configs:
            raise SailvitError(f"the weights of {module_of(path)} are quantised: it can only train through adapters")
        if not parameter.is_floating_point() and getattr(parameter, "quant_state", None) is None:
            raise SailvitError(f"{path} is quantised so that nothing can be merged into it: use bitsandbytes' 4 bits")
    for name, config in configs.items():
        config.target_modules = adapter_targets(model, name, config.target_modules)
        part = find_module(model, name, "adapters")[1]
        if any(isinstance(part.get_submodule(target), Conv1D) for target in config.target_modules):
            config.fan_in_fan_out = True  # GPT-2 keeps its weights the other way round
    for name, config in configs.items():
        path, part = find_module(model, name, "adapters")
        part.is_loaded_in_4bit = any(map(is_quantized, part.modules()))  # peft asks the module that it is given
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            _peft().inject_adapter_in_model(config, part)
        part.register_load_state_dict_pre_hook(_keep_what_is_frozen)
        for owned, parameter in model.named_parameters():
            if module_of(owned) == name and not owned.startswith(f"{path}."):
                parameter.requires_grad_(False)  # the head
        if part.is_loaded_in_4bit:
            model._hf_peft_config_loaded = True  # else no Trainer takes a quantised model
    if configs:
        model.save_pretrained = functools.partial(save_whole, model)


def _keep_what_is_frozen(part: Any, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """A whole checkpoint has merged weights in the place of an adapted module's: what is below the adapters stays.

    A hook of `load_state_dict`. A state that knows the adapters (a sharded one, say) is loaded as it is.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    own = part.state_dict()
    layers = tuple(f"{path}." for path, layer in part.named_modules() if isinstance(layer, BaseTunerLayer))
    if any(f"{prefix}{name}" in state_dict for name in own if name.startswith(layers)):
        return
    for name in [name for name in state_dict if name.startswith(prefix)]:
        del state_dict[name]
    kept = {name for name, _ in [*part.named_parameters(), *part.named_buffers()]}
    state_dict.update({f"{prefix}{name}": tensor for name, tensor in own.items() if name in kept})


# --- saving and merging -------------------------------------------------------------------------------------------


def _state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """All tensors of a model on the CPU, put together where they are sharded, unpacked where they are quantised."""
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)))
    state = model.state_dict()
    for path, module in model.named_modules():
        if is_quantized(module):
            from peft.utils.integrations import dequantize_module_weight

            for name in [name for name in state if name.startswith(f"{path}.weight")]:
                del state[name]
            state[f"{path}.weight"] = dequantize_module_weight(module)
    return {name: tensor.detach().cpu() for name, tensor in state.items()}


def merge_adapters(model: Any, state_dict: Mapping[str, torch.Tensor] | None = None) -> Any:
    """A whole model of the same class with the adapters merged into its weights; the model itself is left alone.

    What is not adapted is shared on a CPU. Merged and quantised weights become fp32.

    Args:
        model: with adapters of `add_adapters`.
        state_dict: its tensors, if they were gathered already.

    Returns:
        The model on the CPU, in evaluation mode.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    state = dict(_state_of(model) if state_dict is None else state_dict)
    for name in [name for name in state if ".base_layer." in name or ".default" in name]:
        state[name] = state[name].float()
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        whole = type(model)(config)
    for name, (_, part) in adapted_parts(model).items():
        adapters = copy.deepcopy(part.peft_config["default"])
        _peft().inject_adapter_in_model(adapters, find_module(whole, name, "adapters")[1], low_cpu_mem_usage=True)
    whole.load_state_dict(state, strict=False, assign=True)
    del state
    whole.tie_weights()
    for path, layer in list(whole.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            whole.set_submodule(path, layer.get_base_layer())
    for path, module in whole.named_modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:  # not among the tensors that are saved
                own = model.get_submodule(path).get_buffer(name)
                module.register_buffer(name, own.detach().cpu(), persistent=False)
    for _, part in adapted_parts(whole).values():
        del part.peft_config
    left = [name for name, parameter in whole.named_parameters() if parameter.is_meta]
    if left:
        raise SailvitError(f"the state of the model lacks {left[0]}, so that nothing whole can be saved")
    whole.generation_config = model.generation_config
    return whole.eval()


def save_whole(
    model: Any,
    save_directory: Any,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    is_main_process: bool = True,
    **kwargs: Any,
) -> None:
    """`save_pretrained` of a model with adapters: the merged model, and the adapters alone in `adapters/`.

    All processes call it if the weights are sharded and not gathered yet.
    """
    state = _state_of(model) if state_dict is None else state_dict
    if not is_main_process:
        return
    merge_adapters(model, state).save_pretrained(save_directory, **kwargs)
    for name, (path, part) in adapted_parts(model).items():
        folder = Path(save_directory, ADAPTERS, name)
        folder.mkdir(parents=True, exist_ok=True)
        own = {key.removeprefix(f"{path}."): tensor for key, tensor in state.items() if key.startswith(f"{path}.")}
        tensors = _peft().get_peft_model_state_dict(part, state_dict=own, save_embedding_layers=False)
        tensors = {f"{_PREFIX}{key}": tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
        config = copy.copy(part.peft_config["default"])
        config.inference_mode = True  # as peft writes it: whoever loads it does not train
        config.save_pretrained(folder)


def load_adapters(model: nn.Module, checkpoint: str | Path) -> None:
    """Put the adapters of a checkpoint, as `save_whole` wrote them, into a model that has the same.

    Raises:
        SailvitError: the checkpoint has none, or others, or its stage began with another model.
    """
    parts = adapted_parts(model)
    saved = sorted(path.parent.name for path in Path(checkpoint, ADAPTERS).glob(f"*/{_WEIGHTS}"))
    if saved != sorted(parts):
        raise SailvitError(
            f"{checkpoint} was trained with adapters in {', '.join(saved) or 'no module'}, this run has them in "
            f"{', '.join(sorted(parts)) or 'no module'}: resume with the same, or begin a new run"
        )
    for name, (path, part) in parts.items():
        _load_into(part, Path(checkpoint, ADAPTERS, name), name)
        _check_what_is_below(path, part, Path(checkpoint))


def _load_into(part: Any, folder: Path, name: str) -> None:
    config, peft = part.peft_config["default"], _peft()
    ours, theirs = describe(config), describe(peft.PeftConfig.from_json_file(str(folder / _CONFIG)))
    differing = [key for key in ours if key != "dropout" and ours[key] != theirs[key]]
    state = {key.removeprefix(_PREFIX): tensor for key, tensor in load_file(folder / _WEIGHTS).items()}
    own = peft.get_peft_model_state_dict(part, save_embedding_layers=False)
    shapes = {key: tensor.shape for key, tensor in own.items()}
    if differing or shapes != {key: tensor.shape for key, tensor in state.items()}:
        key = differing[0] if differing else "targets"
        raise SailvitError(
            f"{folder.parent.parent} was trained with other adapters of {name} ({key} {theirs[key]} there, "
            f"{ours[key]} here): resume with the same, or begin a new run"
        )
    peft.set_peft_model_state_dict(part, state)


# --- the model below the adapters ---------------------------------------------------------------------------------


def _check_what_is_below(path: str, part: Any, checkpoint: Path) -> None:
    """Make sure that a few layers and their adapters make the checkpoint's whole weights.

    A checkpoint is a whole model, and may well be taken for the one to resume with: its adapters would count twice.

    Raises:
        SailvitError: they make others.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [name for name, layer in part.named_modules() if isinstance(layer, BaseTunerLayer)]
    for name in layers[:: -(-len(layers) // _LAYERS_CHECKED)]:
        saved = _saved_tensor(checkpoint, f"{path}.{name}.weight")
        base = part.get_submodule(name).get_base_layer()
        if saved is None or any(_in_pieces(parameter) for parameter in part.get_submodule(name).parameters()):
            continue
        # Unpacked by another device, four bits may differ in their last place; an engine may have kept half precision.
        rounding = 1e-3 if is_quantized(base) else max(1e-5, torch.finfo(saved.dtype).eps)
        kept = (None,) if is_quantized(base) else (None, torch.bfloat16, torch.float16)
        merged = (_merged_weight(part, name, precision) for precision in kept)
        room = rounding * float(saved.float().norm())
        if not any(each.shape != saved.shape or float((each - saved.float()).norm()) <= room for each in merged):
            raise SailvitError(
                f"the adapters of {checkpoint} were not trained on this model ({path}.{name} is another): give the "
                "model that the stage began with, in the same precision; a checkpoint has them merged already"
            )


def _in_pieces(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") or parameter.is_meta


def _saved_tensor(checkpoint: Path, name: str) -> torch.Tensor | None:
    """A tensor of a checkpoint's safetensors, if it has it."""
    index = checkpoint / SAFE_WEIGHTS_INDEX_NAME
    files = json.loads(index.read_text(encoding="utf-8"))["weight_map"] if index.is_file() else {}
    file = checkpoint / files.get(name, SAFE_WEIGHTS_NAME)
    if not file.is_file():
        return None
    with safe_open(file, framework="pt") as tensors:
        found: torch.Tensor | None = tensors.get_tensor(name) if name in tensors.keys() else None  # noqa: SIM118
    return found


def _merged_weight(part: Any, name: str, precision: torch.dtype | None) -> torch.Tensor:
    """What `merge_adapters` makes of one layer, in fp32; with its base rounded to a precision first."""
    state = {key: tensor.float().clone() for key, tensor in _state_of(part.get_submodule(name)).items()}
    if precision is not None:
        state["base_layer.weight"] = state["base_layer.weight"].to(precision).float()
    base = part.get_submodule(name).get_base_layer()
    config = copy.deepcopy(part.peft_config["default"])
    config.target_modules = [name]
    rows, columns = state["base_layer.weight"].shape
    with torch.device("meta"):
        plain = Conv1D(columns, rows) if isinstance(base, Conv1D) else nn.Linear(columns, rows)
    holder: nn.Module = plain
    for each in reversed(name.split(".")):  # the layer under its own name, on which its rank may hang
        above = nn.Module()
        above.add_module(each, holder)
        holder = above
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a pattern of ranks is about other layers
        _peft().inject_adapter_in_model(config, holder, low_cpu_mem_usage=True)
    layer: Any = holder.get_submodule(name)
    layer.load_state_dict(state, strict=False, assign=True)
    layer.merge(safe_merge=True)
    weight: torch.Tensor = layer.get_base_layer().weight.detach()
    return weight
