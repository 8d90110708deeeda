# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What becomes of a picture's size, without its pixels: tiles (InternVL's scheme), two grids, native resolution."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

from transformers.image_transforms import get_size_with_aspect_ratio


@lru_cache(maxsize=64)
def tile_grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All grids (columns, rows) of `min_tiles` to `max_tiles` tiles, from few tiles to many.

    Raises:
        ValueError: if there is no such number of tiles.
    """
    if not 1 <= min_tiles <= max_tiles:
        raise ValueError(f"min_tiles is {min_tiles} and max_tiles {max_tiles}; give 1 <= min_tiles <= max_tiles.")
    sides = range(1, max_tiles + 1)
    grids = [(columns, rows) for columns in sides for rows in sides if min_tiles <= columns * rows <= max_tiles]
    return tuple(sorted(grids, key=lambda grid: (grid[0] * grid[1], grid[0])))


@lru_cache(maxsize=4096)
def choose_grid(
    height: int, width: int, min_tiles: int, max_tiles: int, tile_height: int, tile_width: int
) -> tuple[int, int]:
    """The grid (columns, rows) that a picture of `height` x `width` pixels is cut into.

    It is the one whose aspect ratio is closest to the picture's; on a tie the larger grid wins when the picture's area
    is more than half of the grid's (the scheme published with SAIL-VL2, after InternVL's).

    Raises:
        ValueError: if there is no such number of tiles.
    """
    return _closest(tile_grids(min_tiles, max_tiles), height, width, tile_height * tile_width)


def _closest(grids: Sequence[tuple[int, int]], height: int, width: int, tile_area: int) -> tuple[int, int]:
    aspect, area = width / height, width * height
    best, least = (1, 1), float("inf")
    for columns, rows in grids:
        difference = abs(aspect - columns / rows)
        larger_fits = area > 0.5 * tile_area * columns * rows
        if difference < least or (difference == least and larger_fits):
            best, least = (columns, rows), difference
    return best


def number_of_tiles(grid: tuple[int, int], thumbnail: bool) -> int:
    """Tiles of a grid, and the whole picture as one more when it was cut."""
    tiles = grid[0] * grid[1]
    return tiles + 1 if thumbnail and tiles > 1 else tiles


@lru_cache(maxsize=4096)
def choose_grids(
    height: int,
    width: int,
    min_tiles: int,
    max_tiles: int,
    tile_height: int,
    tile_width: int,
    thumbnail: bool = True,
    multi_scale: bool = False,
) -> tuple[tuple[tuple[int, int], ...], bool]:
    """All grids (columns, rows) that a picture comes in, one after the other, and whether the whole follows them.

    With `multi_scale` a second grid follows the first: of those that do not divide it both ways (whose cuts would all
    be cuts of the first), the one whose aspect ratio is closest to the picture's. So what one grid cuts through, the
    other shows in one piece. This is the multi-scale adaptive cropping (MSAC) of SAIL-VL2's published processor, after
    Mini-Monkey's (arXiv 2408.02034); there, a call with several pictures is without it.

    Raises:
        ValueError: if there is no such number of tiles.
    """
    first = choose_grid(height, width, min_tiles, max_tiles, tile_height, tile_width)
    others = [grid for grid in tile_grids(min_tiles, max_tiles) if first[0] % grid[0] or first[1] % grid[1]]
    grids: tuple[tuple[int, int], ...] = (first,)
    if multi_scale and others:
        second = _closest(others, height, width, tile_height * tile_width)
        # One tile shows what the thumbnail shows.
        grids = (second,) if first == (1, 1) and thumbnail else (first, second)
    return grids, thumbnail and grids != ((1, 1),)


def native_size(height: int, width: int, divisor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Height and width in multiples of `divisor` that keep a picture's aspect ratio and as many pixels as allowed.

    A picture within the limits is only rounded to the nearest multiples; others are scaled, rounded down at the upper
    limit and up at the lower one. `max_pixels` always holds; what is so narrow that its shorter side becomes one
    multiple has its longer side shortened to that end, and may then have fewer than `min_pixels`.

    Raises:
        ValueError: if the limits contradict each other or allow no multiple.
    """
    if divisor < 1 or not divisor**2 <= max_pixels or not 0 < min_pixels <= max_pixels:
        raise ValueError(
            f"The limits min_pixels={min_pixels} and max_pixels={max_pixels} allow no picture in multiples of "
            f"{divisor}; give 0 < min_pixels <= max_pixels and max_pixels >= {divisor**2}."
        )

    def multiples(scale: float, how: object) -> tuple[int, int]:
        high, wide = (max(1, int(how(side * scale / divisor))) for side in (height, width))  # type: ignore[operator]
        return high * divisor, wide * divisor

    rounded = multiples(1.0, round)
    if rounded[0] * rounded[1] > max_pixels:
        rounded = multiples(math.sqrt(max_pixels / (height * width)), math.floor)
    elif rounded[0] * rounded[1] < min_pixels:
        rounded = multiples(math.sqrt(min_pixels / (height * width)), math.ceil)
    short, long = min(rounded), max(rounded)
    if short * long > max_pixels:
        short = min(short, math.isqrt(max_pixels) // divisor * divisor)
        long = max_pixels // short // divisor * divisor
    return (short, long) if rounded[0] <= rounded[1] else (long, short)


def contained_size(height: int, width: int, box_height: int, box_width: int) -> tuple[int, int]:
    """The largest height and width of a picture's aspect ratio within a box, a pixel at least."""
    scale = min(box_height / height, box_width / width)
    return min(box_height, max(1, round(height * scale))), min(box_width, max(1, round(width * scale)))


def resized_size(
    height: int, width: int, size: Mapping[str, int], divisor: int = 1, contained: bool = False
) -> tuple[int, int]:
    """Height and width that a picture is resized to.

    Args:
        size: One of transformers' forms: `height` and `width`; `shortest_edge`, perhaps with `longest_edge`;
            `max_height` and `max_width`; `min_pixels` and `max_pixels` (then multiples of `divisor`).
        contained: Whether `height` and `width` are a box that the picture fits into, and not what it becomes.

    Raises:
        ValueError: another form.
    """
    given = {name: value for name, value in dict(size).items() if value}
    if given.keys() == {"height", "width"}:
        box = given["height"], given["width"]
        return contained_size(height, width, *box) if contained else box
    if given.keys() == {"min_pixels", "max_pixels"}:
        return native_size(height, width, divisor, given["min_pixels"], given["max_pixels"])
    if given.keys() == {"max_height", "max_width"}:
        scale = min(given["max_height"] / height, given["max_width"] / width)
        found = int(height * scale), int(width * scale)  # as transformers rounds
    elif "shortest_edge" in given and given.keys() <= {"shortest_edge", "longest_edge"}:
        found = get_size_with_aspect_ratio((height, width), given["shortest_edge"], given.get("longest_edge"))
    else:
        raise ValueError(
            f"size is {given}; give height and width, shortest_edge (and longest_edge), max_height and max_width, or "
            "min_pixels and max_pixels."
        )
    return max(1, found[0]), max(1, found[1])


__all__ = [
    "choose_grid",
    "choose_grids",
    "contained_size",
    "native_size",
    "number_of_tiles",
    "resized_size",
    "tile_grids",
]
