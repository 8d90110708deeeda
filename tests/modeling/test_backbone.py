# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The backbone: feature maps of chosen stages."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoBackbone

from sailvit_hf import SAILViTBackbone, SAILViTConfig

from .twins import randomised


@pytest.fixture
def local_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' AutoBackbone asks the Hub whether a folder of this machine is there; here the answer is yes."""
    from transformers.models.auto import auto_factory

    monkeypatch.setattr(auto_factory, "hf_api", lambda: SimpleNamespace(repo_exists=lambda name: True))


def test_maps_of_the_chosen_stages_come_from_an_encoders_checkpoint(local_folders: None, tmp_path: Path) -> None:
    encoder = randomised(SAILViTConfig.preset("tiny"))
    encoder.save_pretrained(tmp_path)
    backbone = AutoBackbone.from_pretrained(str(tmp_path), out_features=["stem", "stage2", "stage4"])
    assert isinstance(backbone, SAILViTBackbone)
    assert backbone.channels == [96, 96, 96]
    assert backbone.out_indices == [0, 2, 4]
    pixel_values = torch.randn(2, 3, 64, 40)
    with torch.no_grad():
        maps = backbone(pixel_values).feature_maps
        states = encoder(pixel_values, output_hidden_states=True).hidden_states
    for map_, index in zip(maps, (0, 2, 4), strict=True):
        expected = encoder.trunk.post_trunk_norm(states[index]).view(2, 8, 5, 96).permute(0, 3, 1, 2)
        assert torch.equal(map_, expected)


def test_the_last_stage_is_the_default_and_the_encoders_output() -> None:
    encoder = randomised(SAILViTConfig.preset("tiny"))
    backbone = SAILViTBackbone(encoder.config).eval()
    backbone.load_state_dict(encoder.state_dict(), strict=True)
    pixel_values = torch.randn(1, 3, 64, 64)
    (map_,) = backbone(pixel_values).feature_maps
    assert torch.equal(map_.flatten(2).transpose(1, 2), encoder(pixel_values).last_hidden_state)


def test_maps_without_the_final_norm() -> None:
    encoder = randomised(SAILViTConfig.preset("tiny"))
    backbone = SAILViTBackbone(SAILViTConfig.preset("tiny", apply_layernorm=False, out_indices=[1])).eval()
    backbone.load_state_dict(encoder.state_dict(), strict=True)
    pixel_values = torch.randn(1, 3, 64, 64)
    (map_,) = backbone(pixel_values).feature_maps
    (state,) = encoder.get_intermediate_layers(pixel_values, [0], norm=False, reshape=True)
    assert torch.equal(map_, state)


@pytest.mark.parametrize(("more", "blocks"), [({}, 2), ({"output_hidden_states": True}, 4)])
def test_blocks_after_the_last_stage_run_only_where_they_are_asked_for(more: dict, blocks: int) -> None:
    backbone = SAILViTBackbone(SAILViTConfig.preset("tiny", out_features=["stage2"])).eval()
    ran = []
    for block in backbone.trunk.blocks:
        block.register_forward_hook(lambda *_: ran.append(1))
    outputs = backbone(torch.zeros(1, 3, 64, 64), **more)
    assert len(ran) == blocks
    assert len(outputs.hidden_states or ()) == (5 if more else 0)


def test_a_stage_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="stage9"):
        SAILViTConfig.preset("tiny", out_features=["stage9"])


def test_the_choice_of_stages_is_saved_and_nothing_is_where_there_was_none(tmp_path: Path) -> None:
    SAILViTConfig.preset("tiny", out_features=["stage1", "stage3"]).save_pretrained(tmp_path)
    assert SAILViTConfig.from_pretrained(tmp_path).out_indices == [1, 3]
    assert not {"out_features", "out_indices", "stage_names"} & set(SAILViTConfig.preset("tiny").to_dict())
    # Another depth than the file's: the last stage follows.
    SAILViTConfig.preset("tiny").save_pretrained(tmp_path)
    assert SAILViTConfig.from_pretrained(tmp_path).out_features == ["stage4"]
