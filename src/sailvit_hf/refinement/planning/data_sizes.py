# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""How many samples a stage trains on, and how long they are on average."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...data.mixture import pass_sizes
from ...errors import SailvitError
from ..recipes.recipe import Recipe, Source, StagePlan
from .tables import Means, Table, available, means_of

# SAIL-VL2 report, arXiv 2509.14033 v2, section 2.1: the refinement sees 121B tokens. Its samples are 8M, a number that
# is not published, and 36.5M. Ours: the 18.7M of stage II (what is published of its parts, and 4M for DocStruct) and
# its one epoch. So the mean is derived, and published is the sum only.
PUBLISHED_TOKENS = 121e9
REFINEMENT_SAMPLES = {"coarse": 8.0e6, "fine": 18.7e6, "world": 36.5e6}
MEAN_TOKENS = PUBLISHED_TOKENS / sum(REFINEMENT_SAMPLES.values())
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
    tables: Sequence[Table] = (),
) -> Sizes:
    """The sizes of a stage's data.

    Args:
        recipe: says the sources.
        stage: key of one of its stages.
        per_tile: tokens of a tile.
        max_tiles: into how many a picture is cut at most.
        samples: of a pass, where neither the recipe nor its files say it.
        tokens, tiles: of a sample on average, before anything that is found.
        tables: of these or other sources; their means go before assumed ones, their samples behind `samples`.

    Raises:
        SailvitError: nobody says how many samples there are, the numbers contradict each other, or the mean sample is
            one that the stage would refuse.
    """
    plan = recipe.stages[stage]
    means = means_of(plan, tables) if tables else None
    given = {name: value for name, value in (("tokens", tokens), ("tiles", tiles)) if value is not None}
    found = _demo(recipe, stage, plan)
    if found is None:
        found = _assumed(plan, stage, per_tile, max_tiles)
        count, source = _count(plan, stage, samples, means)
        found = replace(found, samples=count, source=f"{source}; {found.source}")
    if means is not None:
        source = f"{found.source.split(';')[0]}; {means.source}"
        found = replace(found, tokens=means.tokens, tiles=means.tiles, source=source)
    if given:
        # What was found of both is of no more interest once both are given.
        source = found.source.split(";")[0] if len(given) == 2 else found.source
        found = replace(found, **given, source=f"{source}; as asked: {', '.join(given)}")
    if given or means is not None:
        found = replace(found, learnt=LEARNT_SHARE * (found.tokens - found.tiles * per_tile))
    _check(found, plan, stage, per_tile)
    return found


def _check(found: Sizes, plan: StagePlan, stage: str, per_tile: int) -> None:
    visual = found.tiles * per_tile
    if found.samples <= 0 or found.tokens < 1 or found.tiles < 0 or found.tokens - visual < 1:
        raise SailvitError(
            f"{found.tokens:.0f} tokens and {found.tiles:g} tiles of {per_tile} tokens a sample leave no text: change "
            "--tokens-per-sample or --tiles-per-sample"
        )
    most = plan.arguments
    for value, what, name, option in (
        (found.tokens, f"has {found.tokens:.0f} tokens", "max_length", "--tokens-per-sample"),
        (visual, f"has {visual:.0f} tokens of pictures", "max_image_tokens", "--tiles-per-sample"),
        (found.tiles, f"has {found.tiles:g} tiles", "max_tiles_per_pack", "--tiles-per-sample"),
    ):
        if most.get(name) is not None and value > most[name]:
            raise SailvitError(
                f"stages.{stage}: the mean sample {what}, more than {name} {most[name]} allows any to have: change "
                f"{option}, or --set stages.{stage}.arguments.{name}=N"
            )


