# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Models of random weights, and the same network as transformers writes it."""

import torch
from transformers import Aimv2VisionConfig, Aimv2VisionModel

from sailvit_hf import SAILViTConfig, SAILViTModel


def randomised(config: SAILViTConfig) -> SAILViTModel:
    """A model whose every tensor is random: norms of one and a table of zeros would hide mistakes."""
    torch.manual_seed(0)
    model = SAILViTModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    return model


def as_aimv2(model: SAILViTModel) -> Aimv2VisionModel:
    """The same network in transformers' layout (facts of the layout, not code of ours that could share a mistake)."""
    config = model.config
    sizes = {
        name: getattr(config, name)
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    }
    sizes |= {name: getattr(config, name) for name in ("image_size", "patch_size")}
    with torch.device("meta"):
        twin = Aimv2VisionModel(Aimv2VisionConfig(**sizes, use_head=False, is_native=False)).eval()
    twin.embeddings.position_ids = torch.arange(twin.embeddings.position_ids.shape[1])[None]
    ours = model.state_dict()
    theirs = {
        "embeddings.patch_embed.weight": ours["preprocessor.patchifier.proj.weight"],
        "embeddings.patch_embed.bias": ours["preprocessor.patchifier.proj.bias"],
        "embeddings.rms_norm.weight": ours["preprocessor.patchifier.norm.weight"],
        "embeddings.position_embedding.weight": ours["preprocessor.pos_embed"][0],
        "rms_norm.weight": ours["trunk.post_trunk_norm.weight"],
    }
    for index in range(config.num_hidden_layers):
        block, layer = f"trunk.blocks.{index}", f"encoder.layers.{index}"
        query, key, value = ours[f"{block}.attn.qkv.weight"].chunk(3)
        theirs |= {
            f"{layer}.attention.q_proj.weight": query,
            f"{layer}.attention.k_proj.weight": key,
            f"{layer}.attention.v_proj.weight": value,
            f"{layer}.attention.out_proj.weight": ours[f"{block}.attn.proj.weight"],
            f"{layer}.ffn.gate_proj.weight": ours[f"{block}.mlp.fc1.weight"],
            f"{layer}.ffn.down_proj.weight": ours[f"{block}.mlp.fc2.weight"],
            f"{layer}.ffn.up_proj.weight": ours[f"{block}.mlp.fc3.weight"],
            f"{layer}.rms_norm1.weight": ours[f"{block}.norm_1.weight"],
            f"{layer}.rms_norm2.weight": ours[f"{block}.norm_2.weight"],
        }
    # The tensors are shared, not copied: the large sizes fit into memory once.
    twin.load_state_dict(theirs, strict=True, assign=True)
    return twin
