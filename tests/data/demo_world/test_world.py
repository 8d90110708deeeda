# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
import os
import random
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from sailvit_hf.data.demo_world import (
    CELLS,
    COLORS,
    KINDS,
    NAMES,
    SPLITS,
    DemoWorld,
    Placement,
    Scene,
    WordPage,
    texts,
)
from sailvit_hf.data.demo_world.samples import Sample, sample_features, to_dataset
from sailvit_hf.data.demo_world.words import LETTERS, all_words
from sailvit_hf.errors import SailvitError

DIGEST = """
import hashlib, json
import numpy as np
from sailvit_hf.data.demo_world import DemoWorld
digest = hashlib.sha256()
world = DemoWorld(seed=5)
digest.update(json.dumps([world.seen, world.unseen, world.train_words, world.test_words, world.vocabulary]).encode())
sets = [world.dataset(stage, "train", 16, seed=1) for stage in ("coarse", "fine", "world")]
sets += [world.text_corpus(16), *world.evaluation("test", 8).values()]
for dataset in sets:
    digest.update(dataset._fingerprint.encode())
    for row in dataset:
        digest.update(json.dumps([row["messages"], row["kind"], row["answer"]]).encode())
        digest.update(b"".join(np.asarray(image).tobytes() for image in row["images"]))
pictures, captions = world.contrastive(8)
digest.update(json.dumps(captions).encode() + pictures.tobytes() + world.cell_pictures("unseen", 8)[0].tobytes())
digest.update(world.drawing_pictures("unseen", 1)[0].tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def world():
    return DemoWorld()


@pytest.fixture(scope="module")
def training(world):
    """Every kind of training set, by name."""
    sets = {stage: world.dataset(stage, "train", 480) for stage in ("coarse", "fine", "world")}
    return {**sets, "corpus": world.text_corpus(480)}


@pytest.fixture(scope="module")
def held_out(world):
    return {split: world.evaluation(split, 96) for split in ("validation", "test")}


def all_texts(dataset):
    return [part["text"] for row in dataset["messages"] for m in row for part in m["content"] if part["text"]]


def turns(row):
    """(question, answer) of each turn, what was told before the first question taken away."""
    spoken = [message["content"][-1]["text"] for message in row["messages"]]
    return [(question.split(" . ")[-1], answer) for question, answer in zip(spoken[::2], spoken[1::2], strict=True)]


def read_caption(text):
    """{cell: (colour, name or None)} and the count that a detailed caption states."""
    count, cells = text.split(" : ")
    read = {}
    for cell in cells.split(" , "):
        place, name, color = re.fullmatch(r"(\w+-\w+) (?:(\w+) on )?(\w+)", cell).groups()
        read[CELLS.index(place)] = (color, name)
    return read, count.split()[0]


def map_cells(text):
    """The words of a map by cell, row by row."""
    rows = np.array(text.removeprefix("map : ").split()).reshape(4, 4)
    return [rows[top : top + 2, left : left + 2].ravel().tolist() for top in (0, 2) for left in (0, 2)]


def read_map(text):
    """{cell: (colour, name or None)} of a map of a scene."""
    read = {}
    for cell, words in enumerate(map_cells(text)):
        (color,), names = set(words) & set(COLORS), set(words) - set(COLORS)
        assert len(names) <= 1
        read[cell] = (color, *names) if names else (color, None)
    return read


def answer(read, question):
    """What a scene, as read from its words, answers to a question."""
    named = {name: (CELLS[cell], color) for cell, (color, name) in read.items() if name}
    if question == "how many drawings":
        return texts.COUNTS[len(named) - 1]
    if match := re.fullmatch("what is at (.*)", question):
        return read[CELLS.index(match[1])][1]
    if match := re.fullmatch("where is the (.*)", question):
        return named[match[1]][0]
    return named[re.fullmatch("what color is behind the (.*)", question)[1]][1]


def test_the_split_of_drawings_and_words(world):
    assert (len(world.seen), len(world.unseen)) == (48, 100)
    assert set(world.seen) | set(world.unseen) == set(NAMES)
    assert (len(world.train_words), len(world.validation_words), len(world.test_words)) == (284, 23, 76)
    assert len({*world.train_words, *world.validation_words, *world.test_words}) == 383
    other = DemoWorld(seed=1)
    assert other.seen != world.seen and other.test_words != world.test_words
    assert other.vocabulary == world.vocabulary and other.tokenizer().get_vocab() == world.tokenizer().get_vocab()
    assert len(DemoWorld(seen=100).seen) == 100
    assert set(world.colors) == set(COLORS) and "CC BY-SA" in world.credit


def test_the_same_twice_in_processes_with_different_hash_seeds():
    results = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        results.append(run.stdout.strip())
    assert results[0] == results[1]
    # Also the same on every machine, with the versions of constraints.txt.
    assert results[0] == "a10891a22e9e61ced5a21122a4519ee5384d09afdcef8a6b6db6805b5f2937e4"


def test_no_two_splits_share_a_scene(world):
    contents = {split: {s.content for seed in range(3) for s in world.scenes(split, 800, seed)} for split in SPLITS}
    assert all(len(found) > 2300 for found in contents.values())
    assert not contents["train"] & contents["test"]
    assert not contents["train"] & contents["validation"]
    assert not contents["validation"] & contents["test"]


def test_scenes_of_one_call_are_all_different():
    world = DemoWorld(seen=3)
    scenes = world.scenes("train", 3000)
    assert len({scene.content for scene in scenes}) == 3000
    assert {drawing.name for scene in scenes for drawing in scene.drawings} == set(world.seen)


def test_seeds_and_stages_have_their_own_scenes(world, training):
    assert world.scenes("train", 5, seed=1) == world.scenes("train", 5, seed=1) != world.scenes("train", 5, seed=2)
    one, two, three = (
        {caption for caption in dataset["answer"] if " : " in caption}
        for dataset in (training["fine"], world.dataset("fine", "train", 480, seed=1), training["world"])
    )
    assert (len(one), len(two), len(three)) == (240, 240, 80)
    assert max(len(one & two), len(one & three)) <= 2  # by accident


def test_held_out_scenes_are_in_no_training_set(training, held_out):
    trained = {text.split(" . ")[0] for dataset in training.values() for text in all_texts(dataset) if " : " in text}
    assert len(trained) > 500
    for sets in held_out.values():
        captions = set(sets["caption"]["answer"]) | {
            text.split(" . ")[0] for text in all_texts(sets["text"]) if ":" in text
        }
        assert len(captions) == 192
        assert not captions & trained


def test_unseen_drawings_and_held_out_words_are_in_no_training_set(world, training):
    words = {word for dataset in training.values() for text in all_texts(dataset) for word in text.split()}
    assert set(world.seen) <= words
    assert not set(world.unseen) & words
    for scene in world.scenes("train", 500):
        assert {drawing.name for drawing in scene.drawings} <= set(world.seen)
    contrastive = [caption.split(" on ")[0] for caption in world.contrastive(1200)[1]]
    assert {caption.split()[1] for caption in contrastive[1::3] + contrastive[2::3]} == set(world.seen)
    read = [caption.replace(" ", "") for caption in contrastive[::3]] + [
        reply.replace(" ", "")
        for dataset in training.values()
        for row in dataset.select_columns(["messages"])
        for question, reply in turns(row)
        if question == "read"
    ]
    assert len(read) == 400 + 120 + 240 + 120 + 120
    # Random letters never happen to be a held-out word.
    known = set(read) & set(all_words())
    assert len(known) > 150 and known <= set(world.train_words)
    assert 0.6 < sum(word not in world.train_words for word in read) / len(read) < 0.73


def test_training_pages_show_random_letters_and_held_out_ones_words(world):
    pages = world.word_pages("train", 3000)
    nonsense = [page.word for page in pages if page.word not in world.train_words]
    assert 0.64 < len(nonsense) / len(pages) < 0.69
    assert not set(nonsense) & set(all_words())
    for split, words in (("validation", world.validation_words), ("test", world.test_words)):
        assert {page.word for page in world.word_pages(split, 300)} == set(words)


def test_reading_is_tested_on_words_of_its_split(world, held_out):
    for split, words in (("validation", world.validation_words), ("test", world.test_words)):
        assert {reply.replace(" ", "") for reply in held_out[split]["reading"]["answer"]} == set(words)


def test_captions_say_what_the_scene_shows(world):
    for scene in world.scenes("test", 100):
        read, count = read_caption(texts.detailed_caption(scene))
        shown = {drawing.cell: drawing.name for drawing in scene.drawings}
        assert read == {cell: (color, shown.get(cell)) for cell, color in enumerate(scene.colors)}
        assert count == texts.COUNTS[len(shown) - 1]
        assert re.findall(r"\ban? (\w+)", texts.caption(scene)) == list(shown.values())


def test_maps_say_what_the_scene_shows_cell_by_cell(world):
    rng, shares = random.Random(0), Counter()
    for scene in world.scenes("test", 200):
        told = texts.map_in_words(scene, rng)
        shown = {drawing.cell: drawing.name for drawing in scene.drawings}
        assert told.startswith("map : ") and len(told.split()) == 2 + 16
        assert read_map(told) == {cell: (color, shown.get(cell)) for cell, color in enumerate(scene.colors)}
        for cell, words in enumerate(map_cells(told)):
            if cell in shown:  # the colour and the name both at least once
                shares[words.count(shown[cell])] += 1
            else:
                assert words == [scene.colors[cell]] * 4
    assert set(shares) == {1, 2, 3} and min(shares.values()) > 0.28 * sum(shares.values())
    assert texts.map_in_words(scene, random.Random(1)) == texts.map_in_words(scene, random.Random(1))
    assert len({texts.map_in_words(scene, rng) for _ in range(20)}) > 5


@pytest.mark.parametrize(("word", "row", "slot"), [("cat", 1, 0), ("ox", 0, 2), ("moon", 3, 0), ("up", 2, 1)])
def test_a_page_in_words_has_its_letters_where_the_picture_has_them(word, row, slot):
    page = WordPage(word, "pink", row, slot)
    words = np.array(texts.page_in_words(page).removeprefix("map : ").split()).reshape(4, 4)
    assert words[row, slot : slot + len(word)].tolist() == list(word)
    inked = (page.render() != COLORS["pink"]).any(axis=-1).reshape(4, 16, 4, 16).any(axis=(1, 3))
    assert ((words != "pink") == inked).all()


def test_the_wording():
    drawings = (Placement("cat", 0, 24, 0, 0), Placement("owl", 1, 24, 0, 0), Placement("dog", 3, 24, 0, 0))
    scene = Scene(("red", "blue", "green", "pink"), drawings)
    assert texts.caption(scene) == "a cat , an owl and a dog"
    assert texts.detailed_caption(scene) == (
        "three drawings : top-left cat on red , top-right owl on blue , bottom-right dog on pink , bottom-left green"
    )
    assert texts.map_in_words(scene, random.Random(0)) == (
        "map : cat red blue owl red cat blue owl green green pink dog green green pink dog"
    )
    pair, one = Scene(scene.colors, drawings[:2]), Scene(scene.colors, drawings[2:])
    assert texts.caption(pair) == "a cat and an owl"
    assert texts.caption(one) == "a dog"
    assert texts.detailed_caption(one) == (
        "one drawing : bottom-right dog on pink , top-left red , top-right blue , bottom-left green"
    )
    assert texts.page_in_words(WordPage("cat", "gray", 1, 1)) == (
        "map : gray gray gray gray gray c a t gray gray gray gray gray gray gray gray"
    )


def test_captions_are_short(world, training):
    tokenizer = world.tokenizer()
    lengths = {len(tokenizer(text).input_ids) for text in training["fine"]["answer"] if " : " in text}
    assert lengths == {16, 18, 20}


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("coarse", {"describe": 360, "read": 120}),
        ("fine", {"detail": 240, "read": 240}),
        ("world", {"questions": 220, "detail": 80, "read": 120, "text": 60}),
        ("corpus", {"text": 120, "map detail": 120, "map describe": 60, "map questions": 60, "page": 120}),
    ],
)
def test_the_mix_of_a_stage(training, name, shares):
    dataset = training[name]
    assert Counter(dataset["kind"]) == shares
    assert len(set(dataset["kind"][:24])) == len(shares)
    for row in dataset:
        pictures = sum(part["type"] == "image" for message in row["messages"] for part in message["content"])
        assert pictures == len(row["images"]) == (0 if name == "corpus" or row["kind"] == "text" else 1)
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * (len(row["messages"]) // 2)
        assert row["answer"] == row["messages"][-1]["content"][0]["text"]
        assert len(turns(row)) == (3 if row["kind"] in ("questions", "text", "map questions") else 1)


def test_questions_about_a_scene_in_words_have_its_answers(training, held_out):
    rows = [row for row in training["corpus"] if row["kind"] == "text"] + list(held_out["test"]["text"])
    for row in rows:
        told = row["messages"][0]["content"][-1]["text"].split(" . ")[0]
        for question, reply in turns(row):
            assert reply == answer(read_caption(told)[0], question)


def test_tasks_on_a_map_have_its_answers(training):
    done = Counter()
    for row in training["corpus"]:
        told = row["messages"][0]["content"][-1]["text"].split(" . ")[0]
        if row["kind"] == "page":
            letters = [word for word in told.removeprefix("map : ").split() if word in LETTERS]
            assert turns(row) == [("read", " ".join(letters))]
        elif row["kind"].startswith("map "):
            read = read_map(told)
            names = [name for _, name in read.values() if name]
            for question, reply in turns(row):
                if question == "describe":
                    assert re.findall(r"\ban? (\w+)", reply) == names
                elif question == "describe in detail":
                    assert read_caption(reply) == (read, texts.COUNTS[len(names) - 1])
                else:
                    assert reply == answer(read, question)
                done[question.split()[0]] += 1
    assert done["describe"] == 180 and sum(done.values()) == 180 + 3 * 60


def test_a_conversation_about_a_picture_has_its_answers_and_gives_none_away(world):
    rng = random.Random(0)
    first_kinds = Counter()
    for scene in world.scenes("train", 400):
        read, _ = read_caption(texts.detailed_caption(scene))
        asked = texts.questions(scene, rng)
        assert len(asked) == 3 and len({turn.kind for turn in asked}) == 3
        named, placed = set(), set()
        for turn in asked:
            assert turn.answer == answer(read, turn.question)
            if turn.kind == "what":
                assert turn.answer not in named
            if turn.kind == "where":
                assert turn.question.split()[-1] not in placed
            subject = turn.answer if turn.kind == "what" else turn.question.split()[-1]
            named.add(subject)
            placed.update([subject] if turn.kind in ("what", "where") else [])
        first_kinds[asked[0].kind] += 1
    assert min(first_kinds[kind] for kind in KINDS) > 60


def test_evaluation_questions_are_balanced_over_kinds(held_out):
    for sets in held_out.values():
        assert set(sets) == {"caption", "reading", "questions", "text"}
        for task in ("questions", "text"):
            assert Counter(sets[task]["kind"]) == dict.fromkeys(KINDS, 24)
        assert set(sets["caption"]["kind"]) == {"detail"} and set(sets["reading"]["kind"]) == {"read"}
        assert all(len(dataset) == 96 for dataset in sets.values())
        assert all(images == [] for images in sets["text"]["images"])


def test_chance_is_the_share_of_the_commonest_answer(world, held_out):
    chance = world.chance("test", 96)
    questions = held_out["test"]["questions"]
    by_kind = {
        kind: [a for a, k in zip(questions["answer"], questions["kind"], strict=True) if k == kind] for kind in KINDS
    }
    for kind, answers in by_kind.items():
        assert chance[f"question_accuracy/{kind}"] == Counter(answers).most_common(1)[0][1] / 24
    assert chance["question_accuracy"] == pytest.approx(sum(chance[f"question_accuracy/{k}"] for k in KINDS) / 4)
    reading = Counter(held_out["test"]["reading"]["answer"]).most_common(1)[0][1] / 96
    assert chance["reading_accuracy"] == reading
    large = world.chance()
    expected = {"count": 1 / 3, "what": 1 / 48, "where": 1 / 4, "color": 1 / 8}
    for kind, share in expected.items():
        assert share <= large[f"question_accuracy/{kind}"] < share + 0.03
    assert (
        set(large)
        == {*chance}
        == {*(f"question_accuracy/{k}" for k in KINDS), "question_accuracy", "text_accuracy", "reading_accuracy"}
    )


def test_the_vocabulary_is_closed(world, training, held_out):
    tokenizer = world.tokenizer()
    sets = [*training.values(), *(dataset for sets in held_out.values() for dataset in sets.values())]
    lines = [text for dataset in sets for text in all_texts(dataset)] + world.contrastive(200)[1]
    words = {word for line in lines for word in line.split()}
    assert words <= set(world.vocabulary)
    assert tokenizer.unk_token_id not in {i for ids in tokenizer(lines).input_ids for i in ids}
    # Nothing is idle but the names that training never shows and the chat's roles.
    assert set(world.vocabulary) - words == {*world.unseen, "system", "user", "assistant"}
    assert world.vocabulary == tuple(sorted(set(world.vocabulary)))


def test_features_and_pictures_of_a_dataset(world):
    scene, page = world.scenes("test", 1)[0], world.word_pages("test", 1)[0]
    turn = texts.Turn("q", "a", "k")
    samples = [Sample("k", [turn], scene), Sample("k", [turn, turn], page), Sample("k", [turn], None)]
    dataset = to_dataset(samples, "name")
    assert dataset.features == sample_features()
    assert dataset.column_names == ["messages", "images", "kind", "answer"]
    assert np.array_equal(np.asarray(dataset[0]["images"][0]), scene.render())
    assert np.array_equal(np.asarray(dataset[1]["images"][0]), page.render())
    assert dataset[2]["images"] == []
    assert dataset[1]["messages"] == [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "q"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
    ]
    assert dataset.shuffle(seed=0).select([0])[0]["kind"] == "k"


def test_fingerprints_name_the_samples(world):
    prints = [
        world.dataset(stage, split, size, seed)._fingerprint
        for stage in ("coarse", "fine")
        for split in ("train", "test")
        for size in (3, 4)
        for seed in (0, 1)
    ]
    assert len(set(prints)) == 16
    assert world.dataset("fine", "test", 4, 1)._fingerprint == prints[-1]
    assert DemoWorld(seed=1).dataset("fine", "test", 4, 1)._fingerprint not in prints


def test_wrong_names_are_user_errors(world):
    cases = [
        (lambda: world.dataset("medium", "train", 4), "unknown stage 'medium': choose one of coarse, fine, world"),
        (lambda: world.dataset("fine", "dev", 4), "unknown split 'dev': choose one of train, validation, test"),
        (lambda: world.scenes("dev", 4), "unknown split"),
        (lambda: world.word_pages("dev", 4), "unknown split"),
        (lambda: world.evaluation("dev", 4), "unknown split"),
        (lambda: world.cell_pictures("seen", 4, split="dev"), "unknown split"),
        (lambda: world.cell_pictures("known", 4), "unknown group of drawings 'known': choose seen or unseen"),
        (lambda: world.drawing_pictures("known", 4), "unknown group"),
        (lambda: DemoWorld(seen=148), "choose 3 to 147"),
        (lambda: DemoWorld(seen=2), "choose 3 to 147"),
    ]
    for call, words in cases:
        with pytest.raises(SailvitError, match=words):
            call()


def test_the_tokenizer_reads_chats_and_what_people_type(world, tmp_path):
    from transformers import PreTrainedTokenizerFast

    tokenizer = world.tokenizer()
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert len(tokenizer) == len(world.vocabulary) + 7 == 221
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.unk_token) == ("<|pad|>", "<|im_end|>", "<unk>")
    chat = "<|im_start|>user\n<img><IMG_CONTEXT><IMG_CONTEXT></img>\nwhat is at top left<|im_end|>\n"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(chat).input_ids)
    assert tokens == [
        "<|im_start|>",
        "user",
        "<img>",
        "<IMG_CONTEXT>",
        "<IMG_CONTEXT>",
        "</img>",
        "what",
        "is",
        "at",
        "top-left",
        "<|im_end|>",
    ]
    for place in CELLS:
        asked, ids = f"What is at {place.replace('-', ' ').upper()}?", tokenizer(f"what is at {place}").input_ids
        assert tokenizer(asked).input_ids == ids and len(ids) == 4
    assert tokenizer("a cat, a dog").input_ids == tokenizer("a cat , a dog").input_ids
    assert tokenizer("gnu").input_ids == [tokenizer.unk_token_id]
    assert set(tokenizer("cat")) == {"input_ids", "attention_mask"}
    assert tokenizer(["c a t", "cat"], padding=True).attention_mask == [[1, 1, 1], [1, 0, 0]]
    assert tokenizer.decode(tokenizer("c a t<|im_end|>").input_ids, skip_special_tokens=True) == "c a t"
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert again(chat).input_ids == tokenizer(chat).input_ids and again.get_vocab() == tokenizer.get_vocab()
    assert (again.padding_side, again.eos_token_id, again.pad_token_id) == ("right", 3, 0)


def test_importing_the_world_is_light():
    heavy = {"torch", "datasets", "transformers", "emoji"}
    code = f"import sys, sailvit_hf.data.demo_world; print({heavy} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
