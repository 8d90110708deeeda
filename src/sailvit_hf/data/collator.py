# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""From samples to a training batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .images import load_image

if TYPE_CHECKING:
    import torch


class VisionLanguageCollator:
    """Collates conversations with any number of pictures; what a batch holds is the processor's business.

    Args:
        processor (`SAILViTProcessor` or another with `encode_conversations`): builds the tensors and the labels.
        max_length (`int`, *optional*): the longest conversation allowed, in tokens, those of the pictures included.
    """

    def __init__(self, processor: Any, max_length: int | None = None) -> None:
        self.processor = processor
        self.max_length = max_length

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate samples.

        Args:
            samples (sequence of mappings): `messages` and, where a conversation shows any, `images` (pictures or their
                paths); other columns are ignored.

        Returns:
            `input_ids`, `attention_mask` and `labels` (batch, length) int64, padded on the right, labels -100 outside
            the assistant's answers; `pixel_values` (pictures, 3, height, width) float32, absent if no sample has a
            picture.

        Raises:
            ImageError: a picture cannot be read.
            ValueError: pictures and placeholders do not match, or a conversation is longer than `max_length`.
        """
        conversations = [sample["messages"] for sample in samples]
        images = [[load_image(image) for image in sample.get("images") or ()] for sample in samples]
        return self.processor.encode_conversations(conversations, images, max_length=self.max_length)
