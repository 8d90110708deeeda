# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""FLOPs counted from the model are those that torch counts when it runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sailvit_hf import SAILViTConfig, SAILViTForConditionalGeneration, SAILViTModel
from sailvit_hf.refinement import STAGES
from sailvit_hf.refinement.flops import PEAK_TFLOPS, ModelFlops, peak_flops
from sailvit_hf.refinement.monitoring import BatchCounts

from .tiny import IMAGE_TOKEN, collate, tiny_model, tiny_samples


def batch_of(pictures):
    """Six samples, of which so many have a picture; every token is learnt, as torch counts all logits."""
    batch = collate(tiny_samples(6, text_only=range(pictures, 6)))
    return {**batch, "labels": batch["input_ids"].clone()}


def counted_by_torch(model, batch):
    model.train().set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    return counter.get_total_flops()


def counted_here(model, batch):
    flops = ModelFlops(model)
    counts = BatchCounts(IMAGE_TOKEN, flops)
    counts.add(batch)
    return flops(counts.totals()[1])


@pytest.mark.parametrize("tower", ["sailvit", "clip"])
@pytest.mark.parametrize("stage", list(STAGES))
def test_a_stage_costs_what_torch_counts(stage, tower):
    model, batch = tiny_model(tower=tower, layers=3), batch_of(6)
    STAGES[stage].apply(model)
    found = counted_here(model, batch)
    # The head: torch's loss has logits at the last token, too, of which nothing is learnt.
    assert sum(found.values()) == pytest.approx(counted_by_torch(model, batch), rel=0.03)
    assert all(found.values())


@pytest.mark.parametrize("change", [{"vision_feature_layer": -2}, {"freeze": 2}, {"vision_feature_layer": 1}])
def test_layers_that_do_not_run_or_do_not_learn_cost_less(change):
    freeze = change.pop("freeze", 0)
    model, batch = tiny_model(layers=3, **change), batch_of(6)
    STAGES["fine"].apply(model, freeze_vision_layers=freeze)
    found = counted_here(model, batch)
    whole = tiny_model(layers=3)
    STAGES["fine"].apply(whole)
    assert found["vision_tower"] < 0.8 * counted_here(whole, batch)["vision_tower"]
    assert sum(found.values()) == pytest.approx(counted_by_torch(model, batch), rel=0.03)


def test_a_batch_without_pictures_needs_no_tower():
    model = tiny_model()
    STAGES["world"].apply(model)
    found = counted_here(model, batch_of(0))
    assert found["vision_tower"] == found["multi_modal_projector"] == 0 < found["language_model"]


def test_pictures_of_several_sizes():
    flops = ModelFlops(tiny_model())
    pictures = [torch.zeros(3, 16, 16), torch.zeros(3, 8, 20), torch.zeros(3, 16, 16)]
    assert flops.pictures(pictures) == (16 + 10 + 16, 16 + 10 + 16, 256 + 100 + 256)
    assert flops.pictures(torch.zeros(3, 3, 16, 16)) == (48, 48, 768)
    clip = ModelFlops(tiny_model(tower="clip"))
    assert clip.pictures(torch.zeros(3, 3, 16, 16)) == (48, 51, 3 * 17 * 17)  # with the class token


@pytest.mark.parametrize(("preset", "tflop"), [("large", 0.736), ("huge", 1.548)])
def test_the_published_towers(preset, tflop):
    with torch.device("meta"):
        tower = SAILViTModel(SAILViTConfig.preset(preset))
        model = SAILViTForConditionalGeneration.from_parts(tower, tiny_language_model(), image_token_id=IMAGE_TOKEN)
    model.requires_grad_(False)
    flops = ModelFlops(model)
    counts = BatchCounts(IMAGE_TOKEN, flops)
    counts.add({"input_ids": torch.zeros(1, 4, dtype=torch.long), "pixel_values": torch.empty(1, 3, 448, 448)})
    assert flops(counts.totals()[1])["vision_tower"] == pytest.approx(tflop * 1e12, rel=0.01)


def tiny_language_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=True))


def test_experts_count_as_often_as_a_token_meets_them():
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=24, hidden_size=16, moe_intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, num_experts=8, num_experts_per_tok=2, decoder_sparse_step=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    tower = SAILViTModel(SAILViTConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=4,
    ))  # fmt: skip
    model = SAILViTForConditionalGeneration.from_parts(tower, Qwen3MoeForCausalLM(config), image_token_id=IMAGE_TOKEN)
    model.requires_grad_(False)
    tokens, experts = 12, 2 * 2 * (16 * 16 + 8 * 16)  # of each layer: two of eight, gate and up, down
    # 16 x (queries of 16, keys and values of 8 each), output 16 x 16; the router's 16 x 8 are left out
    layer = 2 * (16 * 32 + 16 * 16) + experts
    found = counted_here(model, {"input_ids": torch.full((1, tokens), 5)})
    assert found["language_model"] == 2 * (layer * tokens + 4 * 16 * tokens * tokens)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.05),
        ("Tesla V100-SXM2-16GB", 125.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A10G", None),
        ("AMD Instinct MI250X", 191.5),  # one of its two dies
    ],
)
def test_the_peak_of_a_gpu(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    found = peak_flops(torch.device("cuda", 0), half_precision=True)
    assert found == (None if peak is None else peak * 1e12)
    assert peak_flops(torch.device("cuda", 0), half_precision=False) is None
    assert peak_flops(torch.device("cpu"), half_precision=True) is None
    assert min(PEAK_TFLOPS.values()) > 1
