# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
import json

import pytest
from PIL import Image

from sailvit_hf.data.conversations import ConversationError, load_messages
from sailvit_hf.errors import SailvitError

QUESTION = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}
ANSWER = {"role": "assistant", "content": "A square."}
GOOD = {"messages": [QUESTION, ANSWER], "images": ["pictures/red.png"], "id": 7}
TEXT = {"messages": [{"role": "user", "content": "Hi"}, ANSWER]}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (3, 2), "red").save(tmp_path / "pictures" / "red.png")
    (tmp_path / "pictures" / "fake.png").write_text("no picture")
    return tmp_path


def write(folder, *lines):
    path = folder / "my.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def chat(*messages, images=()):
    return {"messages": list(messages), "images": list(images)}


def test_rows_keep_their_order_parts_and_pictures(folder):
    system = {"role": "system", "content": "Be short."}
    dataset = load_messages(write(folder, GOOD, "", {"messages": [system, *TEXT["messages"]]}))
    assert dataset.column_names == ["messages", "images"]
    assert len(dataset) == 2
    assert dataset[0]["messages"] == [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A square."}]},
    ]
    assert dataset[0]["images"] == [{"bytes": None, "path": str((folder / "pictures" / "red.png").resolve())}]
    assert dataset[1]["images"] == []
    assert [message["role"] for message in dataset[1]["messages"]] == ["system", "user", "assistant"]


def test_pictures_stay_files(folder):
    dataset = load_messages(write(folder, GOOD))
    stored = dataset.data.column("images")[0].as_py()
    assert stored == [{"bytes": None, "path": str((folder / "pictures" / "red.png").resolve())}]


def test_pictures_are_decoded_on_request(folder):
    assert load_messages(write(folder, GOOD), decode=True)[0]["images"][0].getpixel((0, 0)) == (255, 0, 0)


def test_a_wrong_extension_is_refused_on_request(folder):
    Image.new("RGB", (3, 2), "red").save(folder / "pictures" / "red.png", format="JPEG")
    assert len(load_messages(write(folder, GOOD))) == 1
    with pytest.raises(ConversationError, match="line 1: pictures/red.png is a JPEG file in spite of its name"):
        load_messages(write(folder, GOOD), match_extension=True)


def test_image_root_replaces_the_folder_of_the_file(folder):
    path = write(folder, chat(QUESTION, ANSWER, images=["red.png"]))
    with pytest.raises(ConversationError, match="line 1: red.png does not exist"):
        load_messages(path)
    assert len(load_messages(path, image_root=folder / "pictures")) == 1
    with pytest.raises(SailvitError, match="mend image_root"):
        load_messages(path, image_root=folder / "nowhere")


def test_the_fingerprint_follows_the_content(folder, tmp_path_factory):
    first = load_messages(write(folder, GOOD))._fingerprint
    assert load_messages(write(folder, "", GOOD))._fingerprint == first
    assert load_messages(write(folder, GOOD, TEXT))._fingerprint != first
    Image.new("RGB", (30, 20), "blue").save(folder / "pictures" / "red.png")
    assert load_messages(write(folder, GOOD))._fingerprint != first


TWO_PICTURES = {"role": "user", "content": [{"type": "image"}, {"type": "image"}]}
BAD_LINES = [
    ('{"messages": [', "not JSON (Expecting value at column 15)"),
    ("[" * 100_000, "nested too deeply"),
    ("[1]", 'no list of "messages"'),
    ({"messages": []}, 'no list of "messages"'),
    ({"conversations": []}, 'no list of "messages"'),
    ({**GOOD, "images": "red.png"}, '"images" is "red.png": write a list of paths'),
    ({**GOOD, "images": [3]}, '"images" is [3]: write a list of paths'),
    (chat("hello", ANSWER), 'message 1 is "hello"'),
    (
        chat({"role": "human", "content": "Hi"}, ANSWER),
        'message 1 has the role "human": use one of system, user, assistant',
    ),
    (chat({"content": "Hi"}, ANSWER), "message 1 has the role null"),
    (chat(ANSWER, {"role": "system", "content": "Hi"}), "message 2 has the role system: put it first"),
    (chat({"role": "user"}, ANSWER), 'message 1 has no "content"'),
    (chat({"role": "user", "content": [{"type": "video"}]}, ANSWER), 'message 1 has the part {"type": "video"}'),
    (chat({"role": "user", "content": ["Hi"]}, ANSWER), 'message 1 has the part "Hi"'),
    (chat({"role": "user", "content": [{"type": "text"}]}, ANSWER), 'a text part without "text"'),
    (chat({"role": "user", "content": [{"type": "image", "image": "a.png"}]}, ANSWER), '"image" in an image part'),
    (chat({"role": "user", "content": "Hi"}), "no assistant turn"),
    (chat({"role": "user", "content": "Hi"}, {"role": "assistant", "content": " "}), "message 2 is an empty answer"),
    (
        chat({"role": "assistant", "content": [{"type": "image"}]}, images=["pictures/red.png"]),
        "in a turn of the assistant",
    ),
    (chat(QUESTION, ANSWER), '1 image parts in the messages but 0 paths in images: give one path in "images"'),
    (chat(TWO_PICTURES, ANSWER, images=["pictures/red.png"]), "2 image parts in the messages but 1 paths in images"),
    (
        chat({"role": "user", "content": "<image> What?"}, ANSWER, images=["pictures/red.png"]),
        'write {"type": "image"} as a part of "content" in place of "<image>"',
    ),
    (chat(QUESTION, ANSWER, images=["pictures/gone.png"]), "pictures/gone.png does not exist"),
    (chat(QUESTION, ANSWER, images=["pictures/fake.png"]), "pictures/fake.png is not an image file"),
    (chat(QUESTION, ANSWER, images=["../red.png"]), "../red.png lies outside"),
]


@pytest.mark.parametrize(("line", "words"), BAD_LINES)
def test_a_bad_line_is_named_with_its_mend(folder, line, words):
    path = write(folder, GOOD, "", line, GOOD)
    with pytest.raises(ConversationError) as caught:
        load_messages(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 3: ")
    assert words in message
    assert "\n" not in message


def test_files_that_cannot_be_read(folder):
    with pytest.raises(SailvitError, match="holds no conversation: write one a line, such as"):
        load_messages(write(folder, ""))
    with pytest.raises(SailvitError, match="No such file or directory"):
        load_messages(folder / "none.jsonl")
    (folder / "latin.jsonl").write_bytes(b'{"messages": "\xe9"}')
    with pytest.raises(SailvitError, match="is not UTF-8 text \\(byte 14\\)"):
        load_messages(folder / "latin.jsonl")


def test_a_byte_order_mark_and_line_separators_inside_a_text_are_harmless(folder):
    path = folder / "my.jsonl"
    answer = {"role": "assistant", "content": "one\u2028two"}
    line = json.dumps(chat({"role": "user", "content": "Hi"}, answer), ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n")
    assert load_messages(path)[0]["messages"][1]["content"][0]["text"] == "one\u2028two"
