# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Every kind of place that entries are read from, and those of them that are broken."""

import json

import datasets
import pytest
from PIL import Image

from sailvit_hf.data.images import image_size, load_image
from sailvit_hf.data.reading import BrokenEntry, Entry, read_entries
from sailvit_hf.errors import SailvitError

from .sources import llava, numbered, parquet_with_pictures, picture, write_jsonl, write_tar


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(picture("red"))
    return tmp_path


def answers(entries):
    return [entry.messages[-1]["content"][0]["text"] for entry in entries if isinstance(entry, Entry)]


def test_lines_with_their_numbers_and_those_that_are_broken(folder):
    path = write_jsonl(folder / "my.jsonl", [llava(), "", "{bad", [1], numbered(2), llava("<image>", image=None)])
    entries = list(read_entries(path))
    assert [entry.where for entry in entries] == [f"my.jsonl, line {number}" for number in (1, 3, 4, 5, 6)]
    assert entries[0].root == str(folder)
    assert entries[0].id == "A square."
    assert load_image(entries[0].images[0], entries[0].root).getpixel((0, 0)) == (255, 0, 0)
    assert [type(entry) for entry in entries] == [Entry, BrokenEntry, BrokenEntry, Entry, BrokenEntry]
    assert [entry.reason for entry in entries if isinstance(entry, BrokenEntry)] == [
        "not JSON",
        "not an object",
        "pictures do not match",
    ]
    assert entries[1].message.startswith("it is not JSON (Expecting property name")


def test_bytes_that_are_no_text_and_a_byte_order_mark(folder):
    line = json.dumps(llava()).encode()
    (folder / "my.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n" + b'{"a": "\xe9"}\n' + b"[" * 100_000 + b"\n")
    first, second, third = read_entries(folder / "my.jsonl")
    assert first.where == "my.jsonl, line 1"
    assert (second.reason, third.reason) == ("not UTF-8", "not JSON")


def test_a_json_file_with_a_list(folder):
    rows = [llava(answer="é\u2028" * 3), {"x": 1}, llava(answer="last")]
    for indent in (None, 2):
        (folder / "my.json").write_text("\ufeff \n" + json.dumps(rows, ensure_ascii=False, indent=indent))
        entries = list(read_entries(folder / "my.json"))
        assert [entry.where for entry in entries] == [f"my.json, entry {number}" for number in (1, 2, 3)]
        assert answers(entries) == ["é\u2028" * 3, "last"]
        assert entries[1].reason == "unknown layout"
    (folder / "my.json").write_text("[]")
    assert list(read_entries(folder / "my.json")) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"a": 1},\n {"b": }]', "entry 2, line 2: Expecting value"),
        ('[{"a": 1}\n {"b": 2}]', "line 2: no comma after entry 1"),
        ('[{"a": 1}', "no comma after entry 1"),
    ],
)
def test_a_list_that_is_not_json_is_one_broken_entry_after_the_good_ones(folder, content, words):
    (folder / "my.json").write_text(content)
    *_, last = read_entries(folder / "my.json")
    assert (last.where, last.reason) == ("my.json", "unreadable file")
    assert words in last.message


def test_samples_of_tars_with_different_members(folder):
    text = {"messages": [{"role": "user", "content": "t"}, {"role": "assistant", "content": "text"}]}
    two = llava(question="<image><image>", answer="two")
    write_tar(
        folder / "a-000.tar",
        [
            ("./x/1.jpg", picture("red", format="JPEG")),
            ("./x/1.txt", "a caption"),
            ("2.json", json.dumps(text)),
            ("3.0.png", picture("red", (5, 1))),
            ("3.1.png", picture("blue", (7, 2))),
            ("3.json", json.dumps(two)),
            (".hidden", "x"),
        ],
    )
    write_tar(folder / "a-001.tar", [("4.jpg", b""), ("4.json", "{bad"), ("5.txt", b"\xff"), ("6.cls", "1")])
    (folder / "a-002.tar").write_bytes(b"no tar at all")
    entries = list(read_entries(folder / "a-*.tar"))
    assert [entry.where for entry in entries] == [
        "a-000.tar, sample ./x/1",
        "a-000.tar, sample 2",
        "a-000.tar, sample 3",
        "a-001.tar, sample 4",
        "a-001.tar, sample 5",
        "a-001.tar, sample 6",
        "a-002.tar",
    ]
    assert answers(entries) == ["a caption", "text", "two"]
    assert [image_size(image) for image in entries[2].images] == [(1, 5), (2, 7)]
    reasons = [entry.reason for entry in entries[3:]]
    assert reasons == ["not JSON", "not UTF-8", "unknown layout", "unreadable file"]


