# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures a second of the vision tower on this machine, forward and training step.

    python benchmarks/vision_tower.py --preset tiny --batch-size 64

The time of a step does not depend on the weights, so they are random. The median of the repetitions is printed, and
its share of the device's peak where that is given (`--peak-tflops`, at the chosen precision).
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from sailvit_hf import SAILViTConfig, SAILViTModel


def forward_flops(config: SAILViTConfig) -> float:
    """FLOPs of one picture's forward pass: the matrix products (a multiply-add is two), attention included."""
    tokens = (config.image_size // config.patch_size) ** 2
    width, inner = config.hidden_size, config.intermediate_size
    block = 2 * tokens * (4 * width * width + 3 * width * inner) + 4 * tokens * tokens * width
    return config.num_hidden_layers * block + 2 * tokens * config.num_channels * config.patch_size**2 * width


def seconds(work: Callable[[], None], device: torch.device, repetitions: int) -> float:
    """Median wall time of one call, after two calls to warm up."""
    times = []
    for _ in range(repetitions + 2):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def measure(
    preset: str, batch_size: int, repetitions: int, dtype: torch.dtype, peak_tflops: float | None
) -> list[str]:
    """One printed line each for the forward pass and the training step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = SAILViTModel(SAILViTConfig.preset(preset)).to(device)
    config = model.config
    pictures = torch.randn(batch_size, config.num_channels, config.image_size, config.image_size, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)

    def forward() -> None:
        with torch.inference_mode(), autocast:
            model(pictures)

    def train() -> None:
        with autocast:
            loss = model(pictures).last_hidden_state.float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    lines = []
    for name, work, passes in (("forward", forward, 1), ("training step", train, 3)):
        rate = batch_size / seconds(work, device, repetitions)
        line = f"{preset:6} {name:14} {rate:10.1f} pictures/s"
        if peak_tflops:
            line += f"  {passes * forward_flops(config) * rate / (peak_tflops * 1e12):6.1%} of {peak_tflops:g} TFLOP/s"
        lines.append(line)
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Pictures a second of the vision tower on this machine.")
    parser.add_argument("--preset", nargs="+", default=["tiny"], help="tiny, large, huge")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="bfloat16: by autocast")
    parser.add_argument("--peak-tflops", type=float, help="the device's peak, to print the share of it")
    options = parser.parse_args(argv)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {options.dtype}, "
          f"batches of {options.batch_size}")  # fmt: skip
    for preset in options.preset:
        for line in measure(preset, options.batch_size, options.repetitions, getattr(torch, options.dtype),
                            options.peak_tflops):  # fmt: skip
            print(line)


if __name__ == "__main__":
    main()
