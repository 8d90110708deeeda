# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a step of stage I (only the connector trains) costs beside what it cannot do without.

    python benchmarks/frozen_tower.py --write

A random model of medium size; times are taken by turns in one process. "needed" is the sum of two works that are
timed alone: the vision tower's forward pass without gradients, and the language model's forward pass with the gradient
of its inputs, from random embeddings, with the same loss. "step" is what the trainer does with a batch: both, the
connector's forward and backward pass, clipping of gradients and the optimiser's step. "as if trained" is the same with
a gradient asked for by the tower's first bias: what a wholly frozen tower saves. Last come whole runs of the trainer
over the same samples, with the tower's features computed at every epoch and with `vision_feature_cache`.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import Report, by_turns, command_of, machine, spread, versions
from transformers import LlamaConfig, LlamaForCausalLM

from sailvit_hf import SAILViTConfig, SAILViTForConditionalGeneration, SAILViTModel
from sailvit_hf.modeling.loss_sailvit import LogitTransform, chunked_loss, learnt_positions, mean_loss, shifted
from sailvit_hf.refinement import RefinementArguments, RefinementTrainer

LIMIT = 1.05
IMAGE_TOKEN, WORDS = 3, 32000


def build(options: argparse.Namespace) -> SAILViTForConditionalGeneration:
    torch.manual_seed(0)
    width, layers = options.width, options.layers
    vision = SAILViTConfig(
        hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers, num_attention_heads=width // 64,
        image_size=options.image_size, patch_size=14,
    )  # fmt: skip
    language = LlamaConfig(
        vocab_size=WORDS, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=4096, pad_token_id=0,
    )  # fmt: skip
    tower, decoder = SAILViTModel(vision), LlamaForCausalLM(language)
    return SAILViTForConditionalGeneration.from_parts(tower, decoder, image_token_id=IMAGE_TOKEN)


