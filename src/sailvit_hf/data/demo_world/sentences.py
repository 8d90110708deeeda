# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The world's texts as sentences, for a language model that was pre-trained on English (ours).

The same samples, turn by turn: "describe in detail", "one drawing : top-left cat on red , ..." becomes "Describe the
picture in detail.", "One drawing. Top left: cat on red. ...".
"""

import re

from . import texts
from .samples import Sample
from .scenes import CELLS
from .texts import Turn

# Instead of what a chat template writes where a chat has no system message: SmolLM2's is a fifth of a sample's tokens.
SYSTEM = "You look at pictures."
_QUESTIONS = {
    texts.DESCRIBE: "What is in the picture?",
    texts.DETAIL: "Describe the picture in detail.",
    texts.READ: "Spell the word in the picture.",
    "how many drawings": "How many drawings are there?",
}


def in_sentences(sample: Sample) -> Sample:
    """The sample in sentences; short answers (a name, a place, a colour, letters) stay words."""
    return sample._replace(turns=[_turn(turn) for turn in sample.turns], system=SYSTEM)


def _turn(turn: Turn) -> Turn:
    told, _, asked = turn.question.rpartition(" . ")
    question = _QUESTIONS.get(asked) or _places(asked).capitalize().replace(" at ", " at the ") + "?"
    answer = turn.answer
    if asked in (texts.DESCRIBE, texts.DETAIL):
        answer = _prose(answer)
    return turn._replace(question=f"{_prose(told)} {question}" if told else question, answer=_places(answer))


def _places(text: str) -> str:
    for cell in CELLS:
        text = text.replace(cell, cell.replace("-", " "))
    return text


def _prose(text: str) -> str:
    """A caption as one sentence; a detailed one as a sentence for the count and one for each cell."""
    head, colon, rest = _places(text).partition(" : ")
    if not colon:
        return f"{head.replace(' , ', ', ').capitalize()}."
    cells = (re.sub(r"^(top|bottom) (left|right)", r"\g<0>:", cell).capitalize() for cell in rest.split(" , "))
    return " ".join(f"{sentence}." for sentence in (head.capitalize(), *cells))
