# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Speed, MFU and memory of each stage, packed beside padded, as a run's own monitor measures them.

    python benchmarks/stages.py                                    # tiny parts, on a CPU: does it work?
    python benchmarks/stages.py --preset large --language-model qwen3-1.7b --attention flash_attention_2 \
        --gradient-checkpointing --write                           # one GPU of 80 GB; then --preset huge
    python benchmarks/stages.py --preset huge --language-model qwen3-1.7b --tiles 1 1 --text 128 128 ...

Weights and samples are random: the time of a step does not depend on them. Padded is our trainer too, so that each
stage freezes the same parts, with a padding collator and logits everywhere (`chunked_loss=False`); a batch of it has
as many samples as a pack has on average. Of each number the median over the steps after `--warmup`; `memory` is the
peak.
"""

import argparse
import gc
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from measuring import Report, command_of, machine, versions
from packing import IMAGE_TOKEN, encoded, padded
from transformers import Qwen3Config, Qwen3ForCausalLM

from sailvit_hf import SAILViTConfig, SAILViTForConditionalGeneration, SAILViTModel
from sailvit_hf.data.packing.packer import SampleSize
from sailvit_hf.refinement import RefinementArguments, RefinementTrainer

# Qwen3-1.7B's own configuration, and one for machines without a GPU.
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 4096},
    "qwen3-1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
                   "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True},
}  # fmt: skip
TINY_TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 112}  # fmt: skip
STAGES = ("coarse", "fine", "world")
COLUMNS = ("samples_per_second", "text_tokens_per_second", "visual_tokens_per_second", "packing_efficiency",
           "tflops_per_device", "mfu", "memory_gib", "data_wait")  # fmt: skip
HEADER = (f"{'stage':7} {'batch':7} {'samples/s':>9} {'text/s':>8} {'visual/s':>8} {'full':>6} {'TFLOP/s':>8} "
          f"{'MFU':>6} {'GiB':>7} {'data':>6}")  # fmt: skip


def tower_config(preset: str) -> SAILViTConfig:
    return SAILViTConfig(**TINY_TOWER) if preset == "tiny" else SAILViTConfig.preset(preset)


def model_of(arguments: argparse.Namespace) -> SAILViTForConditionalGeneration:
    torch.manual_seed(0)
    decoder = Qwen3Config(
        **LANGUAGE_MODELS[arguments.language_model], max_position_embeddings=arguments.max_length,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    parts = SAILViTModel(tower_config(arguments.preset)), Qwen3ForCausalLM(decoder)
    model = SAILViTForConditionalGeneration.from_parts(*parts, image_token_id=IMAGE_TOKEN)
    model.set_attn_implementation(arguments.attention)
    return model


def samples_of(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Random samples, text tokens and tiles evenly drawn."""
    config = tower_config(arguments.preset)
    per_tile = (config.image_size // config.patch_size // 2) ** 2
    draw = np.random.default_rng(0)
    texts = draw.integers(arguments.text[0], arguments.text[1] + 1, arguments.samples)
    tiles = draw.integers(arguments.tiles[0], arguments.tiles[1] + 1, arguments.samples)
    sizes = [SampleSize(int(text + per_tile * n), int(n)) for text, n in zip(texts, tiles, strict=True)]
    vocabulary = LANGUAGE_MODELS[arguments.language_model]["vocab_size"]
    return encoded(sizes, per_tile, config.image_size, vocabulary)


def measured(
    arguments: argparse.Namespace, stage: str, samples: list[dict[str, Any]], packing: bool
) -> dict[str, float]:
    """The numbers of one short training."""
    on_gpu = torch.cuda.is_available()
    tokens = sum(len(sample["input_ids"]) for sample in samples)
    a_pack = max(1, round(arguments.max_length / (tokens / len(samples))))
    own: dict[str, Any] = {"packing": True, "max_length": arguments.max_length, "per_device_train_batch_size": 1}
    if not packing:
        own = {"per_device_train_batch_size": a_pack, "chunked_loss": False}
    if arguments.gradient_checkpointing:
        own["gradient_checkpointing"] = True
    with tempfile.TemporaryDirectory() as folder:
        options = RefinementArguments(
            output_dir=folder, max_steps=arguments.warmup + arguments.steps, logging_steps=1, save_strategy="no",
            disable_tqdm=True, learning_rate=1e-5, bf16=on_gpu, use_cpu=not on_gpu, feature_drift_every=0,
            **own,
        )  # fmt: skip
        trainer = RefinementTrainer(model_of(arguments), options, padded, samples, stage=stage)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    entries = [entry for entry in trainer.state.log_history if "samples_per_second" in entry][arguments.warmup :]
    found = {name: statistics.median(entry[name] for entry in entries if name in entry)
             for name in COLUMNS if any(name in entry for entry in entries)}  # fmt: skip
    del trainer
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    return found


def row(stage: str, batch: str, found: dict[str, float]) -> str:
    def text(name: str, form: str) -> str:
        return format(found[name], form) if name in found else ""

    return (
        f"{stage:7} {batch:7} {text('samples_per_second', '.2f'):>9} {text('text_tokens_per_second', '.0f'):>8} "
        f"{text('visual_tokens_per_second', '.0f'):>8} {text('packing_efficiency', '.1%'):>6} "
        f"{text('tflops_per_device', '.2f'):>8} {text('mfu', '.1%'):>6} {text('memory_gib', '.2f'):>7} "
        f"{text('data_wait', '.1%'):>6}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["tiny", "large", "huge"], default="tiny")
    parser.add_argument("--language-model", choices=list(LANGUAGE_MODELS), default="tiny")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--max-length", type=int, default=8192, help="tokens of a pack")
    parser.add_argument("--text", type=int, nargs=2, default=[10, 800], help="fewest and most text tokens")
    parser.add_argument("--tiles", type=int, nargs=2, default=[0, 6], help="fewest and most tiles")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/stages_PRESET.txt")
    arguments = parser.parse_args(argv)
    report = Report(f"stages_{arguments.preset}.txt" if arguments.write else None, command_of(__file__, argv))
    report.add(machine(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    report.add(versions("accelerate", "flash_attn"))
    report.add(f"SAILViT {arguments.preset}, {arguments.language_model}, {arguments.max_length} tokens a pack")
    samples = samples_of(arguments)
    report.add(HEADER)
    for stage in arguments.stages:
        speeds = {}
        for batch in ("padded", "packed"):
            try:
                found = measured(arguments, stage, samples, batch == "packed")
            except torch.OutOfMemoryError:
                report.add(f"{stage:7} {batch:7} does not fit into memory")
                continue
            speeds[batch] = found["samples_per_second"]
            report.add(row(stage, batch, found))
        if len(speeds) == 2:
            report.add(f"{'':15} packed needs {speeds['padded'] / speeds['packed']:.0%} of the time of padded")


if __name__ == "__main__":
    main()
