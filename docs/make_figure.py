# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Compose the README's figure of a finished run: pictures, and their patch features before and after refinement.

    python docs/make_figure.py runs/demo docs/images/demo.png
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

TILE, GAP, LABEL = 112, 8, 132
INK, PAPER = "#2b2f36", "#ffffff"


def compose(run: Path) -> Image.Image:
    """Rows: the pictures, their features at the start, and after the last stage; columns: the pictures."""
    last = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["states"][-1]
    rows = [("picture", "input"), ("before", "start"), ("refined", last)]
    columns = len(list((run / "features").glob("input-*.png")))
    size = (LABEL + columns * (TILE + GAP) + GAP, GAP + len(rows) * (TILE + GAP))
    figure = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(figure)
    for row, (label, state) in enumerate(rows):
        top = GAP + row * (TILE + GAP)
        draw.text((2 * GAP, top + TILE // 2), label, fill=INK, font=ImageFont.load_default(20), anchor="lm")
        for column in range(columns):
            with Image.open(run / "features" / f"{state}-{column:02d}.png") as tile:
                # Nearest neighbour: one square is one patch, not a smoothed map.
                tile = tile.convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST)
            figure.paste(tile, (LABEL + column * (TILE + GAP), top))
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compose the README's figure of a finished run.")
    parser.add_argument("run", type=Path, help="a run folder, such as runs/demo")
    parser.add_argument("output", type=Path, nargs="?", default=Path("docs/images/demo.png"))
    options = parser.parse_args(argv)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    compose(options.run).save(options.output, optimize=True)
    print(options.output)


if __name__ == "__main__":
    main()
