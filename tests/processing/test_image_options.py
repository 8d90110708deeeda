# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The image processors' settings: padding, native resolution, two grids; sizes known before any pixel is."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil

from sailvit_hf.processing.tiling_sailvit import choose_grid, choose_grids, contained_size, native_size, resized_size

from .backends import BACKENDS, noise, smooth

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CLIP_STATISTICS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
backend = pytest.mark.parametrize("backend", sorted(BACKENDS))


def arrays(outputs: Any) -> list[np.ndarray]:
    return [np.asarray(each) for each in outputs["pixel_values"]]


# Against transformers' processor, with the same settings


@pytest.mark.parametrize(
    "same",
    [
        {"size": {"shortest_edge": 60}, "crop_size": {"height": 60, "width": 60}, "do_center_crop": True},
        {"size": {"shortest_edge": 60}, "crop_size": {"height": 50, "width": 71}, "do_center_crop": True},
        {"size": {"shortest_edge": 30}, "crop_size": {"height": 64, "width": 64}, "do_center_crop": True},
        {"size": {"shortest_edge": 40, "longest_edge": 60}, "do_center_crop": False},
        {"size": {"max_height": 40, "max_width": 64}, "do_center_crop": False},
        {"size": {"height": 40, "width": 64}, "do_center_crop": False, "resample": 2},
        {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 40, "width": 40}},
        {"do_rescale": False, "size": {"height": 40, "width": 64}, "do_center_crop": False},
        {"do_normalize": False, "size": {"height": 40, "width": 64}, "do_center_crop": False},
    ],
)
@pytest.mark.parametrize("size", [(97, 61), (61, 97), (500, 60)])
def test_pillows_pixels_are_those_of_clips_processor(same: dict, size: tuple[int, int]) -> None:
    image = noise(*size)
    # Its pad puts pictures at the left and the top, on black: not comparable, and off in both.
    theirs = CLIPImageProcessorPil(**CLIP_STATISTICS, **same)(image, return_tensors="np")["pixel_values"]
    ours = BACKENDS["pil"](**CLIP_STATISTICS, **same)(image, return_tensors="np")["pixel_values"]
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    # Relative to the largest, for without rescaling numbers reach 900.
    assert np.abs(ours - theirs).max() <= 1e-6 * max(1, np.abs(theirs).max())


# Padding


@backend
@pytest.mark.parametrize(("width", "height"), [(120, 40), (40, 120), (33, 32), (1, 90), (90, 1), (64, 64)])
def test_padding_shows_the_whole_picture_in_the_middle_of_the_mean_colour(
    backend: str, width: int, height: int
) -> None:
    image, processor = noise(width, height), BACKENDS[backend](size={"height": 48, "width": 64}, do_pad=True)
    (found,) = arrays(processor(image, return_tensors="np"))
    inner = contained_size(height, width, 48, 64)
    assert 48 in inner or 64 in inner
    alone = BACKENDS[backend](size=dict(zip(("height", "width"), inner, strict=True)))(image, return_tensors="np")
    top, left = (48 - inner[0]) // 2, (64 - inner[1]) // 2
    place = np.s_[:, top : top + inner[0], left : left + inner[1]]
    np.testing.assert_array_equal(found[place], arrays(alone)[0])
    # The mean colour in whole levels: half a level from zero at most.
    found[place] = 0
    assert np.abs(found).max() <= 0.5 / 255 / STD.min()


@backend
def test_what_is_resized_otherwise_can_be_padded_to_a_size(backend: str) -> None:
    make = BACKENDS[backend]
    size = {"max_height": 30, "max_width": 30}
    padded = make(size=size, do_pad=True, pad_size={"height": 40, "width": 50})(noise(60, 30), return_tensors="np")
    (alone,) = arrays(make(size=size)(noise(60, 30), return_tensors="np"))
    assert padded["pixel_values"].shape == (1, 3, 40, 50) and alone.shape == (3, 15, 30)
    np.testing.assert_array_equal(padded["pixel_values"][0][:, 12:27, 10:40], alone)


