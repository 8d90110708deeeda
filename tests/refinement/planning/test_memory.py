# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Bytes of weights, gradients and states for each layout, by hand."""

import pytest

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import STAGES
from sailvit_hf.refinement.planning.memory import LAYOUTS, SINGLE, Parameters, device_memory, optimizer_bytes
from sailvit_hf.refinement.planning.simulation import StepMemory

from ..tiny import tiny_model

PARAMETERS = Parameters(
    trained={"vision_tower": 600, "multi_modal_projector": 40, "language_model": 0},
    frozen={"vision_tower": 0, "multi_modal_projector": 0, "language_model": 1000},
    largest_unit=100, outside=200, outside_trained=50,
)  # fmt: skip
# 640 gradients in fp32; 5000 bytes of activations, which go as the gradients come
WHOLE = StepMemory({"batch": 500, "vision_tower": 4500}, ((0, 5600), (2560, 900)))
HALF = StepMemory({"batch": 500, "vision_tower": 2500}, ((0, 3300), (1280, 700)))


def memory(layout, devices=4, **options):
    return device_memory(layout, PARAMETERS, WHOLE if layout in (SINGLE, "ddp") else HALF, devices, **options)


def test_one_process():
    found = memory(SINGLE)
    assert found.weights == {"vision_tower": 2400, "multi_modal_projector": 160, "language_model": 4000}
    assert sum(found.optimizer.values()) == 8 * 640
    assert found.gradients == 2560 and found.exchange == 0
    # The activations and the gradients are never there together: 5600 bytes beside weights and state.
    assert found.total == 6560 + 5120 + 5600
    assert memory(SINGLE, accumulated=True).total == 6560 + 5120 + 5600 + 2560


def test_ddp_has_another_copy_of_the_gradients_in_its_buckets():
    assert memory("ddp").total == memory(SINGLE).total + 2560


def test_what_is_divided():
    zero2, fsdp2, zero3 = (memory(layout, accumulated=True) for layout in ("zero2", "fsdp2", "zero3"))
    assert sum(zero2.weights.values()) == 2 * 1640
    assert sum(zero2.optimizer.values()) == 12 * 640 / 4  # two moments and the fp32 copy
    assert zero2.gradients == 2 * 640 / 4
    assert zero2.exchange == 2 * 2 * 640
    assert sum(fsdp2.weights.values()) == 4 * 1640 / 4
    assert sum(fsdp2.optimizer.values()) == 8 * 640 / 4
    assert fsdp2.gradients == 4 * 640 / 4
    assert fsdp2.exchange == 2 * (200 + 200 + 100 + 50)
    assert sum(zero3.weights.values()) == 2 * 1640 / 4
    assert zero3.exchange == zero2.exchange + 2 * 1640
    for found in (zero2, fsdp2, zero3):
        assert sum(found.by_part().values()) == found.total
        assert sum(found.activations.values()) + found.working == pytest.approx(3300)


def test_fsdp2_keeps_whole_gradients_where_it_divides_those_of_the_last_micro_batch_only():
    found = {devices: memory("fsdp2", devices, accumulated=True, divides_every=False) for devices in (2, 4, 64)}
    for each in found.values():
        assert each.gradients == 2 * 640  # in half precision, by however many devices the sum is divided then
        assert sum(each.activations.values()) + each.working == pytest.approx(3300)
        assert each.exchange == 2 * (200 + 200 + 100)  # the gradients of what is in no layer are among those
    assert memory("fsdp2", divides_every=False).total == memory("fsdp2").total  # one micro-batch is the last
    divided = memory("fsdp2", accumulated=True, divides_every=True)
    assert divided.gradients == 4 * 640 / 4
    assert divided.exchange == memory("fsdp2").exchange
    assert divided.total == found[4].total - 2 * 640 + 4 * 640 / 4 + 2 * 50


def test_more_devices_divide_more_and_fp32_takes_more():
    for layout in ("zero2", "fsdp2", "zero3"):
        assert memory(layout, devices=64).total < memory(layout, devices=4).total
        assert memory(layout, half=False).total > memory(layout).total
    assert memory("ddp", devices=64).total == memory("ddp", devices=4).total


def test_batches_average_and_reserve_come_on_top():
    plain = memory("ddp").total
    assert memory("ddp", batches=3).total == plain + 2 * 500
    assert memory("ddp", ema=True).total == plain + 4 * 600
    assert memory("ddp", reserve=77.0).total == plain + 77


@pytest.mark.parametrize(
    ("name", "size"),
    [("adamw_torch_fused", 8), ("adamw_torch", 8), ("adamw_8bit", 2), ("paged_adamw_8bit", 2), ("lion_32bit", 4),
     ("lion_8bit", 1), ("sgd", 0), ("adafactor", 0)],
)  # fmt: skip
def test_state_of_optimisers(name, size):
    assert optimizer_bytes(name) == size


def test_an_optimiser_that_is_not_known():
    with pytest.raises(SailvitError, match="does not know what the optimiser galore_adamw keeps"):
        optimizer_bytes("galore_adamw")


@pytest.mark.parametrize("tied", [True, False])
def test_the_parameters_of_a_model(tied):
    model = tiny_model(tied=tied, layers=3)
    STAGES["fine"].apply(model)
    found = Parameters.of(model)
    assert found.total == sum(p.numel() for p in model.parameters())
    assert found.training == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.trained["language_model"] == 0 < found.frozen["language_model"]
    layer = sum(p.numel() for p in model.model.vision_tower.trunk.blocks[0].parameters())
    decoder = sum(p.numel() for p in model.model.language_model.layers[0].parameters())
    assert found.largest_unit == max(layer, decoder)
    assert found.outside == found.total - 3 * layer - decoder


def test_four_bits_are_of_frozen_linear_layers():
    model = tiny_model()
    STAGES["fine"].apply(model)
    plain, four = Parameters.of(model), Parameters.of(model, four_bit=True)
    assert plain.four_bit == 0 < four.four_bit < four.frozen["language_model"]
    less = device_memory(SINGLE, plain, WHOLE, 1).total - device_memory(SINGLE, four, WHOLE, 1).total
    assert less == pytest.approx(four.four_bit * (4 - 4.127 / 8))


def test_every_layout_has_a_sentence():
    assert list(LAYOUTS) == ["ddp", "zero2", "fsdp2", "zero3"] and all(LAYOUTS.values())
