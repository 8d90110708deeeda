# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
import base64
import io
import os
import pickle
import struct
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

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
        (".", images.ImageNotAFileError, ". is not a file but a folder"),
        ("a\0b.png", images.ImageMissingError, "cannot be a path"),
        ("https://example.org/a.png", images.ImageAddressError, "download the picture"),
        ("text.png", images.ImageFormatError, "text.png is not an image file"),
        ("empty.png", images.ImageEmptyError, "empty.png is empty (zero bytes)"),
        ("cut.png", images.ImageTruncatedError, "cut.png is damaged"),
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


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(height=5, width=6, channels=3):
    return np.arange(height * width * channels, dtype=np.uint8).reshape(height, width, channels)


def refused(source, error, words, **options):
    with pytest.raises(error, match=words) as caught:
        load_image(source, **options)
    assert type(caught.value) is error and "\n" not in str(caught.value) and ": " in str(caught.value)
    return caught.value


def test_every_source_gives_the_same_pixels(tmp_path):
    pixels = pixels_of()
    content = encoded(Image.fromarray(pixels))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    plain = base64.b64encode(content).decode()
    sources = [
        str(path), path, content, bytearray(content), memoryview(content), io.BytesIO(content),
        plain, plain.rstrip("="), plain.replace("+", "-").replace("/", "_"), "\n".join((plain[:76], plain[76:])),
        "data:image/png;base64," + plain, "DATA:;base64," + plain,
        "data:image/png," + "".join(f"%{byte:02x}" for byte in content),
        {"bytes": content, "path": None}, {"bytes": None, "path": str(path)}, {"bytes": content, "path": "gone.png"},
        {"path": "a.png"}, pixels, pixels.transpose(2, 0, 1), pixels.astype(np.int64), pixels[..., ::-1][..., ::-1],
        (pixels / 255).astype(np.float64), (pixels / 255).astype(np.float32), pixels.astype(np.uint16) << 8,
        torch.from_numpy(pixels), torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(pixels).float() / 255,
        Image.open(path), Image.fromarray(pixels),
    ]  # fmt: skip
    for source in sources:
        image = load_image(source, tmp_path)
        assert type(image) is Image.Image and image.mode == "RGB"
        assert np.array_equal(np.asarray(image), pixels), type(source)
    with open(path, "rb") as file:
        assert np.array_equal(np.asarray(load_image(file)), pixels)
        assert not file.closed


