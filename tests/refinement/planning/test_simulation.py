# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A step on tensors without content makes what a real step makes."""

import pytest
import torch

from sailvit_hf.refinement import STAGES
from sailvit_hf.refinement.planning.simulation import MicroBatch, _Allocations, build_model, simulate_step

from ..tiny import IMAGE_TOKEN, LENGTH, collate, tiny_model, tiny_samples

ROWS = 6


def real_batch():
    return collate(tiny_samples(ROWS))


def micro_batch(batch):
    learnt = int((batch["labels"][:, 1:] != -100).sum())
    visual = int((batch["input_ids"] == IMAGE_TOKEN).sum())
    return MicroBatch(ROWS, LENGTH, len(batch["pixel_values"]), (16, 16), learnt, visual)


def real_activations(model, batch):
    """Bytes that live between forward and backward pass, and those of all gradients."""
    model.train()
    allocations = _Allocations([*model.parameters(), *model.buffers()])
    with allocations:
        loss = model(**batch, skip_logits=True).loss
        alive = sum(allocations.live.values())
        loss.backward()
    return alive, sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("tower", ["sailvit", "clip"])
@pytest.mark.parametrize("stage", list(STAGES))
def test_what_lives_between_forward_and_backward(stage, tower):
    model, batch = tiny_model(tower=tower, layers=3), real_batch()
    STAGES[stage].apply(model)
    alive, gradients = real_activations(model, batch)
    fake, mode = build_model(model.config)
    STAGES[stage].apply(fake)
    found = simulate_step(fake, mode, micro_batch(batch), autocast=False)
    inputs = found.activations.pop("batch")  # which were there before, in reality
    assert sum(found.activations.values()) == pytest.approx(alive, rel=0.05)  # masks of tiny samples
    assert found.gradients == gradients
    pixels = batch["pixel_values"]
    assert inputs == pixels.nbytes + 3 * ROWS * LENGTH * 8
    assert found.working > alive


def test_a_frozen_tower_keeps_nothing_but_its_features():
    model = tiny_model(layers=3)
    fake, mode = build_model(model.config)
    kept = {}
    for stage in ("coarse", "fine"):
        STAGES[stage].apply(fake)
        kept[stage] = simulate_step(fake, mode, micro_batch(real_batch()), autocast=False).activations["vision_tower"]
    assert kept["coarse"] <= 6 * 16 * 16 * 4 < kept["fine"] / 10


def test_gradient_checkpointing_keeps_less_of_the_modules_it_is_asked_for():
    fake, mode = build_model(tiny_model(layers=3).config)
    STAGES["fine"].apply(fake)
    plain = simulate_step(fake, mode, micro_batch(real_batch()))
    less = simulate_step(fake, mode, micro_batch(real_batch()), checkpointing=("vision_tower",))
    again = simulate_step(fake, mode, micro_batch(real_batch()))
    assert less.activations["vision_tower"] < 0.3 * plain.activations["vision_tower"]
    one = 4 * ROWS * LENGTH * 16  # the states at the border of what is computed again may live a little longer
    assert less.activations["language_model"] - plain.activations["language_model"] in (0, one)
    assert less.gradients == plain.gradients
    assert again.activations["vision_tower"] == plain.activations["vision_tower"]  # switched off again
    assert again.working == pytest.approx(plain.working, rel=0.05)


def test_all_logits_take_more_than_chunks():
    fake, mode = build_model(tiny_model(layers=3).config)
    STAGES["world"].apply(fake)
    many = MicroBatch(64, 128, 0, (16, 16), 4096, 0)
    chunked, whole = (simulate_step(fake, mode, many, autocast=False, chunked=chunked) for chunked in (True, False))
    assert whole.peak() > chunked.peak()
    small = simulate_step(fake, mode, many, autocast=False, chunk_elements=64 * 24)
    assert small.peak() <= chunked.peak()


def test_features_that_are_kept_need_no_tower():
    fake, mode = build_model(tiny_model(layers=3).config)
    STAGES["coarse"].apply(fake)
    found = simulate_step(fake, mode, micro_batch(real_batch()), tower_runs=False)
    assert found.activations["vision_tower"] == 0 < found.activations["multi_modal_projector"]


def test_tied_weights_stay_one_tensor_and_weights_take_their_precision():
    fake, mode = build_model(tiny_model(tied=True).config, torch.bfloat16)
    assert fake.lm_head.weight is fake.get_input_embeddings().weight
    STAGES["world"].apply(fake)
    found = simulate_step(fake, mode, micro_batch(real_batch()))
    assert found.gradients == 2 * sum(p.numel() for p in fake.parameters() if p.requires_grad)


def test_peaks_of_gradients_that_are_divided_or_there_from_the_beginning():
    fake, mode = build_model(tiny_model(layers=3).config)
    STAGES["world"].apply(fake)
    found = simulate_step(fake, mode, micro_batch(real_batch()))
    assert found.working <= found.peak(0.0) <= found.peak(0.5) <= found.peak(1.0)
    assert found.peak(1.0) <= found.peak(1.0, accumulated=True) == found.working + found.gradients
