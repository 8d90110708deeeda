# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Small stand-ins: a word-level processor without pictures, a tiny language model, a vision tower of mean colours."""

from types import SimpleNamespace

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel


class WordTokenizer:
    """Words of a fixed list as tokens; ids 0, 1, 2 are pad, start and stop."""

    pad_token_id = 0

    def __init__(self, words):
        self.words = ["<|pad|>", "<|im_start|>", "<|im_end|>", *words]

    def convert_tokens_to_ids(self, token):
        return self.words.index(token)

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(self.words[int(i)] for i in ids if int(i) > 2)


class WordProcessor:
    """`encode_conversations` and `apply_chat_template` of text-only conversations."""

    def __init__(self, words):
        self.tokenizer = WordTokenizer(words)
        self.calls = 0

    def _turn(self, message):
        text = " ".join(part["text"] for part in message["content"] if part["text"])
        return [self.tokenizer.convert_tokens_to_ids(word) for word in text.split()]

    def encode_conversations(self, conversations, images, max_length=None):
        self.calls += 1
        rows, masks = [], []
        for messages in conversations:
            ids, labels = [], []
            for message in messages:
                turn = self._turn(message)
                ids += [1, *turn, 2]
                labels += [-100, *turn, 2] if message["role"] == "assistant" else [-100] * (len(turn) + 2)
            rows.append(ids)
            masks.append(labels)
        width = max(map(len, rows))
        pad = lambda lists, value: torch.tensor([r + [value] * (width - len(r)) for r in lists])  # noqa: E731
        return {
            "input_ids": pad(rows, 0),
            "attention_mask": pad([[1] * len(r) for r in rows], 0),
            "labels": pad(masks, -100),
        }

    def apply_chat_template(self, messages, tokenize=False, add_generation_prompt=False):
        words = []
        for message in messages:
            words += ["<|im_start|>", *(self.tokenizer.words[i] for i in self._turn(message)), "<|im_end|>"]
        return " ".join([*words, "<|im_start|>"] if add_generation_prompt else words)

    def __call__(self, text, images=None, return_tensors="pt"):
        ids = torch.tensor([[self.tokenizer.convert_tokens_to_ids(word) for word in chat.split()] for chat in text])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def conversation(*turns, **columns):
    """A row whose turns alternate between user and assistant."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": [{"type": "text", "text": text}]} for i, text in enumerate(turns)]
    return {"messages": messages, "images": [], **columns}


def tiny_language_model(vocab_size, seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    head = torch.nn.Linear(config.hidden_size, vocab_size)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias[:2] = -100.0  # pad and start are never an answer
        head.bias[2:] = 0.0
    model.lm_head = head
    return model


class PixelConfig(PreTrainedConfig):
    model_type = "pixels"

    patch_size: int = 8
    image_size: int = 16
    hidden_size: int = 3
    num_hidden_layers: int = 1


class PixelTower(PreTrainedModel):
    """A vision tower whose patch features are the mean colours of the patches, (B, rows * columns, 3)."""

    config_class = PixelConfig

    def __init__(self, config=None, **values):
        super().__init__(config or PixelConfig(**values))
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.layers = torch.nn.ModuleList([torch.nn.Identity() for _ in range(self.config.num_hidden_layers)])
        self.post_init()

    def forward(self, pixel_values, **kwargs):
        means = torch.nn.functional.avg_pool2d(pixel_values, self.config.patch_size) * self.scale
        return SimpleNamespace(last_hidden_state=means.flatten(2).transpose(1, 2))


def pixel_processor(images, return_tensors="pt"):
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return {"pixel_values": stacked.permute(0, 3, 1, 2).float() / 255}


class ColourWorld:
    """A world whose "drawings" are colours: a scene has one coloured cell, a picture is one colour with noise."""

    seen = ("red", "green", "blue")
    unseen = ("yellow", "cyan")
    _rgb = {
        "red": (220, 0, 0), "green": (0, 220, 0), "blue": (0, 0, 220), "yellow": (220, 220, 0), "cyan": (0, 220, 220),
    }  # fmt: skip

    def _noisy(self, rng, shape):
        return rng.integers(0, 30, size=(*shape, 3), dtype=np.uint8)

    def drawing_pictures(self, group, per_drawing, seed):
        rng = np.random.default_rng(seed)
        labels = [name for name in getattr(self, group) for _ in range(per_drawing)]
        colours = np.array([self._rgb[name] for name in labels], np.uint8)
        pictures = self._noisy(rng, (len(labels), 16, 16)) + colours[:, None, None]
        return pictures, labels

    def cell_pictures(self, group, size, seed, split="test"):
        rng = np.random.default_rng(seed + 1000)
        names = getattr(self, group)
        labels = [names[i % len(names)] for i in range(size)]
        cells = rng.integers(0, 4, size=size)
        pictures = self._noisy(rng, (size, 16, 16))
        for picture, cell, name in zip(pictures, cells, labels, strict=True):
            row, column = divmod(int(cell), 2)
            picture[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += np.array(self._rgb[name], np.uint8)
        return pictures, cells, labels
