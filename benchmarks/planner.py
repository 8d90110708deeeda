# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What the planner says beside what real training steps take: peak memory, and FLOPs as torch counts them.

    python benchmarks/planner.py --write              # on a CPU: resident memory; on a GPU: what torch allocates there
    python benchmarks/planner.py --jobs 2 --cases "tiny, world" "small, world, bf16"

Every case trains in a process of its own: two steps of the real trainer on random samples, with DDP three (it makes
its buckets anew after the first, and only what was written to is resident). Memory on a CPU is the
kernel's mark of the process' resident peak (VmHWM) less what it held before the model was made, when libraries were
loaded and their kernels warm; glibc is told to hand freed memory back (MALLOC_MMAP_THRESHOLD_), for a heap with holes
is no matter of the plan. On a GPU it is `torch.cuda.max_memory_allocated`. FLOPs are those that torch's
`FlopCounterMode` sees in one forward and backward pass of one sample with eager attention, in which every product is
visible. Nothing here is a time, so cases may run beside each other (`--jobs`).
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from measuring import Report, command_of, machine, versions
from packing import IMAGE_TOKEN, encoded, padded
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from sailvit_hf import SAILViTConfig, SAILViTForConditionalGeneration, SAILViTModel
from sailvit_hf.data.packing.packer import SampleSize
from sailvit_hf.modeling.loss_sailvit import _CHUNK_ELEMENTS
from sailvit_hf.refinement import STAGES, RefinementArguments, RefinementTrainer
from sailvit_hf.refinement.flops import ModelFlops
from sailvit_hf.refinement.monitoring import BatchCounts
from sailvit_hf.refinement.planning.memory import SINGLE, Parameters, device_memory
from sailvit_hf.refinement.planning.simulation import (
    ACCELERATOR_CHUNK,
    MicroBatch,
    build_model,
    simulate_step,
)

LIMIT = 0.10