def test_links_in_tars_are_not_followed(folder):
    import tarfile

    with tarfile.open(folder / "a.tar", "w") as archive:
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
        text = tarfile.TarInfo("1.txt")
        archive.addfile(text)
    (entry,) = read_entries(folder / "a.tar")
    assert entry.reason == "unknown layout"


def test_parquet_and_folders_of_it(folder):
    data = folder / "data"
    data.mkdir()
    parquet_with_pictures(data / "train-00000-of-00002.parquet", 3)
    parquet_with_pictures(data / "train-00001-of-00002.parquet", 2, start=3)
    parquet_with_pictures(data / "test-00000-of-00001.parquet", 1, start=9)
    assert answers(read_entries(data)) == ["0", "1", "2", "3", "4"]
    assert answers(read_entries(data, split="test")) == ["9"]
    entries = list(read_entries(data / "train-*.parquet"))
    assert entries[3].where == "train-00001-of-00002.parquet, row 1"
    assert image_size(entries[3].images[0]) == (4, 6)
    (data / "train-00000-of-00002.parquet").write_bytes(b"PAR1 is not enough")
    first, *rest = read_entries(data / "train-*.parquet")
    assert first.reason == "unreadable file"
    assert answers(rest) == ["3", "4"]


def test_a_saved_data_set_and_what_datasets_prepared(folder):
    rows = datasets.Dataset.from_list([numbered(1), numbered(2)])
    rows.save_to_disk(folder / "one")
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(folder / "two")
    assert answers(read_entries(folder / "one")) == ["1", "2"]
    assert answers(read_entries(folder / "two", split="test", streaming=False)) == ["2"]
    with pytest.raises(SailvitError, match="has no split dev: choose one of train, test"):
        list(read_entries(folder / "two", split="dev"))


def test_folders_and_patterns_of_json(folder):
    (folder / "sub").mkdir()
    for name in ("b", "a"):
        write_jsonl(folder / "sub" / f"{name}.jsonl", [numbered(ord(name))])
    assert answers(read_entries(folder)) == ["97", "98"]
    entries = list(read_entries(folder / "**" / "*.jsonl"))
    assert answers(entries) == ["97", "98"] and entries[1].where == "sub/b.jsonl, line 1"
    assert entries[0].root == str(folder)


def test_places_that_are_none(folder):
    for path, words in [
        ("nowhere/at/all.jsonl", "does not exist"),
        ("nowhere.jsonl", "does not exist"),
        (folder / "*.jsonl", "no file matches"),
        (folder, "holds no data set"),
        (folder / "a.png", "no data set known by its name"),
    ]:
        with pytest.raises(SailvitError, match=words):
            list(read_entries(path))
    write_jsonl(folder / "my.jsonl", [numbered(1)])
    with pytest.raises(SailvitError, match="mend image_root"):
        list(read_entries(folder / "my.jsonl", image_root=folder / "none"))
    with pytest.raises(SailvitError, match="there is no layout alpaca"):
        list(read_entries(folder / "my.jsonl", format="alpaca"))
    with pytest.raises(SailvitError, match="files of several kinds"):
        write_tar(folder / "my.tar", [])
        list(read_entries(folder / "my.*"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_the_size_from_the_header_is_that_of_the_picture(tmp_path, orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{format.lower()}"
    options = {"exif": exif} if format in ("PNG", "JPEG", "WEBP", "TIFF") else {}
    Image.new("RGB", (30, 20), "red").save(path, **options)
    image = load_image(path)
    assert image_size(path) == (image.height, image.width)
    assert image_size(path.read_bytes()) == image_size(Image.open(path)) == (image.height, image.width)
    if orientation > 4 and options:
        assert image_size(path) == (30, 20)


def test_the_size_is_refused_as_the_picture_is(tmp_path):
    from sailvit_hf.data.images import ImageExtensionError, ImageMissingError, ImageTooLargeError

    path = tmp_path / "a.jpg"
    path.write_bytes(picture("red"))
    for arguments, error in [
        ({"match_extension": True}, ImageExtensionError),
        ({"max_pixels": 5}, ImageTooLargeError),
    ]:
        with pytest.raises(error) as caught:
            image_size(path, name="x", **arguments)
        assert caught.value.sample == "x"
    with pytest.raises(ImageMissingError):
        image_size(tmp_path / "none.jpg")
