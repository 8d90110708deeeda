# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Losses and exact-match accuracies of a whole vision-language model on held-out conversations.

One teacher-forced forward pass is enough for exact match: greedy decoding reproduces the reference answer if and
only if the argmax is right at every position of the answer, the stop token included (as long as the prefix is right,
both see the same prefix). That makes the evaluation of thousands of questions a matter of seconds, and a test
compares it with `generate`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F

# The data set's key in the dictionary of data sets -> the prefix of its metrics; any other key is its own prefix.
PREFIXES = {"questions": "question"}
INPUTS = ("input_ids", "attention_mask", "pixel_values")


def batches_of_rows(dataset: Any, batch_size: int) -> Iterator[list[dict]]:
    """Yield lists of at most `batch_size` rows of a `datasets.Dataset` or a list of dictionaries."""
    for start in range(0, len(dataset), batch_size):
        stop = min(start + batch_size, len(dataset))
        if isinstance(dataset, Sequence):
            yield list(dataset[start:stop])
        else:
            columns = dataset[start:stop]
            yield [{name: values[i] for name, values in columns.items()} for i in range(stop - start)]


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode and `torch.inference_mode` inside; the model's own modes come back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _answer_logits(model: torch.nn.Module, encoded: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, P, V) and targets (B, P) at the P positions where any row of the batch has an answer token."""
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in encoded.items() if name != "labels"}
    targets = encoded["labels"].to(device)[:, 1:]
    positions = (targets != -100).any(dim=0).nonzero().squeeze(1)
    # `logits_to_keep` as a tensor: the rest of the sequence never meets the vocabulary matrix.
    logits = model(**inputs, logits_to_keep=positions).logits
    return logits.float(), targets[:, positions]


def score_dataset(model: torch.nn.Module, processor: Any, dataset: Any, batch_size: int = 128) -> dict[str, Any]:
    """Teacher-forced scores of every sample of a data set.

    Returns a dictionary with `loss` (float64 sum of the cross-entropies of the answer tokens, in nats), `tokens`
    (their number), `exact` (bool, one per sample: the argmax is right at every answer token; for a conversation of
    several turns, in every turn) and `kinds` (the `kind` column, or None for each sample without one).
    """
    loss, tokens, exact, kinds = 0.0, 0, [], []
    with evaluation_mode(model):
        for rows in batches_of_rows(dataset, batch_size):
            conversations, images = [r["messages"] for r in rows], [r.get("images") or [] for r in rows]
            encoded = processor.encode_conversations(conversations, images)
            logits, targets = _answer_logits(model, encoded)
            mask = targets != -100
            picked = logits[mask]
            loss += F.cross_entropy(picked, targets[mask], reduction="sum").double().item()
            tokens += int(mask.sum())
            exact.append(((logits.argmax(-1) == targets) | ~mask).all(dim=1).cpu())
            kinds += [row.get("kind") for row in rows]
    return {"loss": loss, "tokens": tokens, "exact": torch.cat(exact) if exact else torch.zeros(0), "kinds": kinds}


def evaluate_vlm(
    model: torch.nn.Module, processor: Any, datasets: Mapping[str, Any], batch_size: int = 128
) -> dict[str, float]:
    """Evaluate a vision-language model on held-out conversations.

    Args:
        model: a `SAILViTForConditionalGeneration` (or any model with the same `forward`); put back in its modes
            afterwards.
        processor: its `SAILViTProcessor`.
        datasets: data sets by key (`caption`, `reading`, `questions`, `text`, or others); rows have `messages`,
            `images` and perhaps `kind`.
        batch_size: samples per forward pass; it does not change the result.

    Returns:
        For each key (`questions` is shortened to `question`): `<key>_loss`, the mean cross-entropy per answer token in
        nats; `<key>_accuracy`, the share of samples that greedy decoding answers exactly; and, where a data set holds
        several kinds, `<key>_accuracy/<kind>`. Empty data sets are left out.
    """
    metrics: dict[str, float] = {}
    for key, dataset in datasets.items():
        if len(dataset) == 0:
            continue
        scores = score_dataset(model, processor, dataset, batch_size)
        prefix = PREFIXES.get(key, key)
        exact = scores["exact"].double()
        metrics[f"{prefix}_loss"] = scores["loss"] / max(scores["tokens"], 1)
        metrics[f"{prefix}_accuracy"] = exact.mean().item()
        by_kind: dict[str, list[float]] = defaultdict(list)
        for kind, right in zip(scores["kinds"], exact.tolist(), strict=True):
            if kind is not None:
                by_kind[kind].append(right)
        if len(by_kind) > 1:
            for kind in sorted(by_kind):
                metrics[f"{prefix}_accuracy/{kind}"] = sum(by_kind[kind]) / len(by_kind[kind])
    return metrics


def message_text(message: Mapping[str, Any]) -> str:
    """The text of a message: its text parts joined, pictures left out."""
    content = message["content"]
    if isinstance(content, str):
        return content.strip()
    return " ".join(part["text"] for part in content if part["type"] == "text" and part["text"]).strip()


def split_last_answer(messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict], str]:
    """The conversation up to its last assistant turn, and the text of that turn (the reference answer)."""
    last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return [dict(message) for message in messages[:last]], message_text(messages[last])


def answer_samples(
    model: Any, processor: Any, dataset: Any, indices: Sequence[int], max_new_tokens: int = 64
) -> list[str]:
    """The model's greedy answers to the last question of the samples at `indices`, special tokens removed."""
    tokenizer = processor.tokenizer
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop
    device = next(model.parameters()).device
    answers = []
    with evaluation_mode(model):
        for index in indices:
            row = dataset[index]
            prompt, _ = split_last_answer(row["messages"])
            text = processor.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            # One prompt at a time: nothing is padded, and the processor expands each picture's placeholder.
            encoded = processor(text=[text], images=row.get("images") or None, return_tensors="pt")
            inputs = {name: encoded[name].to(device) for name in INPUTS if name in encoded}
            output = model.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=stop, pad_token_id=pad
            )
            new = output[0, inputs["input_ids"].shape[1] :]
            answers.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    return answers
