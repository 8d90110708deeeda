# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Patch features of pictures from a refined backbone.

    python examples/extract_features.py runs/demo/backbone a.png b.png --output features.safetensors
"""

import argparse
from collections.abc import Sequence

import torch
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel

import sailvit_hf  # noqa: F401  (registers the Auto classes)
from sailvit_hf.data.images import load_image


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Patch features of pictures from a refined backbone.")
    parser.add_argument("backbone", help="the folder `backbone/` of a run, or a Hub id")
    parser.add_argument("pictures", nargs="+", help="image files")
    parser.add_argument("--revision", help="the commit, for a Hub id")
    parser.add_argument("--output", default="features.safetensors", help="gets `patches` and `pooled`")
    options = parser.parse_args(argv)

    image_processor = AutoImageProcessor.from_pretrained(options.backbone, revision=options.revision)
    model = AutoModel.from_pretrained(options.backbone, revision=options.revision)
    pictures = [load_image(path) for path in options.pictures]
    with torch.inference_mode():
        output = model(**image_processor(pictures, return_tensors="pt"))
    patches, pooled = output.last_hidden_state, output.pooler_output
    save_file({"patches": patches.contiguous(), "pooled": pooled.contiguous()}, options.output)
    print(f"{options.output}: patches {tuple(patches.shape)} row by row, pooled {tuple(pooled.shape)}")


if __name__ == "__main__":
    main()
