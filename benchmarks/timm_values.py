# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Features and gradients of SAILViTModel beside timm's AIMv2, with the same random weights, fp32.

    python benchmarks/timm_values.py --preset large huge --write

timm is fetched with pip into a folder of its own for the run, unless it is installed. Its models do not use
torchvision but its imports do: where there is none, an empty one stands in.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from measuring import Report, command_of, machine, timm_twin, versions, weights_as

from sailvit_hf import SAILViTConfig, SAILViTModel

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.hub.timm_without_torchvision import NoTorchvision  # noqa: E402

TIMM = "timm==1.0.31"


def find_timm(folder: str) -> str:
    """Make timm importable; its version."""
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.insert(0, NoTorchvision())
    if importlib.util.find_spec("timm") is None:
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", folder, TIMM]
        subprocess.run(command, check=True)
        sys.path.insert(0, folder)
    import timm

    return timm.__version__


def compare(preset: str, report: Report) -> None:
    """The largest differences of the patch features and, relative to each tensor's largest, of the gradients."""
    torch.manual_seed(0)
    ours = SAILViTModel(SAILViTConfig.preset(preset)).eval()
    theirs = timm_twin(ours, preset)
    side = ours.config.image_size
    pictures = torch.randn(1, ours.config.num_channels, side, side)
    found = ours(pictures).last_hidden_state
    direction = torch.randn_like(found)
    (found * direction).mean().backward()
    expected = theirs.forward_features(pictures)
    (expected * direction).mean().backward()
    difference = float((found - expected).detach().abs().max())
    # The gradients under timm's names: a model that holds them in the place of the weights is named by the same rule.
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(parameter.grad)
    worst = max(
        float((gradient - gradients[name]).abs().max() / gradients[name].abs().max())
        for name, gradient in weights_as(ours, "timm").items()
    )
    spread = float(expected.detach().std())
    report.add(
        f"{preset:6} features differ by at most {difference:.1e} (spread {spread:.2f}), "
        f"gradients of {len(gradients)} tensors by {worst:.1e} of each one's largest"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Features and gradients beside timm's AIMv2, same weights.")
    parser.add_argument("--preset", nargs="+", default=["large"], choices=["large", "huge"])
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        version = find_timm(folder)
        report = Report("timm_values.txt" if options.write else None, command_of(__file__, argv))
        report.add(machine(torch.device("cpu")))
        report.add(f"{versions()}, timm {version}")
        for preset in options.preset:
            compare(preset, report)


if __name__ == "__main__":
    main()