def test_where_the_channels_of_an_array_are():
    square = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert np.array_equal(np.asarray(load_image(square)), square)
    assert np.array_equal(np.asarray(load_image(torch.from_numpy(square))), square.transpose(1, 2, 0))
    gray = pixels_of(channels=1)
    for source in (gray, gray[..., 0], gray.transpose(2, 0, 1), torch.from_numpy(gray[..., 0])):
        assert np.array_equal(np.asarray(load_image(source)), np.repeat(gray, 3, axis=-1))
    assert load_image(np.full((6, 7, 2), 0, dtype=np.uint8)).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(np.full((4, 6, 7), 0, dtype=np.uint8), background="red").getpixel((6, 5)) == (255, 0, 0)
    assert np.asarray(load_image(np.eye(3, dtype=bool)))[..., 0].tolist() == (255 * np.eye(3)).tolist()
    assert load_image(torch.full((3, 2, 2), 0.5, dtype=torch.bfloat16)).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (np.zeros((2, 3, 4, 3), np.uint8), images.ImageValueError, r"shape \(2, 3, 4, 3\)"),
        (np.zeros((7, 8, 5), np.uint8), images.ImageValueError, r"shape \(7, 8, 5\)"),
        (np.zeros(7, np.uint8), images.ImageValueError, r"shape \(7,\)"),
        (np.zeros((0, 5, 3), np.uint8), images.ImageEmptyError, "without pixels"),
        (np.full((5, 5), 1.5), images.ImageValueError, "from 1.5 to 1.5"),
        (np.full((5, 5), np.nan), images.ImageValueError, "from nan"),
        (np.full((5, 5), -1), images.ImageValueError, "from -1"),
        (torch.full((3, 5, 5), 256), images.ImageValueError, "to 256: scale it"),
        (np.zeros((5, 5), complex), images.ImageValueError, "array of complex128"),
        (np.full((5, 5), "a"), images.ImageValueError, "array of <U1"),
        (7, images.ImageValueError, "given as int"),
        (None, images.ImageValueError, "given as NoneType"),
        ([b"a"], images.ImageValueError, "given as list"),
        ({"bytes": None, "path": None}, images.ImageMissingError, "neither"),
        ({"bytes": 5}, images.ImageValueError, "given as int"),
        ("", images.ImageMissingError, "empty text"),
        (b"", images.ImageEmptyError, "zero bytes"),
        (io.BytesIO(), images.ImageEmptyError, "zero bytes"),
        (io.StringIO("text"), images.ImageValueError, "given as str"),
        ("data:image/png;base64,!!", images.ImageValueError, "not valid base64"),
        ("data:image/png;base64,", images.ImageEmptyError, "zero bytes"),
        ("data:image/png", images.ImageValueError, "without a comma"),
        ("a/" * 5000, images.ImageMissingError, "cannot be a path"),
        ("no such name.png", images.ImageMissingError, "does not exist"),
        ("http://localhost/a.png", images.ImageAddressError, "download"),
        ("file:a.png", images.ImageAddressError, "download"),
        ("FILE:///etc/passwd", images.ImageAddressError, "download"),
        ("zip://a.png::b.zip", images.ImageAddressError, "download"),
        ({"bytes": None, "path": "hf://datasets/a/b.png"}, images.ImageAddressError, "download"),
    ],
)
def test_what_is_no_picture_at_all(source, error, words):
    refused(source, error, words)


def test_a_closed_file_is_a_typed_error(tmp_path):
    with open(save(tmp_path / "a.png", Image.new("RGB", (2, 2))), "rb") as file:
        pass
    refused(file, images.ImageUnreadableError, "cannot be read")


def test_orientations_are_undone_once():
    pixels = pixels_of(3, 2)
    undone = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1), 7: pixels[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(pixels), 9: pixels, 0: pixels,
    }  # fmt: skip
    for orientation, expected in undone.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
            if kind == "TIFF" and orientation in (0, 9):
                continue  # libtiff does not write them
            content = encoded(Image.fromarray(pixels), kind, exif=exif, **options)
            image = load_image(content)
            assert np.array_equal(np.asarray(image), expected), (kind, orientation)
            assert np.array_equal(np.asarray(load_image(image)), expected)
            assert np.array_equal(np.asarray(load_image(Image.open(io.BytesIO(content)))), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_does_not_cost_the_picture():
    for block in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"Exif\0\0rubbish" * 9, b"MM\0*\0\0\0\x08\xff\xff"):
        assert load_image(encoded(Image.new("RGB", (6, 2)), exif=block)).size == (6, 2)


def test_transparent_parts_show_the_background():
    clear = Image.new("RGBA", (3, 2), (9, 9, 9, 0))
    for background, colour in (("black", (0, 0, 0)), ("#102030", (16, 32, 48)), ((1, 2, 3), (1, 2, 3))):
        assert load_image(clear, background=background).getpixel((2, 1)) == colour
    half = Image.new("LA", (3, 2), (200, 51))
    assert load_image(half, background=(100, 0, 255)).getpixel((0, 0)) == (120, 40, 244)
    two_colours = Image.new("P", (2, 2), 1)
    two_colours.putpalette([1, 2, 3, 4, 5, 6])
    for content in (
        encoded(Image.new("RGB", (2, 2), (5, 6, 7)), transparency=(5, 6, 7)),
        encoded(Image.new("L", (2, 2), 5), transparency=5),
        encoded(Image.fromarray(np.full((2, 2), 515, np.uint16)), transparency=515),
        encoded(Image.new("P", (2, 2), 1), "GIF", transparency=1),
        encoded(two_colours, transparency=b"\xff\x00"),
        encoded(clear, "WEBP", lossless=True, exact=True),
        encoded(clear, "TIFF"),
    ):
        assert load_image(content, background="red").getpixel((1, 1)) == (255, 0, 0)
    for background in ("no colour", (1, 2), (1, 2, 300), "#00000000", 5):
        with pytest.raises(SailvitError, match="the background"):
            load_image(clear, background=background)


