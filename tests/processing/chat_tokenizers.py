# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Small tokenizers that behave like those of well-known language models; nothing is downloaded."""

import json

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

# Words that are one token each, and pairs that merge across what a template writes: "\n\n" above all.
MERGES = [("Ċ", "Ċ"), ("Ġ", "Ġ"), ("a", "n"), ("Ġ", "a"), ("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("'", "s")]
SPLIT = Regex(r"'s| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
LLAMA = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}


def byte_level(special: list[str], template: str | None = None, nfc: bool = False, **names: str):
    """Byte-level BPE, as GPT-2's, Qwen's, SmolLM's and Llama 3's.

    A first token named `bos_token` is put before each text, as Llama's tokenizer does.
    """
    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    words += [first + second for first, second in MERGES]
    inner = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, list(MERGES)))
    if nfc:
        inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(SPLIT, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(special)
    # Both trims are around: Qwen's does not cut spaces off its offsets, Llama's and GPT-2's do.
    after = [processors.ByteLevel(trim_offsets=not nfc)]
    bos = names.get("bos_token")
    if bos in special:
        after.append(processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, inner.token_to_id(bos))]))
    inner.post_processor = processors.Sequence(after)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    made.chat_template = template
    return made


def qwen(template: str | None = None):
    return byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"], template, nfc=True, **QWEN
    )


def llama3(template: str | None = None):
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return byte_level([*special, "<|finetune_right_pad_id|>"], template, **LLAMA)


def smollm(template: str | None = None):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return byte_level(special, template, **QWEN)


def internlm2(template: str | None = None):
    """SentencePiece with byte fallback: spaces are a sign of their own, one is put before the text."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((f"<0x{byte:02X}>", -20.0) for byte in range(256))]
    pieces += [("▁", -2.0), ("▁cat", -3.0), ("cat", -3.5), ("▁a", -3.0)]
    pieces += [(chr(code), -5.0) for code in range(33, 127)]
    inner = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    inner.add_special_tokens(["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    made.chat_template = template
    return made


def chatml(default: str = "", bos: bool = False) -> str:
    """ChatML as SmolLM's (no default), SmolLM2's (one) and InternLM2's (a first token) tokenizers state it."""
    first = "{% if loop.first and messages[0]['role'] != 'system' %}{{ " + json.dumps(default) + " }}{% endif %}"
    return (
        ("{{ bos_token }}" if bos else "")
        + "{% for message in messages %}"
        + (first if default else "")
        + "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


SMOLLM2 = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