@backend
def test_tiles_can_be_padded(backend: str) -> None:
    make, size = BACKENDS[backend], {"height": 16, "width": 16}
    image = noise(90, 40)
    assert choose_grid(40, 90, 1, 6, 16, 16) == (2, 1)
    tiles = make(size=size, max_tiles=6, do_pad=True)(image, return_tensors="np")
    (whole,) = arrays(make(size={"height": 16, "width": 32}, do_pad=True)(image, return_tensors="np"))
    (thumbnail,) = arrays(make(size=size, do_pad=True)(image, return_tensors="np"))
    np.testing.assert_array_equal(tiles["pixel_values"], [whole[:, :, :16], whole[:, :, 16:], thumbnail])


# Native resolution


@settings(derandomize=True, deadline=None, max_examples=500)
@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    divisor=st.sampled_from([14, 16, 28, 32]),
    least=st.integers(1, 300),
    more=st.integers(0, 4000),
)
def test_native_sizes_are_multiples_within_limits(
    height: int, width: int, divisor: int, least: int, more: int
) -> None:
    fewest, most = least * divisor**2, (least + more) * divisor**2
    high, wide = native_size(height, width, divisor, fewest, most)
    assert high % divisor == wide % divisor == 0 < high and 0 < wide
    assert high * wide <= most
    if min(high, wide) > divisor and more > 4 * least + 100:
        # Each side is off by one multiple at most from a picture of exactly the same aspect ratio.
        assert high * wide >= fewest
        assert (high - divisor) / (wide + divisor) <= height / width <= (high + divisor) / (wide - divisor)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((448, 448), (448, 448)),
        ((450, 443), (448, 448)),  # the nearest multiples
        ((100, 100), (196, 196)),  # enlarged to 196 x 196 at least
        ((3000, 1500), (1400, 700)),  # shrunk to a million pixels at most
        ((1, 10_000), (28, 9996)),  # narrower than a multiple: made as wide as one
        ((1, 10_000_000), (28, 35_700)),  # and then cut short
        ((10_000_000, 1), (35_700, 28)),
    ],
)
def test_native_sizes_by_example(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert native_size(*size, 28, 196 * 196, 1_000_000) == expected


@pytest.mark.parametrize("limits", [(28, 0, 28 * 28), (28, 800, 790), (28, 1, 783), (0, 1, 100)])
def test_limits_that_allow_nothing_are_refused(limits: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="allow no picture in multiples of"):
        native_size(50, 50, *limits)


@backend
@pytest.mark.parametrize("kind", ["np", "pt"])
def test_native_resolution_gives_a_list_if_sizes_differ(backend: str, kind: str) -> None:
    processor = BACKENDS[backend](size={"min_pixels": 28 * 28, "max_pixels": 84 * 84})
    images = [noise(60, 30), noise(30, 60), noise(300, 200)]
    batch = processor(images, return_tensors=kind)["pixel_values"]
    assert isinstance(batch, list) and [tuple(each.shape) for each in batch] == [(3, 28, 56), (3, 56, 28), (3, 56, 84)]
    assert all(isinstance(each, torch.Tensor if kind == "pt" else np.ndarray) for each in batch)
    for image, found in zip(images, batch, strict=True):
        high, wide = found.shape[-2:]
        alone = processor(image, size={"height": high, "width": wide}, return_tensors=kind)["pixel_values"][0]
        assert (alone == found).all()
    same = processor([noise(60, 30), noise(61, 29)], return_tensors=kind)["pixel_values"]
    assert not isinstance(same, list) and tuple(same.shape) == (2, 3, 28, 56)


# Two grids


def test_the_second_grid_is_the_closest_that_does_not_divide_the_first() -> None:
    for (height, width), grids in {
        (448, 448): ((2, 2),),  # one tile, which is the thumbnail; then the next square
        (896, 896): ((2, 2), (3, 3)),
        (1500, 1950): ((4, 3), (3, 2)),
        (448, 1344): ((3, 1), (6, 2)),
    }.items():
        found, thumbnail = choose_grids(height, width, 1, 12, 448, 448, True, True)
        assert (found, thumbnail) == (grids, True), (height, width)
        first = choose_grid(height, width, 1, 12, 448, 448)
        # Of all grids by plain search, as SAIL-VL2's processor is described.
        others = [(c, r) for c in range(1, 13) for r in range(1, 13) if c * r <= 12 and (first[0] % c or first[1] % r)]
        least = min(abs(width / height - c / r) for c, r in others)
        assert abs(width / height - found[-1][0] / found[-1][1]) == least
    assert choose_grids(100, 100, 1, 12, 448, 448, False, True) == (((1, 1), (2, 2)), False)
    assert choose_grids(100, 100, 1, 1, 448, 448, True, True) == (((1, 1),), False)


@backend
def test_tiles_of_two_grids_come_one_after_the_other_and_the_whole_last(backend: str) -> None:
    make, side = BACKENDS[backend], 16
    processor = make(size={"height": side, "width": side}, max_tiles=6, use_msac=True)
    image = noise(65, 44)
    assert choose_grids(44, 65, 1, 6, side, side, True, True) == (((3, 2), (2, 2)), True)
    outputs = processor([image, image], return_tensors="np")
    assert outputs["num_tiles"].tolist() == [11, 11] and processor.get_number_of_tiles(44, 65) == 11
    expected = []
    for columns, rows in ((3, 2), (2, 2), (1, 1)):
        (whole,) = arrays(make(size={"height": rows * side, "width": columns * side})(image, return_tensors="np"))
        expected += [whole[:, side * r :, side * c :][:, :side, :side] for r in range(rows) for c in range(columns)]
    np.testing.assert_array_equal(outputs["pixel_values"], expected + expected)


# Known from the size alone

FORMS = st.one_of(
    st.fixed_dictionaries({"height": st.integers(1, 3).map(lambda n: 8 * n), "width": st.just(16)}),
    st.fixed_dictionaries({"shortest_edge": st.integers(4, 20)}),
    st.fixed_dictionaries({"shortest_edge": st.integers(4, 20), "longest_edge": st.integers(20, 30)}),
    st.fixed_dictionaries({"max_height": st.integers(4, 20), "max_width": st.integers(4, 20)}),
    st.fixed_dictionaries({"min_pixels": st.integers(1, 300), "max_pixels": st.integers(300, 900)}),
)


@backend
@settings(derandomize=True, deadline=None, max_examples=150)
@given(data=st.data())
def test_tiles_and_their_size_are_known_from_the_size_alone(backend: str, data: st.DataObject) -> None:
    most = data.draw(st.integers(1, 9))
    given_settings: dict[str, Any] = {
        "size": data.draw(FORMS),
        "size_divisor": data.draw(st.sampled_from([4, 8])),
        "max_tiles": most,
        "min_tiles": data.draw(st.integers(1, most)),
        "use_thumbnail": data.draw(st.booleans()),
        "use_msac": data.draw(st.booleans()),
        "do_pad": data.draw(st.booleans()),
        "do_center_crop": data.draw(st.booleans()),
        "crop_size": {"height": 12, "width": 10},
        "do_resize": data.draw(st.booleans()),
        "pad_size": data.draw(st.sampled_from([None, {"height": 70, "width": 80}])),
    }
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=3))
    processor = BACKENDS[backend]()
    images = [np.zeros((high, wide, 3), dtype=np.uint8) for high, wide in sizes]
    try:
        expected = [
            (processor.get_number_of_tiles(*size, given_settings), processor.get_output_size(*size, given_settings))
            for size in sizes
        ]
    except ValueError as error:
        with pytest.raises(ValueError) as same:
            processor(images, input_data_format="channels_last", **given_settings)
        assert str(error) == str(same.value)
        return
    try:
        outputs = processor(images, input_data_format="channels_last", **given_settings)
    except ValueError as error:
        assert "does not fit into pad_size" in str(error)
        return
    shapes = [each.shape[-2:] for each in arrays(outputs)]
    assert shapes == [size for count, size in expected for _ in range(count)]
    assert list(outputs.get("num_tiles", [1] * len(sizes))) == [count for count, _ in expected]
    # And the same when they are the processor's own.
    own = BACKENDS[backend](**given_settings)
    assert [(own.get_number_of_tiles(*size), own.get_output_size(*size)) for size in sizes] == expected


