# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Layouts of conversations: the same conversation in all of them, and a sentence for what is none."""

import json

import pytest

from sailvit_hf.data.formats import RowError, detect_format, to_conversation
from sailvit_hf.processing.conversations_sailvit import read_conversation

IMAGE = {"type": "image", "text": None}
ANSWER = {"role": "assistant", "content": "A cat."}
TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]


def text(value):
    return {"type": "text", "text": value}


WANTED = [
    {"role": "user", "content": [IMAGE, text("What?")]},
    {"role": "assistant", "content": [text("A cat.")]},
]
ONE_PICTURE = [
    ("messages", {"messages": [{"role": "user", "content": "<image>\nWhat?"}, ANSWER], "images": ["a.png"]}),
    ("messages", {"messages": [{"role": "user", "content": "<image>What?"}, ANSWER], "image": "a.png"}),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
            ],
            "images": ["a.png"],
        },
    ),
    (
        "messages",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "a.png"}, "text": None},
                        {"type": "text", "text": "What?", "image_url": None},
                    ],
                },
                ANSWER,
            ]
        },
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, text("What?")]}, ANSWER]},
    ),
    ("llava", {"conversations": TURNS, "image": "a.png", "id": 7}),
    ("llava", {"conversations": TURNS, "image": ["a.png"]}),
    ("llava", {"conversations": [{"from": "human", "value": "What?"}, TURNS[1]], "image": "a.png"}),
    ("sharegpt", {"conversations": TURNS, "images": ["a.png"]}),
    ("cauldron", {"texts": [{"user": "What?", "assistant": "A cat."}], "images": ["a.png"], "source": "x"}),
    ("cauldron", {"texts": [{"user": "<image>\nWhat?", "assistant": "A cat.", "source": "x"}], "images": ["a.png"]}),
    ("sharegpt", {"conversations": TURNS, "images": ["a.png"], "system": "", "tools": ""}),
    # As `datasets` stores rows whose values are of several types.
    ("messages", {"messages": json.dumps([{"role": "user", "content": "<image>What?"}, ANSWER]), "images": ["a.png"]}),
]


@pytest.mark.parametrize(("layout", "row"), ONE_PICTURE)
def test_one_conversation_in_every_layout(layout, row):
    assert detect_format(row) == layout
    found = to_conversation(row)
    assert found.messages == WANTED
    assert found.images == [{"bytes": None, "path": "a.png"}]
    assert found.id == ("7" if "id" in row else None)
    assert to_conversation(row, layout) == found


def test_captions_have_a_question_of_the_picture_alone():
    for row in ({"image": "a.png", "caption": "A cat."}, {"jpg": {"path": "a.png", "bytes": None}, "txt": "A cat."}):
        assert detect_format(row) == "caption"
        found = to_conversation(row)
        assert found.messages == [{"role": "user", "content": [IMAGE]}, WANTED[1]]
        assert found.images == [{"bytes": None, "path": "a.png"}]
    assert to_conversation({"image": "a.png", "captions": ["A cat.", "A pet."]}).messages[1] == WANTED[1]


def test_a_system_text_comes_first_and_marks_stay_where_they_are():
    turns = [{"from": "human", "value": "Left <image> or\n<image>\nright?"}, {"from": "gpt", "value": "Left."}]
    found = to_conversation({"system": "Be short.", "conversations": turns, "images": ["a.png", b"\x89PNG"]})
    assert found.messages[0] == {"role": "system", "content": [text("Be short.")]}
    assert found.messages[1]["content"] == [text("Left "), IMAGE, text(" or"), IMAGE, text("right?")]
    assert found.images == [{"bytes": None, "path": "a.png"}, {"bytes": b"\x89PNG", "path": None}]


def test_the_members_of_a_tar_s_sample_are_its_pictures():
    row = {
        "__key__": "000012",
        "10.jpg": {"bytes": b"ten", "path": "000012.10.jpg"},
        "2.jpg": {"bytes": b"two", "path": "000012.2.jpg"},
        "json": {"image": "gone.jpg", "conversations": [{"from": "human", "value": "<image><image>"}, TURNS[1]]},
    }
    found = to_conversation(row)
    assert [image["bytes"] for image in found.images] == [b"two", b"ten"]
    assert found.id == "000012"


def test_explicit_text_parts_may_talk_about_marks():
    row = {"messages": [{"role": "user", "content": [text("What is <image> in HTML?")]}, ANSWER]}
    assert to_conversation(row).messages[0]["content"] == [text("What is <image> in HTML?")]


def chat(*messages, **more):
    return {"messages": list(messages), **more}


