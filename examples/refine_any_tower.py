# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Refine a vision tower that is not SAILViT: a small SigLIP on the demo world, from start to extraction.

    python examples/refine_any_tower.py runs/siglip

The SigLIP here is made on the spot: a `SiglipVisionModel` of transformers with 460,448 weights, first trained by
image-text contrast on the demo's pictures. It stands for a published one, which you would name in the recipe instead:

    start: {vision_tower: google/siglip2-base-patch16-224, vision_tower_revision: <commit>, language_model: ...}

Everything else is what `sailvit refine` does with any recipe. Takes about six minutes on two cores; the numbers in the
report are of a toy world and a toy tower.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel, set_seed

from sailvit_hf.data.demo_world import DemoWorld
from sailvit_hf.modeling.vision_towers import layer_groups, patch_features
from sailvit_hf.refinement.foundations import FoundationSettings, train_by_contrast
from sailvit_hf.refinement.pipeline import run_recipe
from sailvit_hf.refinement.recipes.recipe import parse_recipe


def make_siglip(folder: Path, steps: int, samples: int, batch_size: int) -> None:
    """A SigLIP tower that knows the demo's pictures a little, and its image processor."""
    set_seed(0)
    config = SiglipVisionConfig(
        hidden_size=96, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, image_size=64, patch_size=8
    )
    model = SiglipVisionModel(config)
    processor = SiglipImageProcessorPil(size={"height": 64, "width": 64})
    settings = FoundationSettings(vision_steps=steps, samples=samples, vision_batch_size=batch_size)
    train_by_contrast(DemoWorld(), model, processor, settings=settings)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def recipe(options: argparse.Namespace, tower: Path) -> dict[str, Any]:
    """The recipe of the run, as it could stand in a YAML file."""

    def stage(rate: float, **arguments: Any) -> dict[str, Any]:
        common = {"max_steps": options.steps, "per_device_train_batch_size": options.batch_size, "warmup_steps": 0.1}
        samples = options.steps * options.batch_size
        return {
            "data": {"demo": {"samples": samples}},
            "arguments": {"learning_rate": rate, "clip_per_module": True, **common, **arguments},
        }

    foundations = {"cache_dir": options.cache_dir, "language_steps": options.language_steps}
    small = {"samples": options.samples, "language_batch_size": options.batch_size} if options.samples else {}
    return {
        "name": "siglip-refined",
        "output_dir": str(Path(options.output) / "run"),
        "start": {
            "vision_tower": str(tower),
            "language_model": "demo",
            "vision_feature_layer": options.vision_feature_layer,
        },
        "foundations": {**foundations, **small},
        "stages": {
            "coarse": stage(3e-3),
            # Layers near the input learn more slowly than those near the output.
            "fine": stage(2e-3, vision_tower_layer_decay=0.9),
            "world": stage(1e-3, vision_tower_layer_decay=0.9),
        },
        "evaluation": {"samples": options.evaluation_samples, "probes": options.probes},
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Refine a small SigLIP tower on the demo world and extract it.")
    parser.add_argument("output", help="an empty or new folder")
    parser.add_argument("--steps", type=int, default=240, help="of each stage")
    parser.add_argument("--vision-steps", type=int, default=200, help="contrastive steps before the refinement")
    parser.add_argument("--language-steps", type=int, help="of the language model's pre-training; default: the demo's")
    parser.add_argument("--samples", type=int, help="of both pre-trainings; default: the demo's")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--evaluation-samples", type=int, default=256)
    parser.add_argument("--vision-feature-layer", type=int, default=-1, help="-1: the final output")
    parser.add_argument("--cache-dir", help="of the demo's language model; default: the user's cache")
    parser.add_argument("--no-probes", dest="probes", action="store_false")
    options = parser.parse_args(argv)

    start = Path(options.output) / "siglip"
    make_siglip(start, options.vision_steps, options.samples or 25_600, min(128, 4 * options.batch_size))
    result = run_recipe(parse_recipe(recipe(options, start)))

    towers = [AutoModel.from_pretrained(folder) for folder in (start, result.backbone)]
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, after = (patch_features(tower.eval(), pictures)[0] for tower in towers)
    similarity = torch.nn.functional.cosine_similarity(before, after, dim=-1).mean().item()
    groups = ", ".join(group.name for group in layer_groups(towers[1]))
    losses = [result.metrics["vlm"][state]["caption_loss"] for state in ("start", "world")]
    print(f"{type(towers[1]).__name__} in {result.backbone}: {groups}")
    print(f"Its patch features have a cosine of {similarity:.3f} with those before the refinement.")
    print(f"Caption loss in its model: {losses[0]:.3f} at the start, {losses[1]:.3f} after the last stage.")


if __name__ == "__main__":
    main()
