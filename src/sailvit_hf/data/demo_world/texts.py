# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What is said about scenes and pages: captions, questions and answers, and scenes told in words.

Texts are lower-case words with spaces between them, one token each, short because training runs on two CPU cores.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from .drawings import NAMES, article
from .scenes import CELLS, COLOR_NAMES, Placement, Scene
from .words import LETTERS, SLOTS, WordPage

COUNTS = ("one", "two", "three")
KINDS = ("count", "what", "where", "color")
DESCRIBE = "describe"
DETAIL = "describe in detail"
READ = "read"
ROLES = ("system", "user", "assistant")
TURNS = 3


class Turn(NamedTuple):
    """A question, its answer, and the kind of question."""

    question: str
    answer: str
    kind: str


def caption(scene: Scene) -> str:
    """The drawings' names in reading order: "a cat , a dog and an owl"."""
    names = [f"{article(drawing.name)} {drawing.name}" for drawing in scene.drawings]
    return " and ".join([" , ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def detailed_caption(scene: Scene) -> str:
    """Count, then each drawing with its place and colour, then the empty cells: 16 to 20 words."""
    # A place is one word and no article stands in between: a small language model finds pieces that are so near.
    parts = []
    empty = dict(enumerate(scene.colors))
    for drawing in scene.drawings:
        color = empty.pop(drawing.cell)
        parts.append(f"{CELLS[drawing.cell]} {drawing.name} on {color}")
    parts += [f"{CELLS[cell]} {color}" for cell, color in empty.items()]
    count = COUNTS[len(scene.drawings) - 1]
    return f"{count} {'drawing' if count == 'one' else 'drawings'} : {' , '.join(parts)}"


def map_in_words(scene: Scene, rng: random.Random) -> str:
    """A map of 4 x 4 words, row by row: "map : cat red blue blue red cat blue blue ...".

    A vision backbone's patches reach a language model in this order, a cell being 2 x 2 of them. Each word names its
    cell's colour or its cell's drawing; in a cell with a drawing both come at least once (`rng` chooses where). Who
    can read maps can learn to read pictures.
    """
    names = {drawing.cell: drawing.name for drawing in scene.drawings}
    cells = []
    for cell, color in enumerate(scene.colors):
        named = rng.sample(range(4), rng.randrange(1, 4)) if cell in names else []
        cells.append([names[cell] if slot in named else color for slot in range(4)])
    words = [cells[row // 2 * 2 + column // 2][row % 2 * 2 + column % 2] for row in range(4) for column in range(4)]
    return f"map : {' '.join(words)}"


def spell(word: str) -> str:
    """The letters with spaces between them: one token a letter."""
    return " ".join(word)


def page_in_words(page: WordPage) -> str:
    """A page as a map of 4 x 4 words: its colour everywhere but where the letters are."""
    slots = [page.color] * (SLOTS * SLOTS)
    start = page.row * SLOTS + page.slot
    slots[start : start + len(page.word)] = page.word
    return f"map : {' '.join(slots)}"


def _ask_count(scene: Scene, drawing: Placement) -> Turn:
    return Turn("how many drawings", COUNTS[len(scene.drawings) - 1], "count")


def _ask_what(scene: Scene, drawing: Placement) -> Turn:
    return Turn(f"what is at {CELLS[drawing.cell]}", drawing.name, "what")


def _ask_where(scene: Scene, drawing: Placement) -> Turn:
    return Turn(f"where is the {drawing.name}", CELLS[drawing.cell], "where")


def _ask_color(scene: Scene, drawing: Placement) -> Turn:
    return Turn(f"what color is behind the {drawing.name}", scene.colors[drawing.cell], "color")


_ASK: dict[str, Callable[[Scene, Placement], Turn]] = {
    "count": _ask_count,
    "what": _ask_what,
    "where": _ask_where,
    "color": _ask_color,
}


def question(scene: Scene, kind: str, rng: random.Random) -> Turn:
    """One question of `kind` about a random drawing of the scene."""
    return _ASK[kind](scene, rng.choice(scene.drawings))


def questions(scene: Scene, rng: random.Random) -> list[Turn]:
    """Three questions of different kinds, none of which an earlier turn answers.

    The turn "where is the cat", "top-left" answers a later "what is at top-left" without a look at the picture, and
    the other way round; so `what` asks for a drawing not named before, `where` for one that `what` did not ask for.
    """
    turns: list[Turn] = []
    named: set[str] = set()
    placed: set[str] = set()
    for kind in rng.sample(KINDS, len(KINDS)):
        closed = {"what": named, "where": placed}.get(kind, set())
        open_drawings = [drawing for drawing in scene.drawings if drawing.name not in closed]
        if not open_drawings:
            continue
        drawing = rng.choice(open_drawings)
        turns.append(_ASK[kind](scene, drawing))
        if kind != "count":
            named.add(drawing.name)
        if kind in ("what", "where"):
            placed.add(drawing.name)
        if len(turns) == TURNS:
            break
    return turns


def vocabulary() -> tuple[str, ...]:
    """Every word that any text of the world can use, the chat's roles included, sorted.

    It does not depend on the seed: the names of drawings that are never trained have their tokens too.
    """
    words = set(LETTERS) | set(NAMES) | set(COLOR_NAMES) | set(COUNTS) | set(ROLES)
    for text in (*CELLS, DESCRIBE, DETAIL, READ, "a an and on : , . map drawing drawings"):
        words.update(text.split())
    for text in ("how many drawings", "what is at", "where is the", "what color is behind the"):
        words.update(text.split())
    return tuple(sorted(words))