USER = {"role": "user", "content": "Hi"}
BAD = [
    ([1], "not an object", "it is [1]"),
    ({"a": 1, "b": 2}, "unknown layout", "its keys are a, b"),
    ({"messages": []}, "no conversation", 'no list of "messages"'),
    ({"conversations": "x"}, "no conversation", 'no list of "conversations"'),
    (chat("Hi", ANSWER), "no conversation", 'message 1 is "Hi"'),
    ({"conversations": [{"from": "human", "value": 3}]}, "no conversation", "turn 1 has the value 3"),
    (chat({"role": "tool", "content": "x"}, ANSWER), "unknown role", 'message 1 has the role "tool"'),
    (chat(USER), "no answer", "no answer"),
    (chat(USER, {"role": "assistant", "content": " "}), "empty answer", "message 2 is an empty answer"),
    (chat({"role": "user", "content": []}, ANSWER), "empty message", "message 1 is empty"),
    (chat(USER, ANSWER, {"role": "system", "content": "x"}), "misplaced system", "message 3 has the role system"),
    (chat(USER, {"role": "assistant", "content": "<image>"}, image="a"), "misplaced picture", "turn of the assistant"),
    (chat({"role": "user", "content": [{"type": "video"}]}, ANSWER), "a video", "message 1 has a video"),
    (chat({"role": "user", "content": [{"type": "pdf"}]}, ANSWER), "unknown part", 'the part {"type": "pdf"}'),
    ({"conversations": [{"from": "human", "value": "<video>?"}, TURNS[1]]}, "a video or sound", "message 1 asks"),
    ({"conversations": TURNS}, "pictures do not match", "places for pictures are 1, its pictures 0"),
    ({"conversations": TURNS, "image": ["a", "b"]}, "pictures do not match", "are 1, its pictures 2"),
    (chat(USER, ANSWER, images=["a"]), "pictures do not match", "places for pictures are 0, its pictures 1"),
    (
        chat({"role": "user", "content": [{"type": "image", "image": "a"}]}, ANSWER, images=["b"]),
        "pictures do not match",
        "put all of them into one of the two",
    ),
    (chat(USER, ANSWER, images=[3]), "no picture's path", '"images" holds 3'),
    (chat({"role": "user", "content": "\ud800"}, ANSWER), "not text", "a lone surrogate"),
    ({"image": "a.png", "caption": 3}, "no conversation", "its caption is 3"),
]


@pytest.mark.parametrize(("row", "reason", "words"), BAD)
def test_what_cannot_be_used_is_told_in_a_sentence_and_in_few_words(row, reason, words):
    with pytest.raises(RowError) as caught:
        to_conversation(row)
    assert caught.value.reason == reason
    assert len(reason.split()) <= 4
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


FRAMES = ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("part", "images"),
    [
        ({"type": "video", "timestamps": [0.0, 1.5]}, FRAMES),
        ({"type": "video", "video": FRAMES, "timestamps": [0.0, 1.5]}, None),
        ({"type": "video", "frames": FRAMES, "fps": 2}, None),
        ({"type": "video", "video": FRAMES}, None),
    ],
)
def test_a_video_is_read_as_the_processor_writes_it(part, images):
    question = {"role": "user", "content": [part, text("What?")]}
    row = {"messages": [question, ANSWER], **({"images": images} if images else {})}
    found = to_conversation(row)
    chat, pictures = read_conversation([question, ANSWER], images, "<IMG_CONTEXT>")
    parts = [{"text": None, **each} for each in chat[0]["content"]]
    assert found.messages[0]["content"] == parts
    assert [picture["path"] for picture in found.images] == pictures == FRAMES


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "video", "timestamps": [0.0], "video": FRAMES}, "video of 2 frames: give as many seconds"),
        ({"type": "video", "video": FRAMES, "num_frames": 1}, "has num_frames: give only the frames"),
    ],
)
def test_a_video_that_cannot_be_read(part, said):
    with pytest.raises(RowError, match=said):
        to_conversation({"messages": [{"role": "user", "content": [part]}, ANSWER]})


def test_the_cauldron_shows_pictures_first_and_may_have_none():
    turns = [{"user": "Which?", "assistant": "Both."}, {"user": "Sure?", "assistant": "Yes."}]
    found = to_conversation({"images": ["a.png", "b.png"], "texts": turns})
    assert [part["type"] for part in found.messages[0]["content"]] == ["image", "image", "text"]
    assert [message["role"] for message in found.messages] == ["user", "assistant"] * 2
    assert [image["path"] for image in found.images] == ["a.png", "b.png"]
    for none in ([], None):  # text only, as `datasets` stores it
        found = to_conversation({"images": none, "texts": turns})
        assert found.images == [] and found.messages[0]["content"] == [text("Which?")]


@pytest.mark.parametrize(
    ("texts", "words"),
    [([], "no list"), ([{"user": "a"}], 'write {"user", "assistant"}'), (["a"], 'turn 1 is "a"'),
     ([{"user": "<image> <image>", "assistant": "b"}], "places for pictures are 2, its pictures 1")],
)  # fmt: skip
def test_broken_texts_are_told(texts, words):
    with pytest.raises(RowError, match=words):
        to_conversation({"images": ["a.png"], "texts": texts})
