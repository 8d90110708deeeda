# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Batches without pictures beside batches with them; tests/distributed does it with two processes."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from sailvit_hf.modeling import modeling_sailvit_vlm
from sailvit_hf.modeling.lockstep_sailvit import in_pieces, most_of_all
from tests.refinement.tiny import collate, tiny_model, tiny_samples

TEXT = collate(tiny_samples(2, text_only=(0, 1)))


@pytest.fixture
def one_process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def runs_of(module):
    runs = []
    module.register_forward_hook(lambda *_: runs.append(1))
    return runs


@pytest.mark.parametrize("nothing", [[], torch.zeros(0, 3, 16, 16), None])
def test_no_pictures_in_every_form(nothing):
    expected, model = tiny_model().train()(**TEXT).loss, tiny_model().train()
    loss = model(**TEXT, pixel_values=nothing).loss
    loss.backward()
    assert loss == expected
    assert not any(each.grad.any() for each in model.model.vision_tower.parameters())


def test_a_tower_that_overflows_leaves_text_alone():
    model = tiny_model().train()
    expected = model(**TEXT).loss
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.bias.fill_(torch.inf)
    assert model(**TEXT).loss == expected


def test_the_same_text_among_pictures_teaches_the_same():
    """A text-only batch gives the text's parameters the gradients that they have without any vision."""
    gradients = []
    for vision in (True, False):
        model = tiny_model().train()
        model.model.vision_tower.requires_grad_(vision)
        model.model.multi_modal_projector.requires_grad_(vision)
        model(**TEXT).loss.backward()
        gradients.append([each.grad for each in model.model.language_model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("training, grad, expected", [(True, True, 1), (True, False, 0), (False, True, 0)])
def test_one_process_makes_up_pictures_in_training_only(training, grad, expected):
    model = tiny_model().train(training)
    runs = runs_of(model.model.vision_tower)
    with torch.set_grad_enabled(grad):
        model(**TEXT)
    assert len(runs) == expected


@pytest.mark.parametrize("most", [0, 1, 3])
@pytest.mark.parametrize("trains", [True, False])
def test_sharded_weights_are_gathered_as_often_as_anywhere(most, trains, monkeypatch):
    """With pictures of two sizes, of one, and without any, in training and evaluation."""
    monkeypatch.setattr(modeling_sailvit_vlm, "in_pieces", lambda *_: True)
    monkeypatch.setattr(modeling_sailvit_vlm, "most_of_all", lambda count, device: max(count, most))
    model, batch = tiny_model().requires_grad_(trains), collate(tiny_samples(3))
    tower, connector = runs_of(model.model.vision_tower), runs_of(model.model.multi_modal_projector)
    for training in (True, False):
        model.train(training)
        for pixels, own in ((batch["pixel_values"], 1), (list(batch["pixel_values"]), 1), (None, 0)):
            given = {**batch, "pixel_values": pixels} if own else TEXT
            tower.clear()
            connector.clear()
            model(**given)
            assert len(tower) == len(connector) == max(most, own, trains and training)


def test_what_lies_in_pieces(one_process_group, monkeypatch):
    model = tiny_model()
    tower, connector = model.model.vision_tower, model.model.multi_modal_projector
    assert not in_pieces(tower, connector)
    fully_shard(tower)
    assert not in_pieces(tower, connector)  # one process has all of it
    monkeypatch.setattr(dist, "get_world_size", lambda *_: 2)
    assert in_pieces(tower, connector) and not in_pieces(connector)
    tower.unshard()
    assert in_pieces(tower)  # also while it lies together
    assert most_of_all(3, torch.device("cpu")) == 3


def test_a_view_of_a_sharded_tower_is_a_view(one_process_group):
    expected = tiny_model(vision_feature_layer=1)
    model = tiny_model(vision_feature_layer=1)
    fully_shard(model.model.vision_tower.trunk)
    fully_shard(model.model.vision_tower)
    batch = collate(tiny_samples(2))
    assert torch.equal(model(**batch).loss, expected(**batch).loss)


def test_text_alone_compiles_whole():
    model = tiny_model().eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    text = {name: TEXT[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        torch.testing.assert_close(compiled(**text, use_cache=False).logits, model(**text).logits)
