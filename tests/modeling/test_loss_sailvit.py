# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The loss without all logits: the plain loss and its gradients, by value, for every option and kind of head."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    Gemma2Config,
    GraniteConfig,
)

from sailvit_hf import SAILViTConfig, SAILViTForConditionalGeneration, SAILViTModel
from sailvit_hf.modeling import loss_sailvit
from sailvit_hf.modeling.loss_sailvit import (
    LanguageModelingHead,
    LearntPositions,
    LogitTransform,
    chunk_length,
    chunked_loss,
    learnt_positions,
    shifted,
)

from ..refinement.tiny import collate, tiny_model, tiny_samples

ROOT = Path(__file__).parents[2]
COUNT, WIDTH, WORDS = 21, 8, 37


PLAIN = LogitTransform()


def plain_sum(head, hidden, positions, transform=PLAIN, smoothing=0.0):
    """The definition: all logits, torch's cross entropy."""
    logits = transform(head(hidden.flatten(0, -2)[positions.index])).float()
    losses = nn.functional.cross_entropy(logits, positions.targets, reduction="none", label_smoothing=smoothing)
    return (losses * (1.0 if positions.weights is None else positions.weights)).sum()


def problem(bias=False, weighted=False, dtype=torch.float32):
    torch.manual_seed(0)
    head = LanguageModelingHead(WIDTH, WORDS, bias=bias).to(dtype)
    hidden = torch.randn(3, COUNT, WIDTH).to(dtype).requires_grad_()
    targets = torch.randint(WORDS, (3, COUNT))
    targets[torch.rand(3, COUNT) < 0.5] = -100
    return head, hidden, learnt_positions(targets, torch.rand(3, COUNT) + 0.5 if weighted else None)


