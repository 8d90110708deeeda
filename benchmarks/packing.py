# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Packing beside plain Trainer with a padding collator: the same samples, one epoch, by turns; and how full packs are.

    python benchmarks/packing.py --write

The mixture has 10 to 800 text tokens and 0 to 6 tiles a sample, evenly drawn; half of the text is learnt. Training is
timed (`train()` alone, no saving). The third row, our trainer with the same padding collator, tells what packing does
and what the loss that makes no unneeded logits does. The tables on efficiency and balance need no model.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from measuring import Report, command_of, machine, spread, versions
from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments

from sailvit_hf import SAILViTConfig, SAILViTForConditionalGeneration, SAILViTModel
from sailvit_hf.data.packing.packer import Packer, SampleSize
from sailvit_hf.data.packing.plan import PackPlan, dealt
from sailvit_hf.data.packing.streams import IndexStream, sequential
from sailvit_hf.refinement import RefinementArguments, RefinementTrainer

IMAGE_TOKEN = 3
Timed = Callable[[], tuple[float, float]]


def mixture(count: int, tokens_per_tile: int, seed: int = 0) -> list[SampleSize]:
    """Sizes of samples: 10 to 800 text tokens, 0 to 6 tiles."""
    draw = np.random.default_rng(seed)
    texts, tiles = draw.integers(10, 801, count), draw.integers(0, 7, count)
    return [SampleSize(int(text + tokens_per_tile * n), int(n)) for text, n in zip(texts, tiles, strict=True)]


