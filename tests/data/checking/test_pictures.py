# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What is told of one picture while a data set is checked: as loading would, and mostly without decoding."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sailvit_hf.data.checking import pictures as check_pictures
from sailvit_hf.data.checking.pictures import Picture, PictureReader, thumbnail
from sailvit_hf.data.images import ImageDamagedError, ImageError, ImageMissingError, load_image

from .checked import check, encoded, entry


def test_a_file_is_read_once_however_often_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded(30, 40))
    reads: list[str] = []
    read = check_pictures.read_source

    def counted(source, *rest):
        reads.append(source)
        return read(source, *rest)

    monkeypatch.setattr(check_pictures, "read_source", counted)
    found = check(*(entry(n, {"bytes": None, "path": "a.png"}, root=tmp_path) for n in range(9)), samples=0)
    assert reads == ["a.png"] and found.pictures == 9
    reader = PictureReader(kept=2)
    for name in ("a.png", "a.png", "b.png", "c.png", "a.png"):
        reader.read(name, tmp_path)
    assert reads[1:] == ["a.png", "b.png", "c.png", "a.png"]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_sizes_are_those_that_loading_gives(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(60, 40, format=format, exif=exif)
    for decode in (False, True):
        picture = PictureReader(decode).read(content)
        assert isinstance(picture, Picture)
        assert (picture.width, picture.height) == load_image(content).size
        assert (picture.width == 40) == (orientation in (6, 8))


def test_arrays_and_open_pictures_are_pictures() -> None:
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    for source in (pixels, Image.fromarray(pixels)):
        picture = PictureReader().read(source)
        assert isinstance(picture, Picture) and picture[2:] == ("pixels", 20, 30, "")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.98])
def test_a_cut_file_is_found_without_decoding_all(format: str, kept: float) -> None:
    content = encoded(60, 40, format=format)
    assert isinstance(PictureReader().read(content), Picture)
    cut = content[: int(len(content) * kept)]
    if format in ("WEBP", "GIF", "BMP", "TIFF") and not isinstance(_loading_error(cut), ImageError):
        pytest.skip("Pillow reads what is left")
    assert isinstance(PictureReader().read(cut), ImageError)


def _loading_error(content: bytes) -> ImageError | None:
    try:
        load_image(content)
    except ImageError as error:
        return error
    return None


def test_what_stands_behind_a_jpeg_does_no_harm() -> None:
    assert isinstance(PictureReader().read(encoded(60, 40, format="JPEG") + bytes(5000)), Picture)


def test_decoding_finds_what_looking_does_not() -> None:
    content = bytearray(encoded(60, 40, format="JPEG"))
    content[20] ^= 255  # the marker of its first table
    assert isinstance(PictureReader().read(bytes(content)), Picture)
    assert isinstance(PictureReader(decode=True).read(bytes(content)), ImageDamagedError)
    # What is shown on the page is decoded in any case.
    assert check(entry(1, bytes(content))).reasons == {"picture: damaged": 1}
    assert check(entry(1, bytes(content)), samples=0).good == 1


def test_decoding_agrees_with_loading_on_damaged_files() -> None:
    random = np.random.default_rng(0)
    whole = [encoded(60, 40, format=name) for name in ("JPEG", "PNG", "WEBP")]
    whole.append(encoded(60, 40, format="JPEG", progressive=True))
    refused = 0
    for number in range(400):
        content = bytearray(whole[number % len(whole)])
        for place in random.integers(0, len(content), 3).tolist():
            content[place] = int(random.integers(256))
        expected = _loading_error(bytes(content))
        found = PictureReader(decode=True).read(bytes(content))
        assert isinstance(found, ImageError) == (expected is not None), number
        refused += expected is not None
    assert 100 < refused < 350


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_thumbnails_are_small_and_upright(tmp_path: Path, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    small = Image.open(io.BytesIO(thumbnail(encoded(1800, 600, format=format, exif=exif), None, "picture 1")))
    assert (small.format, small.size) == ("JPEG", (75, 224))
    assert Image.open(io.BytesIO(thumbnail(np.zeros((4, 8, 3), np.uint8), None, "picture 1"))).size == (8, 4)
    with pytest.raises(ImageMissingError, match=r"nowhere\.png"):
        thumbnail("nowhere.png", tmp_path, "picture 1")