@backend
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"do_pad": True, "do_center_crop": True}, "set one of them to False"),
        ({"do_pad": True, "size": {"shortest_edge": 16}}, "do_pad needs to know the size"),
        ({"max_tiles": 4, "do_pad": True, "pad_size": {"height": 99, "width": 99}}, "pad_size=None"),
        ({"max_tiles": 4, "size": {"min_pixels": 28**2, "max_pixels": 28**2}}, "Tiles need a size with height and"),
        ({"max_tiles": 0}, "give 1 <= min_tiles <= max_tiles"),
        ({"min_tiles": 3, "max_tiles": 2}, "give 1 <= min_tiles <= max_tiles"),
        ({"size": {"longest_edge": 16}}, "give height and width, shortest_edge"),
        ({"do_resize": False, "do_pad": True, "pad_size": {"height": 9, "width": 99}}, "20 x 30 pixels does not fit"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(backend: str, wrong: dict, message: str) -> None:
    processor = BACKENDS[backend]()
    with pytest.raises(ValueError, match=message):
        processor(noise(30, 20), **wrong)


def test_a_size_of_no_known_form_is_refused() -> None:
    with pytest.raises(ValueError, match="size is {'longest_edge': 3}"):
        resized_size(5, 5, {"longest_edge": 3})


# Resizing by torch


@pytest.mark.skipif(len(BACKENDS) < 2, reason="there is no torchvision; test_torchvision_backend.py brings one along")
@pytest.mark.parametrize(
    ("width", "height", "most"), [(390, 300, 1), (1300, 1000, 1), (448, 300, 1), (1950, 1500, 1), (1200, 1000, 12)]
)
def test_the_backends_differ_by_two_levels_at_most(width: int, height: int, most: int) -> None:
    for image in (smooth(width, height), noise(width, height)):
        exact, fast, other = (
            make(do_normalize=False, max_tiles=most, **more)(image, return_tensors="np")["pixel_values"] * 255
            for make, more in ((BACKENDS["pil"], {}), (BACKENDS["pil"], {"fast_resize": True}),
                               (BACKENDS["torchvision"], {}))
        )  # fmt: skip
        difference = np.abs(exact - other)
        assert exact.shape == other.shape and difference.max() <= 2.001 and difference.mean() <= 0.02
        # torchvision resizes with the same function of torch.
        np.testing.assert_allclose(fast, other, atol=1e-3)


@backend
def test_fast_resizing_of_what_is_not_8_bit_rgb_is_the_same_as_ever(backend: str) -> None:
    gray = noise(50, 40).convert("L")
    one, other = (
        BACKENDS[backend](size={"height": 16, "width": 16}, do_convert_rgb=False, fast_resize=fast,
                          image_mean=[0.5], image_std=[0.5])(gray, return_tensors="np")["pixel_values"]
        for fast in (False, True)
    )  # fmt: skip
    assert one.shape == (1, 1, 16, 16)
    np.testing.assert_array_equal(one, other)
    plain = np.asarray(gray.resize((16, 16), Image.Resampling.BICUBIC), dtype=float) / 255
    assert np.abs(one[0, 0] - (plain - 0.5) / 0.5).max() <= (2.001 if backend == "torchvision" else 0.001) / 127.5
