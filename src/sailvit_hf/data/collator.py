# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""From samples to a training batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .encoding import Encoder

if TYPE_CHECKING:
    import torch


class VisionLanguageCollator:
    """Collates conversations with any number of pictures; what a batch holds is the processor's business.

    Args:
        processor (`SAILViTProcessor` or another with `encode_conversations`): builds the tensors and the labels.
        max_length (`int`, *optional*): the longest conversation allowed, in tokens, those of the pictures included.
        max_image_tokens (`int`, *optional*): tokens of a sample's pictures; the largest get fewer tiles.
        image_root (`str` or `Path`, *optional*): the folder that relative paths of pictures start from and that none
            may leave.
        match_extension (`bool`, *optional*, defaults to `False`): refuse pictures named as another format.
    """

    def __init__(
        self,
        processor: Any,
        max_length: int | None = None,
        max_image_tokens: int | None = None,
        image_root: str | Path | None = None,
        match_extension: bool = False,
    ) -> None:
        self.processor, self.max_length, self.max_image_tokens = processor, max_length, max_image_tokens
        self.encoder = Encoder(
            processor,
            max_length,
            max_image_tokens=max_image_tokens,
            image_root=image_root,
            match_extension=match_extension,
        )

    def __call__(self, samples: Sequence[Mapping[str, Any] | None]) -> dict[str, torch.Tensor]:
        """Collate samples.

        Args:
            samples (sequence of mappings): either rows with `messages` and, where a conversation shows any, `images`
                (whatever `load_image` takes), other columns ignored; or samples that are encoded already, see
                `EncodedSamples`. `None` stands for one that a resumed run passes over.

        Returns:
            `input_ids`, `attention_mask` and `labels` (batch, length) int64, padded on the right, labels -100 outside
            the assistant's answers; `pixel_values` (pictures, 3, height, width) float32, absent if no sample has a
            picture. Nothing, if the batch is passed over.

        Raises:
            ImageError: a picture cannot be read.
            ValueError: pictures and placeholders do not match, or a conversation is longer than `max_length`.
        """
        rows = [sample for sample in samples if sample is not None]
        if not rows:
            return {}
        if "input_ids" in rows[0]:
            return self.processor.pad_conversations(rows)
        if self.max_image_tokens is not None:
            encoded = [self.encoder(row, f"sample {i} of the batch") for i, row in enumerate(rows)]
            return self.processor.pad_conversations(encoded)
        conversations = [row["messages"] for row in rows]
        images = [self.encoder.open_images(row, _name(row, index)) for index, row in enumerate(rows)]
        return self.processor.encode_conversations(conversations, images, max_length=self.max_length)


def _name(row: Mapping[str, Any], index: int) -> str:
    return str(row.get("where") or row.get("id") or f"sample {index} of the batch")
