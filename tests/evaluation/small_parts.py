# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A small vision tower, and a world, processor and language model that go with it."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sailvit_hf.data.demo_world import DemoWorld
from sailvit_hf.modeling.configuration_sailvit import SAILViTConfig
from sailvit_hf.modeling.modeling_sailvit import SAILViTModel
from sailvit_hf.processing.image_processing_pil_sailvit import SAILViTImageProcessorPil
from sailvit_hf.processing.processing_sailvit import SAILViTProcessor


def tower(seed, width=32):
    torch.manual_seed(seed)
    config = SAILViTConfig(hidden_size=width, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                           image_size=64, patch_size=16)  # fmt: skip
    return SAILViTModel(config).eval()


def small_parts():
    """A world, a processor, a language model, and 24 training samples."""
    world = DemoWorld(seed=0)
    tokenizer = world.tokenizer()
    processor = SAILViTProcessor.from_parts(
        SAILViTImageProcessorPil(size={"height": 64, "width": 64}), tokenizer, patch_size=16
    )
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True)  # fmt: skip
    language_model = LlamaForCausalLM(config).eval()
    return world, processor, language_model, world.dataset("fine", "train", 24)
