# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The whole vision-language model: SAIL-VL2's tensors and configuration, and ours, each to the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig

from ..errors import SailvitError
from ..modeling.configuration_sailvit import SAILViTVLMConfig
from .layouts import Tensor, check, vision_tensors
from .sources import Source
from .weights import same_bytes

# Layout -> prefix of the tower; names of the connector's parts; prefix of the language model; its head.
PLACES = {
    "sailvit-vlm": (
        "model.vision_tower.",
        tuple(f"model.multi_modal_projector.{part}" for part in ("norm", "linear_1", "linear_2")),
        "model.language_model.",
        "lm_head.weight",
    ),
    "sail-vl2": ("vision_model.", ("mlp1.0", "mlp1.1", "mlp1.3"), "language_model.", "language_model.lm_head.weight"),
}
_TEXT = {"sail-vl2": "llm_config", "sailvit-vlm": "text_config"}
_NAMES = {"sail-vl2": "SAIL-VL2", "sailvit-vlm": "SAILViTForConditionalGeneration"}
HUB_ID = "BytedanceDouyinContent/SAIL-VL2-2B"  # holds the code that a SAIL-VL2 folder runs
_AUTO_MAP = {
    "AutoConfig": f"{HUB_ID}--configuration_sailvl.SAILVLConfig",
    "AutoModel": f"{HUB_ID}--modeling_sailvl.SAILVLModel",
    "AutoModelForCausalLM": f"{HUB_ID}--modeling_sailvl.SAILVLModel",
}
# What SAIL-VL2 says that our model has no use for, as published with SAIL-VL2-2B; kept in our configuration's
# `sail_vl2` when a checkpoint comes in, so that it can go out again as it was.
_THEIRS: dict[str, Any] = {
    "dynamic_image_size": True,
    "max_dynamic_patch": 12,
    "min_dynamic_patch": 1,
    "pad2square": False,
    "ps_version": "v2",
    "template": "univl-chat",
    "use_backbone_lora": 0,
    "use_llm_lora": 0,
    "use_thumbnail": True,
}


def mllm_layout(source: Source) -> str | None:
    """Which whole model a checkpoint holds, by its names: "sail-vl2", "sailvit-vlm", or `None` for a tower alone."""
    for layout, (prefix, connector, language, _) in PLACES.items():
        others = tuple(f"{part}." for part in connector) + (language,)
        if source.prefix == prefix and any(name.startswith(others) for name in source.tensors):
            return layout
    return None


@dataclass(frozen=True)
class WholeModel:
    """A vision-language model apart from its weights: what a layout needs to name its tensors.

    Attributes:
        config: Ours; its vision tower is a SAILViT.
        text: Name -> shape of the tensors of the language model, as its causal LM names them.
        base: Prefix of the base model among these names.
        embeddings, head: Names of the input embeddings and of the head among them.
        tied: Whether head and embeddings are one.
    """

    config: SAILViTVLMConfig
    text: Mapping[str, tuple[int, ...]]
    base: str
    embeddings: str
    head: str
    tied: bool

    def tensors(self, layout: str, vision: str = "sailvit", with_head: bool = True) -> dict[str, Tensor]:
        """All tensors of the model in a layout.

        Args:
            vision: Layout of the vision tower in it.
            with_head: Whether the head is stored; if it is tied, from the embeddings.
        """
        prefix, connector, language, head_name = PLACES[layout]
        tower: Any = self.config.vision_config
        text: Any = self.config.text_config
        width, merged = text.hidden_size, tower.hidden_size * self.config.merge_size**2
        tensors = vision_tensors(vision, tower, prefix)
        for part, shape in zip(connector, ((merged,), (width, merged), (width, width)), strict=True):
            for kind, size in (("weight", shape), ("bias", shape[:1])):
                piece = f"connector.{connector.index(part)}.{kind}"
                tensors[f"{part}.{kind}"] = Tensor(size, ((piece, prod(size)),))
        for name, shape in self.text.items():
            count = prod(shape)
            if name != self.head:
                inside = name if layout == "sail-vl2" else name.removeprefix(self.base)
                tensors[language + inside] = Tensor(shape, ((f"text.{name}", count),))
            elif with_head:
                piece = self.embeddings if self.tied else name
                tensors[head_name] = Tensor(shape, ((f"text.{piece}", count),))
        return tensors


