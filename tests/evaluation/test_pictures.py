# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Feature colours on features whose principal directions are known; figures are PNGs that repeat exactly."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from sailvit_hf.evaluation.pictures import (
    fit_pca_colours,
    grouped_bars,
    loss_curves,
    patch_brightness,
    png_bytes,
    smoothed,
)


def known_features():
    """Features with variances 9, 4, 1 along three rotated axes, and nothing else."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(8, 4, 4, 3, generator=generator) * torch.tensor([3.0, 2.0, 1.0])
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    return scores, scores @ rotation[:3] + 5.0, rotation


def test_pca_finds_the_directions_and_all_the_variance():
    scores, features, rotation = known_features()
    colours = fit_pca_colours(features, scores[..., 0])
    assert colours.explained == pytest.approx(1.0, abs=1e-6)
    cosines = (rotation[:3] @ colours.directions).abs()
    assert torch.all(cosines.diagonal() > 0.95)
    picture = colours(features)
    assert picture.shape == (8, 4, 4, 3) and picture.dtype == np.uint8
    assert picture.min() == 0 and picture.max() == 255


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_first_colour_rises_with_brightness(sign):
    """Negated features give the same colours: the sign of a principal direction means nothing of itself."""
    scores, features, _ = known_features()
    picture = fit_pca_colours(sign * features, scores[..., 0])(sign * features)
    red = torch.from_numpy(picture[..., 0]).float().flatten()
    assert torch.corrcoef(torch.stack([red, scores[..., 0].flatten()]))[0, 1] > 0.9


def test_patch_brightness():
    picture = np.zeros((1, 4, 4, 3), np.uint8)
    picture[0, :2, 2:] = (30, 60, 90)
    assert patch_brightness(picture, 2, 2).tolist() == [[[0.0, 60.0], [0.0, 0.0]]]


def test_png_round_trip():
    picture = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(picture)))), picture)


def test_smoothed_is_a_running_mean():
    assert smoothed([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]
    assert smoothed([2.0, 4.0], 10) == [2.0, 3.0]


def test_figures_repeat_and_follow_the_page():
    histories = {"I": [(1, 2.0), (2, 1.0)], "II": [(1, 1.0), (2, 0.5)]}
    light, dark = loss_curves(histories), loss_curves(histories, dark=True)
    assert light == loss_curves(histories) and light != dark
    assert Image.open(io.BytesIO(light)).convert("RGBA").getpixel((0, 0))[3] == 0
    assert Image.open(io.BytesIO(loss_curves(histories, paper="white"))).convert("RGBA").getpixel((0, 0)) == (255,) * 4


def test_bars_with_gaps_errors_and_chance():
    figure = grouped_bars(
        ["a", "b"], {"x": [0.5, None], "y": [0.25, 1.0]}, "accuracy", references=[0.1, None], percent=True,
        errors={"x": [0.1, None]},
    )  # fmt: skip
    picture = Image.open(io.BytesIO(figure)).convert("RGBA")
    colours = {colour for _, colour in picture.getcolors(maxcolors=1 << 20)}
    assert (0x8A, 0x8F, 0x98, 255) in colours and (0x00, 0x72, 0xB2, 255) in colours  # the two series
