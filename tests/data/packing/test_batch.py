# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a batch of packs holds, value by value."""

import pytest
import torch

from sailvit_hf.data.images import ImageDamagedError
from sailvit_hf.data.loss_weighting import WeightingCollator, loss_weights, sum_of_weights
from sailvit_hf.data.packing.batch import PackCollator, PackedSamples
from sailvit_hf.data.replacement import UnreadableSamplesError
from sailvit_hf.errors import SailvitError


def sample(ids, learnt, tiles=0, size=2):
    labels = [token if at in learnt else -100 for at, token in enumerate(ids)]
    found = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
    if tiles:
        found |= {
            "pixel_values": torch.full((tiles, 3, size, size), float(ids[0])),
            "num_tiles": torch.tensor([tiles]),
        }
    return found


ONE, TWO, THREE = sample([5, 6, 7], {1, 2}, tiles=2), sample([8, 9], {0, 1}), sample([4], set(), tiles=1)


def test_one_pack():
    batch = PackCollator()([[ONE, TWO, THREE]])
    assert sorted(batch) == ["input_ids", "labels", "pixel_values", "position_ids", "use_cache"]
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 4]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0]]
    # The first label of TWO would be predicted by the last token of ONE.
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9, -100]]
    assert TWO["labels"].tolist() == [8, 9]  # the sample itself is not touched
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [5, 5, 4]
    assert batch["use_cache"] is False


def test_several_packs_are_filled_up_with_a_sample_that_teaches_nothing():
    batch = PackCollator()([[ONE, TWO], [], [THREE]])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [0] * 5, [4, 0, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3], [0, 0, 1, 2, 3]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9], [-100] * 5, [-100] * 5]


def test_a_batch_of_nothing():
    batch = PackCollator("sample")([[]])
    assert batch["input_ids"].tolist() == [[0]] and batch["labels"].tolist() == [[-100]]
    assert batch["loss_weights"].tolist() == [[0]] and "pixel_values" not in batch


def test_flattened_for_flash_attention():
    batch = PackCollator(flatten=True)([[ONE, TWO], [], [THREE]])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 0, 4]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 0]]
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 3, 5, 6, 7]
    assert batch["cu_seq_lens_q"].dtype == torch.int32
    assert batch["max_length_q"] == batch["max_length_k"] == 3


def test_pictures_of_different_sizes_stay_a_list():
    batch = PackCollator()([[ONE, sample([7], set(), tiles=1, size=4)]])
    assert [tuple(tile.shape) for tile in batch["pixel_values"]] == [(3, 2, 2), (3, 2, 2), (3, 4, 4)]


WEIGHTS = {"sample": (1 / 2, 1), "square-root": (2**-0.5, 1)}


@pytest.mark.parametrize("weighting", WEIGHTS)
def test_weights(weighting):
    two, one = WEIGHTS[weighting]
    batch = PackCollator(weighting)([[ONE, TWO]])
    torch.testing.assert_close(batch["loss_weights"], torch.tensor([[0, two, two, 0, one]]))
    padded = {"labels": torch.tensor([[-100, 6, 7, -100], [8, 9, -100, -100]])}
    found = WeightingCollator(lambda samples: padded, weighting)([])
    torch.testing.assert_close(found["loss_weights"], torch.tensor([[0, two, two, 0], [0, one, 0, 0]]))
    torch.testing.assert_close(sum_of_weights([batch, found]), torch.tensor(4 * two + 2 * one))
    assert padded.keys() == {"labels"}


def test_by_default_every_token_weighs_the_same():
    assert loss_weights(torch.tensor([7, 7, -100, 7]), "token").tolist() == [0, 1, 0, 1]
    assert "loss_weights" not in WeightingCollator(lambda samples: {"labels": torch.ones(1, 2)}, "token")([])
    assert sum_of_weights([{"labels": torch.ones(1)}]) is None
    with pytest.raises(SailvitError, match="loss_weighting 'mean' is unknown"):
        PackCollator("mean")


def test_a_broken_picture_leaves_its_place_empty():
    def encode(key):
        if key == 1:
            raise ImageDamagedError("cat.png is damaged")
        return ONE

    dataset = PackedSamples(encode, max_tokens=6, length=3)
    assert len(dataset) == 3
    assert dataset[[0, 1, 2]] == [ONE, ONE]
    with pytest.raises(TypeError):
        len(PackedSamples(encode, 6))


def test_too_many_broken_pictures():
    def encode(key):
        raise ImageDamagedError(f"{key}.png is damaged")

    with pytest.raises(UnreadableSamplesError, match="more than bad_sample_limit=0.01 allows"):
        PackedSamples(encode, max_tokens=6)[list(range(8))]


def test_samples_longer_than_measured_are_an_error():
    with pytest.raises(SailvitError, match="have 6 tokens, more than the 5 that were measured before"):
        PackedSamples(lambda key: ONE, max_tokens=5)[[0, 1]]
