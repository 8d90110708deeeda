# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The demo's tokenizer: one token a word, so that a tiny language model learns in minutes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .scenes import CELLS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, TURN_START, TURN_END = "<|pad|>", "<unk>", "<|im_start|>", "<|im_end|>"
IMAGE_START, IMAGE_END, IMAGE = "<img>", "</img>", "<IMG_CONTEXT>"
SPECIAL_TOKENS = (PAD, UNKNOWN, TURN_START, TURN_END, IMAGE_START, IMAGE_END, IMAGE)


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: the special tokens, then `words` in their order.

    What a person types is lower-cased and loses its question mark; "top left" is read as "top-left", and punctuation
    is split off.

    Args:
        words (sequence of `str`): the vocabulary; a word outside it becomes `<unk>`.

    Returns:
        `PreTrainedTokenizerFast`: pads on the right, ends a turn with `<|im_end|>`, adds nothing by itself.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *words))}
    backend = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    places = [normalizers.Replace(cell.replace("-", " "), cell) for cell in CELLS]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("?", " "), *places])
    punctuation = pre_tokenizers.Split(Regex(r"[.,:;!]"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), punctuation])
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=TURN_END,
        additional_special_tokens=[TURN_START, IMAGE_START, IMAGE_END, IMAGE],
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