@dataclass(frozen=True)
class Case:
    """One short training: the sizes of the model and of its batches."""

    stage: str
    width: int
    layers: int
    rows: int
    text: int
    tiles: int
    vocabulary: int = 16384
    pixels: int = 224
    options: dict[str, Any] = field(default_factory=dict)
    processes: int = 1

    @property
    def per_tile(self) -> int:
        return (self.pixels // 28) ** 2

    @property
    def length(self) -> int:
        return self.text + self.tiles * self.per_tile


CASES = {
    "tiny, coarse": Case("coarse", 256, 4, 8, 192, 2),
    "tiny, fine": Case("fine", 256, 4, 8, 192, 2),
    "tiny, world": Case("world", 256, 4, 8, 192, 2),
    "small, coarse": Case("coarse", 512, 6, 4, 192, 3),
    "small, fine": Case("fine", 512, 6, 4, 192, 3),
    "small, world": Case("world", 512, 6, 4, 192, 3),
    "small, world, long vocabulary": Case("world", 512, 3, 2, 256, 2, vocabulary=65536),
    "small, world, accumulation": Case("world", 512, 6, 1, 256, 2, options={"gradient_accumulation_steps": 3}),
    "small, world, checkpointing": Case("world", 512, 6, 6, 256, 3, options={"gradient_checkpointing": True}),
    "small, fine, bf16": Case("fine", 512, 6, 4, 256, 4, options={"bf16": True}),
    "small, world, bf16": Case("world", 512, 6, 4, 256, 4, options={"bf16": True}),
    "tiny, world, DDP, 2 processes": Case("world", 256, 4, 8, 192, 2, processes=2),
    "small, world, DDP, 2 processes": Case("world", 512, 6, 1, 256, 2, processes=2),
    "small, world, all logits": Case("world", 512, 3, 2, 256, 2, options={"chunked_loss": False}),
}


def config_of(case: Case) -> Any:
    heads = case.width // 64
    tower = SAILViTConfig(
        hidden_size=case.width, intermediate_size=8 * case.width // 3 // 64 * 64, num_hidden_layers=case.layers,
        num_attention_heads=heads, image_size=case.pixels,
    )  # fmt: skip
    decoder = Qwen3Config(
        vocab_size=case.vocabulary, hidden_size=case.width, intermediate_size=3 * case.width,
        num_hidden_layers=case.layers, num_attention_heads=heads, num_key_value_heads=heads // 2, head_dim=64,
        max_position_embeddings=8192, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return tower, decoder


def model_of(case: Case) -> SAILViTForConditionalGeneration:
    torch.manual_seed(0)
    tower, decoder = config_of(case)
    parts = SAILViTModel(tower), Qwen3ForCausalLM(decoder)
    return SAILViTForConditionalGeneration.from_parts(*parts, image_token_id=IMAGE_TOKEN)


def samples_of(case: Case, count: int) -> list[dict[str, Any]]:
    return encoded([SampleSize(case.length, case.tiles)] * count, case.per_tile, case.pixels, case.vocabulary)


def train(case: Case, steps: int | None = None) -> None:
    steps = steps or (2 if case.processes == 1 else 3)
    accumulation = case.options.get("gradient_accumulation_steps", 1)
    on_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        options = RefinementArguments(
            output_dir=folder, max_steps=steps, save_strategy="no", disable_tqdm=True, use_cpu=not on_gpu,
            per_device_train_batch_size=case.rows, feature_drift_every=0, monitoring=False, **case.options,
        )  # fmt: skip
        samples = samples_of(case, case.rows * accumulation * case.processes)
        RefinementTrainer(model_of(case), options, padded, samples, stage=case.stage).train()


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def measure(case: Case) -> dict[str, float]:
    """The peak of a training in this process, in bytes, and the FLOPs of a sample."""
    options = {key: value for key, value in case.options.items() if key != "gradient_accumulation_steps"}
    train(Case(case.stage, 128, 1, 1, 64, 1, vocabulary=512, options=options), steps=1)  # kernels, lazy imports
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train(case)
        peak = torch.cuda.max_memory_allocated() - before
    else:
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        train(case)
        peak = status("VmHWM") - before
    gc.collect()
    return {"memory": peak, "flops": counted_flops(case)}


def counted_flops(case: Case) -> float:
    model = model_of(case)
    STAGES[case.stage].apply(model)
    model.train().set_attn_implementation("eager")
    batch = padded(samples_of(case, 1))
    with FlopCounterMode(display=False) as counter:
        model(**batch, skip_logits=False).loss.backward()
    return counter.get_total_flops()


def planned(case: Case) -> dict[str, float]:
    """What the planner says of the same."""
    with torch.device("meta"):
        config = model_of(case).config
    bf16, accumulation = case.options.get("bf16", False), case.options.get("gradient_accumulation_steps", 1)
    model, mode = build_model(config)
    STAGES[case.stage].apply(model)
    sample = samples_of(case, 1)[0]
    learnt = int((sample["labels"] != -100).sum())
    visual = case.tiles * case.per_tile
    batch = MicroBatch(case.rows, case.length, case.rows * case.tiles, (case.pixels, case.pixels), case.rows * learnt,
                       case.rows * visual)  # fmt: skip
    on_gpu = torch.cuda.is_available()
    checkpointing = tuple(m for m in ("vision_tower", "multi_modal_projector", "language_model")
                          if case.options.get("gradient_checkpointing"))  # fmt: skip
    step = simulate_step(
        model, mode, batch, autocast=bf16, chunked=case.options.get("chunked_loss", True),
        chunk_elements=ACCELERATOR_CHUNK if on_gpu else _CHUNK_ELEMENTS, checkpointing=checkpointing,
    )  # fmt: skip
    memory = device_memory(
        SINGLE if case.processes == 1 else "ddp", Parameters.of(model), step, case.processes, half=bf16,
        accumulated=accumulation > 1, batches=accumulation,
    )  # fmt: skip
    flops = ModelFlops(model)
    counts = BatchCounts(IMAGE_TOKEN, flops)
    counts.add(padded([{**sample, "labels": sample["input_ids"]}]))  # torch sees logits everywhere
    return {"memory": memory.total, "flops": sum(flops(counts.totals()[1]).values())}


def fresh(name: str) -> dict[str, float]:
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    processes = CASES[name].processes
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), __file__, "--measure", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The planner's figures beside measured ones.")
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="all by default")
    parser.add_argument("--jobs", type=int, default=1, help="cases that are measured at once")
    parser.add_argument("--write", action="store_true", help="keep the result in benchmarks/results")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure:
        found = measure(CASES[arguments.measure])
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(found))
        return 0
    name = "planner_gpu.txt" if torch.cuda.is_available() else "planner.txt"
    report = Report(name if arguments.write else None, command_of(__file__, argv))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report.add(f"{machine(device)}; {versions('accelerate')}; {torch.get_num_threads()} threads")
    report.add("Peak of the training steps in MB, GFLOP of a sample's forward and backward pass: measured, planned,")
    report.add("planned over measured. Every case in a process of its own.")
    report.add()
    report.add(f"{'case':32} {'MB':>8} {'planned':>8} {'ratio':>6} {'GFLOP':>9} {'planned':>9} {'ratio':>6}")
    worst = 0.0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for case, found in zip(arguments.cases, pool.map(fresh, arguments.cases), strict=True):
            said = planned(CASES[case])
            ratios = {key: said[key] / found[key] for key in ("memory", "flops")}
            worst = max(worst, *(abs(ratio - 1) for ratio in ratios.values()))
            report.add(
                f"{case:32} {found['memory'] / 1e6:8.0f} {said['memory'] / 1e6:8.0f} {ratios['memory']:6.3f} "
                f"{found['flops'] / 1e9:9.1f} {said['flops'] / 1e9:9.1f} {ratios['flops']:6.3f}"
            )
    report.add()
    report.add(f"Farthest from 1: {worst:.1%} (limit {LIMIT:.0%}).")
    return int(worst > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
