# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of every layout with a few thousand random weights, as each library writes them."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Aimv2VisionConfig, Aimv2VisionModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sailvit_hf import (
    SAILViTConfig,
    SAILViTForConditionalGeneration,
    SAILViTImageProcessorPil,
    SAILViTModel,
    SAILViTProcessor,
)

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
CLIP = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
CLIP |= {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


def shake(model):
    """Random norms and biases too: ones and zeros would hide a tensor in the wrong place."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.dim() == 1))
    return model.eval()


def sailvit_model(**changes):
    return shake(SAILViTModel(SAILViTConfig(**{**SIZES, **changes})))


def aimv2_model(use_head=False, **changes):
    return shake(Aimv2VisionModel(Aimv2VisionConfig(**{**SIZES, **changes}, use_head=use_head, is_native=False)))


def save_sailvit(folder: Path, **changes) -> SAILViTModel:
    model = sailvit_model(**changes)
    model.save_pretrained(folder)
    SAILViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


def save_aimv2(folder: Path, **changes) -> Aimv2VisionModel:
    model = aimv2_model(**changes)
    model.save_pretrained(folder)
    values = {"image_processor_type": "CLIPImageProcessor", **CLIP}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return model


def timm_weights() -> dict[str, torch.Tensor]:
    """The state dict of timm's `aimv2_large_patch14_448` at these sizes, by hand from its `vision_transformer.py`."""
    h, inner, patches = 32, 48, 16
    shapes = {
        "pos_embed": (1, patches, h),
        "patch_embed.proj.weight": (h, 3, 8, 8),
        "patch_embed.proj.bias": (h,),
        "patch_embed.norm.weight": (h,),
        "norm.weight": (h,),
    }
    for i in range(2):
        shapes |= {
            f"blocks.{i}.norm1.weight": (h,),
            f"blocks.{i}.attn.qkv.weight": (3 * h, h),
            f"blocks.{i}.attn.proj.weight": (h, h),
            f"blocks.{i}.norm2.weight": (h,),
            f"blocks.{i}.mlp.fc1_g.weight": (inner, h),
            f"blocks.{i}.mlp.fc1_x.weight": (inner, h),
            f"blocks.{i}.mlp.fc2.weight": (h, inner),
        }
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


def save_timm(folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir(parents=True)
    weights = timm_weights()
    save_file(weights, folder / "model.safetensors")
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 1.5}
    pretrained = {
        "input_size": [3, 32, 32],
        "interpolation": "bicubic",
        "crop_pct": 0.5,
        "crop_mode": "center",
        "mean": CLIP["image_mean"],
        "std": CLIP["image_std"],
    }
    values = {"architecture": "aimv2_large_patch14_448", "model_args": arguments, "pretrained_cfg": pretrained}
    (folder / "config.json").write_text(json.dumps(values))
    return weights


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": special[1:]})
    return made


# The published template's form, with a system message of our own.
SAIL_VL2_TEMPLATE = """{%- for message in messages -%}
  {%- if loop.first and messages[0]['role'] != 'system' -%}
    {{'<|im_start|>system\\nYou answer "briefly".<|im_end|>'}}
  {%- endif -%}
  {%- if message['role'] == 'system' -%}{{'<|im_system|>'}}{%- endif -%}
  {%- if message['role'] == 'user' -%}{{'<|im_start|>user\\n'}}{%- endif -%}
  {%- if message['role'] == 'assistant' -%}{{'<|im_assistant|>'}}{%- endif -%}
  {%- if message['content'] is string -%}
    {{- message['content'] + '<|im_end|>' -}}
  {%- else -%}
    {%- for content in message['content'] -%}
      {%- if content['type'] == 'image' or 'image' in content -%}{{'<image>\\n'}}
      {%- else -%}{{content['text']}}{%- endif -%}
    {%- endfor -%}
    {{'<|im_end|>'}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<|im_start|>assistant\\n'}}{%- endif -%}"""


def vlm(tied=True, dtype=torch.float32):
    """A whole model of ours, and its processor."""
    words = tokenizer()
    torch.manual_seed(0)
    text = Qwen3Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        rope_parameters={"rope_theta": 5000.0, "rope_type": "default"},
        tie_word_embeddings=tied,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    token = words.convert_tokens_to_ids("<IMG_CONTEXT>")
    model = SAILViTForConditionalGeneration.from_parts(sailvit_model(), Qwen3ForCausalLM(text), token)
    shake(model).to(dtype)
    processor = SAILViTProcessor(SAILViTImageProcessorPil(size={"height": 32, "width": 32}), words, patch_size=8)
    return model, processor


def save_vlm(folder: Path, **options):
    model, processor = vlm(**options)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def save_sail_vl2(folder: Path, shards: int = 1, head: torch.Tensor | None = None, **options):
    """A SAIL-VL2 folder, and the model of ours that computes the same.

    Args:
        head: Stored as the head; the embeddings when not given, as the published checkpoint does.
    """
    model, processor = vlm(**options)
    folder.mkdir(parents=True)
    weights = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in (
            ("model.vision_tower.", "vision_model."),
            ("model.multi_modal_projector.norm.", "mlp1.0."),
            ("model.multi_modal_projector.linear_1.", "mlp1.1."),
            ("model.multi_modal_projector.linear_2.", "mlp1.3."),
            ("model.language_model.", "language_model.model."),
            ("lm_head.", "language_model.lm_head."),
        ):
            if name.startswith(ours):
                weights[theirs + name.removeprefix(ours)] = tensor.clone()
    if head is not None:
        weights["language_model.lm_head.weight"] = head
    names = sorted(weights)
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
    else:
        weight_map = {}
        for number in range(shards):
            file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
            save_file({name: weights[name] for name in names[number::shards]}, folder / file)
            weight_map |= dict.fromkeys(names[number::shards], file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    _write_sail_vl2_files(folder, model.config, processor.tokenizer)
    return model, processor


def _write_sail_vl2_files(folder: Path, config, words) -> None:
    tower = {**SIZES, "model_type": "sailvit", "rms_norm_eps": 1e-5, "use_bias": False, "qkv_bias": False}
    text = config.text_config.to_dict()
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    text |= {"rope_scaling": None, "attn_implementation": "sdpa", "top_k": 50, "torch_dtype": "float32"}
    values = {
        "architectures": ["SAILVLModel"],
        "auto_map": {"AutoConfig": "configuration_sailvl.SAILVLConfig", "AutoModel": "modeling_sailvl.SAILVLModel"},
        "model_type": "sailvl",
        "vision_config": {**tower, "auto_map": {"AutoModel": "modeling_sailvit.SAILViTModel"}, "temperature": 1.0},
        "llm_config": text,
        "downsample_ratio": 0.5,
        "select_layer": -1,
        "ps_version": "v2",
        "template": "univl-chat",
        "max_dynamic_patch": 7,
        "use_thumbnail": False,
    }
    (folder / "config.json").write_text(json.dumps(values))
    statistics = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    statistics |= {"pad_input": False}
    pictures = {"image_size": 32, "patch_size": 8, "max_dynamic_patch": 5, "use_msac": True, **statistics}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    words.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(SAIL_VL2_TEMPLATE)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    weights = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights |= load_file(path)
    return weights


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two checkpoints have equal names, types and values, bit by bit."""
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def pixels(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(9))