def test_large_pictures_are_converted_in_strips_without_seams(monkeypatch):
    rng = np.random.default_rng(0)
    alpha = Image.fromarray(rng.integers(0, 256, (37, 11, 4), dtype=np.uint8))
    sixteen = Image.fromarray(rng.integers(0, 2**16, (37, 11), dtype=np.uint16))
    palette = Image.open(io.BytesIO(encoded(alpha.convert("RGB").quantize(9), "GIF", transparency=4)))
    for image in (alpha, sixteen, palette):
        whole = np.asarray(load_image(image))
        monkeypatch.setattr("sailvit_hf.data.pictures.colours._STRIP_PIXELS", 50)
        assert np.array_equal(np.asarray(load_image(image)), whole)
        monkeypatch.undo()
    assert np.array_equal(np.asarray(load_image(sixteen))[..., 0], np.asarray(sixteen) >> 8)


def test_sixteen_bits_are_scaled_not_clipped():
    levels = np.array([[0, 255, 256, 0x7FFF, 0x8000, 0xFFFF]], dtype=np.uint16)
    expected = [0, 0, 1, 127, 128, 255]
    for source in (
        levels,
        Image.fromarray(levels),
        encoded(Image.fromarray(levels)),
        encoded(Image.fromarray(levels), "TIFF"),
        encoded(Image.fromarray(levels.astype(">u2")), "TIFF"),
    ):
        assert np.asarray(load_image(source))[0, :, 1].tolist() == expected
    # In colour: a PNG written by hand, for Pillow writes none.
    row = b"\0" + struct.pack(">6H", *levels[0])
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(row)), (b"IEND", b"")]
    assert np.asarray(load_image(png(chunks))).ravel().tolist() == expected


def png(chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def test_cmyk_of_both_polarities():
    ink = Image.new("CMYK", (8, 8), (255, 0, 0, 51))  # cyan, somewhat darkened
    assert load_image(ink).getpixel((0, 0)) == (0, 204, 204)
    assert load_image(encoded(ink, "TIFF")).getpixel((7, 7)) == (0, 204, 204)
    content = encoded(ink, "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in content  # the samples in the file are inverted
    assert np.allclose(load_image(content).getpixel((4, 4)), (0, 204, 204), atol=2)
    # Adobe's YCCK: the same numbers read as luma and chroma of the inverted ink.
    at = content.index(b"Adobe")
    ycck = content[: at + 11] + b"\x02" + content[at + 12 :]
    assert np.allclose(load_image(ycck).getpixel((4, 4)), (62, 204, 24), atol=4)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_every_mode_of_pillow(mode):
    start = Image.new("RGBA", (3, 2), (255, 255, 255, 255))
    steps = {"La": ["LA", "La"], "PA": ["P", "PA"], "HSV": ["RGB", "HSV"], "YCbCr": ["RGB", "YCbCr"]}
    for step in steps.get(mode, [mode]):
        start = start.convert(step)
    assert load_image(start).getpixel((2, 1)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_colours_without_a_meaning(mode):
    refused(Image.new(mode, (2, 2)), images.ImageUnsupportedError, "32 bits|Lab")
    refused(encoded(Image.new(mode, (2, 2)), "TIFF"), images.ImageUnsupportedError, "32 bits|Lab")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    opened = Image.open(io.BytesIO(content))
    assert opened.n_frames == 3
    assert load_image(content).getpixel((3, 3)) == (255, 0, 0)
    opened.seek(2)
    assert load_image(opened).getpixel((3, 3)) == (0, 0, 255)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (16000, 1), (1, 16000)])
def test_the_thinnest_pictures(kind, size):
    assert load_image(encoded(Image.new("RGB", size, "red"), kind)).size == size


def test_a_second_picture_behind_a_jpeg_is_ignored():
    two = encoded(Image.new("RGB", (16, 16), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    assert Image.open(io.BytesIO(two)).format == "MPO"
    assert np.allclose(load_image(two).getpixel((1, 1)), (255, 0, 0), atol=3)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"hello", images.ImageFormatError, "not an image file: "),
        (b"\n  <!DOCTYPE html><html><body>404</body></html>", images.ImageFormatError, "but an HTML page"),
        (b"\xef\xbb\xbf<html>", images.ImageFormatError, "but an HTML page"),
        (b'{"error": "gone"}', images.ImageFormatError, "but JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\n", images.ImageFormatError, "but a Git LFS pointer"),
        (b"PK\x03\x04aaaa", images.ImageFormatError, "but an archive"),
        (b"<?xml version='1.0'?>\n<svg></svg>", images.ImageUnsupportedError, "but an SVG drawing"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", images.ImageUnsupportedError, "but an EPS drawing"),
        (b"%PDF-1.4", images.ImageUnsupportedError, "but a PDF"),
        (b"\0\0\0\x1cftypheic", images.ImageUnsupportedError, "but a HEIC"),
        (b"P6 2 2 255\n" + bytes(12), images.ImageUnsupportedError, "but a PNM"),
        (encoded(Image.new("RGB", (4, 4)), "JPEG2000"), images.ImageUnsupportedError, "but a JPEG 2000"),
        (encoded(Image.new("RGB", (16, 16)), "ICO"), images.ImageUnsupportedError, "but an icon"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), images.ImageTruncatedError, "is damaged"),
        (b"GIF89a" + bytes(3), images.ImageTruncatedError, "is damaged"),
        (b"GIF89a" + bytes(7) + b";", images.ImageDamagedError, "is damaged"),
    ],
)
@pytest.mark.parametrize("name", ["a.jpg", None])
def test_what_else_stands_in_a_pictures_place(tmp_path, content, error, words, name):
    source = content
    if name is not None:
        source = tmp_path / name
        source.write_bytes(content)
        with pytest.raises(error, match=words):
            check_image(source)
    refused(source, error, words)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.filterwarnings("ignore:Truncated File")
