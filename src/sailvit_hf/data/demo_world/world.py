# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""`DemoWorld`: every data set of the demo, from one seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ...errors import SailvitError
from . import texts
from .drawings import CREDIT, NAMES, article, paste
from .samples import Sample, to_dataset
from .scenes import COLOR_NAMES, COLORS, PICTURE_SIZE, Scene, check_split, draw_scene, scene_stream
from .sentences import in_sentences
from .texts import KINDS, Turn
from .tokenizer import word_tokenizer
from .words import WordPage, all_words, draw_pages

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

STAGES_OF_SAMPLES = ("coarse", "fine", "world")
# Shares of a stage's samples by kind (ours); the kind not named here takes the rest.
_SHARES: dict[str, tuple[str, dict[str, float]]] = {
    "coarse": ("describe", {"read": 1 / 4}),
    "fine": ("detail", {"read": 1 / 2}),
    "world": ("questions", {"detail": 1 / 6, "read": 1 / 4, "text": 1 / 8}),
    "corpus": ("text", {"map detail": 1 / 4, "map describe": 1 / 8, "map questions": 1 / 8, "page": 1 / 4}),
}
_CONTRAST_SIZES = range(24, 57)  # sides in pixels of the drawing in a contrastive picture
_CONTRAST_PAGES = 3  # every third contrastive picture is a page
_NONSENSE = 2 / 3  # share of the training pages that show random letters
_LARGE_SIZES = range(48, 61)  # and of the one in a drawing picture
_CHANCE_SIZE = 4096


