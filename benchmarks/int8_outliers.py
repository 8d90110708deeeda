# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What channels that stand out do to int8: a scale for each patch (ours) beside one scale for all (onnxruntime's own).

    python benchmarks/int8_outliers.py --model runs/demo/backbone --write

Two channels of what goes into each layer's products are made larger by a factor, and the weights that meet them
smaller by the same: the model computes what it did, and int8 has a harder time. Pictures are the demo world's.
"""

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from measuring import Report, command_of, machine, versions
from onnxruntime.quantization import quantize_dynamic
from transformers import AutoImageProcessor

from sailvit_hf import SAILViTModel
from sailvit_hf.data.demo_world import DemoWorld
from sailvit_hf.export import export_onnx, feature_cosine, quantize_int8, run_onnx

CHANNELS = [3, 17]


@torch.no_grad()
def stretch(model: SAILViTModel, factor: float) -> None:
    """Make the channels larger after each norm, and smaller in the weights that follow."""
    for block in model.trunk.blocks:
        for norm, layers in ((block.norm_1, [block.attn.qkv]), (block.norm_2, [block.mlp.fc1, block.mlp.fc3])):
            norm.weight[CHANNELS] *= factor
            for layer in layers:
                layer.weight[:, CHANNELS] /= factor


def compare(options: argparse.Namespace, report: Report) -> None:
    """Mean and least cosine with the fp32 features, for each factor."""
    processor = AutoImageProcessor.from_pretrained(options.model)
    scenes = [scene.render() for scene in DemoWorld().scenes("test", options.pictures, 0)]
    pictures = processor(scenes, return_tensors="np")["pixel_values"]
    report.add(machine(torch.device("cpu")))
    report.add(versions("onnx", "onnxruntime"))
    report.add(f"{options.model}, {options.pictures} pictures; cosine with fp32: mean, worst patch")
    report.add(f"{'larger by':>9}  {'a scale for each patch':24} {'one scale for all':20}")
    for factor in options.factors:
        model = SAILViTModel.from_pretrained(options.model, dtype=torch.float32).eval()
        stretch(model, factor)
        with tempfile.TemporaryDirectory() as folder:
            fp32 = export_onnx(model, Path(folder) / "model.onnx")
            ours = quantize_int8(fp32, Path(folder) / "ours.onnx")
            theirs = Path(folder) / "theirs.onnx"
            quantize_dynamic(fp32, theirs, per_channel=True)
            reference = run_onnx(fp32, pictures)[0]
            found = [feature_cosine(run_onnx(path, pictures)[0], reference) for path in (ours, theirs)]
        cells = [f"{mean:.5f}, {least:.4f}" for mean, least in found]
        report.add(f"{factor:9g}  {cells[0]:24} {cells[1]:20}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What channels that stand out do to int8.")
    parser.add_argument("--model", default="runs/demo/backbone", help="folder of a SAILViT encoder")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--factors", type=float, nargs="+", default=[1, 10, 30, 100])
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/")
    options = parser.parse_args(argv)
    logging.getLogger().setLevel(logging.ERROR)
    np.seterr(all="raise")
    compare(options, Report("int8_outliers.txt" if options.write else None, command_of(__file__, argv)))


if __name__ == "__main__":
    main()
