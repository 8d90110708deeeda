# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Ragged encoded samples, models and trainers for the tests of packing.

Run as a script under torchrun it trains and writes the losses (see test_packing_trainer.py).
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

from sailvit_hf import SAILViTConfig, SAILViTForConditionalGeneration, SAILViTModel
from sailvit_hf.cli.__main__ import leave
from sailvit_hf.data.packing.batch import PackCollator
from sailvit_hf.data.packing.packer import Packer
from sailvit_hf.data.packing.plan import PackBatches, PackPlan
from sailvit_hf.data.packing.rows import encoded_size
from sailvit_hf.data.packing.streams import IndexStream, sequential
from sailvit_hf.refinement import RefinementArguments, RefinementTrainer

IMAGE_TOKEN, VOCABULARY, TOKENS_PER_TILE = 3, 24, 4


def language_model_sizes(**changes):
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": 8,
    }
    return {**sizes, **changes}


def vision_language_model(language_model=None, attention="sdpa", seed=0, image_token_id=IMAGE_TOKEN):
    torch.manual_seed(seed)
    tower = SAILViTConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4
    )
    if language_model is None:
        language_model = LlamaForCausalLM(LlamaConfig(**language_model_sizes()))
    model = SAILViTForConditionalGeneration.from_parts(
        SAILViTModel(tower), language_model, image_token_id=image_token_id
    )
    model.set_attn_implementation({"text_config": attention, "vision_config": "sdpa"})
    return model


def encoded_sample(length, tiles, generator, learnt=None):
    """A sample of `length` tokens, its pictures among them; the last `learnt` ones are learnt, by default half."""
    ids = torch.randint(4, VOCABULARY, (length,), generator=generator)
    ids[1 : 1 + TOKENS_PER_TILE * tiles] = IMAGE_TOKEN
    labels = ids.clone()
    labels[: length - (length // 2 if learnt is None else learnt)] = -100
    labels[ids == IMAGE_TOKEN] = -100
    sample = {"input_ids": ids, "labels": labels}
    if tiles:
        sample["pixel_values"] = torch.randn(tiles, 3, 16, 16, generator=generator)
        sample["num_tiles"] = torch.ones(tiles, dtype=torch.long)
    return sample


def ragged_samples(size, seed=7, longest=40):
    """Text-only ones among them; lengths and numbers of pictures vary."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(size):
        tiles = int(torch.randint(0, 4, (), generator=generator))
        text = int(torch.randint(3, longest - 3 * TOKENS_PER_TILE, (), generator=generator))
        samples.append(encoded_sample(text + TOKENS_PER_TILE * tiles, tiles, generator))
    return samples


def padded(samples):
    """What a collator without packing makes of encoded samples."""
    longest = max(len(sample["input_ids"]) for sample in samples)

    def fill(values, filling):
        return torch.nn.functional.pad(values, (0, longest - len(values)), value=filling)

    batch = {
        "input_ids": torch.stack([fill(sample["input_ids"], 0) for sample in samples]),
        "labels": torch.stack([fill(sample["labels"], -100) for sample in samples]),
        "attention_mask": torch.stack([fill(torch.ones_like(sample["input_ids"]), 0) for sample in samples]),
    }
    pixels = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
    if pixels:
        batch["pixel_values"] = torch.cat(pixels)
    return batch


def packed_trainer(folder, samples=None, model=None, collator=None, cls=RefinementTrainer, **arguments):
    options = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "max_steps": 10,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
        "packing": True,
        "max_length": 64,
        "packing_buffer": 12,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
    }
    return cls(
        vision_language_model() if model is None else model,
        RefinementArguments(**{**options, **arguments}),
        data_collator=collator or padded,
        train_dataset=ragged_samples(120) if samples is None else samples,
        stage="world",
    )


def losses(trainer):
    return [entry["loss"] for entry in trainer.history]


def main(folder, micro_batch, accumulation, weighting):
    trainer = packed_trainer(
        folder,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        loss_weighting=weighting,
    )
    trainer.train()
    if trainer.is_world_process_zero():
        weights = {name: tensor.contiguous() for name, tensor in trainer.model.state_dict().items()}
        save_file({name: tensor.clone() for name, tensor in weights.items()}, folder / "weights.safetensors")
        (folder / "losses.json").write_text(json.dumps(losses(trainer)))
    trainer.accelerator.wait_for_everyone()
    return trainer


def sharded_main(folder, shard=True):
    """Ten steps of four packs over all processes, of which one has no pictures, sharded by torch or (for one) not."""
    processes, process = (dist.get_world_size(), dist.get_rank()) if shard else (1, 0)
    model, samples = vision_language_model().train(), mixed_samples()
    if shard:
        for block in (*model.model.vision_tower.trunk.blocks, *model.model.language_model.layers):
            fully_shard(block)
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    plan = PackPlan(IndexStream(sequential(len(samples))), lambda key: encoded_size(samples[key]), Packer(24), 4)
    batches, found = iter(PackBatches(plan, 10, 4 // processes, 1, processes, process)), []
    for _ in range(10):
        step = [
            PackCollator()([[samples[key] for key in pack] for pack in next(batches)]) for _ in range(4 // processes)
        ]
        items, total = sum((batch["labels"] != -100).sum() for batch in step), torch.zeros(())
        if shard:
            dist.all_reduce(items)
        for batch in step:
            loss = model(**batch, num_items_in_batch=items).loss
            (loss * processes).backward()  # gradients are averaged over the processes
            total += loss.detach()
        if shard:
            dist.all_reduce(total)
        optimizer.step()
        optimizer.zero_grad()
        found.append(total.item())
    if process == 0:
        (folder / "losses.json").write_text(json.dumps(found))
    return found


def mixed_samples():
    """Every pack of 24 tokens holds one sample; of the four of a step three have pictures."""
    generator = torch.Generator().manual_seed(5)
    return [encoded_sample(20 + index % 4, 3 if index % 4 else 0, generator) for index in range(40)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[2] == "sharded":
        dist.init_process_group("gloo")
        sharded_main(Path(sys.argv[1]))
        dist.barrier()
    else:
        trainer = main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
        trainer.accelerator.wait_for_everyone()
    leave(0)