class DemoWorld:
    """Pictures of OpenMoji drawings and words with their texts: the same on every machine for the same seed.

    Args:
        seed (`int`, *optional*, defaults to 0): decides which drawings and words are never trained, and all samples.
        seen (`int`, *optional*, defaults to 48): how many of the 148 drawings training shows.
        sentences (`bool`, *optional*, defaults to `False`): tell the data sets of the stages and of the evaluation in
            English sentences, for a language model that has its own tokenizer.

    Attributes:
        seen, unseen (`tuple[str, ...]`): names of the drawings that training shows, and of those it never shows.
        train_words, validation_words, test_words (`tuple[str, ...]`): words to read; each is in one split only.
        colors (`dict[str, tuple[int, int, int]]`): names of the background colours -> RGB.
        vocabulary (`tuple[str, ...]`): every word that any text uses.
        credit (`str`): the licence line of the drawings.
    """

    def __init__(self, seed: int = 0, seen: int = 48, sentences: bool = False) -> None:
        if not 3 <= seen < len(NAMES):
            raise SailvitError(f"seen={seen} drawings cannot be shown: choose 3 to {len(NAMES) - 1}")
        self.seed = seed
        self.sentences = sentences
        self._world = f"{seed}/{seen}"
        names = self._rng("drawings").sample(NAMES, len(NAMES))
        self.seen, self.unseen = tuple(sorted(names[:seen])), tuple(sorted(names[seen:]))
        self.colors = dict(COLORS)
        words = self._rng("words").sample(all_words(), len(all_words()))
        test, validation = len(words) // 5, len(words) // 16
        self.test_words = tuple(sorted(words[:test]))
        self.validation_words = tuple(sorted(words[test : test + validation]))
        self.train_words = tuple(sorted(words[test + validation :]))
        self.vocabulary = texts.vocabulary()
        self.credit = CREDIT

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A new word-level tokenizer that knows every word of the world, whatever its seed."""
        return word_tokenizer(self.vocabulary)

    def scenes(self, split: str, size: int, seed: int = 0) -> list[Scene]:
        """`size` scenes of seen drawings, all different; no other split ever contains one of them."""
        return list(islice(self._scene_stream(self._rng("scenes", split, seed), split), size))

    def word_pages(self, split: str, size: int, seed: int = 0) -> list[WordPage]:
        """`size` pages with words of `split`, each equally often; of `train`'s, two thirds show random letters."""
        return self._pages(self._rng("pages", split, seed), split, size)

    def dataset(self, stage: str, split: str, size: int, seed: int = 0) -> Dataset:
        """Samples of a refinement stage.

        Args:
            stage (`str`): `coarse` (captions that name the drawings; a quarter pages to read), `fine` (captions with
                count, place and colour; half pages to read) or `world` (three questions a scene; a sixth detailed
                captions, a quarter pages to read, an eighth text only). Of the training pages two thirds show random
                letters, the others words.
            split (`str`): `train`, `validation` or `test`.
            size (`int`): number of samples.
            seed (`int`, *optional*, defaults to 0): another seed gives other samples of the same split.

        Returns:
            `datasets.Dataset` with the columns messages, images, kind, answer.

        Raises:
            SailvitError: unknown stage or split.
        """
        if stage not in STAGES_OF_SAMPLES:
            raise SailvitError(f"unknown stage {stage!r}: choose one of {', '.join(STAGES_OF_SAMPLES)}")
        return self._dataset(self._samples(stage, split, size, seed), stage, split, size, seed)

    def text_corpus(self, size: int, seed: int = 0) -> Dataset:
        """Text-only training samples for a language model: scenes and pages told in words, and the tasks on them."""
        return to_dataset(self._samples("corpus", "train", size, seed), self._name("corpus", "train", size, seed))

    def evaluation(self, split: str, size: int, seed: int = 0) -> dict[str, Dataset]:
        """Held-out tasks of one turn each, `size` samples a task.

        Returns:
            `caption` (detailed captions), `reading` (words of this split only), `questions` and `text` (the same kinds
            of question about a picture and about a scene told in words; the column `kind` is balanced).
        """
        samples = self._evaluation_samples(split, size, seed)
        return {task: self._dataset(samples[task], task, split, size, seed) for task in samples}

    def chance(self, split: str = "test", size: int = _CHANCE_SIZE, seed: int = 0) -> dict[str, float]:
        """Exact-match accuracy without a look at the picture, counted on the evaluation samples.

        Returns:
            Under the names of `evaluate_vlm`: `question_accuracy/<kind>` and `reading_accuracy`,
            the share of the most frequent answer; `question_accuracy` and `text_accuracy`, the mean of these shares
            over the mix of kinds: the best answer that is always the same for one kind of question.
        """
        samples = self._evaluation_samples(split, size, seed)
        answers: dict[str, dict[str, list[str]]] = {task: {} for task in ("questions", "text", "reading")}
        for task, by_kind in answers.items():
            for sample in samples[task]:
                by_kind.setdefault(sample.kind, []).append(sample.turns[0].answer)
        chance = {f"question_accuracy/{kind}": _best_constant({kind: answers["questions"][kind]}) for kind in KINDS}
        metrics = {"questions": "question_accuracy", "text": "text_accuracy", "reading": "reading_accuracy"}
        return chance | {metric: _best_constant(answers[task]) for task, metric in metrics.items()}

    def contrastive(self, size: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
        """Pictures of one thing each, and their texts: training pairs for a ViT that meets no language model.

        Every third picture, from the first on, is a training page: vision backbones trained on the web's pictures and
        texts have met letters, too. The others show one seen drawing of 24 to 56 pixels on one or two colours.

        Returns:
            pictures (size, 64, 64, 3) uint8; texts such as "a cat on red", "a cat on red and blue" or "c a t on red".
        """
        rng = self._rng("contrastive", seed)
        pictures = np.empty((size, PICTURE_SIZE, PICTURE_SIZE, 3), dtype=np.uint8)
        captions = []
        pages = iter(self._pages(rng, "train", -(-size // _CONTRAST_PAGES)))
        for index, picture in enumerate(pictures):
            if index % _CONTRAST_PAGES == 0:
                page = next(pages)
                picture[...] = page.render()
                captions.append(f"{texts.spell(page.word)} on {page.color}")
                continue
            name = rng.choice(self.seen)
            colors = rng.sample(COLOR_NAMES, 1 + rng.randrange(2))
            _fill(picture, colors, across=bool(rng.randrange(2)))
            _paste_anywhere(picture, name, rng.choice(_CONTRAST_SIZES), rng)
            captions.append(f"{article(name)} {name} on {' and '.join(colors)}")
        return pictures, captions

    def drawing_pictures(self, group: str, per_drawing: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Pictures of one large drawing each (48 to 60 pixels, any place, any colour).

        Args:
            group (`str`): `seen` or `unseen`.
            per_drawing (`int`): number of pictures of each drawing.
            seed (`int`, *optional*, defaults to 0): another seed gives other sizes, places and colours.

        Returns:
            pictures (n, 64, 64, 3) uint8 and labels (n,) int64, indices into `self.seen` or `self.unseen`, in turn.
        """
        names = self._group(group)
        rng = self._rng("large", group, seed)
        labels = np.tile(np.arange(len(names)), per_drawing)
        pictures = np.empty((len(labels), PICTURE_SIZE, PICTURE_SIZE, 3), dtype=np.uint8)
        for picture, label in zip(pictures, labels, strict=True):
            _fill(picture, [rng.choice(COLOR_NAMES)])
            _paste_anywhere(picture, names[label], rng.choice(_LARGE_SIZES), rng)
        return pictures, labels

    def cell_pictures(
        self, group: str, size: int, seed: int = 0, split: str = "test"
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scenes of one group's drawings and, in each, the cell of one labelled drawing; labels come in turn.

        Args:
            group (`str`): `seen` or `unseen`.
            size (`int`): number of scenes.
            seed (`int`, *optional*, defaults to 0): another seed gives other scenes.
            split (`str`, *optional*, defaults to "test"): the split that the scenes' contents belong to.

        Returns:
            pictures (size, 64, 64, 3) uint8, cells (size,) int64 in 0..3 row by row, labels (size,) int64, indices
            into `self.seen` or `self.unseen`.
        """
        check_split(split)
        names = self._group(group)
        rng = self._rng("cells", group, split, seed)
        labels = np.arange(size) % len(names)
        cells = np.empty(size, dtype=np.int64)
        pictures = np.empty((size, PICTURE_SIZE, PICTURE_SIZE, 3), dtype=np.uint8)
        for index, label in enumerate(labels):
            scene = draw_scene(rng, names, names[label])
            while scene.split != split:
                scene = draw_scene(rng, names, names[label])
            pictures[index] = scene.render()
            cells[index] = next(drawing.cell for drawing in scene.drawings if drawing.name == names[label])
        return pictures, cells, labels

    def _dataset(self, samples: Sequence[Sample], *purpose: object) -> Dataset:
        if self.sentences:
            return to_dataset([in_sentences(sample) for sample in samples], self._name(*purpose, "sentences"))
        return to_dataset(samples, self._name(*purpose))

    def _rng(self, *purpose: object) -> random.Random:
        # A str seed is hashed with SHA-512: the same stream in every process, an independent one for every purpose.
        return random.Random(self._name(*purpose))

    def _name(self, *purpose: object) -> str:
        return "/".join(map(str, (self._world, *purpose)))

    def _group(self, group: str) -> tuple[str, ...]:
        if group not in ("seen", "unseen"):
            raise SailvitError(f"unknown group of drawings {group!r}: choose seen or unseen")
        return self.seen if group == "seen" else self.unseen

    def _scene_stream(self, rng: random.Random, split: str) -> Iterator[Scene]:
        check_split(split)
        return scene_stream(rng, self.seen, split)

    def _pages(self, rng: random.Random, split: str, size: int) -> list[WordPage]:
        check_split(split)
        words = {"train": self.train_words, "validation": self.validation_words, "test": self.test_words}
        return draw_pages(rng, words[split], size, nonsense=_NONSENSE if split == "train" else 0.0)

    def _samples(self, stage: str, split: str, size: int, seed: int) -> list[Sample]:
        """Samples of a stage in random order, their kinds in the shares of `_SHARES`."""
        rng = self._rng(stage, split, seed)
        scenes = self._scene_stream(rng, split)
        rest, shares = _SHARES[stage]
        kinds = [kind for kind, share in shares.items() for _ in range(round(size * share))][:size]
        kinds += [rest] * (size - len(kinds))
        rng.shuffle(kinds)
        pages = iter(self._pages(rng, split, sum(kind in ("read", "page") for kind in kinds)))
        return [_sample(kind, scenes, pages, rng) for kind in kinds]

    def _evaluation_samples(self, split: str, size: int, seed: int) -> dict[str, list[Sample]]:
        rng = self._rng("evaluation", split, seed)
        scenes = self._scene_stream(rng, split)
        pages = iter(self._pages(rng, split, size))
        kinds = [KINDS[index % len(KINDS)] for index in range(size)]
        asked = [(scene, texts.question(scene, kind, rng)) for scene, kind in zip(scenes, kinds, strict=False)]
        told = [(scene, texts.question(scene, kind, rng)) for scene, kind in zip(scenes, kinds, strict=False)]
        return {
            "caption": [_sample("detail", scenes, pages, rng) for _ in range(size)],
            "reading": [_sample("read", scenes, pages, rng) for _ in range(size)],
            "questions": [Sample(turn.kind, [turn], scene) for scene, turn in asked],
            "text": [Sample(turn.kind, _told(texts.detailed_caption(scene), [turn]), None) for scene, turn in told],
        }


def _sample(kind: str, scenes: Iterator[Scene], pages: Iterator[WordPage], rng: random.Random) -> Sample:
    if kind == "read":
        page = next(pages)
        return Sample(kind, [Turn(texts.READ, texts.spell(page.word), kind)], page)
    if kind == "page":
        page = next(pages)
        return Sample(kind, _told(texts.page_in_words(page), [Turn(texts.READ, texts.spell(page.word), kind)]), None)
    scene = next(scenes)
    task = kind.removeprefix("map ")
    if task == "describe":
        turns = [Turn(texts.DESCRIBE, texts.caption(scene), kind)]
    elif task == "detail":
        turns = [Turn(texts.DETAIL, texts.detailed_caption(scene), kind)]
    else:
        turns = texts.questions(scene, rng)
    if kind == "text":
        return Sample(kind, _told(texts.detailed_caption(scene), turns), None)
    if kind != task:
        return Sample(kind, _told(texts.map_in_words(scene, rng), turns), None)
    return Sample(kind, turns, scene)


def _told(told: str, turns: Sequence[Turn]) -> list[Turn]:
    """The turns with `told` before the first question, for samples without a picture."""
    first, *others = turns
    return [first._replace(question=f"{told} . {first.question}"), *others]


def _fill(picture: np.ndarray, colors: Sequence[str], across: bool = False) -> None:
    """Fill with one colour, or with two halves (`across`: left and right)."""
    half = PICTURE_SIZE // 2
    picture[...] = COLORS[colors[0]]
    if len(colors) == 2:
        (picture[:, half:] if across else picture[half:])[...] = COLORS[colors[1]]


def _paste_anywhere(picture: np.ndarray, name: str, size: int, rng: random.Random) -> None:
    slack = PICTURE_SIZE - size + 1
    paste(picture, name, size, rng.randrange(slack), rng.randrange(slack))


def _best_constant(answers: Mapping[str, Sequence[str]]) -> float:
    """Accuracy of giving to each kind of question (the keys) its most frequent answer."""
    right = sum(Counter(of_kind).most_common(1)[0][1] for of_kind in answers.values())
    return right / sum(map(len, answers.values()))
