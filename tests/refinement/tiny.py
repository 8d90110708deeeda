# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A vision-language model of a few thousand weights, samples for it, and a trainer of either: shared by the tests.

Run as a script under torchrun it trains and writes the weights (see test_distributed.py).
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from sailvit_hf import SAILViTConfig, SAILViTForConditionalGeneration, SAILViTModel
from sailvit_hf.cli.__main__ import leave
from sailvit_hf.refinement import RefinementArguments, RefinementTrainer

IMAGE_TOKEN, VOCABULARY, LENGTH = 3, 24, 12


def tiny_model(seed=0, dropout=0.0, tied=True, tower="sailvit", layers=2, **config):
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
    }
    if tower == "sailvit":
        tower = SAILViTModel(SAILViTConfig(**sizes, projection_dropout=dropout))
    else:
        tower = CLIPVisionModel(CLIPVisionConfig(**sizes, attention_dropout=dropout))
    decoder = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=32,
            attention_dropout=dropout,
            initializer_range=0.2,
            tie_word_embeddings=tied,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    return SAILViTForConditionalGeneration.from_parts(tower, decoder, image_token_id=IMAGE_TOKEN, **config)


def tiny_samples(size, text_only=()):
    """Samples with a picture each, but for those named in `text_only`; answers of 1 to 5 tokens."""
    generator = torch.Generator().manual_seed(7)
    samples = []
    for index in range(size):
        ids = torch.randint(4, VOCABULARY, (LENGTH,), generator=generator)
        pixels = torch.randn(3, 16, 16, generator=generator)
        with_picture = index not in text_only
        if with_picture:
            ids[1:5] = IMAGE_TOKEN
        messages = [
            {"role": "user", "content": f"question {index}"},
            {"role": "assistant", "content": " ".join(map(str, ids[-1 - index % 5 :].tolist()))},
        ]
        samples.append(
            {"messages": messages, "ids": ids, "pixels": pixels if with_picture else None, "answer": 1 + index % 5}
        )
    return samples


def collate(samples):
    ids = torch.stack([sample["ids"] for sample in samples])
    labels = ids.clone()
    for row, sample in zip(labels, samples, strict=True):
        row[: LENGTH - sample["answer"]] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    pixels = [sample["pixels"] for sample in samples if sample["pixels"] is not None]
    if pixels:
        batch["pixel_values"] = torch.stack(pixels)
    return batch


def tiny_trainer(
    folder, model=None, samples=None, stage="world", lineage=None, data_source=None, cls=None, **arguments
):
    options = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
    }
    return (cls or RefinementTrainer)(
        tiny_model() if model is None else model,
        RefinementArguments(**{**options, **arguments}),
        data_collator=collate,
        train_dataset=tiny_samples(32) if samples is None else samples,
        stage=None if cls else stage,
        lineage=lineage,
        data_source=data_source,
    )


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


# A tower that is not ours, used up to its last layer but one, and trained in part: nothing of it may be waited for.
PARTIAL = {"freeze_vision_layers": 1, "vision_tower_layer_decay": 0.5, "gradient_checkpointing": True}


def main(folder, micro_batch, tower="sailvit"):
    """Three steps of eight samples of which the second half has no picture, in the given order."""
    partly = {} if tower == "sailvit" else {"tower": tower, "layers": 3, "vision_feature_layer": -2}
    samples = tiny_samples(24, text_only=[i for i in range(24) if i % 8 >= 4])
    trainer = tiny_trainer(
        folder,
        model=tiny_model(**partly),
        samples=samples,
        max_steps=3,
        per_device_train_batch_size=micro_batch,
        train_sampling_strategy="sequential",
        save_strategy="steps",
        save_steps=3,
        clip_per_module=True,
        **(PARTIAL if partly else {}),
    )
    trainer.train()
    if trainer.is_world_process_zero():
        save_file({name: tensor.contiguous() for name, tensor in weights(trainer.model).items()}, f"{folder}/w.st")
    return trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]).accelerator.wait_for_everyone()
    leave(0)
