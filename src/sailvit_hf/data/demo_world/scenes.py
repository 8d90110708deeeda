# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Scenes: a 2 x 2 grid of coloured cells, one to three of which hold a drawing."""

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ...errors import SailvitError
from .drawings import SMALL_SIZES, paste

PICTURE_SIZE = 64
CELL_SIZE = 32
CELLS = ("top-left", "top-right", "bottom-left", "bottom-right")
# Pale enough for a drawing to be seen, at least 24 apart from each other in CIELAB (a test measures it).
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (240, 124, 116),
    "orange": (255, 184, 92),
    "yellow": (250, 238, 120),
    "green": (146, 214, 132),
    "blue": (128, 182, 250),
    "purple": (182, 146, 232),
    "pink": (255, 194, 228),
    "gray": (190, 190, 190),
}
COLOR_NAMES = tuple(COLORS)
SPLITS = ("train", "validation", "test")
# A scene's content decides its split, so that no two splits can share one, whatever the sizes and seeds.
_SPLIT_OF_BUCKET = ("test", "validation", "train", "train")


class Placement(NamedTuple):
    """A drawing in a scene: name, cell (0 to 3, row by row), and in pixels its side and its corner in the cell."""

    name: str
    cell: int
    size: int
    left: int
    top: int


@dataclass(frozen=True)
class Scene:
    """Four cell colours (names, row by row) and the drawings, ordered by cell."""

    colors: tuple[str, ...]
    drawings: tuple[Placement, ...]

    @cached_property
    def content(self) -> str:
        """What the scene shows, without sizes and jitter: scenes with equal content get equal texts."""
        return " ".join(self.colors) + "".join(f" {drawing.cell}{drawing.name}" for drawing in self.drawings)

    @cached_property
    def split(self) -> str:
        """The only split that this content may appear in."""
        return _SPLIT_OF_BUCKET[zlib.crc32(self.content.encode()) % len(_SPLIT_OF_BUCKET)]

    def render(self) -> np.ndarray:
        """The picture, (64, 64, 3) uint8 RGB."""
        picture = np.empty((PICTURE_SIZE, PICTURE_SIZE, 3), dtype=np.uint8)
        for cell, color in enumerate(self.colors):
            left, top = cell % 2 * CELL_SIZE, cell // 2 * CELL_SIZE
            picture[top : top + CELL_SIZE, left : left + CELL_SIZE] = COLORS[color]
        for name, cell, size, left, top in self.drawings:
            paste(picture, name, size, cell % 2 * CELL_SIZE + left, cell // 2 * CELL_SIZE + top)
        return picture


def check_split(split: str) -> None:
    """Raise `SailvitError` unless `split` is one of `SPLITS`."""
    if split not in SPLITS:
        raise SailvitError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")


def draw_scene(rng: random.Random, names: Sequence[str], wanted: str | None = None) -> Scene:
    """One random scene with 1 to 3 different drawings of `names`, `wanted` among them if it is given."""
    count = rng.randrange(3) + 1
    chosen = rng.sample(names, count)
    if wanted is not None and wanted not in chosen:
        chosen[rng.randrange(count)] = wanted
    cells = sorted(rng.sample(range(4), count))
    drawings = []
    for name, cell in zip(chosen, cells, strict=True):
        size = SMALL_SIZES[rng.randrange(len(SMALL_SIZES))]
        slack = CELL_SIZE - size + 1
        drawings.append(Placement(name, cell, size, rng.randrange(slack), rng.randrange(slack)))
    return Scene(tuple(rng.choices(COLOR_NAMES, k=4)), tuple(drawings))


def scene_stream(rng: random.Random, names: Sequence[str], split: str) -> Iterator[Scene]:
    """Endless scenes of `split`, none with the same content as an earlier one of this stream."""
    shown: set[str] = set()
    while True:
        scene = draw_scene(rng, names)
        if scene.split == split and scene.content not in shown:
            shown.add(scene.content)
            yield scene
