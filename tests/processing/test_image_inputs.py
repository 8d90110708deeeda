# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures in every form that the image processors take, and those that they refuse."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from .backends import BACKENDS, noise, textured

backend = pytest.mark.parametrize("backend", sorted(BACKENDS))
SMALL = {"height": 16, "width": 20}


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def prepared(backend: str, source: Any, **changes: Any) -> np.ndarray:
    (found,) = BACKENDS[backend](size=SMALL)(source, return_tensors="np", **changes)["pixel_values"]
    return found


IMAGE = noise(50, 40)
ARRAY = np.asarray(IMAGE)
CONTENT = file_of(IMAGE)
TEXT = base64.b64encode(CONTENT).decode()


@backend
@pytest.mark.parametrize(
    "source",
    [
        CONTENT,
        bytearray(CONTENT),
        memoryview(CONTENT),
        TEXT,
        "\n".join(TEXT[start : start + 76] for start in range(0, len(TEXT), 76)),
        f"data:image/png;base64,{TEXT}",
        {"bytes": CONTENT, "path": None},
        ARRAY,
        ARRAY.copy(),
        ARRAY[:, ::-1].copy()[:, ::-1],  # backward strides
        ARRAY.transpose(2, 0, 1),
        ARRAY.astype(np.int64),
        ARRAY.astype(np.float32),
        ARRAY.astype(np.float64) / 255,
        ARRAY.astype(np.uint16) * 257,
        torch.tensor(ARRAY),
        torch.tensor(ARRAY).permute(2, 0, 1),
        torch.tensor(ARRAY / 255),
        (torch.tensor(ARRAY / 255).float()).requires_grad_(),
        [[IMAGE]],
        torch.tensor(ARRAY)[None],
    ],
    ids=lambda source: type(source).__name__,
)
def test_the_same_picture_in_any_form(backend: str, source: Any) -> None:
    np.testing.assert_array_equal(prepared(backend, source), prepared(backend, IMAGE))


