# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Small random vision towers and language models of many families, shared by the tests."""

from collections.abc import Callable

import pytest
import torch
import transformers
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
)

from sailvit_hf import SAILViTConfig

LAYERS = 3
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
VOCABULARY = 64

# model_type: what its configuration wants besides the sizes; tokens in front of the patches; whether it reads pictures
# of other sizes.
TOWERS: dict[str, tuple[dict, int, bool]] = {
    "sailvit": ({}, 0, True),
    "aimv2_vision_model": ({"use_head": True}, 0, False),
    "aimv2_vision_model, native": ({"is_native": True, "use_head": False}, 0, True),
    "siglip_vision_model": ({}, 0, True),
    "siglip2_vision_model": ({}, 0, True),
    "clip_vision_model": ({}, 1, True),
    "dinov2": ({"mlp_ratio": 2}, 1, True),
    "dinov2_with_registers": ({"mlp_ratio": 2, "num_register_tokens": 4}, 5, True),
    "dinov3_vit": ({"num_register_tokens": 4}, 5, True),
    "vit": ({}, 1, True),
    "internvl_vision": ({}, 1, True),
    "internvl_vision, with a norm": ({"use_mean_pooling": False, "norm_type": "rms_norm"}, 1, True),
}


def tower(name: str, seed: int = 0, image_size: int = 64, patch_size: int = 8, **changes: object) -> PreTrainedModel:
    """A small random tower of a family of `TOWERS`, every weight random so that norms, tokens and tables matter."""
    model_type = name.split(",")[0]
    values = {**SIZES, "image_size": image_size, "patch_size": patch_size, **TOWERS[name][0], **changes}
    if model_type == "siglip2_vision_model":
        values["num_patches"] = (values.pop("image_size") // patch_size) ** 2
    config = SAILViTConfig(**values) if model_type == "sailvit" else AutoConfig.for_model(model_type, **values)
    torch.manual_seed(seed)
    return jumbled(AutoModel.from_config(config), seed).eval()


def jumbled(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """The model with noise on every weight: fresh ones hold zeros and ones that hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


class InternLM2StyleConfig(LlamaConfig):
    model_type = "internlm2_style"


class InternLM2StyleModel(LlamaModel):
    """A decoder whose embeddings have another name, as InternLM2's remote code has it."""

    config_class = InternLM2StyleConfig
    base_model_prefix = "model"

    def __init__(self, config: InternLM2StyleConfig) -> None:
        super().__init__(config)
        self.tok_embeddings = self.embed_tokens
        del self.embed_tokens

    def get_input_embeddings(self) -> nn.Module:
        return self.tok_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.tok_embeddings = value

    def forward(self, input_ids: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None, **kwargs):
        embeddings = self.tok_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        return super().forward(inputs_embeds=embeddings, **kwargs)


class InternLM2StyleForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = InternLM2StyleConfig
    base_model_prefix = "model"

    def __init__(self, config: InternLM2StyleConfig) -> None:
        super().__init__(config)
        self.model = InternLM2StyleModel(config)
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.output

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.output = value

    def forward(self, input_ids: torch.Tensor | None = None, **kwargs):
        outputs = self.model(input_ids=input_ids, **kwargs)
        outputs["logits"] = self.output(outputs.last_hidden_state)
        return outputs


AutoConfig.register("internlm2_style", InternLM2StyleConfig, exist_ok=True)
AutoModel.register(InternLM2StyleConfig, InternLM2StyleModel, exist_ok=True)
AutoModelForCausalLM.register(InternLM2StyleConfig, InternLM2StyleForCausalLM, exist_ok=True)

# model_type: what its configuration wants besides the sizes.
LANGUAGE_MODELS: dict[str, dict] = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "smollm3": {"num_key_value_heads": 2, "pad_token_id": 0, "no_rope_layer_interval": 2},
    "internlm3": {"num_key_value_heads": 2, "bias": True, "qkv_bias": True},
    "internlm2_style": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
}


def language_model(name: str, seed: int = 0) -> PreTrainedModel:
    """A small random causal language model of a family of `LANGUAGE_MODELS`."""
    if name not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} does not know {name}")
    sizes = {} if name == "gpt2" else {**SIZES, "num_hidden_layers": 2}
    config = AutoConfig.for_model(name, vocab_size=VOCABULARY, **{**sizes, **LANGUAGE_MODELS[name]})
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).eval()


def calls(modules: dict[str, nn.Module]) -> tuple[dict[str, int], Callable[[], None]]:
    """How often each module runs from now on, and a function that ends the counting."""
    counts = dict.fromkeys(modules, 0)

    def count(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            counts[name] += 1

        return hook

    handles = [module.register_forward_hook(count(name)) for name, module in modules.items()]
    return counts, lambda: [handle.remove() for handle in handles]
