# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Features of a frozen tower on disk: the same training, the tower run once a picture, another folder for others."""

import shutil

import pytest
import torch

from sailvit_hf.errors import SailvitError
from sailvit_hf.modeling.vision_towers import patch_features
from sailvit_hf.refinement.engine.feature_cache import FeatureCache, WithDigests, pixel_digests, tower_digest

from ..tiny import tiny_model, tiny_samples, tiny_trainer, weights


def frozen_tower(**config):
    return tiny_model(**config).model.vision_tower.requires_grad_(False)


def files(folder):
    return sorted(path for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("layer", [-1, 1])
@pytest.mark.parametrize("tower", ["sailvit", "clip"])
def test_training_is_the_same_and_the_tower_runs_once_a_picture(tower, layer, tmp_path):
    samples = tiny_samples(8, text_only=(5,))
    options = {"samples": samples, "stage": "coarse", "max_steps": -1, "num_train_epochs": 3, "monitoring": False}
    model = {"tower": tower, "vision_feature_layer": layer}
    plain = tiny_trainer(tmp_path / "plain", tiny_model(**model), **options)
    plain.train()
    cached = tiny_trainer(
        tmp_path / "cached", tiny_model(**model), **options, vision_feature_cache=str(tmp_path / "features")
    )
    rows = []
    first = next(m for m in cached.model.model.vision_tower.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    cached.train()
    assert sum(rows) == 7 == len(files(tmp_path / "features"))
    assert (cached.feature_cache.computed, cached.feature_cache.found) == (7, 14)
    expected, found = weights(plain.model), weights(cached.model)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7)
    losses = [[entry["loss"] for entry in trainer.history] for trainer in (plain, cached)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert cached.model.model.vision_tower.training


def test_evaluation_reads_it_too(tmp_path):
    samples = tiny_samples(4)
    options = {"samples": samples, "stage": "coarse", "monitoring": False}
    plain, cached = (
        tiny_trainer(tmp_path, **options, vision_feature_cache=cache) for cache in (None, str(tmp_path / "features"))
    )
    expected = plain.evaluate(samples)["eval_loss"]
    for computed, found in ((4, 0), (4, 4)):
        assert cached.evaluate(samples)["eval_loss"] == pytest.approx(expected, rel=1e-6)
        assert (cached.feature_cache.computed, cached.feature_cache.found) == (computed, found)


def test_values_and_sizes(tmp_path):
    tower = frozen_tower()
    cache = FeatureCache(tmp_path, tower, -1, 1e9)
    pictures = [torch.randn(3, 16, 16), torch.randn(3, 8, 16), torch.randn(3, 16, 16)]
    for _ in range(2):
        for picture, features in zip(pictures, cache(pictures), strict=True):
            torch.testing.assert_close(features, patch_features(tower, picture[None])[0][0])
    assert (cache.computed, cache.found) == (3, 3)
    assert cache([]) == []


def test_a_changed_tower_has_other_features(tmp_path):
    pictures = torch.randn(2, 3, 16, 16)
    tower = frozen_tower()
    cache = FeatureCache(tmp_path, tower, -1, 1e9)
    before = cache(pictures)
    with torch.no_grad():
        tower.trunk.blocks[0].attn.qkv.weight[0, 0] += 1.0
    after = cache(pictures)
    assert cache.computed == 4 and not torch.equal(before[0], after[0])
    torch.testing.assert_close(after[0], patch_features(tower, pictures[:1])[0][0])
    again = FeatureCache(tmp_path, frozen_tower(), -1, 1e9)
    assert torch.equal(again(pictures)[0], before[0]) and again.computed == 0
    tower.requires_grad_(True)
    with torch.no_grad():
        tower.trunk.blocks[0].attn.qkv.weight[0, 0] += 1.0
    with pytest.raises(SailvitError, match="this one trains"):
        cache(pictures)


def test_what_names_a_tower():
    tower = frozen_tower()
    names = {tower_digest(tower, -1, "no"), tower_digest(tower, 1, "no"), tower_digest(tower, -1, "bf16")}
    names |= {tower_digest(frozen_tower(seed=1), -1, "no"), tower_digest(frozen_tower(tower="clip"), -1, "no")}
    tower.config.rms_norm_eps = 1e-3
    names.add(tower_digest(tower, -1, "no"))
    assert len(names) == 6
    assert tower_digest(frozen_tower(), -1, "no") in names


def test_what_names_a_picture():
    pictures = torch.randn(3, 3, 8, 8)
    found = pixel_digests(pictures)
    assert found.shape == (3, 2) and len({tuple(row) for row in found.tolist()}) == 3
    assert torch.equal(found, pixel_digests(list(pictures)))
    assert not torch.equal(pixel_digests(pictures.view(3, 3, 4, 16)), found)
    assert pixel_digests([]).shape == (0, 2)
    collate = WithDigests(lambda samples: {"pixel_values": pictures} if samples else {})
    assert torch.equal(collate([1])["pixel_digests"], found) and collate([]) == {}


def test_the_folder_stays_in_its_bounds(tmp_path, caplog, monkeypatch):
    pictures, tower = torch.randn(4, 3, 16, 16), frozen_tower()
    size = 16 * 16 * 4 + 128
    said = []
    monkeypatch.setattr("sailvit_hf.refinement.engine.feature_cache.logger.warning", said.append)
    cache = FeatureCache(tmp_path, tower, -1, 2.5 * size)
    for _ in range(2):
        for picture, features in zip(pictures, cache(pictures), strict=True):
            torch.testing.assert_close(features, patch_features(tower, picture[None])[0][0])
    assert len(files(tmp_path)) == 2 and (cache.computed, cache.found) == (6, 2)
    assert len(said) == 1 and "is full (vision_feature_cache_gb)" in said[0]
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 2.5 * size
    full = FeatureCache(tmp_path, tower, -1, 2.5 * size)
    full(pictures)
    assert len(files(tmp_path)) == 2


def test_a_broken_file_is_made_again(tmp_path):
    pictures, tower = torch.randn(2, 3, 16, 16), frozen_tower()
    expected = FeatureCache(tmp_path, tower, -1, 1e9)(pictures)
    first, second = files(tmp_path)
    first.write_bytes(first.read_bytes()[:-5])
    second.write_bytes(b"")
    cache = FeatureCache(tmp_path, tower, -1, 1e9)
    assert all(torch.equal(one, other) for one, other in zip(cache(pictures), expected, strict=True))
    assert cache.computed == 2 and not list(tmp_path.rglob("*.part"))
    assert FeatureCache(tmp_path, tower, -1, 1e9)(pictures)[0].shape == (16, 16)
    shutil.rmtree(tmp_path)


def test_dropout_does_not_get_stored(tmp_path):
    tower, pictures = frozen_tower(tower="clip", dropout=0.5).train(), torch.randn(2, 3, 16, 16)
    found = FeatureCache(tmp_path, tower, -1, 1e9)(pictures)
    assert tower.training
    torch.testing.assert_close(torch.stack(found), patch_features(tower.eval(), pictures)[0])


def test_what_it_refuses(tmp_path):
    for stage in ("fine", "world"):
        with pytest.raises(SailvitError, match="features of a frozen vision tower, and this one trains"):
            tiny_trainer(tmp_path, stage=stage, vision_feature_cache=str(tmp_path / "features"))
    trainer = tiny_trainer(tmp_path, stage="coarse")
    with pytest.raises(SailvitError, match="set vision_feature_cache to a folder"):
        trainer.feature_cache  # noqa: B018