def read_whole_model(source: Source, layout: str, image_token_id: int | None) -> tuple[WholeModel, dict[str, Tensor]]:
    """The model that a checkpoint holds, and its tensors as the checkpoint names them, all checked.

    Args:
        image_token_id: Of the source's tokenizer, for a configuration that does not say it.

    Raises:
        SailvitError: the configuration is not one of such a model, or a tensor is missing, unexpected or misshapen.
    """
    config = read_config(source, layout, image_token_id)
    text, base, embeddings, head = text_tensors(config.text_config, source, layout)
    head_name = PLACES[layout][3]
    stored_head = head_name in source.tensors
    model = WholeModel(config, text, base, embeddings, head, tied=config.tie_word_embeddings)
    wanted = model.tensors(layout, source.layout, with_head=stored_head or not model.tied)
    check(wanted, source.tensors, source.tensors.keys() - wanted.keys(), f"{_NAMES[layout]} checkpoint")
    if stored_head:
        stored_embeddings = PLACES[layout][2] + (embeddings if layout == "sail-vl2" else embeddings.removeprefix(base))
        # A head that is stored and differs from the embeddings is kept, whatever the configuration says.
        tied = model.tied and same_bytes(source.tensors[head_name], source.tensors[stored_embeddings])
        _set_tied(config, tied)
        wanted[head_name] = Tensor(text[head], ((f"text.{head}", prod(text[head])),))
        model = WholeModel(config, text, base, embeddings, head, tied)
    return model, wanted


def read_config(source: Source, layout: str, image_token_id: int | None) -> SAILViTVLMConfig:
    """Our configuration of the model in a checkpoint; see `read_whole_model`."""
    values = source.config
    text_config = read_text_config(source, layout)
    text = values[_TEXT[layout]]
    common: dict[str, Any] = {
        "vision_config": source.vision_config,
        "text_config": text_config,
        "downsample_ratio": values.get("downsample_ratio", 0.5),
    }
    tied = bool(text.get("tie_word_embeddings", values.get("tie_word_embeddings", False)))
    if layout == "sailvit-vlm":
        names = ("image_token_id", "vision_feature_layer", "projector_hidden_act", "sail_vl2", "pad_token_id")
        common.update({name: values[name] for name in names if name in values})
        tied = bool(values.get("tie_word_embeddings", tied))
    else:
        if values.get("ps_version", "v2") != "v2":
            raise SailvitError(
                f"{source.name} merges patches in the order {values['ps_version']!r}, and only 'v2' is known here: "
                "convert the vision tower alone"
            )
        layer = values.get("select_layer", -1)
        # The published code counts blocks from 0; transformers' hidden states begin with the embeddings.
        common["vision_feature_layer"] = layer if layer < 0 else layer + 1
        common["image_token_id"] = image_token_id
        common["sail_vl2"] = {name: values.get(name, default) for name, default in _THEIRS.items()}
    config = SAILViTVLMConfig(**common)
    _set_tied(config, tied)
    return config


def _set_tied(config: Any, tied: bool) -> None:
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied


def read_text_config(source: Source, layout: str) -> PreTrainedConfig:
    """The language model's configuration, without what older versions of transformers wrote into every one.

    Generation settings, label names and attention kernels of another version would only be carried along, or refused.

    Raises:
        SailvitError: there is none, or transformers does not know its kind.
    """
    values = source.config.get(_TEXT[layout])
    if not isinstance(values, dict) or values.get("model_type") not in CONFIG_MAPPING:
        found = values.get("model_type") if isinstance(values, dict) else None
        raise SailvitError(
            f"config.json of {source.name} names no language model that transformers knows ({found!r}): mend it, or "
            "convert the vision tower alone"
        )
    kept = {name: value for name, value in values.items() if name not in _OF_EVERY_CONFIG}
    return CONFIG_MAPPING[kept.pop("model_type")](**kept)


