# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Tables of sizes: found by the same data and processor and by no other, whole or not there, and then trusted."""

import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from sailvit_hf import SAILViTImageProcessorPil, SAILViTProcessor, cli
from sailvit_hf.data.demo_world import DemoWorld
from sailvit_hf.data.encoding import EncodedSamples
from sailvit_hf.data.mixture import Mixture, Part
from sailvit_hf.data.packing.plan import RememberedSizes
from sailvit_hf.data.packing.rows import PackingRows
from sailvit_hf.data.rows import load_conversations
from sailvit_hf.data.sizes import FOLDER, load_table, table_file, write_table
from sailvit_hf.errors import SailvitError

COUNT = 7


@pytest.fixture(scope="module")
def processor():
    images = SAILViTImageProcessorPil(size={"height": 16, "width": 16}, max_tiles=4)
    return SAILViTProcessor.from_parts(images, DemoWorld().tokenizer(), patch_size=4)


@pytest.fixture
def file(tmp_path):
    """Seven samples, the fourth with a broken picture."""
    lines = []
    for number in range(COUNT):
        picture = tmp_path / f"{number}.png"
        if number == 3:
            picture.write_bytes(b"no picture")
        else:
            Image.new("RGB", (16 + 16 * number, 16)).save(picture)
        content = [{"type": "image"}, {"type": "text", "text": "what is this " * (number + 1)}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "a cat"}]
        lines.append(json.dumps({"messages": messages, "images": [picture.name]}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "rows.jsonl"


def packing_rows(file, processor, **options):
    return PackingRows(EncodedSamples(load_conversations(file), processor, **options))


def written(found, workers=1):
    (part,) = found.parts()
    return write_table(part, found.encoder, found.measure, workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_table_holds_what_would_be_measured(file, processor, workers):
    found = packing_rows(file, processor)
    assert found.size_tables() == [(COUNT, None)]
    summary = written(found, workers)
    ((count, table),) = found.size_tables()
    assert count == COUNT and table[3].tolist() == [0, 0] and summary["unreadable"] == 1
    good = [number for number in range(COUNT) if number != 3]
    assert [tuple(table[number]) for number in good] == [found.measure(number) for number in good]
    assert summary["tokens"] == table[:, 0].sum() and summary["tiles"] == table[:, 1].sum()
    assert [path.suffix for path in sorted((file.parent / FOLDER).iterdir())] == [".json", ".npy"]


def test_then_nothing_is_measured_but_what_was_broken(file, processor):
    written(packing_rows(file, processor))
    found, measured = packing_rows(file, processor), []

    def measure(index):
        measured.append(index)
        return found.measure(index)

    sizes = RememberedSizes(measure, COUNT, found.size_tables())
    assert sizes.known
    assert [sizes(number) for number in (0, 1, 6)] == [found.measure(number) for number in (0, 1, 6)]
    assert sizes.look_up(np.array([6, 3, 0])).tolist() == [list(found.measure(6)), [0, 0], list(found.measure(0))]
    assert measured == []
    with pytest.raises(SailvitError):
        sizes(3)
    assert measured == [3]


def test_other_data_and_other_processors_do_not_find_it(file, processor, tmp_path_factory, monkeypatch):
    rows = packing_rows(file, processor)
    written(rows)
    images = SAILViTImageProcessorPil(size={"height": 16, "width": 16}, max_tiles=2)
    fewer_tiles = SAILViTProcessor.from_parts(images, DemoWorld().tokenizer(), patch_size=4)
    assert packing_rows(file, fewer_tiles).size_tables() == [(COUNT, None)]
    images.max_tiles = 4  # known again as soon as it is the same
    assert packing_rows(file, fewer_tiles).size_tables()[0][1] is not None
    assert packing_rows(file, processor, max_image_tokens=32).size_tables() == [(COUNT, None)]
    assert packing_rows(file, processor, max_length=64).size_tables()[0][1] is not None  # lengths do not hang on it
    folder = tmp_path_factory.mktemp("saved")
    processor.save_pretrained(folder)
    assert packing_rows(file, SAILViTProcessor.from_pretrained(folder)).size_tables()[0][1] is not None
    monkeypatch.chdir(file.parent)
    assert packing_rows(file.name, processor).size_tables()[0][1] is not None  # however the path is written
    elsewhere = shutil.copytree(file.parent, tmp_path_factory.mktemp("elsewhere") / "pictures")
    for options in ({"image_root": elsewhere}, {"format": "messages"}):
        other = PackingRows(EncodedSamples(load_conversations(file, **options), processor))
        assert other.size_tables() == [(COUNT, None)]
    os.utime(file, (1, 1))
    assert packing_rows(file, processor).size_tables() == [(COUNT, None)]


def test_of_a_mixture_each_part_has_its_own(file, processor):
    written(packing_rows(file, processor))
    other = file.with_name("other.jsonl")
    shutil.copy(file, other)
    parts = [Part(load_conversations(other)), Part(load_conversations(file))]
    found = PackingRows(EncodedSamples(Mixture(parts), processor))
    (first, none), (second, table) = found.size_tables()
    assert (first, second, none) == (COUNT, COUNT, None) and table is not None
    sizes = RememberedSizes(found.measure, 2 * COUNT, found.size_tables())
    assert not sizes.known
    assert sizes(6) == sizes(COUNT + 6) == found.measure(6)  # measured; known


def test_an_interrupted_measurement_leaves_nothing(file, processor):
    found = packing_rows(file, processor)

    def measure(index):
        if index == 5:
            raise KeyboardInterrupt
        return found.measure(index)

    (part,) = found.parts()
    with pytest.raises(KeyboardInterrupt):
        write_table(part, found.encoder, measure)
    assert list((file.parent / FOLDER).iterdir()) == [] and load_table(part, found.encoder) is None


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="the function cannot be pickled")
def test_a_worker_that_is_killed_is_an_error_and_not_a_wait(file, processor):
    found = packing_rows(file, processor)
    (part,) = found.parts()
    with pytest.raises(SailvitError, match="was killed"):
        write_table(part, found.encoder, lambda index: os.kill(os.getpid(), signal.SIGKILL), workers=2)
    assert list((file.parent / FOLDER).iterdir()) == []


def test_rows_without_an_identity_are_refused(processor):
    found = PackingRows(EncodedSamples([{"messages": []}], processor))
    assert table_file(found.parts()[0], found.encoder) is None and found.size_tables() == [(1, None)]
    with pytest.raises(SailvitError, match="cannot be kept"):
        written(found)


def test_the_command(file, processor, tmp_path, capsys):
    processor.save_pretrained(tmp_path / "processor")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""name: small
output_dir: {tmp_path / "run"}
start: {{vision_tower: demo, language_model: demo}}
stages:
  fine:
    data: {{dataset: {{path: {file}, streaming: false}}}}
    arguments: {{max_steps: 1, packing: true, max_length: 512}}
""",
        encoding="utf-8",
    )
    command = ["data", "sizes", str(recipe), "--processor", str(tmp_path / "processor")]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert "rows.jsonl: 7 samples, " in text and "1 unreadable" in text and "Table: " in text
    assert packing_rows(file, processor).size_tables()[0][1] is not None
    assert cli.main(command) == 0
    assert "rows.jsonl: known, " in capsys.readouterr().out
    assert cli.main([*command, "--set", "stages.fine.arguments.max_image_tokens=16"]) == 0
    assert "rows.jsonl: 7 samples, " in capsys.readouterr().out  # measured with another budget
    assert cli.main([*command, "--stages", "world"]) == 2
