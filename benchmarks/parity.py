# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Time and memory of SAILViTModel beside transformers' Aimv2VisionModel: same weights, same kernel, by turns.

    python benchmarks/parity.py --preset large --rounds 5 --write

Times are medians of alternating runs in one process; peaks of memory are of fresh processes, one for each.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence

import torch
from measuring import (
    Report,
    aimv2_model,
    aimv2_twin,
    by_turns,
    command_of,
    machine,
    peak_mib,
    reset_peak,
    spread,
    versions,
)
from torch import nn

from sailvit_hf import SAILViTConfig, SAILViTModel

OURS, THEIRS = "SAILViTModel", "Aimv2VisionModel"
WORKS = ("forward", "forward+backward")


def work_of(model: nn.Module, pictures: torch.Tensor, work: str) -> Callable[[], torch.Tensor]:
    """One call: the features, or the gradients of all weights."""

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return model(pictures).last_hidden_state

    def both() -> torch.Tensor:
        features = model(pictures).last_hidden_state
        features.square().mean().backward()
        model.zero_grad(set_to_none=True)
        return features.detach()

    return forward if work == "forward" else both


def pictures_of(model: nn.Module, batch_size: int) -> torch.Tensor:
    side = model.config.image_size
    return torch.randn(batch_size, model.config.num_channels, side, side, generator=torch.manual_seed(0))


def peaks_of(preset: str, batch_size: int, name: str) -> dict[str, float]:
    """Peak of resident memory in MiB of each work, in a fresh process."""
    words = ["--preset", preset, "--batch-size", str(batch_size), "--threads", str(torch.get_num_threads())]
    command = [sys.executable, __file__, *words, "--peaks-of", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_peaks(preset: str, batch_size: int, name: str) -> None:
    """In the fresh process: build one model, do each work twice, print the peaks since the weights were there."""
    config = SAILViTConfig.preset(preset)
    model = (SAILViTModel(config) if name == OURS else aimv2_model(config)).eval()
    model.set_attn_implementation("sdpa")
    pictures, peaks = pictures_of(model, batch_size), {}
    for work in WORKS:
        call = work_of(model, pictures, work)
        reset_peak()
        call()
        call()
        peaks[work] = peak_mib()
    print(json.dumps(peaks))


def compare(options: argparse.Namespace, report: Report) -> None:
    """Times, then peaks, with the ratio of each."""
    torch.manual_seed(0)
    ours = SAILViTModel(SAILViTConfig.preset(options.preset)).eval()
    ours.set_attn_implementation("sdpa")
    models = {OURS: ours, THEIRS: aimv2_twin(ours)}
    pictures = pictures_of(ours, options.batch_size)
    report.add(machine(pictures.device))
    report.add(versions())
    report.add(f"{options.preset}, batches of {options.batch_size}, fp32, sdpa, {options.rounds} rounds by turns")
    one, other = (work_of(model, pictures, "forward")() for model in models.values())
    report.add(f"largest difference of the features: {float((one - other).abs().max()):.1e}")
    for work in WORKS:
        works = {name: work_of(model, pictures, work) for name, model in models.items()}
        times = by_turns(works, options.rounds)
        for name, found in times.items():
            report.add(f"{work:17} {name:17} {spread(found)}")
        ratio = statistics.median(times[OURS]) / statistics.median(times[THEIRS])
        report.add(f"{work:17} ratio of the medians, ours to theirs: {ratio:.3f}")
    del models, works, ours
    peaks = {name: peaks_of(options.preset, options.batch_size, name) for name in (OURS, THEIRS)}
    for work in WORKS:
        shown = ", ".join(f"{name} {peaks[name][work]:.0f} MiB" for name in peaks)
        report.add(f"{work:17} peak of memory: {shown}, ratio {peaks[OURS][work] / peaks[THEIRS][work]:.3f}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time and memory of SAILViTModel beside Aimv2VisionModel.")
    parser.add_argument("--preset", default="large", help="tiny, large, huge")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each, after one to warm up")
    parser.add_argument("--threads", type=int, help="of the CPU; torch's own choice if not given")
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/")
    parser.add_argument("--peaks-of", choices=[OURS, THEIRS], help="only print the peaks of one, in MiB")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.peaks_of:
        print_peaks(options.preset, options.batch_size, options.peaks_of)
    else:
        name = f"parity_{options.preset}.txt" if options.write else None
        compare(options, Report(name, command_of(__file__, argv)))


if __name__ == "__main__":
    main()