# What transformers 4 wrote into every configuration: generation settings, labels, its own state. In our files it would
# only be carried along, or refused. `auto_map` and the like are never taken over from a file.
_OF_EVERY_CONFIG = frozenset(
    """
    _attn_implementation _attn_implementation_internal _commit_hash _name_or_path add_cross_attention architectures
    attn_implementation auto_map bad_words_ids begin_suppress_tokens chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample early_stopping
    encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id id2label is_decoder is_encoder_decoder label2id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states
    output_scores prefix problem_type pruned_heads remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript transformers_version trust_remote_code
    typical_p use_bfloat16
    """.split()
)


def text_tensors(config: Any, source: Source, layout: str) -> tuple[dict[str, tuple[int, ...]], str, str, str]:
    """Names and shapes of a causal language model's tensors, prefix of its base, names of embeddings and head."""
    model = _without_weights(config)
    base = f"{model.base_model_prefix}."
    modules = {id(module): name for name, module in model.named_modules()}
    embeddings = f"{modules[id(model.get_input_embeddings())]}.weight"
    head = f"{modules[id(model.get_output_embeddings())]}.weight"
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if _stored_otherwise(config.model_type):
        # Mixtures of experts are packed when they are loaded; their files keep the experts apart, and go over as such.
        language, added = PLACES[layout][2], "" if layout == "sail-vl2" else base
        stored = {
            added + name.removeprefix(language): tensor.shape
            for name, tensor in source.tensors.items()
            if name.startswith(language)
        }
        shapes = {**stored, embeddings: shapes[embeddings], head: shapes[head]}
    return shapes, base, embeddings, head


def _stored_otherwise(model_type: str) -> bool:
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    except ImportError:
        return False
    return bool(get_checkpoint_conversion_mapping(model_type))


def sail_vl2_config(config: Any, dtype: str | None) -> dict[str, Any]:
    """SAIL-VL2's `config.json`, in the words of the transformers 4 that its code asks for.

    Raises:
        SailvitError: the model uses what SAIL-VL2 has no word for.
    """
    layer = config.vision_feature_layer
    if layer == 0:
        raise SailvitError("vision_feature_layer is 0, the embeddings, which SAIL-VL2 cannot select: keep the format")
    if config.projector_hidden_act != "gelu":
        raise SailvitError(
            f"projector_hidden_act is {config.projector_hidden_act!r} and SAIL-VL2 knows 'gelu' only: keep the format"
        )
    theirs = dict(getattr(config, "sail_vl2", None) or {})
    text = config.text_config.to_dict()
    rope = dict(text.pop("rope_parameters", None) or {})
    if rope:
        text["rope_theta"] = rope.pop("rope_theta", None)
        text["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    text.pop("transformers_version", None)
    text.pop("dtype", None)
    tower = {name: getattr(config.vision_config, name) for name in _TOWER_FIELDS}
    text_class = type(_without_weights(config.text_config)).__name__
    return {
        "architectures": ["SAILVLModel"],
        "auto_map": _AUTO_MAP,
        "downsample_ratio": config.downsample_ratio,
        "force_image_size": config.vision_config.image_size,
        "llm_config": {
            **text,
            "architectures": [text_class],
            "tie_word_embeddings": config.tie_word_embeddings,
            "torch_dtype": dtype,
        },
        "model_type": "sailvl",
        "select_layer": layer if layer < 0 else layer - 1,
        "torch_dtype": dtype,
        "transformers_version": None,
        "vision_config": {
            **tower,
            "architectures": ["SAILViTModel"],
            "model_type": "sailvit",
            "torch_dtype": dtype,
        },
        **{name: theirs.get(name, default) for name, default in _THEIRS.items()},
    }


_TOWER_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
    "rms_norm_eps",
    "attention_dropout",
    "projection_dropout",
    "qkv_bias",
    "use_bias",
)


def _without_weights(config: Any) -> Any:
    """The causal language model of a configuration."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)