def _assumed(plan: StagePlan, stage: str, per_tile: int, max_tiles: int) -> Sizes:
    """One sample as long as those of the report's refinement; of towers with other tiles they have as much text."""
    tiles, most = min(MEAN_TILES, max_tiles), plan.arguments
    # The processor cuts a picture into fewer tiles where it has to.
    if most.get("max_image_tokens") is not None:
        tiles = min(tiles, most["max_image_tokens"] // per_tile)
    if most.get("max_tiles_per_pack") is not None:
        tiles = min(tiles, most["max_tiles_per_pack"])
    text = MEAN_TOKENS - MEAN_TILES * _PUBLISHED_TILE
    many = f"{tiles:g} tile{'' if tiles == 1 else 's'}"
    source = f"of each {text:.0f} tokens of text and {many}, derived from the report's refinement: "
    if plan.samples is None or plan.samples != REFINEMENT_SAMPLES.get(stage):
        source += "it says nothing of this data; "
    source += (
        f"{PUBLISHED_TOKENS / 1e9:.0f}B tokens are published, that they are those of "
        f"{sum(REFINEMENT_SAMPLES.values()) / 1e6:.1f}M samples of {MEAN_TILES:g} tiles is ours"
    )
    return Sizes(1.0, text + tiles * per_tile, tiles, LEARNT_SHARE * text, source)


def _count(plan: StagePlan, stage: str, samples: float | None, means: Means | None) -> tuple[float, str]:
    said = said_samples(plan, stage)
    if said is not None:
        return said
    if samples is not None:
        return samples, "samples: as asked"
    if means is not None:
        return means.samples, "samples: the tables"
    if plan.arguments.get("max_steps", -1) < 0:
        raise SailvitError(f"stages.{stage} does not say how many samples there are: give --samples")
    return 1.0, "samples: as many as max_steps takes"


def said_samples(plan: StagePlan, stage: str) -> tuple[float, str] | None:
    """The samples of one pass, where the recipe or its files say it, and who does.

    Raises:
        SailvitError: a file is empty.
    """
    if plan.samples is not None:
        return float(plan.samples), "samples: the recipe"
    rows = [_rows(source) for source in plan.data]
    known = [count for count in rows if count is not None]
    if len(known) < len(rows):
        return None
    if 0 in known:
        raise SailvitError(f"stages.{stage}: source {known.index(0) + 1} of its data is empty: leave it out")
    files = any(source.messages or source.dataset for source in plan.data)
    return float(sum(_pass(plan, known))), "samples: the files" if files else "samples: the recipe"


def _pass(plan: StagePlan, rows: Sequence[int]) -> list[int]:
    """How many samples of each source a pass holds, by the arithmetic that training goes by."""
    each = [available(source, count) for source, count in zip(plan.data, rows, strict=True)]
    return pass_sizes(each, [source.weight for source in plan.data], plan.samples)


def _rows(source: Source) -> int | None:
    """The rows of a source where they can be counted, or what the recipe says that is used of them."""
    if source.demo is not None:
        return source.demo.samples
    path = source.messages or (source.dataset.path if source.dataset is not None else "")
    if path.endswith(".jsonl") and Path(path).is_file():
        return _lines(path)
    return source.max_samples


def _lines(path: str) -> int:
    with open(path, "rb") as file:
        return sum(1 for line in file if line.strip())


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
    demos: list[Any] = [source.demo for source in plan.data]
    sizes, sums = _pass(plan, [demo.samples for demo in demos]), [0.0, 0.0, 0.0]
    for demo, size in zip(demos, sizes, strict=True):
        rows = world.dataset(demo.stage or stage, "train", min(demo.samples, _MEASURED), recipe.seed)
        for index in range(len(rows)):
            row = rows[index]
            encoded = processor.encode_conversation(row["messages"], row["images"])
            learnt = int((encoded["labels"] != -100).sum())
            for place, value in enumerate((len(encoded["input_ids"]), len(row["images"]), learnt)):
                sums[place] += size / len(rows) * value
    samples = float(sum(sizes))
    tokens, tiles, learnt_tokens = (value / samples for value in sums)
    return Sizes(samples, tokens, tiles, learnt_tokens, f"samples: the recipe; {_MEASURED} of the demo measured")