def test_a_picture_cut_anywhere(kind):
    rng = np.random.default_rng(0)
    content = encoded(
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).quantize(16).convert("RGB"), kind
    )
    seen = set()
    for length in range(1, len(content) - 40, max(1, len(content) // 60)):
        with pytest.raises(images.ImageFormatError) as caught:
            load_image(content[:length])
        seen.add(type(caught.value))
    expected = images.ImageDamagedError if kind == "TIFF" else images.ImageTruncatedError
    assert expected in seen and seen <= {images.ImageFormatError, images.ImageDamagedError, images.ImageTruncatedError}


def test_the_limits_of_size(tmp_path, monkeypatch):
    content = encoded(Image.new("RGB", (64, 64)))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert load_image(content, max_bytes=len(content), max_pixels=4096).size == (64, 64)
    for source in (content, path, io.BytesIO(content), {"bytes": content}, base64.b64encode(content).decode()):
        refused(source, images.ImageFileTooLargeError, "bytes", max_bytes=len(content) - 1)
    refused("data:image/png," + "%00" * 99999, images.ImageFileTooLargeError, "bytes", max_bytes=1000)
    for source in (content, Image.new("RGB", (64, 64)), np.zeros((64, 64), np.uint8)):
        refused(source, images.ImageTooLargeError, r"64 x 64, allowed 4095", max_pixels=4095)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as some libraries do
    refused(bomb(10_000, 10_000), images.ImageTooLargeError, "10000 x 10000, allowed 89478485")


def bomb(width, height):
    """A PNG of a few bytes that says it is very large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_before_they_are_decoded(monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("decoded")

    limits = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    webp = b"WEBPVP8X" + struct.pack("<II", 10, 0) + struct.pack("<I", 16382)[:3] + struct.pack("<I", 16382)[:3]
    for content in (
        bomb(30_000, 30_000),
        bomb(9500, 9500),
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(3) + b"," + bytes(4) + b"\1\0\1\0\0\2\2\x44\1\0;",
        b"RIFF" + struct.pack("<I", len(webp)) + webp,
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(45),
    ):
        # Before 13, Pillow opens a WebP's frames before it looks at the size of the whole, and this one has none.
        with pytest.raises(images.ImageError if content[:4] == b"RIFF" else images.ImageTooLargeError):
            load_image(content)
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == limits == (89_478_485, False)


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once():
    content = encoded(Image.new("L", (2000, 2000)), "JPEG", progressive=True)
    assert load_image(content).size == (2000, 2000)
    last = content[content.rindex(b"\xff\xc4") : -2]
    start = time.process_time()
    refused(content[:-2] + last * 5000 + content[-2:], images.ImageTooLargeError, "scans")
    assert time.process_time() - start < 0.5


def test_a_gif_with_a_comment_of_megabytes_is_refused_at_once():
    content = encoded(Image.new("P", (4, 4)), "GIF")
    at = content.rindex(b",\0\0\0\0")
    for comment in (
        b"!\xfe" + (b"\xff" + b"a" * 255) * 9000 + b"\0",
        (b"!\xfe" + (b"\xff" + b"a" * 255) + b"\0") * 9000,
        b"!\xf9\4\0\0\0\0\0!\xfe" + (b"\xff" + b"a" * 255) * 9000,  # and cut off
    ):
        start = time.process_time()
        refused(content[:at] + comment + content[at:], images.ImageTooLargeError, "a comment of megabytes")
        assert time.process_time() - start < 0.5
    long = b"!\xfe" + (b"\xff" + b"a" * 255) * 50 + b"\0"
    assert load_image(content[:at] + long + content[at:] + bytes(2**20)).size == (4, 4)


def test_text_and_profiles_of_a_png_do_not_unpack_without_end():
    start = Image.new("RGB", (4, 4))
    body = zlib.compress(bytes(50_000_000), 9)
    (head, rest) = encoded(start)[8:33], encoded(start)[33:]
    for kind, chunk in ((b"zTXt", b"a\0\0" + body), (b"iCCP", b"a\0\0" + body)):
        before = time.process_time()
        try:
            assert load_image(encoded(start)[:8] + head + png([(kind, chunk)])[8:] + rest).size == (4, 4)
        except images.ImageDamagedError:
            pass
        assert time.process_time() - before < 1


def test_links_and_what_is_no_regular_file(tmp_path):
    root = tmp_path / "root"
    save(root / "deep" / "good.png", Image.new("RGB", (4, 4)))
    save(tmp_path / "root2" / "a.png", Image.new("RGB", (4, 4)))
    os.symlink("deep/good.png", root / "inside.png")
    os.symlink(root / "deep", root / "folder")
    assert load_image("inside.png", root).size == load_image("folder/good.png", root).size == (4, 4)
    os.symlink("loop_b.png", root / "loop_a.png")
    os.symlink("loop_a.png", root / "loop_b.png")
    os.symlink("self", root / "self")
    os.symlink("/", root / "top")
    os.symlink("gone.png", root / "dangling.png")
    os.mkfifo(root / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    cases = [
        ("loop_a.png", root, images.ImageLinkLoopError, "loop of symbolic links"),
        ("self/a.png", root, images.ImageLinkLoopError, "loop of symbolic links"),
        ("dangling.png", root, images.ImageMissingError, "does not exist"),
        ("inside.png/a.png", root, images.ImageMissingError, "does not exist"),
        ("pipe.png", root, images.ImageNotAFileError, "but a pipe"),
        ("zero.png", tmp_path, images.ImageOutsideRootError, "lies outside"),
        ("/dev/zero", None, images.ImageNotAFileError, "but a device"),
        ("top/etc/passwd", root, images.ImageOutsideRootError, "lies outside"),
        ("top/no/such", root, images.ImageOutsideRootError, "lies outside"),
        ("../root2/a.png", root, images.ImageOutsideRootError, "lies outside"),
        ({"bytes": None, "path": "/etc/passwd"}, root, images.ImageOutsideRootError, "lies outside"),
    ]
    for source, folder, error, words in cases:
        refused(source, error, words, root=folder)
        if isinstance(source, str):
            with pytest.raises(error, match=words):
                check_image(source, folder)


def test_a_file_swapped_for_a_pipe_or_a_link_is_not_read(tmp_path):
    from sailvit_hf.data.pictures.sources import read_file

    os.mkfifo(tmp_path / "pipe")
    os.symlink(__file__, tmp_path / "link")
    with pytest.raises(images.ImageNotAFileError, match="but a pipe"):
        read_file(tmp_path / "pipe", "a", 100)
    with pytest.raises(images.ImageLinkLoopError):
        read_file(tmp_path / "link", "a", 10**6)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = save(tmp_path / "a.png", Image.new("RGB", (4, 4)))
    path.chmod(0)
    refused(path, images.ImageUnreadableError, "may not be read")


def test_a_file_in_the_place_of_a_base64_text_wins(tmp_path):
    content = encoded(Image.new("RGB", (4, 4), "red"), "GIF")
    name = base64.b64encode(content).decode().replace("/", "_").rstrip("=")[:200]
    save(tmp_path / "a.png", Image.new("RGB", (9, 9))).rename(tmp_path / name)
    assert load_image(name, tmp_path).size == (9, 9)


def test_messages_name_the_sample():
    error = refused(b"hello", images.ImageFormatError, "^sample 7 is not an image file", name="sample 7")
    assert (error.sample, error.reason) == ("sample 7", "not a picture")
    copy = pickle.loads(pickle.dumps(error))  # as it comes out of a data loader's process
    assert (str(copy), copy.sample, type(copy)) == (str(error), "sample 7", type(error))
    assert refused("gone.png", images.ImageMissingError, r"^row 3 \(gone.png\) does", name="row 3").sample == "row 3"
    assert "a\\nb" in str(refused(b"", images.ImageEmptyError, "zero", name="a\nb"))
    assert len(str(refused("x" * 100_000, images.ImageMissingError, "cannot be a path"))) < 400
    with pytest.raises(images.ImageMissingError) as caught:
        check_image("gone.png", name="row 3")
    assert caught.value.sample == "row 3"


def test_each_cause_has_its_own_words():
    types = {
        value for value in vars(images).values() if isinstance(value, type) and issubclass(value, images.ImageError)
    }
    assert len({each.reason for each in types}) == len(types) == 16
    assert {each.__name__ for each in types} <= set(images.__all__)


def test_formats_are_chosen_by_content_and_list(tmp_path):
    path = save(tmp_path / "a.png", Image.new("RGB", (4, 4)))
    wrong = path.rename(tmp_path / "a.jpg")
    assert load_image(wrong).size == (4, 4) and check_image(wrong) == wrong.resolve()
    for read in (load_image, check_image):
        with pytest.raises(images.ImageExtensionError, match="a.jpg is a PNG file in spite of its name"):
            read(wrong, match_extension=True)
        with pytest.raises(images.ImageFormatError):
            read(wrong, formats=["JPEG"])
        with pytest.raises(SailvitError, match="does not read NOPE"):
            read(wrong, formats=["NOPE"])
    for name in ("a.PNG", "a.txt", "a"):
        wrong = wrong.rename(tmp_path / name)
        assert load_image(wrong, match_extension=True).size == (4, 4)
    content = encoded(Image.new("RGB", (4, 4)), "PPM")
    assert load_image(content, formats=(*images.FORMATS, "ppm")).size == (4, 4)


def test_pictures_that_others_opened(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    refused(Image.open(io.BytesIO(eps)), images.ImageUnsupportedError, "format EPS")
    cut = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))[:-2000]
    refused(Image.open(io.BytesIO(cut)), images.ImageTruncatedError, "too early")
    mine = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    mine.info["note"] = "kept"
    load_image(mine)
    assert mine.mode == "RGBA" and mine.info == {"note": "kept"}


def test_bytes_that_are_no_picture():
    with pytest.raises(images.ImageFormatError, match="the picture is not an image file"):
        load_image(b"hello")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    with pytest.raises(images.ImageFormatError, match="the picture is damaged"):
        load_image(buffer.getvalue()[:-200])
