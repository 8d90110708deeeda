# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""How many samples a stage trains on, and how long they are on average."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import SailvitError
from ..recipes.recipe import Recipe, StagePlan

# SAIL-VL2 report, arXiv 2509.14033 v2, section 2.1: the refinement sees 121B tokens. Of its samples 8M and 36.5M are
# published; 18.7M of stage II is ours (what is published of its parts, and 4M for DocStruct).
PUBLISHED_TOKENS = 121e9
PUBLISHED_SAMPLES = {"coarse": 8.0e6, "fine": 18.7e6, "world": 36.5e6, "basic": 64.0e6, "multitask": 180.0e6}
_REFINEMENT = ("coarse", "fine", "world")
MEAN_TOKENS = PUBLISHED_TOKENS / sum(PUBLISHED_SAMPLES[key] for key in _REFINEMENT)
# Ours: pages and photographs, cut into at most ten tiles, text-only samples counted in; the rest is text.
MEAN_TILES = 6.0
_PUBLISHED_TILE = 256  # its tokens
LEARNT_SHARE = 0.6  # ours: answers are longer than questions where captions and pages are read out
_MEASURED = 128  # samples of the demo


@dataclass(frozen=True)
class Sizes:
    """What one pass over a stage's data holds.

    Attributes:
        samples: of one pass.
        tokens: of a sample on average, those of pictures included.
        tiles: of a sample on average.
        learnt: tokens with a label of a sample, on average.
        source: where these numbers come from, for people.
    """

    samples: float
    tokens: float
    tiles: float
    learnt: float
    source: str


def sizes_of(
    recipe: Recipe,
    stage: str,
    per_tile: int,
    max_tiles: int,
    samples: float | None = None,
    tokens: float | None = None,
    tiles: float | None = None,
) -> Sizes:
    """The sizes of a stage's data.

    Args:
        recipe: says the sources.
        stage: key of one of its stages.
        per_tile: tokens of a tile.
        max_tiles: into how many a picture is cut at most.
        samples, tokens, tiles: instead of what is found.

    Raises:
        SailvitError: nobody says how many samples there are, or the numbers contradict each other.
    """
    plan = recipe.stages[stage]
    found = _demo(recipe, stage, plan) or _published(plan, stage, per_tile, max_tiles, samples is not None)
    given = {"samples": samples, "tokens": tokens, "tiles": tiles}
    changed = {name: value for name, value in given.items() if value is not None}
    if changed:
        found = replace(found, **changed, source=f"{found.source}; as asked: {', '.join(changed)}")
    if "tokens" in changed or "tiles" in changed:
        found = replace(found, learnt=LEARNT_SHARE * (found.tokens - found.tiles * per_tile))
    if found.samples <= 0 or found.tokens < 1 or found.tiles < 0 or found.tokens - found.tiles * per_tile < 1:
        raise SailvitError(
            f"{found.tokens:.0f} tokens and {found.tiles:g} tiles of {per_tile} tokens a sample leave no text: change "
            "--tokens-per-sample or --tiles-per-sample"
        )
    return found


def _published(plan: StagePlan, stage: str, per_tile: int, max_tiles: int, counted: bool) -> Sizes:
    """Samples as the published ones are; of towers with other tiles they have as much text."""
    count, source = _count(plan)
    if count is None and not counted and plan.arguments.get("max_steps", -1) < 0:
        raise SailvitError(f"stages.{stage} does not say how many samples there are: give --samples")
    tiles = min(MEAN_TILES, max_tiles)
    text = MEAN_TOKENS - MEAN_TILES * _PUBLISHED_TILE
    source += f"; of each {text:.0f} tokens of text and {tiles:g} tiles (the published mean of tokens; tiles: ours)"
    return Sizes(count or 1.0, text + tiles * per_tile, tiles, LEARNT_SHARE * text, source)


def _count(plan: StagePlan) -> tuple[float | None, str]:
    """The samples of one pass, where the recipe or a file says it."""
    if plan.samples is not None:
        return float(plan.samples), "samples: the recipe"
    total = 0.0
    for source in plan.data:
        path = source.messages or (source.dataset.path if source.dataset is not None else "")
        if Path(path).is_file() and path.endswith(".jsonl"):
            with open(path, "rb") as file:
                count = sum(1 for line in file if line.strip())
        elif source.max_samples is not None:
            count = source.max_samples
        else:
            return None, "samples"
        total += min(count, source.max_samples or count) * (source.epochs or 1.0)
    return total, "samples: the files"


def _demo(recipe: Recipe, stage: str, plan: StagePlan) -> Sizes | None:
    """The demo's samples, some of them measured."""
    if any(source.demo is None for source in plan.data):
        return None
    from transformers import AutoTokenizer

    from ...processing.processing_sailvit import CHAT_TEMPLATE, SAILViTProcessor
    from ..foundations import FoundationSettings, demo_image_processor
    from ..pipeline import demo_world

    world, config = demo_world(), FoundationSettings(**recipe.foundations.settings()).vision_config()
    tokenizer = world.tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    if recipe.demo_sentences:
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                recipe.start.language_model, revision=recipe.start.language_model_revision
            )
            world = demo_world(sentences=True)
        except (OSError, ValueError):  # not there yet: the demo's words have about as many tokens
            pass
    processor = SAILViTProcessor.from_parts(demo_image_processor(config), tokenizer, patch_size=config.patch_size)
    samples, sums = 0, [0.0, 0.0, 0.0]
    for source in plan.data:
        demo: Any = source.demo
        rows = world.dataset(demo.stage or stage, "train", min(demo.samples, _MEASURED), recipe.seed)
        for index in range(len(rows)):
            row = rows[index]
            encoded = processor.encode_conversation(row["messages"], row["images"])
            share = demo.samples / len(rows)
            learnt = int((encoded["labels"] != -100).sum())
            for place, value in enumerate((len(encoded["input_ids"]), len(row["images"]), learnt)):
                sums[place] += share * value
        samples += demo.samples
    tokens, tiles, learnt_tokens = (value / samples for value in sums)
    return Sizes(
        float(samples), tokens, tiles, learnt_tokens, f"samples: the recipe; {_MEASURED} of the demo measured"
    )
