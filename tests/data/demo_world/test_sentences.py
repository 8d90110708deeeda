# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
import pytest

from sailvit_hf.data.demo_world import DemoWorld
from sailvit_hf.data.demo_world.samples import Sample, messages
from sailvit_hf.data.demo_world.sentences import SYSTEM, in_sentences
from sailvit_hf.data.demo_world.texts import Turn

DETAIL = "two drawings : top-left cat on red , bottom-right dog on blue , top-right green , bottom-left pink"
TOLD = "Two drawings. Top left: cat on red. Bottom right: dog on blue. Top right: green. Bottom left: pink."


@pytest.mark.parametrize(
    ("question", "answer", "asked", "said"),
    [
        ("describe", "a cat , a dog and an owl", "What is in the picture?", "A cat, a dog and an owl."),
        ("describe in detail", DETAIL, "Describe the picture in detail.", TOLD),
        ("read", "c a t", "Spell the word in the picture.", "c a t"),
        ("how many drawings", "two", "How many drawings are there?", "two"),
        ("what is at top-left", "cat", "What is at the top left?", "cat"),
        ("where is the cat", "top-left", "Where is the cat?", "top left"),
        ("what color is behind the cat", "red", "What color is behind the cat?", "red"),
        (f"{DETAIL} . where is the dog", "bottom-right", f"{TOLD} Where is the dog?", "bottom right"),
    ],
)
def test_each_text_has_its_sentence(question, answer, asked, said):
    sample = in_sentences(Sample("kind", [Turn(question, answer, "kind")], None))
    chat = [(message["role"], message["content"][0]["text"]) for message in messages(sample)]
    assert chat == [("system", SYSTEM), ("user", asked), ("assistant", said)]


def test_the_same_samples_in_other_words():
    words, sentences = DemoWorld(), DemoWorld(sentences=True)
    for one, other in zip(
        (words.dataset("world", "train", 24), *words.evaluation("test", 8).values()),
        (sentences.dataset("world", "train", 24), *sentences.evaluation("test", 8).values()),
        strict=True,
    ):
        assert one["kind"] == other["kind"]
        assert [[picture.tobytes() for picture in row] for row in one["images"]] == [
            [picture.tobytes() for picture in row] for row in other["images"]
        ]
        assert one._fingerprint != other._fingerprint
        for row in other:
            question = row["messages"][1]["content"][-1]["text"]
            assert question[0].isupper() and question[-1] in "?." and " . " not in question
    assert words.chance() == sentences.chance()