def same(found, expected):
    """To 1e-5 of the tensor's largest number; a gradient that is zero but for rounding may be any such zero."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item() + 1e-7)


def loss_and_gradients(head, hidden, total):
    wanted = [hidden, *(parameter for parameter in head.parameters() if parameter.requires_grad)]
    return [total.detach(), *torch.autograd.grad(total * 0.25, wanted)]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(loss_sailvit, "chunk_length", lambda *_: 4)


@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(cap=0.5), LogitTransform(0.25, 1.5)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["ours", "any"])
def test_equal_to_the_plain_loss(kind, bias, weighted, smoothing, transform, small_chunks):
    head, hidden, positions = problem(bias, weighted)
    expected = loss_and_gradients(head, hidden, plain_sum(head, hidden, positions, transform, smoothing))
    whole = kind == "ours"
    found = loss_and_gradients(head, hidden, chunked_loss(head, hidden, positions, transform, smoothing, whole))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        total = chunked_loss(head, hidden, positions, transform, smoothing, whole)
    assert total.item() == pytest.approx(expected[0].item(), rel=1e-6) and not total.requires_grad


@pytest.mark.parametrize("frozen", ["weight", "hidden"])
def test_only_what_trains_gets_a_gradient(frozen, small_chunks):
    head, hidden, positions = problem()
    (head.weight if frozen == "weight" else hidden).requires_grad_(False)
    chunked_loss(head, hidden, positions, LogitTransform()).backward()
    assert (head.weight.grad is None, hidden.grad is None) == (frozen == "weight", frozen == "hidden")


def test_half_precision_adds_up_in_fp32(small_chunks):
    """Weights in bf16, and fp32 ones under autocast: about as near to the fp32 gradients as the plain loss."""
    exact_head, exact_hidden, positions = problem()
    exact = loss_and_gradients(exact_head, exact_hidden, plain_sum(exact_head, exact_hidden, positions))
    for autocast in (False, True):
        head, hidden, _ = problem(dtype=torch.float32 if autocast else torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            plain = loss_and_gradients(head, hidden, plain_sum(head, hidden, positions))
            ours = loss_and_gradients(head, hidden, chunked_loss(head, hidden, positions, LogitTransform()))
        for one, other, truth, what in zip(ours, plain, exact, ("loss", "hidden", "weight"), strict=True):
            assert one.dtype == (torch.float32 if what == "loss" else head.weight.dtype)
            error, plain_error = ((tensor.float() - truth).norm() / truth.norm() for tensor in (one, other))
            assert error < 1.5 * plain_error + 1e-6, what
            assert error < 0.02


def test_no_more_than_a_chunk_of_logits_lives(small_chunks, monkeypatch):
    seen = []
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *args: seen.append(len(args[0])) or linear(*args))
    head, hidden, positions = problem()
    chunked_loss(head, hidden, positions, LogitTransform()).backward()
    count = len(positions.targets)
    assert seen == [4] * (count // 4) + [count % 4] * (count % 4 > 0)


def test_nothing_learnt_still_reaches_every_parameter():
    for whole in (True, False):
        head, hidden, _ = problem()
        positions = learnt_positions(torch.full((3, COUNT), -100))
        chunked_loss(head, hidden, positions, LogitTransform(), whole=whole).backward()
        assert not hidden.grad.any() and not head.weight.grad.any()


def test_one_backward_pass():
    head, hidden, positions = problem()
    total = chunked_loss(head, hidden, positions, LogitTransform())
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass; call the model again"):
        total.backward()


def test_length_of_a_chunk():
    cpu, other = torch.device("cpu"), torch.device("cuda")
    assert chunk_length(151936, cpu) * 151936 * 4 <= 2**28 < (chunk_length(151936, cpu) + 64) * 151936 * 4
    assert chunk_length(151936, other) * 151936 * 4 <= 2**30 < (chunk_length(151936, other) + 64) * 151936 * 4
    assert chunk_length(2**30, cpu) == 64


def test_a_plain_layer_becomes_a_head_of_the_same_parameters():
    layer = nn.Linear(4, 6).eval()
    head = LanguageModelingHead.of(layer)
    assert head.weight is layer.weight and head.bias is layer.bias and not head.training
    assert LanguageModelingHead.of(head) is head
    other = nn.Sequential(layer)
    assert LanguageModelingHead.of(other) is other
    states = torch.randn(2, 3, 4)
    assert torch.equal(head(states), layer(states))


# --- the model --------------------------------------------------------------------------------------------------


def batch_of(size=4, text_only=(1,)):
    return collate(tiny_samples(size, text_only=text_only))


def both_ways(model, batch, **options):
    """Loss and gradients with logits and without."""
    found = []
    for skip in (False, True):
        model.zero_grad()
        output = model(**batch, skip_logits=skip, **options)
        assert (output.logits is None) == skip
        output.loss.backward()
        found.append((output.loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    return found


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_items_in_batch": 7},
        {"num_items_in_batch": torch.tensor(7)},
        {"label_smoothing": 0.1},
        {"loss_weights": True},
        {"loss_weights": True, "num_items_in_batch": 5.5, "label_smoothing": 0.2},
        {"shift_labels": True},
    ],
    ids=str,
)
def test_the_model_without_logits(options, tied, small_chunks):
    model, batch, options = tiny_model(tied=tied).train(), batch_of(), dict(options)
    if "loss_weights" in options:
        options["loss_weights"] = torch.rand(batch["labels"].shape, generator=torch.Generator().manual_seed(1))
    if "shift_labels" in options:
        options["shift_labels"] = shifted(batch["labels"])[0].contiguous()
        batch["labels"] = torch.full_like(batch["labels"], -100)
    (plain, expected), (chunked, found) = both_ways(model, batch, **options)
    torch.testing.assert_close(chunked, plain, rtol=1e-6, atol=0)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        same(found[name], gradient)


def test_weights_are_those_of_the_labels():
    """By hand: position t predicts label t + 1 and counts with its weight; their sum is the divisor."""
    model, batch = tiny_model().eval(), batch_of()
    weights = torch.rand(batch["labels"].shape, generator=torch.Generator().manual_seed(2))
    logits = model(**{**batch, "labels": None}).logits.log_softmax(-1)
    top = bottom = 0.0
    for row, labels in enumerate(batch["labels"]):
        for place in range(1, len(labels)):
            if labels[place] != -100:
                top = top - weights[row, place] * logits[row, place - 1, labels[place]]
                bottom = bottom + weights[row, place]
    for skip in (False, True):
        loss = model(**batch, loss_weights=weights, skip_logits=skip).loss
        torch.testing.assert_close(loss, top / bottom, rtol=1e-6, atol=0)


def test_without_labels_there_is_nothing_to_skip():
    batch = batch_of()
    labels = batch.pop("labels")
    with pytest.raises(ValueError, match="skip_logits leaves nothing to return without labels"):
        tiny_model()(**batch, skip_logits=True)
    assert tiny_model()(**batch, labels=labels).logits.shape == (*labels.shape, 24)


SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 2, "vocab_size": 24, "pad_token_id": 0, "tie_word_embeddings": False,
         "initializer_range": 0.3}  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=0.7),
        Cohere2Config(**SMALL, logit_scale=0.25),
        GraniteConfig(**SMALL, logits_scaling=3.0),
    ],
    ids=lambda config: config.model_type,
)
def test_what_a_language_model_does_to_its_logits_is_kept(config, small_chunks):
    """By value against the language model alone, on text."""
    torch.manual_seed(0)
    language_model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    vision = SAILViTModel(SAILViTConfig.preset("tiny", num_hidden_layers=1))
    model = SAILViTForConditionalGeneration.from_parts(vision, language_model, image_token_id=3).eval()
    ids = torch.randint(4, 24, (2, 9))
    expected = language_model(input_ids=ids, labels=ids)
    found = model(input_ids=ids, labels=ids)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-6, atol=0)
    skipped = model(input_ids=ids, labels=ids, skip_logits=True)
    torch.testing.assert_close(skipped.loss, expected.loss, rtol=1e-6, atol=0)


def test_new_embeddings_have_a_head_that_gives_losses():
    model = tiny_model(tied=False)
    model.resize_token_embeddings(32)
    assert isinstance(model.lm_head, LanguageModelingHead) and model.lm_head.out_features == 32
    (plain, _), (chunked, _) = both_ways(model, batch_of())
    torch.testing.assert_close(chunked, plain, rtol=1e-6, atol=0)


def test_an_adapter_around_the_head_counts(small_chunks):
    peft = pytest.importorskip("peft")
    model = tiny_model(tied=False)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
    (plain, expected), (chunked, found) = both_ways(adapted, batch_of())
    torch.testing.assert_close(chunked, plain, rtol=1e-6, atol=0)
    assert any("lm_head.lora_B" in name for name in found)
    for name, gradient in expected.items():
        same(found[name], gradient)


def test_no_picture_is_made_up_where_nothing_of_its_way_trains():
    model, batch = tiny_model().train(), batch_of(2, text_only=(0, 1))
    runs = []
    model.model.vision_tower.register_forward_hook(lambda *_: runs.append(1))
    model(**batch)
    assert len(runs) == 1  # in training all of it waits for gradients
    model.model.vision_tower.requires_grad_(False)
    model(**batch).loss.backward()
    gradients = [parameter.grad for parameter in model.model.multi_modal_projector.parameters()]
    assert len(runs) == 1 and not any(gradient.any() for gradient in gradients)  # only the connector's are awaited
    model.model.multi_modal_projector.requires_grad_(False)
    model.model.multi_modal_projector.register_forward_hook(lambda *_: runs.append(2))
    model(**batch).loss.backward()
    assert len(runs) == 1


SHARDED = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from sailvit_hf.cli.__main__ import leave
from sailvit_hf.modeling import loss_sailvit
from tests.refinement.tiny import collate, tiny_model, tiny_samples

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, loss_sailvit.chunk_length = dist.get_rank(), lambda *_: 3
for tied in (True, False):
    frozen = not tied
    reference, model = tiny_model(tied=tied).train(), tiny_model(tied=tied).train()
    for one in (reference, model):
        one.model.vision_tower.requires_grad_(not frozen)
        one.model.multi_modal_projector.requires_grad_(not frozen)
    for block in (*model.model.vision_tower.trunk.blocks, *model.model.language_model.layers):
        fully_shard(block)
    if not tied:
        fully_shard(model.lm_head)
    fully_shard(model)
    samples = tiny_samples(4, text_only=(2, 3))  # the second process has no picture
    whole, part = collate(samples), collate(samples[2 * rank : 2 * rank + 2])
    items = int((whole["labels"][:, 1:] != -100).sum())
    loss = reference(**whole).loss
    loss.backward()
    mine = model(**part, skip_logits=True, num_items_in_batch=items).loss * 2
    mine.backward()
    total = mine.detach() / 2
    dist.all_reduce(total)
    torch.testing.assert_close(total, loss.detach(), rtol=1e-6, atol=0)
    wanted = dict(reference.named_parameters())
    checked = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert isinstance(parameter, DTensor)
            torch.testing.assert_close(parameter.grad.full_tensor(), wanted[name].grad, rtol=1e-4, atol=1e-6)
            checked += 1
        else:
            assert wanted[name].grad is None, name
    assert checked > 5 and (tied or any("lm_head" in n for n, p in model.named_parameters() if p.grad is not None))
dist.barrier()
leave(0)
"""


def test_a_sharded_head_over_two_processes(tmp_path):
    """`fully_shard`: the head in the root's group and in one of its own; one process has no pictures."""
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_positions_of_weights():
    labels = torch.tensor([[5, -100, 6, 7]])
    targets, weights = shifted(labels, loss_weights=torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    assert targets.tolist() == [[-100, 6, 7, -100]]
    found = learnt_positions(targets, weights)
    assert isinstance(found, LearntPositions) and found.index.tolist() == [1, 2] and found.targets.tolist() == [6, 7]
    torch.testing.assert_close(found.weights, torch.tensor([0.3, 0.4]))
