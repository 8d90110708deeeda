# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pages with one word, or random letters, to read: a plain colour, one letter per 16-pixel slot."""

import random
import re
import string
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .drawings import demo_package
from .scenes import COLORS, PICTURE_SIZE

SLOT_SIZE = 16
SLOTS = PICTURE_SIZE // SLOT_SIZE
LETTERS = string.ascii_lowercase
_FONT_SIZE = 15
_BASELINE = 12  # pixels from the top of a slot: every letter lies inside it, tails included
_NEWEST_EMOJI = 15.1  # names added to Unicode later do not change the list of words


@lru_cache(maxsize=1)
def all_words() -> tuple[str, ...]:
    """Every word of 2 to 4 plain letters in the English names of the package `emoji`, lower-cased, sorted."""
    words: set[str] = set()
    for entry in demo_package("emoji").EMOJI_DATA.values():
        if entry["E"] <= _NEWEST_EMOJI:
            words.update(re.findall(r"[^\W_]+", entry["en"].lower()))
    return tuple(sorted(word for word in words if re.fullmatch("[a-z]{2,4}", word)))


@lru_cache(maxsize=1)
def _letter_clear() -> dict[str, np.ndarray]:
    """letter -> 255 - ink (16, 16, 1) uint16, from Pillow's built-in font."""
    font = ImageFont.load_default(_FONT_SIZE)
    clear = {}
    for letter in LETTERS:
        slot = Image.new("L", (SLOT_SIZE, SLOT_SIZE), 255)
        ImageDraw.Draw(slot).text((SLOT_SIZE // 2, _BASELINE), letter, font=font, fill=0, anchor="ms")
        clear[letter] = np.asarray(slot, dtype=np.uint16)[..., None]
    return clear


@dataclass(frozen=True)
class WordPage:
    """A word on a page: its colour (a name), its row (0 to 3) and the slot of its first letter."""

    word: str
    color: str
    row: int
    slot: int

    def render(self) -> np.ndarray:
        """The picture, (64, 64, 3) uint8 RGB: black letters."""
        picture = np.empty((PICTURE_SIZE, PICTURE_SIZE, 3), dtype=np.uint8)
        picture[...] = COLORS[self.color]
        top = self.row * SLOT_SIZE
        for place, letter in enumerate(self.word, start=self.slot):
            target = picture[top : top + SLOT_SIZE, place * SLOT_SIZE : (place + 1) * SLOT_SIZE]
            target[...] = (target * _letter_clear()[letter] + 127) // 255
        return picture


def random_letters(rng: random.Random, known: frozenset[str]) -> str:
    """2 to 4 random letters that are none of the `known` words."""
    while True:
        letters = "".join(rng.choices(LETTERS, k=rng.randrange(2, 5)))
        if letters not in known:
            return letters


def draw_pages(rng: random.Random, words: tuple[str, ...], size: int, nonsense: float = 0.0) -> list[WordPage]:
    """`size` random pages; every one of `words` has its turn equally often (once more for some).

    In a share `nonsense` of these turns random letters stand instead, never one of `all_words`: with words alone a
    model learns the few hundred of them by heart, not to read.
    """
    pages: list[WordPage] = []
    known = frozenset(all_words())
    while len(pages) < size:
        for word in rng.sample(words, min(len(words), size - len(pages))):
            if rng.random() < nonsense:
                word = random_letters(rng, known)
            slot = rng.randrange(SLOTS - len(word) + 1)
            pages.append(WordPage(word, rng.choice(tuple(COLORS)), rng.randrange(SLOTS), slot))
    return pages