@backend
def test_files_and_nested_lists(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "a picture.png"
    path.write_bytes(CONTENT)
    expected = prepared(backend, IMAGE)
    for source in (path, str(path), {"bytes": None, "path": str(path)}):
        np.testing.assert_array_equal(prepared(backend, source), expected)
    batch = BACKENDS[backend](size=SMALL)([[CONTENT, IMAGE], [], [str(path)]], return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(batch, [expected] * 3)


@backend
def test_in_half_precision_no_level_is_lost(backend: str) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16)
    size = {"height": 16, "width": 16}
    half = prepared(backend, (levels.float() / 255).half(), size=size)
    np.testing.assert_array_equal(half, prepared(backend, levels, size=size))


@backend
def test_scaled_pictures_stay_as_they_are_without_rescaling(backend: str) -> None:
    scaled = torch.rand(3, 16, 20, generator=torch.Generator().manual_seed(0))
    found = prepared(backend, scaled, do_rescale=False)
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    np.testing.assert_allclose(found, (scaled - mean) / std, atol=1e-5)


@backend
def test_batches_of_any_sizes_and_forms(backend: str) -> None:
    sources = [noise(1, 70), np.asarray(noise(70, 1)), file_of(noise(33, 20)), torch.tensor(np.asarray(noise(5, 9)))]
    processor = BACKENDS[backend](size=SMALL)
    batch = processor(sources, return_tensors="np", input_data_format=None)["pixel_values"]
    for source, found in zip(sources, batch, strict=True):
        np.testing.assert_array_equal(processor(source, return_tensors="np")["pixel_values"][0], found)


@backend
def test_modes_of_files(backend: str) -> None:
    gray = IMAGE.convert("L")
    sixteen = np.asarray(gray).astype(np.uint16) * 257
    palette = IMAGE.quantize(32)
    expected = prepared(backend, gray.convert("RGB"))
    for source in (gray, file_of(gray), file_of(Image.fromarray(sixteen)), Image.fromarray(sixteen), sixteen,
                   np.asarray(gray), gray.convert("LA")):  # fmt: skip
        np.testing.assert_array_equal(prepared(backend, source), expected)
    np.testing.assert_array_equal(prepared(backend, file_of(palette)), prepared(backend, palette.convert("RGB")))
    cmyk = IMAGE.convert("CMYK")
    np.testing.assert_array_equal(prepared(backend, file_of(cmyk, "TIFF")), prepared(backend, cmyk.convert("RGB")))
    frames = [noise(50, 40, seed) for seed in (1, 2)]
    film = file_of(frames[0], "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(prepared(backend, film), prepared(backend, frames[0]))
    black = Image.new("1", (20, 16))
    assert np.ptp(prepared(backend, black)) == np.ptp(prepared(backend, black.convert("RGB")))


@backend
def test_transparent_parts_show_the_background(backend: str) -> None:
    see_through = IMAGE.copy()
    see_through.putalpha(Image.fromarray((np.indices((40, 50)).sum(0) % 3 * 127).astype(np.uint8)))
    for name, levels in (("white", (255, 255, 255)), ("#7f0001", (127, 0, 1)), ((9, 8, 7), (9, 8, 7))):
        alpha = np.asarray(see_through)[..., 3:] / 255
        plain = np.rint(np.asarray(see_through)[..., :3] * alpha + np.array(levels) * (1 - alpha)).astype(np.uint8)
        full = {"size": {"height": 40, "width": 50}, "do_normalize": False, "background": name}
        expected = prepared(backend, plain, **full)
        for source in (see_through, file_of(see_through), np.asarray(see_through)):
            # Pillow mixes in whole numbers, off by a level.
            assert np.abs(prepared(backend, source, **full) - expected).max() <= 1.001 / 255
    hole = Image.new("P", (20, 16))
    found = prepared(backend, file_of(hole, "GIF", transparency=0), do_normalize=False)
    np.testing.assert_array_equal(found, np.ones((3, 16, 20)))
    with pytest.raises(ValueError, match="is no opaque colour"):
        prepared(backend, see_through, background=(1, 2, 300))
    own = BACKENDS[backend](size=SMALL, background="black")
    np.testing.assert_array_equal(
        own(hole.convert("RGBA"), return_tensors="np")["pixel_values"][0], prepared(backend, hole.convert("RGB"))
    )


@backend
@pytest.mark.parametrize("orientation", range(1, 10))
def test_pictures_are_turned_upright(backend: str, orientation: int) -> None:
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's Transpose that undoes each
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = file_of(IMAGE, exif=exif)
    upright = IMAGE.transpose(Image.Transpose(turns[orientation])) if orientation in turns else IMAGE
    np.testing.assert_array_equal(prepared(backend, content), prepared(backend, upright))
    np.testing.assert_array_equal(prepared(backend, Image.open(io.BytesIO(content))), prepared(backend, upright))


@backend
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/picture.png", "There is no file 'no/such/picture.png'"),
        ("https:/example.org/with-one-slash/is-a-path-that-is-not-there.png", "neither a file nor base64 text"),
        ("/dev/zero", "There is no file '/dev/zero'"),
        ("data:image/png;base64,!!", "neither a file nor base64 text"),
        (b"", "A picture of 0 bytes is none"),
        (b"<html></html>" * 9, "is none that can be read"),
        ("A" * 400, "A picture of 300 bytes is none"),
        (CONTENT[:600], "A picture is damaged"),
        (file_of(IMAGE, "JPEG")[:900], "A picture is damaged"),
        (np.zeros((5, 5, 7)), "Unable to infer channel dimension format"),
        (np.zeros((3, 0, 5)), "has no pixels"),
        (np.full((5, 5, 3), 256), "values from 256 to 256"),
        (np.full((5, 5, 3), np.nan), "values from nan to nan"),
        (np.full((5, 5, 3), -0.1), "values from -0.1 to -0.1"),
        (Image.new("F", (5, 5)), "has the mode F"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(backend: str, source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        prepared(backend, source)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@backend
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_size_is_looked_at_before_decoding(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for limit in (1999, 999):  # where Pillow would warn, and where it refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match="A picture is too large"):
            prepared(backend, CONTENT)


@backend
def test_other_things_are_no_pictures(backend: str) -> None:
    with pytest.raises(TypeError, match="supported but got type=<class 'int'>"):
        prepared(backend, 3)


@backend
def test_a_programs_formats_are_not_opened(backend: str) -> None:
    with pytest.raises(ValueError, match="is none that can be read"):
        prepared(backend, file_of(IMAGE, "EPS"))


# Large JPEG files, decoded at a smaller scale


@backend
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("most", [1, 6])
def test_a_draft_of_a_jpeg_is_close_and_of_the_same_sizes(backend: str, orientation: int, most: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = file_of(textured(640, 430), "JPEG", quality=90, exif=exif)
    processor = BACKENDS[backend](size={"height": 32, "width": 32}, max_tiles=most, do_normalize=False)
    exact = processor(content, return_tensors="np")
    draft = processor(content, draft_jpeg=True, return_tensors="np")
    assert exact["pixel_values"].shape == draft["pixel_values"].shape
    difference = 255 * np.abs(exact["pixel_values"] - draft["pixel_values"])
    assert 0 < difference.max() <= 16 and difference.mean() <= 2


@backend
def test_a_draft_is_made_only_at_twice_the_size_that_is_wanted(backend: str) -> None:
    content = file_of(noise(640, 430), "JPEG")
    for changes in ({"size": {"height": 120, "width": 120}}, {"do_resize": False}):
        exact, draft = (prepared(backend, content, draft_jpeg=draft, **changes) for draft in (False, True))
        np.testing.assert_array_equal(exact, draft)
    # Nor of a picture that somebody else holds.
    image = Image.open(io.BytesIO(content))
    np.testing.assert_array_equal(prepared(backend, image, draft_jpeg=True), prepared(backend, content))
    assert image.size == (640, 430)