def encoded(sizes: Sequence[SampleSize], tokens_per_tile: int, pixels: int, vocabulary: int) -> list[dict[str, Any]]:
    """Samples of these sizes with random content."""
    draw, samples = torch.Generator().manual_seed(0), []
    for size in sizes:
        ids = torch.randint(4, vocabulary, (size.tokens,), generator=draw)
        ids[1 : 1 + tokens_per_tile * size.tiles] = IMAGE_TOKEN
        labels = ids.clone()
        labels[: size.tokens - (size.tokens - tokens_per_tile * size.tiles) // 2] = -100
        sample = {"input_ids": ids, "labels": labels}
        if size.tiles:
            sample["pixel_values"] = torch.randn(size.tiles, 3, pixels, pixels, generator=draw)
            sample["num_tiles"] = torch.tensor([size.tiles])
        samples.append(sample)
    return samples


def padded(samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The padding collator: right, to the longest."""
    lists = {key: [sample[key] for sample in samples] for key in ("input_ids", "labels")}
    lists["attention_mask"] = [torch.ones_like(ids) for ids in lists["input_ids"]]
    filling = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    batch = {
        key: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filling[key])
        for key, rows in lists.items()
    }
    pixels = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
    return {**batch, "pixel_values": torch.cat(pixels)} if pixels else batch


def model_of(arguments: argparse.Namespace) -> SAILViTForConditionalGeneration:
    """A random model; the tower is small, for its work is the same either way."""
    torch.manual_seed(0)
    width = arguments.width
    tower = SAILViTConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        image_size=arguments.pixels, patch_size=14,
    )  # fmt: skip
    decoder = Qwen3Config(
        vocab_size=arguments.vocabulary, hidden_size=width, intermediate_size=3 * width,
        num_hidden_layers=arguments.layers, num_attention_heads=width // 64, num_key_value_heads=width // 128 or 1,
        head_dim=64, max_position_embeddings=8192, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return SAILViTForConditionalGeneration.from_parts(
        SAILViTModel(tower), Qwen3ForCausalLM(decoder), image_token_id=IMAGE_TOKEN
    )


def ways(arguments: argparse.Namespace, samples: list[dict[str, Any]], folder: str) -> dict[str, Timed]:
    """Trains one epoch each way; gives the seconds of `train()`, by the wall clock and of the processor."""
    common: dict[str, Any] = {
        "output_dir": folder, "num_train_epochs": 1, "learning_rate": 1e-4, "report_to": "none", "save_strategy": "no",
        "disable_tqdm": True, "logging_steps": 1000, "remove_unused_columns": False, "dataloader_pin_memory": False,
        "use_cpu": not torch.cuda.is_available(), "bf16": torch.cuda.is_available(),
    }  # fmt: skip
    rows = {"per_device_train_batch_size": arguments.batch_size, "gradient_accumulation_steps": 2}
    # As many optimiser steps, or nearly so.
    tokens = sum(len(sample["input_ids"]) for sample in samples)
    packs = round(tokens / arguments.max_length / (len(samples) / (2 * arguments.batch_size)))
    packing = {"packing": True, "max_length": arguments.max_length, "gradient_accumulation_steps": max(1, packs)}

    def plain() -> Trainer:
        return Trainer(
            model_of(arguments), TrainingArguments(**common, **rows), data_collator=padded, train_dataset=samples
        )

    def ours(options: dict[str, Any]) -> Trainer:
        options = {"per_device_train_batch_size": 1, "monitoring": False, **common, **options}
        return RefinementTrainer(model_of(arguments), RefinementArguments(**options), padded, samples, stage="world")

    def timed(make: Callable[[], Trainer]) -> Timed:
        def work() -> tuple[float, float]:
            trainer = make()
            start, processor = time.perf_counter(), time.process_time()
            trainer.train()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            return time.perf_counter() - start, time.process_time() - processor

        return work

    return {
        "plain Trainer, padded": timed(plain),
        "our trainer, padded": timed(lambda: ours(rows)),
        "our trainer, packed": timed(lambda: ours(packing)),
    }


def speed(arguments: argparse.Namespace, report: Report) -> None:
    samples = encoded(
        mixture(arguments.samples, arguments.tokens_per_tile), arguments.tokens_per_tile, arguments.pixels,
        arguments.vocabulary,
    )  # fmt: skip
    report.add(
        f"one epoch of {len(samples)} samples, {arguments.tokens_per_tile} tokens a tile; Qwen3 of "
        f"{arguments.layers} layers of {arguments.width}, vocabulary {arguments.vocabulary}"
    )
    report.add(f"padded: {arguments.batch_size} samples a batch; packed: {arguments.max_length} tokens a pack")
    with tempfile.TemporaryDirectory() as folder:
        works = ways(arguments, samples, folder)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
        for number in range(arguments.rounds):
            for name in list(works)[:: 1 if number % 2 == 0 else -1]:
                times[name].append(works[name]())
    report.add("wall time, its share of the first row's; time of the processor, its share")
    first: list[float] = []
    for name, found in times.items():
        walls, processors = zip(*found, strict=True)
        medians = [statistics.median(walls), statistics.median(processors)]
        first = first or medians
        wall, processor = (own / base for own, base in zip(medians, first, strict=True))
        report.add(f"{name:24} {spread(walls)} {wall:5.0%}   {medians[1]:8.3f} s {processor:5.0%}")


def in_order(sizes: Sequence[SampleSize], max_tokens: int) -> list[SampleSize]:
    """Packs in the order of arrival, each closed when the next sample does not fit."""
    packs, tokens, tiles = [], 0, 0
    for size in sizes:
        if tokens + size.tokens > max_tokens:
            packs.append(SampleSize(tokens, tiles))
            tokens = tiles = 0
        tokens, tiles = tokens + size.tokens, tiles + size.tiles
    return packs


def balance(arguments: argparse.Namespace, report: Report) -> None:
    """How full packs are, and how unequal the ranks' shares of a step."""
    sizes, ranks = mixture(arguments.planned, 256), arguments.ranks
    report.add("")
    report.add(
        f"{len(sizes)} samples, 256 tokens a tile, one pack a rank and step, {ranks} ranks; of each step the fullest "
        "rank over the mean of all"
    )
    report.add(f"{'':38} {'full':>6} {'tokens':>7} {'tiles':>7}  {'ms/pack':>7}")
    for length in (4096, 8192, 16384):
        naive = np.array(in_order(sizes, length))
        report.add(_row(f"{length}, in the order of arrival", naive, length, ranks, None))
        for buffer in (64, 128, 256):
            stream = IndexStream(sequential(len(sizes)), len(sizes))
            plan = PackPlan(stream, sizes.__getitem__, Packer(length, None, buffer), ranks)
            start, packs = time.perf_counter(), []
            while (step := plan.next_step()) is not None:
                own = [dealt(step, ranks, rank, 1)[0][0] for rank in range(ranks)]
                packs += [np.sum([sizes[key] for key in pack] or [(0, 0)], axis=0) for pack in own]
            cost = 1000 * (time.perf_counter() - start) / len(packs)
            packs = packs[:-ranks]  # the last step has what was left
            report.add(_row(f"{length}, packer with a buffer of {buffer}", np.array(packs), length, ranks, cost))


def _row(title: str, packs: np.ndarray, length: int, ranks: int, cost: float | None) -> str:
    steps = packs[: len(packs) // ranks * ranks].reshape(-1, ranks, 2)
    unequal = (steps.max(1) / steps.mean(1)).mean(0)
    text = "" if cost is None else f"{cost:.2f}"
    return f"{title:38} {packs[:, 0].mean() / length:6.1%} {unequal[0]:7.3f} {unequal[1]:7.3f}  {text:>7}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--tokens-per-tile", type=int, default=16)
    parser.add_argument("--pixels", type=int, default=112, help="side of a tile; 28 x 28 of them are a token")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--planned", type=int, default=40_000, help="samples of the tables without a model; 0: none")
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/packing.txt")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    report = Report("packing.txt" if arguments.write else None, command_of(__file__, argv))
    report.add(machine(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    report.add(versions("accelerate"))
    if arguments.rounds:
        speed(arguments, report)
    if arguments.planned:
        balance(arguments, report)


if __name__ == "__main__":
    main()
