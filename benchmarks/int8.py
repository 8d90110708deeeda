# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The int8 graph on the CPU beside the fp32 model in torch and the fp32 graph: time, by turns, and feature cosine.

onnxruntime's own dynamic quantisation stands beside ours.

    python benchmarks/int8.py --preset large --rounds 5 --write
    python benchmarks/int8.py --model runs/demo/backbone --rounds 20

The time of a step does not depend on the weights. The cosine does: a preset's weights are random, so take your own
checkpoint's, and your own pictures, for it (`sailvit export SOURCE DEST --int8 --pictures ...`).
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from measuring import Report, by_turns, command_of, machine, spread, versions
from onnxruntime.quantization import quantize_dynamic

from sailvit_hf import SAILViTConfig, SAILViTModel
from sailvit_hf.export import export_onnx, feature_cosine, quantize_int8

TORCH, FP32, INT8 = "torch fp32, sdpa", "onnxruntime fp32", "int8, ours"
# One scale for all that comes into a layer, the whole batch's.
DYNAMIC = "quantize_dynamic"


def session_of(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function that computes a graph's patch features."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(["last_hidden_state"], {"pixel_values": pictures})[0]


def compare(options: argparse.Namespace, report: Report) -> None:
    """Times and cosines of the three ways, and the ratio of int8's time to torch's."""
    torch.manual_seed(0)
    if options.model:
        model = SAILViTModel.from_pretrained(options.model, dtype=torch.float32).eval()
    else:
        model = SAILViTModel(SAILViTConfig.preset(options.preset)).eval()
    model.set_attn_implementation("sdpa")
    side = model.config.image_size
    pictures = torch.randn(options.batch_size, model.config.num_channels, side, side)

    def eager() -> np.ndarray:
        with torch.inference_mode():
            return model(pictures).last_hidden_state.numpy()

    with tempfile.TemporaryDirectory() as folder:
        fp32 = export_onnx(model, Path(folder) / "model.onnx")
        int8 = quantize_int8(fp32, Path(folder) / "model_int8.onnx")
        dynamic = Path(folder) / "model_dynamic.onnx"
        quantize_dynamic(fp32, dynamic, per_channel=True)
        graphs = {FP32: session_of(fp32), INT8: session_of(int8), DYNAMIC: session_of(dynamic)}
    array = pictures.numpy()
    works = {TORCH: eager, **{name: lambda run=run: run(array) for name, run in graphs.items()}}
    what = options.model or f"{options.preset}, random weights"
    report.add(machine(pictures.device))
    report.add(versions("onnx", "onnxruntime"))
    report.add(f"{what}, {side} px, batches of {options.batch_size}, {options.rounds} rounds by turns")
    reference = eager()
    times = by_turns(works, options.rounds)
    for name, found in times.items():
        mean, least = feature_cosine(works[name](), reference)
        report.add(f"{name:17} {spread(found)}  cosine {mean:.5f}, worst patch {least:.5f}")
    ratio = statistics.median(times[INT8]) / statistics.median(times[TORCH])
    report.add(f"ratio of the medians, int8 to torch fp32: {ratio:.3f}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time and feature cosine of the int8 graph on the CPU.")
    parser.add_argument("--preset", default="large", help="tiny, large, huge: random weights")
    parser.add_argument("--model", help="folder of a SAILViT encoder, instead of a preset")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each, after one to warm up")
    parser.add_argument("--threads", type=int, help="of all three; torch's own choice if not given")
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    name = f"int8_{Path(options.model).name if options.model else options.preset}.txt" if options.write else None
    compare(options, Report(name, command_of(__file__, argv)))


if __name__ == "__main__":
    main()
