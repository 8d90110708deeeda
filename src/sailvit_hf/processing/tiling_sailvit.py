# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Large pictures as tiles: which grid a picture is cut into follows from its size alone (InternVL's scheme)."""

from functools import lru_cache


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
    aspect, area = width / height, width * height
    best, least = (1, 1), float("inf")
    for columns, rows in tile_grids(min_tiles, max_tiles):
        difference = abs(aspect - columns / rows)
        larger_fits = area > 0.5 * tile_height * tile_width * columns * rows
        if difference < least or (difference == least and larger_fits):
            best, least = (columns, rows), difference
    return best


def number_of_tiles(grid: tuple[int, int], thumbnail: bool) -> int:
    """Tiles of a grid, and the whole picture as one more when it was cut."""
    tiles = grid[0] * grid[1]
    return tiles + 1 if thumbnail and tiles > 1 else tiles


__all__ = ["choose_grid", "number_of_tiles", "tile_grids"]
