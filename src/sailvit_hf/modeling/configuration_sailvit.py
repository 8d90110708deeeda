# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Configurations of SAILViT and of the vision-language model that refines it."""

from .versions_sailvit import check_transformers  # noqa: F401  # first, or another import fails in worse words

# isort: split
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

# AIMv2's sizes, on which SAILViT is built (SAIL-VL2 report, arXiv 2509.14033, and the configuration published with
# SAIL-VL2-2B for "huge"); "tiny" is ours, for tests and the demo.
PRESETS: dict[str, dict[str, int | float]] = {
    "large": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 24,
        "num_attention_heads": 8,
        "image_size": 448,
        "patch_size": 14,
    },
    "huge": {
        "hidden_size": 1536,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 12,
        "image_size": 448,
        "patch_size": 14,
    },
    "tiny": {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
        # The usual 0.02 suits widths of a thousand; at a hundred, attention forms late or never.
        "initializer_range": 0.08,
    },
}


# Keys that say which attention runs. In a file they are at best a demand for a package that the reader may not have; a
# name with a slash is a kernel that is fetched from the Hub and run (CVE-2026-4372).
_ATTENTION_KEYS = frozenset(
    f"{prefix}{part}_implementation{suffix}"
    for part in ("attn", "experts")
    for prefix, suffix in (("", ""), ("_", ""), ("_", "_internal"))
)


def _without_demands(values: Any, name: str) -> Any:
    """What a file says, nested parts included, without what only the reader decides; what is hostile is refused."""
    if isinstance(values, list):
        return [_without_demands(item, name) for item in values]
    if not isinstance(values, dict):
        return values
    kept = {}
    for key, value in values.items():
        place = f"{name}.{key}" if name else str(key)
        if key == "trust_remote_code":
            if value:
                raise ValueError(
                    f"The configuration sets {place}: only the reader may switch on code from elsewhere, a file may "
                    "not; remove it from config.json if you trust its author."
                )
        elif key in _ATTENTION_KEYS:
            if value is not None and not (isinstance(value, str) and value.isidentifier()):
                raise ValueError(
                    f"The configuration sets {place} to {value!r}: a file may not have code fetched and run; remove "
                    "it, and pass attn_implementation yourself if you want that kernel."
                )
        elif key == "auto_map" and name:
            continue  # nested models are transformers' own, or ours
        else:
            kept[key] = _without_demands(value, place)
    return kept


