# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Rows are measured without opening their pictures, exactly as they are encoded later."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from sailvit_hf import SAILViTImageProcessorPil, SAILViTProcessor
from sailvit_hf.data.demo_world import DemoWorld
from sailvit_hf.data.encoding import EncodedSamples, EncodedStream, MismatchedSampleError
from sailvit_hf.data.mixture import Mixture, Part
from sailvit_hf.data.packing.packer import Packer
from sailvit_hf.data.packing.plan import PackPlan
from sailvit_hf.data.packing.rows import PackingRows, encoded_size
from sailvit_hf.data.replacement import WithReplacements
from sailvit_hf.errors import SailvitError


@pytest.fixture(scope="module")
def processor():
    images = SAILViTImageProcessorPil(size={"height": 16, "width": 16}, max_tiles=4)
    return SAILViTProcessor.from_parts(images, DemoWorld().tokenizer(), patch_size=4)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Text alone, one picture, two; wide, high and square ones; one turned by its EXIF data."""
    folder, found = tmp_path_factory.mktemp("pictures"), []
    sizes = [(), ((16, 16),), ((64, 16),), ((16, 64), (40, 40)), ((30, 64),), ()]
    for number, pictures in enumerate(sizes):
        paths = []
        for place, (width, height) in enumerate(pictures):
            path = folder / f"{number}_{place}.jpg"
            image = Image.fromarray(np.full((height, width, 3), 40 * number, dtype=np.uint8))
            exif = Image.Exif()
            exif[0x0112] = 6 if number == 4 else 1
            image.save(path, exif=exif)
            paths.append(str(path))
        content = [{"type": "image"} for _ in paths] + [{"type": "text", "text": "what is this " * (number + 1)}]
        answer = [{"type": "text", "text": "a cat " * (6 - number)}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        found.append({"messages": messages, "images": paths, "id": f"row {number}"})
    return found


def test_measured_is_encoded(rows, processor):
    found = PackingRows(WithReplacements(EncodedSamples(rows, processor)))
    assert (found.length, found.keys) == (6, 6)
    sizes = [found.measure(number) for number in range(6)]
    assert sizes == [encoded_size(found.encode(number)) for number in range(6)]
    assert [size.tiles for size in sizes][0] == 0 and max(size.tiles for size in sizes) > 2


def test_pictures_are_not_decoded_for_it(rows, processor, monkeypatch):
    monkeypatch.setattr("sailvit_hf.data.encoding.load_image", None)
    PackingRows(EncodedSamples(rows, processor)).measure(3)


def test_encoded_samples_need_nobody():
    sample = {"input_ids": torch.arange(5), "labels": torch.arange(5), "pixel_values": torch.zeros(2, 3, 4, 4)}
    found = PackingRows([sample])
    assert found.measure(0) == (5, 2) and found.encode(0) is sample
    assert encoded_size({**sample, "num_tiles": torch.tensor([1, 3])}) == (5, 4)
    assert encoded_size({"input_ids": [1, 2]}) == (2, 0)


def test_rows_without_a_processor_are_refused(rows):
    with pytest.raises(SailvitError, match="give the trainer a processor, or encoded samples"):
        PackingRows(rows)


def test_a_missing_picture_is_noticed_before_it_is_packed(rows, processor):
    short = {**rows[3], "images": rows[3]["images"][:1]}
    with pytest.raises(MismatchedSampleError, match="row 3 has 2 image parts but 1 pictures"):
        PackingRows(EncodedSamples([short], processor)).measure(0)


def test_the_passes_of_a_mixture(rows, processor):
    """A sample keeps its number in every pass, so those of two passes may wait together."""
    mixture = Mixture([Part(rows[:4], weight=1.0), Part(rows[4:], weight=1.0)], seed=2)
    found = PackingRows(EncodedSamples(mixture, processor))
    assert (found.length, found.keys) == (len(mixture), 6)
    order = found.order("random", seed=0)
    for epoch in range(3):
        mixture.set_epoch(epoch)
        expected = [mixture[index]["id"] for index in range(len(mixture))]
        mixture.set_epoch(7)
        assert [found._row(key)["id"] for key in order(epoch)] == expected


def test_a_stream_gives_rows_that_workers_can_be_sent(rows, processor):
    found = PackingRows(EncodedStream(rows, processor))
    assert found.length is None
    plan = PackPlan(found.stream(), found.measure, Packer(200, None, 6), 1)
    keys = [key for _ in range(4) for pack in plan.next_step() for key in pack]
    assert {key["id"] for key in keys} == {row["id"] for row in rows}
    worker = pickle.loads(pickle.dumps(found))
    assert all(encoded_size(worker.encode(key)) == found.measure(key) for key in keys[:3])


def test_orders(rows, processor):
    found = PackingRows(EncodedSamples(rows, processor))
    assert list(found.order("sequential", 0)(3)) == list(range(6))
    assert sorted(found.order("random", 0)(0)) == list(range(6))
    with pytest.raises(SailvitError, match="'group_by_length' chooses by length, as the packer does"):
        found.order("group_by_length", 0)
