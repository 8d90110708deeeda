# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Probes on a world of colours and on features whose answers are known."""

import numpy as np
import pytest
import torch

from sailvit_hf.evaluation.probing import (
    cell_features,
    knn_accuracy,
    linear_accuracy,
    picture_features,
    probe_backbone,
)

from .stand_ins import ColourWorld, PixelTower, pixel_processor


def test_cell_features_take_the_right_quarter():
    grid = torch.arange(16.0).reshape(1, 4, 4, 1).repeat(4, 1, 1, 1)
    cells = cell_features(grid, np.array([0, 1, 2, 3]))
    assert cells.squeeze(1).tolist() == [2.5, 4.5, 10.5, 12.5]


def test_tokens_in_front_of_the_patches_are_dropped():
    class WithClassToken(PixelTower):
        def forward(self, pixel_values, **kwargs):
            output = super().forward(pixel_values)
            first = torch.full_like(output.last_hidden_state[:, :1], 9.0)
            output.last_hidden_state = torch.cat([first, output.last_hidden_state], dim=1)
            return output

    pictures = np.random.default_rng(0).integers(0, 255, (2, 16, 24, 3), dtype=np.uint8)
    one, other = (picture_features(tower(), pixel_processor, pictures) for tower in (WithClassToken, PixelTower))
    assert one.shape == (2, 2, 3, 3) and torch.equal(one, other)


def test_picture_features_do_not_depend_on_the_batch():
    pictures = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    tower = PixelTower()
    one, all_at_once = (picture_features(tower, pixel_processor, pictures, batch_size=size) for size in (1, 5))
    assert one.shape == (5, 2, 2, 3)
    assert torch.equal(one, all_at_once)
    assert one[0, 0, 0, 0].item() == pytest.approx(pictures[0, :8, :8, 0].mean() / 255, abs=1e-6)


def test_probes_on_separable_and_on_meaningless_features():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(50)
    centres = torch.randn(4, 8, generator=generator) * 4
    bank = centres[labels] + torch.randn(200, 8, generator=generator)
    queries = centres[labels] + torch.randn(200, 8, generator=generator)
    assert knn_accuracy(bank, labels, queries, labels) > 0.97
    assert linear_accuracy(bank, labels, queries, labels) > 0.97
    noise = torch.randn(200, 8, generator=generator)
    assert 0.1 < knn_accuracy(noise, labels, queries, labels) < 0.6
    assert linear_accuracy(bank, labels, queries, labels) == linear_accuracy(bank, labels, queries, labels)


def test_linear_probe_reads_what_neighbours_miss():
    """One informative direction among large noisy ones: neighbours fail, a linear reading does not."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat(300)
    features = torch.randn(1200, 40, generator=generator)
    features[:, 0] = torch.cat([labels, labels]) * 2.0 - 1 + 0.2 * features[:, 0]
    bank, queries = features[:600], features[600:]
    linear, nearest = (probe(bank, labels, queries, labels) for probe in (linear_accuracy, knn_accuracy))
    assert linear > 0.95 > nearest + 0.1


def test_probe_backbone_keys_and_values():
    results, again = (
        probe_backbone(PixelTower(), pixel_processor, ColourWorld(), per_drawing=6, queries_per_drawing=3)
        for _ in range(2)
    )
    names = {f"{kind}_{probe}_{group}" for kind in ("scene", "pooled") for probe in ("knn", "linear", "chance")
             for group in ("seen", "unseen")}  # fmt: skip
    assert set(results) == names
    assert results["scene_knn_seen"] == results["pooled_linear_unseen"] == 1.0
    assert results["scene_chance_seen"] == pytest.approx(1 / 3)
    assert results["pooled_chance_unseen"] == pytest.approx(1 / 2)
    assert results == again
