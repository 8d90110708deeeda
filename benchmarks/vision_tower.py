# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures a second of the vision tower on this machine, beside the same network in transformers and timm.

    python benchmarks/vision_tower.py --preset tiny --batch-size 64
    python benchmarks/vision_tower.py --preset large huge --dtype bfloat16 --models sailvit aimv2 timm \
        --kernels eager sdpa flash_attention_2 --compile --agreement --write

For each model, attention kernel and mode: the median of the repetitions, the rate in matrix-product FLOPs (a training
step counts three forward passes), its share of the device's peak (MFU) and the peak of device memory. With bfloat16
the forward pass has bf16 weights, the training step fp32 weights under autocast. The weights are random: the time of a
step does not depend on them. `--agreement` compares values: kernels in bf16, and timm's model with the same weights.
"""

import argparse
import contextlib
import gc
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from measuring import (
    Report,
    aimv2_twin,
    by_turns,
    command_of,
    forward_flops,
    machine,
    peak_mib,
    reset_peak,
    timm_twin,
    versions,
)
from torch import nn

from sailvit_hf import SAILViTConfig, SAILViTModel

# Dense bf16 TFLOP/s of the data sheets, by what the device's name contains.
PEAKS = {"H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0}
MODES = {"forward": 1, "training": 3}
HEADER = (f"{'preset':6} {'model':8} {'kernel':17} {'compiled':8} {'mode':8} {'batch':>5} {'pictures/s':>10} "
          f"{'TFLOP/s':>8} {'MFU':>6} {'GiB':>6}")  # fmt: skip
FAILURES = (ImportError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    preset: str
    model: str
    kernel: str
    compiled: bool
    mode: str

    @property
    def label(self) -> str:
        compiled = "yes" if self.compiled else "no"
        return f"{self.preset:6} {self.model:8} {self.kernel:17} {compiled:8} {self.mode:8}"


def variants(options: argparse.Namespace) -> Iterator[Variant]:
    """The rows that were asked for: of the other libraries' models only what they can do."""
    for preset in options.preset:
        for mode in options.modes:
            for model in options.models:
                for kernel in options.kernels if model != "timm" else ["sdpa"]:
                    for compiled in [False, True] if options.compile and kernel != "eager" else [False]:
                        yield Variant(preset, model, kernel, compiled, mode)


