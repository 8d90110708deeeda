# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
import io
import os

import numpy as np
import pytest
from PIL import Image

from sailvit_hf.data import images
from sailvit_hf.data.images import check_image, load_image
from sailvit_hf.errors import SailvitError


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def test_a_path_a_file_content_and_a_picture_give_the_same_pixels(tmp_path):
    pixels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    path = save(tmp_path / "deep" / "a.png", Image.fromarray(pixels))
    sources = [(path, None), ("deep/a.png", tmp_path), (path.read_bytes(), None), (Image.open(path), None)]
    for source, root in sources:
        image = load_image(source, root)
        assert (image.mode, image.size) == ("RGB", (4, 5))
        assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 51)), (204, 204, 204)),
        (Image.new("LA", (2, 2), (7, 255)), (7, 7, 7)),
        (Image.new("L", (2, 2), 9), (9, 9, 9)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 0x80FF, dtype=np.uint16)), (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, image, pixel):
    loaded = load_image(save(tmp_path / "a.png", image))
    assert loaded.mode == "RGB"
    assert loaded.getpixel((1, 1)) == pixel


def test_a_transparent_palette_becomes_white(tmp_path):
    image = Image.new("P", (2, 2), 0)
    image.putpalette([1, 2, 3])
    assert load_image(save(tmp_path / "a.png", image, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    path = save(tmp_path / "a.png", Image.new("RGB", (6, 2)), exif=exif)
    assert load_image(path).size == (2, 6)


@pytest.mark.parametrize("read", [load_image, check_image])
def test_each_fault_has_its_error_and_says_the_mend(tmp_path, monkeypatch, read):
    root = tmp_path / "root"
    save(root / "good.png", Image.new("RGB", (64, 64)))
    save(tmp_path / "outside.png", Image.new("RGB", (4, 4)))
    (root / "text.png").write_text("not a picture")
    (root / "empty.png").write_bytes(b"")
    (root / "cut.png").write_bytes((root / "good.png").read_bytes()[:60])
    os.symlink(tmp_path / "outside.png", root / "link.png")
    cases = [
        ("none.png", images.ImageMissingError, "none.png does not exist"),
        (".", images.ImageMissingError, ". is not a file"),
        ("a\0b.png", images.ImageMissingError, "cannot be a path"),
        ("https://example.org/a.png", images.ImageMissingError, "download the picture"),
        ("text.png", images.ImageFormatError, "text.png is not an image file"),
        ("empty.png", images.ImageFormatError, "empty.png is not an image file"),
        ("cut.png", images.ImageFormatError, "cut.png is damaged"),
        ("../outside.png", images.ImageOutsideRootError, "lies outside"),
        (str(tmp_path / "outside.png"), images.ImageOutsideRootError, "lies outside"),
        ("link.png", images.ImageOutsideRootError, "lies outside"),
    ]
    for source, error, words in cases:
        with pytest.raises(error) as caught:
            read(source, root)
        assert words in str(caught.value) and isinstance(caught.value, SailvitError)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(images.ImageTooLargeError, match="too many pixels"):
        read("good.png", root)


def test_bytes_that_are_no_picture():
    with pytest.raises(images.ImageFormatError, match="the picture is not an image file"):
        load_image(b"hello")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    with pytest.raises(images.ImageFormatError, match="the picture is damaged"):
        load_image(buffer.getvalue()[:-200])