class _ConfigFromFile(PreTrainedConfig):
    """A configuration that a file cannot use to run something."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """See [`~transformers.PreTrainedConfig.from_dict`].

        Raises:
            ValueError: the values switch on remote code, or name an attention that would be fetched from the Hub.
        """
        # What the caller asks for comes in kwargs, and is the caller's to decide.
        return super().from_dict(_without_demands(config_dict, ""), **kwargs)


class SAILViTConfig(BackboneConfigMixin, _ConfigFromFile):
    r"""
    Configuration of a [`SAILViTModel`]; the defaults are those of SAILViT-Large (309,984,256 parameters).

    Args:
        hidden_size (`int`, *optional*, defaults to 1024): Width of the encoder.
        intermediate_size (`int`, *optional*, defaults to 2816): Width of the SwiGLU layers.
        num_hidden_layers (`int`, *optional*, defaults to 24): Number of blocks.
        num_attention_heads (`int`, *optional*, defaults to 8): Number of attention heads.
        num_channels (`int`, *optional*, defaults to 3): Channels of the input pictures.
        image_size (`int`, *optional*, defaults to 448): Native side of the input in pixels.
        patch_size (`int`, *optional*, defaults to 14): Side of a patch in pixels.
        rms_norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of the RMS norms.
        attention_dropout (`float`, *optional*, defaults to 0.0): Dropout on the attention weights.
        projection_dropout (`float`, *optional*, defaults to 0.0): Dropout after the attention's output projection.
        qkv_bias (`bool`, *optional*, defaults to `False`): Whether the fused qkv projection has a bias.
        use_bias (`bool`, *optional*, defaults to `False`): Whether the other projections have biases.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of fresh weights (ours).
        classifier_hidden_size (`int`, *optional*): Width of the hidden layer of the classifier of
            [`SAILViTForImageClassification`]; without it the classifier is linear (ours).
        apply_layernorm (`bool`, *optional*, defaults to `True`): Whether [`SAILViTBackbone`]'s feature maps go through
            the final norm (ours, as are the next two).
        out_features (`list[str]`, *optional*): Stages whose feature maps [`SAILViTBackbone`] returns: `"stem"`,
            `"stage1"`, ...; the last one by default.
        out_indices (`list[int]`, *optional*): The same by number, 0 for the stem.

    Example:

    ```python
    >>> from sailvit_hf import SAILViTConfig, SAILViTModel

    >>> model = SAILViTModel(SAILViTConfig.preset("tiny"))
    ```
    """

    model_type = "sailvit"
    base_config_key = "vision_config"

    hidden_size: int = 1024
    intermediate_size: int = 2816
    num_hidden_layers: int = 24
    num_attention_heads: int = 8
    num_channels: int = 3
    image_size: int = 448
    patch_size: int = 14
    rms_norm_eps: float = 1e-5
    attention_dropout: float | int = 0.0
    projection_dropout: float | int = 0.0
    qkv_bias: bool = False
    use_bias: bool = False
    initializer_range: float = 0.02
    classifier_hidden_size: int | None = None
    apply_layernorm: bool = True
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        chosen = {key: kwargs.pop(key, None) for key in ("out_features", "out_indices")}
        kwargs.pop("stage_names", None)  # computed
        super().__post_init__(**kwargs)
        self.set_output_features_output_indices(**chosen)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) is not a multiple of num_attention_heads "
                f"({self.num_attention_heads}); choose a number of heads that divides it."
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size ({self.image_size}) is not a multiple of patch_size ({self.patch_size}); "
                "choose an image size made of whole patches."
            )

    def to_dict(self) -> dict[str, Any]:
        """The values as a dictionary; the backbone's choice of stages only where it is not the last stage."""
        values = super().to_dict()
        if values.get("out_features") == self.stage_names[-1:]:
            del values["out_features"], values["out_indices"]
        return values

    @property
    def stage_names(self) -> list[str]:
        """Names of the backbone's stages: the embeddings and each block."""
        return ["stem", *(f"stage{number}" for number in range(1, self.num_hidden_layers + 1))]

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "SAILViTConfig":
        """Return the configuration called `name`: `"large"`, `"huge"` (as published) or `"tiny"` (ours).

        Raises:
            ValueError: if there is no preset of that name.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **overrides})


# Keys that a nested model must never have: they switch on remote code or reach into the attention's internals
# (CVE-2026-4372, CVE-2026-5241).
_UNSAFE_KEYS = _ATTENTION_KEYS | {"trust_remote_code", "auto_map"}


def _sub_config(value: "dict[str, Any] | PreTrainedConfig", role: str) -> PreTrainedConfig:
    """Turn `value` into a configuration, without what a hostile file could smuggle in."""
    if isinstance(value, PreTrainedConfig):
        return value
    values = {key: item for key, item in value.items() if key not in _UNSAFE_KEYS}
    model_type = values.pop("model_type", None)
    if model_type == SAILViTConfig.model_type:
        return SAILViTConfig(**values)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"The {role}'s model_type is {model_type!r}, which this version of transformers does not know, and code "
            "for it from elsewhere is not run; use a model that AutoConfig knows."
        )
    return CONFIG_MAPPING[model_type](**values)


class SAILViTVLMConfig(_ConfigFromFile):
    r"""
    Configuration of a [`SAILViTForConditionalGeneration`]: any vision tower, the connector, any causal language model.

    Args:
        vision_config (`PreTrainedConfig` or `dict`, *optional*): The vision tower; SAILViT-Large when not given.
        text_config (`PreTrainedConfig` or `dict`, *optional*): The language model; Qwen3 when not given, the
            family of the published pairs.
        image_token_id (`int`, *optional*, defaults to 151671): Token whose embeddings are replaced by the
            picture's (`<IMG_CONTEXT>` in SAIL-VL2's tokenizer).
        downsample_ratio (`float`, *optional*, defaults to 0.5): Pixel shuffle: 0.5 merges 2x2 patches to one token.
        vision_feature_layer (`int`, *optional*, defaults to -1): Which of the tower's outputs is used: -1 is the final
            one, after the last norm; other numbers are indices of its hidden states, embeddings first (-2 is the
            output of the last layer but one). Layers after it do not run and do not train.
        projector_hidden_act (`str`, *optional*, defaults to `"gelu"`): Activation in the connector.
    """

    model_type = "sailvit_vlm"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 151671
    downsample_ratio: float = 0.5
    vision_feature_layer: int = -1
    projector_hidden_act: str = "gelu"
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        vision = SAILViTConfig() if self.vision_config is None else self.vision_config
        text = {"model_type": "qwen3"} if self.text_config is None else self.text_config
        tower = _sub_config(vision, "vision tower")
        self.vision_config = getattr(tower, "vision_config", tower)  # of a contrastive pair the vision half
        self.text_config = _sub_config(text, "language model")
        # The head belongs to this model, and we say whether it is tied; the default is the language model's word.
        self.tie_word_embeddings = bool(self.tie_word_embeddings or self.text_config.tie_word_embeddings)
        super().__post_init__(**kwargs)

    @property
    def merge_size(self) -> int:
        """Side, in patches, of the square that becomes one token of the language model."""
        return round(1 / self.downsample_ratio)

    def to_dict(self) -> dict[str, Any]:
        """The values as a dictionary, without where the parts were loaded from and where their own code lay."""
        # The one may be a path on somebody's machine, the other names files that are no longer beside them.
        values = super().to_dict()
        for name in self.sub_configs:
            if isinstance(part := values.get(name), dict):
                part.pop("auto_map", None)
                part["_name_or_path"] = ""
        return values


SAILViTConfig.register_for_auto_class()
SAILViTVLMConfig.register_for_auto_class()

__all__ = ["SAILViTConfig", "SAILViTVLMConfig"]