def build(preset: str, name: str, kernel: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A model with random weights, the same ones for every name."""
    torch.manual_seed(0)
    with torch.device(device):
        model = SAILViTModel(SAILViTConfig.preset(preset)).eval()
    model.set_attn_implementation(kernel)
    model.to(dtype)
    if name == "aimv2":
        return aimv2_twin(model)
    return timm_twin(model, preset) if name == "timm" else model


def features_of(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from pictures to patch features `(B, N, h)`, whatever the library calls it."""
    if hasattr(model, "forward_features"):
        return model.forward_features
    return lambda pictures: model(pictures).last_hidden_state


def work_of(model: nn.Module, variant: Variant, pictures: torch.Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """One forward pass or one training step."""
    features = features_of(model)
    if variant.compiled:
        features = torch.compile(features)
    if variant.mode == "forward":

        def forward() -> None:
            with torch.inference_mode():
                features(pictures.to(dtype))

        return forward
    model.train()
    device = pictures.device.type
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=device == "cuda")

    def train() -> None:
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            loss = features(pictures).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return train


def measure(variant: Variant, options: argparse.Namespace, device: torch.device) -> str:
    """The variant's row."""
    dtype = getattr(torch, options.dtype)
    weights = dtype if variant.mode == "forward" else torch.float32
    model = build(variant.preset, variant.model, variant.kernel, weights, device)
    config = SAILViTConfig.preset(variant.preset)
    side = config.image_size
    pictures = torch.randn(options.batch_size, config.num_channels, side, side, device=device)
    work = work_of(model, variant, pictures, dtype)
    work()  # compiles, allocates the optimiser's state
    reset_peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = by_turns({"": work}, options.repetitions)[""]
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else peak_mib() / 1024
    rate = options.batch_size / statistics.median(times)
    tflops = MODES[variant.mode] * forward_flops(config) * rate / 1e12
    share = f"{tflops / options.peak_tflops:6.1%}" if options.peak_tflops else f"{'-':>6}"
    return f"{variant.label} {options.batch_size:5d} {rate:10.1f} {tflops:8.2f} {share} {peak:6.2f}"


def attempt(what: str, work: Callable[[], str]) -> str:
    """The line that `work` gives, or why there is none: a kernel is not installed, memory is too small."""
    try:
        return work()
    except FAILURES as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return f"{what} {type(error).__name__}: {reason}"[:100]
    finally:
        gc.collect()
        torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@torch.inference_mode()
def agreement(preset: str, name: str, kernel: str, dtype: torch.dtype, device: torch.device) -> str:
    """Values of a model beside ours with sdpa and the same weights, in one precision."""
    config = SAILViTConfig.preset(preset)
    pictures = torch.randn(2, config.num_channels, config.image_size, config.image_size, device=device).to(dtype)
    found = []
    for model, attention in (("sailvit", "sdpa"), (name, kernel)):
        features = features_of(build(preset, model, attention, dtype, device))
        found.append(features(pictures).double())
    cosine = torch.cosine_similarity(*found, dim=-1)
    largest = float((found[1] - found[0]).abs().max())
    label = f"{preset:6} {name:8} {kernel:17} {str(dtype).removeprefix('torch.'):8}"
    return f"{label} {cosine.mean():.6f}    {cosine.min():.6f}         {largest:.1e} of {found[0].abs().max():.1f}"


def report_agreement(options: argparse.Namespace, device: torch.device, report: Report) -> None:
    """All values that are to agree."""
    report.add()
    report.add("Values beside sailvit with sdpa, same weights, two pictures of noise:")
    report.add(f"{'preset':6} {'model':8} {'kernel':17} {'type':8} mean cosine worst patch      largest difference")
    dtype = getattr(torch, options.dtype)
    for preset in options.preset:
        pairs = [("sailvit", kernel, dtype) for kernel in options.kernels if kernel != "sdpa"]
        pairs += [(name, "sdpa", torch.float32) for name in options.models if name != "sailvit"]
        for name, kernel, precision in pairs:
            label = f"{preset:6} {name:8} {kernel:17} {str(precision).removeprefix('torch.'):8}"
            report.add(
                attempt(label, lambda p=preset, n=name, k=kernel, d=precision: agreement(p, n, k, d, device))
            )


@contextlib.contextmanager
def true_fp32() -> Iterator[None]:
    """fp32 products in fp32: with TF32 two libraries would agree to three digits only."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Pictures a second of the vision tower on this machine.")
    parser.add_argument("--preset", nargs="+", default=["tiny"], help="tiny, large, huge")
    parser.add_argument("--models", nargs="+", default=["sailvit"], choices=["sailvit", "aimv2", "timm"])
    parser.add_argument("--kernels", nargs="+", default=["sdpa"], help="eager, sdpa, flash_attention_2, ...")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--compile", action="store_true", help="rows with torch.compile, too")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--peak-tflops", type=float, help="the device's peak; known for some GPUs in bfloat16")
    parser.add_argument("--agreement", action="store_true", help="compare values, too")
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/")
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    if options.peak_tflops is None and options.dtype == "bfloat16":
        options.peak_tflops = next((peak for part, peak in PEAKS.items() if part in name), None)
    slug = re.sub(r"[^a-z0-9]+", "_", " ".join([*options.preset, name]).lower()).strip("_")
    report = Report(f"vision_tower_{slug}.txt" if options.write else None, command_of(__file__, argv))
    report.add(machine(device))
    report.add(versions("timm", "flash-attn"))
    peak = f", MFU of {options.peak_tflops:g} TFLOP/s" if options.peak_tflops else ""
    report.add(f"{options.dtype}, {options.repetitions} repetitions{peak}")
    report.add(HEADER)
    with true_fp32():
        for variant in variants(options):
            report.add(attempt(variant.label, lambda row=variant: measure(row, options, device)))
        if options.agreement:
            report_agreement(options, device, report)


if __name__ == "__main__":
    main()