def samples(options: argparse.Namespace, count: int) -> list[dict[str, torch.Tensor]]:
    """A picture, a question and an answer of half the text each."""
    generator, tokens = torch.Generator().manual_seed(0), (options.image_size // 28) ** 2
    found = []
    for _ in range(count):
        text = torch.randint(4, WORDS, (options.text,), generator=generator)
        ids = torch.cat([torch.full((tokens,), IMAGE_TOKEN), text])
        labels = ids.clone()
        labels[: tokens + options.text // 2] = -100
        side = options.image_size
        found.append({"ids": ids, "labels": labels, "pixels": torch.randn(3, side, side, generator=generator)})
    return found


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    ids = torch.stack([row["ids"] for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.stack([row["labels"] for row in rows]),
        "pixel_values": torch.stack([row["pixels"] for row in rows]),
    }


def make_trainer(options: argparse.Namespace, folder: str, rows: list[Any], **arguments: Any) -> RefinementTrainer:
    settings: dict[str, Any] = {
        "output_dir": folder, "per_device_train_batch_size": options.batch_size, "save_strategy": "no",
        "use_cpu": options.device == "cpu", "disable_tqdm": True, "monitoring": False, "num_train_epochs": 1,
        "learning_rate": 1e-3, "bf16": options.dtype == "bfloat16", "logging_strategy": "no",
    }  # fmt: skip
    return RefinementTrainer(
        build(options), RefinementArguments(**{**settings, **arguments}), collate, rows, stage="coarse"
    )


class Works:
    """The works that are timed, over one batch."""

    def __init__(self, options: argparse.Namespace, folder: str) -> None:
        rows = samples(options, options.batch_size)
        self.trainer = make_trainer(options, folder, rows)
        self.trainer.create_optimizer()
        self.device = self.trainer.args.device
        self.model: Any = self.trainer.accelerator.prepare(self.trainer.model)
        self.bare: Any = self.trainer.model.train()
        self.batch = {name: tensor.to(self.device) for name, tensor in collate(rows).items()}
        self.learnt = (self.batch["labels"][:, 1:] != -100).sum()
        shape = (*self.batch["input_ids"].shape, self.bare.config.text_config.hidden_size)
        self.embeddings = torch.randn(shape, device=self.device, requires_grad=True)

    def tower(self) -> None:
        with torch.no_grad(), self.trainer.accelerator.autocast():
            self.bare.model.vision_tower(self.batch["pixel_values"])

    def language_model(self) -> None:
        self.embeddings.grad = None
        with self.trainer.accelerator.autocast():
            outputs = self.bare.model.language_model(
                inputs_embeds=self.embeddings, attention_mask=self.batch["attention_mask"], use_cache=False
            )
            positions = learnt_positions(*shifted(self.batch["labels"]))
            total = chunked_loss(self.bare.lm_head, outputs.last_hidden_state, positions, LogitTransform())
            mean_loss(total, positions, None).backward()

    def step(self) -> None:
        self.trainer.training_step(self.model, self.batch, self.learnt)
        self.trainer.accelerator.clip_grad_norm_(self.bare.parameters(), 1.0)
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad()

    def as_if_trained(self) -> None:
        """The step with a backward pass through the tower: one bias in front of all layers asks for a gradient."""
        bias = self.bare.model.vision_tower.preprocessor.patchifier.proj.bias
        bias.requires_grad_(True)
        try:
            self.step()
        finally:
            bias.requires_grad_(False)
            bias.grad = None


def run(options: argparse.Namespace, cache: bool) -> float:
    """Seconds of a whole training over `--samples` samples."""
    with tempfile.TemporaryDirectory() as folder:
        extra = {"vision_feature_cache": str(Path(folder) / "features")} if cache else {}
        rows = samples(options, options.samples)
        trainer = make_trainer(options, folder, rows, **{"num_train_epochs": options.epochs, **extra})
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--image-size", type=int, default=224, help="a multiple of 28")
    parser.add_argument("--text", type=int, default=128, help="tokens of text; half of them are learnt")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--samples", type=int, default=16, help="of the whole runs; 0 leaves them out")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", metavar="FILE", nargs="?", const="frozen_tower.txt", default=None,
                        help="keep the lines in benchmarks/results/FILE")  # fmt: skip
    options = parser.parse_args(argv)
    if options.image_size % 28:
        parser.error("--image-size must be a multiple of 28: patches of 14 pixels, merged by twos")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(sys.argv[1:] if argv is None else argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    report = Report(options.write, command_of(__file__, argv))
    with tempfile.TemporaryDirectory() as folder:
        works = Works(options, folder)
        report.add(f"{machine(works.device)}; {versions()}")
        report.add(
            f"{options.layers} layers of width {options.width} in tower and language model, {options.batch_size} "
            f"pictures of {options.image_size} px with {options.text} tokens of text each, {options.dtype}"
        )
        named: dict[str, Callable[[], object]] = {
            "tower": works.tower, "language model": works.language_model, "step": works.step,
            "as if trained": works.as_if_trained,
        }  # fmt: skip
        times = by_turns(named, options.rounds)
    for name, taken in times.items():
        report.add(f"{name:<16} {spread(taken)}")
    # Round by round, so that a slow spell of the machine weighs on both sides of a ratio.
    pairs = zip(times["tower"], times["language model"], times["step"], strict=True)
    ratio = statistics.median(step / (tower + language) for tower, language, step in pairs)
    verdict = "holds" if ratio <= LIMIT else "MISSED"
    report.add(f"step / needed    {ratio:8.3f}    {verdict} (limit {LIMIT})")
    if options.samples:
        plain, cached = run(options, cache=False), run(options, cache=True)
        report.add(
            f"{options.epochs} epochs of {options.samples} samples: {plain:.1f} s; with a cache of the tower's "
            f"features {cached:.1f} s, x{cached / plain:.2f}"
        )


if __name__ == "__main__":
    main()
