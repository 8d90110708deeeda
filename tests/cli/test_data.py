# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""`sailvit data check`: its table, its exit status, and what it writes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sailvit_hf import SAILViTImageProcessorPil, SAILViTProcessor, cli
from sailvit_hf.data import reading
from sailvit_hf.data.demo_world import DemoWorld

from ..data.checking.checked import chat, encoded, write_broken_set

TABLE = """\
pets.jsonl
samples          21 read
broken           17 (81.0 %)
text only        1 sample
pictures         4 shown, 2 different
formats          PNG 2, JPEG 2
width x height   30 x 40 smallest, 30 x 40 median, 60 x 40 largest
duplicates       1 sample repeats another, first pets.jsonl, line 1 = line 19
picture copies   1 file equals another byte for byte, first pets.jsonl, line 17 = line 17

in each sample   least   median   90 %   99 %   most   in all
─────────────────────────────────────────────────────────────
tiles                0        1      2      2      2        4
pictures             0        1      2      2      2        4
characters          15       15     15     15     15       60
turns                2        2      2      2      2        8

broken because                samples   share   first
───────────────────────────────────────────────────────────────────
picture: missing                    2   9.5 %   pets.jsonl, line 8
picture: truncated                  2   9.5 %   pets.jsonl, line 9
not JSON                            1   4.8 %   pets.jsonl, line 2
not an object                       1   4.8 %   pets.jsonl, line 3
unknown layout                      1   4.8 %   pets.jsonl, line 4
empty answer                        1   4.8 %   pets.jsonl, line 5
pictures do not match               1   4.8 %   pets.jsonl, line 6
unknown role                        1   4.8 %   pets.jsonl, line 7
picture: damaged                    1   4.8 %   pets.jsonl, line 11
picture: not a picture              1   4.8 %   pets.jsonl, line 12
picture: empty                      1   4.8 %   pets.jsonl, line 13
picture: outside the folder         1   4.8 %   pets.jsonl, line 14
picture: an address                 1   4.8 %   pets.jsonl, line 15
picture: loop of links              1   4.8 %   pets.jsonl, line 16
picture: wrong extension            1   4.8 %   pets.jsonl, line 18

pets.jsonl, line 2: it is not JSON (Expecting value at column 15): write one JSON object a line
pets.jsonl, line 3: it is [1, 2]: write an object with the conversation
and 15 more: --list, --json FILE or the page name them
Tiles of 448 pixels, at most 2 and a thumbnail; tokens only with --processor. Pictures were checked
by header, length, checksum and end mark; --decode decodes every one.
Page: page.html
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, *rows: dict) -> str:
    (folder / "good.png").write_bytes(encoded(30, 40))
    (folder / "pets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return "pets.jsonl"


GOOD = {"messages": chat(), "images": ["good.png"]}


def check(*words: object) -> int:
    return cli.main(["data", "check", *map(str, words)])


def test_the_table_fits_100_columns(here: Path, capsys) -> None:
    write_broken_set(here)
    assert check("pets.jsonl", "--max-tiles", 2, "--list", 2, "--page", "page.html") == 1
    output, errors = capsys.readouterr()
    assert all(len(line) <= 100 for line in output.splitlines())
    assert "".join(f"{line.rstrip()}\n" for line in output.splitlines()) == TABLE
    assert errors == ""
    page = (here / "page.html").read_text(encoding="utf-8")
    assert "<h1>Data check: pets.jsonl</h1>" in page and page.count("<img ") == 4


def test_a_good_set_is_clean(here: Path, capsys) -> None:
    assert check(write(here, GOOD), "--json", "findings.json") == 0
    output = capsys.readouterr().out
    assert "broken           none" in output and "broken because" not in output
    assert output.endswith("Page: data-check.html\nJSON: findings.json\n")
    found = json.loads((here / "findings.json").read_text())
    assert found["samples"] == {"read": 1, "good": 1, "broken": 0, "text_only": 0}
    assert found["asked"]["source"] == "pets.jsonl"
    first = (here / "data-check.html").read_bytes()
    assert check("pets.jsonl") == 0 and (here / "data-check.html").read_bytes() == first


def test_other_folders_and_layouts(here: Path, capsys) -> None:
    (here / "data").mkdir()
    write(here, GOOD)
    turns = [{"from": "human", "value": "<image>\nwhat is it"}, {"from": "gpt", "value": "a cat"}]
    (here / "data" / "llava.json").write_text(json.dumps([{"conversations": turns, "image": "good.png"}]))
    assert check("data", "--no-page", "--list", 0) == 1
    assert "picture: missing" in capsys.readouterr().out
    assert check("data", "--no-page", "--image-root", ".", "--format", "llava") == 0
    assert not (here / "data-check.html").exists()


def test_orphans(here: Path, capsys) -> None:
    (here / "sub").mkdir()
    for name in ("sub/one.JPG", "two.png", "notes.txt"):
        (here / name).write_bytes(b"x")
    assert check(write(here, GOOD), "--no-page", "--orphans", "--json", "found.json") == 0
    assert "2 picture files that no good sample shows, first two.png" in capsys.readouterr().out
    found = json.loads((here / "found.json").read_text())
    assert found["orphans"] == {"count": 2, "files": ["two.png", "sub/one.JPG"]}
    write(here, {**GOOD, "images": [str(here / "good.png")]})  # by its whole path
    assert check("pets.jsonl", "--page", "page.html", "--orphans", "--image-root", here) == 0
    assert "2 picture files" in capsys.readouterr().out and "<li>sub/one.JPG</li>" in (here / "page.html").read_text()


def test_limit(here: Path, capsys) -> None:
    write(here, GOOD, {}, {})
    assert check("pets.jsonl", "--no-page", "--limit", 1) == 0
    assert "1 read (--limit 1)" in capsys.readouterr().out


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processor")
    image_processor = SAILViTImageProcessorPil(size={"height": 32, "width": 32}, max_tiles=4)
    SAILViTProcessor.from_parts(image_processor, DemoWorld().tokenizer(), patch_size=8).save_pretrained(folder)
    return folder


def test_tokens_are_those_that_encoding_gives(here: Path, processor: Path, capsys) -> None:
    from PIL import Image

    write(here, GOOD, {"messages": chat(images=0), "images": []})
    words = ("pets.jsonl", "--processor", processor, "--json", "found.json", "--max-length", 20)
    assert check(*words) == 1  # the first sample is longer
    assert "1 of more than 20 tokens (50 %), first pets.jsonl, line 1" in capsys.readouterr().out
    found = json.loads((here / "found.json").read_text())["per_sample"]
    loaded = SAILViTProcessor.from_pretrained(processor)
    pictures = [[Image.open(here / "good.png")], []]
    encodings = [loaded.encode_conversation(chat(images=len(shown)), shown) for shown in pictures]
    lengths = [len(encoding["input_ids"]) for encoding in encodings]
    image_tokens = int((encodings[0]["input_ids"] == loaded.image_token_id).sum())
    assert found["tokens"] == {"total": sum(lengths), "least": lengths[1], "p50": lengths[1], "p90": lengths[0],
                               "p99": lengths[0], "most": lengths[0]}  # fmt: skip
    assert (found["image_tokens"]["most"], found["tiles"]["most"]) == (image_tokens, len(encodings[0]["pixel_values"]))
    assert check("pets.jsonl", "--no-page", "--processor", processor, "--max-length", max(lengths)) == 0
    fewer = ("--max-image-tokens", image_tokens - 1, "--max-length", max(lengths) - 1)
    assert check("pets.jsonl", "--no-page", "--processor", processor, *fewer) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.jsonl"], "the data set nowhere.jsonl does not exist: mend the path, or give a Hub id"),
        (["pets.jsonl", "--max-length", "9"], "--max-length needs a processor that counts tokens"),
        (["pets.jsonl", "--max-image-tokens", "9"], "--max-image-tokens needs a processor"),
        (["pets.jsonl", "--processor", "nowhere"], "there is no folder nowhere: name a checkpoint's folder"),
        (["pets.jsonl", "--processor", "."], ". gives no processor ("),
        (["pets.jsonl", "--processor", ".", "--max-tiles", "2"], "--max-tiles and --processor contradict each other"),
        (["pets.jsonl", "--image-root", "nowhere"], "the folder of pictures nowhere does not exist"),
        (["pets.jsonl", "--page", "nowhere/page.html"], "nowhere/page.html cannot be written"),
        (["pets.jsonl", "--json", "."], ". cannot be written: name a file in a folder that exists"),
        (["pets.jsonl", "--orphans", "--limit", "1"], "--orphans needs all samples to be read"),
        (["owner/name", "--orphans"], "--orphans needs a folder of pictures: give --image-root"),
        (["pets.jsonl", "--format", "csv"], "there is no layout csv: choose auto, messages"),
        (["empty.jsonl"], "empty.jsonl holds no samples: name a file or folder that does"),
    ],
)
def test_wrong_usage_is_one_sentence(here: Path, capsys, words: list[str], said: str) -> None:
    write(here, GOOD)
    (here / "empty.jsonl").write_text("\n")
    assert check(*words) == 2
    output, errors = capsys.readouterr()
    assert output == "" and errors.startswith(f"error: {said}") and errors.count("\n") == 1
    assert not (here / "data-check.html").exists()


@pytest.mark.parametrize("words", [["--limit", "0"], ["--list", "-1"], ["--workers", "none"]])
def test_numbers_are_in_range(here: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        check("pets.jsonl", *words)
    assert error.value.code == 2


def test_an_interrupt_shows_what_was_read(here: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    read = reading.read_entries

    def interrupted(*args, **kwargs):
        entries = read(*args, **kwargs)
        yield next(entries)
        yield next(entries)
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "read_entries", interrupted)
    assert check(write(here, GOOD, {}, GOOD)) == 130
    output, errors = capsys.readouterr()
    assert "2 read, then interrupted" in output and "broken           1 (50 %)" in output
    assert errors == "interrupted; the above is about what was read until then\n"
    assert "Interrupted after 2 samples" in (here / "data-check.html").read_text(encoding="utf-8")


def test_a_data_set_steers_no_terminal(here: Path, capsys) -> None:
    write(here, {**GOOD, "images": ["\x1b[2Jnowhere[bold].png"]})
    assert check("pets.jsonl", "--no-page") == 1
    output = capsys.readouterr().out
    assert "\x1b" not in output and "nowhere[bold].png does not exist" in re.sub(r"\s+", " ", output)


def test_torch_is_not_imported_to_look_at_data(here: Path) -> None:
    write(here, GOOD)
    code = (
        "import sys; from sailvit_hf import cli; status = cli.main(['data', 'check', 'pets.jsonl']); "
        "sys.exit(status or ('torch' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
