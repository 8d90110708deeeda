# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Encoder swap: what a vision tower is worth to an MLLM that it was not trained in.

The tower and a language model are both frozen and only a fresh connector between them is trained, with the same
small budget, the same samples in the same order and the same initial connector for every tower compared. What is
left is a difference of the towers alone. This is how SAILViT's refined encoder is used (report section 2.1: a new
MLLM starts with a fresh connector).
"""

import copy
import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .vlm import evaluate_vlm


@contextmanager
def isolated_seed(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's generators inside; outside nothing is seen of it."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def train_fresh_connector(
    vision_tower: Any,
    language_model: Any,
    processor: Any,
    train_dataset: Any,
    steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int = 0,
    vision_feature_layer: int = -1,
    **arguments: Any,
) -> Any:
    """A new MLLM of copies of two parts, with a connector trained by the coarse stage while both parts stay frozen.

    Args:
        vision_tower, language_model: pre-trained models; copied, never modified.
        train_dataset: rows with `messages` and `images`.
        steps, learning_rate, batch_size: the budget; the same for every tower that is compared.
        seed: of the connector's initial weights and of the order of the samples.
        vision_feature_layer: the output of the tower that the connector reads; the final one by default.
        arguments: further fields of `RefinementArguments` (a device, a precision, ...).

    Returns:
        The trained `SAILViTForConditionalGeneration`.
    """
    from ..modeling.modeling_sailvit_vlm import SAILViTForConditionalGeneration
    from ..refinement.arguments import RefinementArguments
    from ..refinement.coarse_alignment import CoarseAlignmentTrainer

    with isolated_seed(seed), tempfile.TemporaryDirectory(prefix="sailvit-swap-") as folder:
        tower, decoder = copy.deepcopy(vision_tower), copy.deepcopy(language_model)
        # Copying draws no random number, so the connector starts from the same weights for every tower of one width.
        model = SAILViTForConditionalGeneration.from_parts(
            tower, decoder, processor.image_token_id, vision_feature_layer=vision_feature_layer
        )
        options: dict[str, Any] = {
            "output_dir": folder,
            "max_steps": steps,
            "learning_rate": learning_rate,
            "per_device_train_batch_size": batch_size,
            "seed": seed,
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        trainer = CoarseAlignmentTrainer(
            model=model,
            args=RefinementArguments(**{**options, **arguments}),
            train_dataset=train_dataset,
            processing_class=processor,
        )
        trainer.train()
    return model


def encoder_swap(
    vision_tower: Any,
    language_model: Any,
    processor: Any,
    train_dataset: Any,
    evaluation: Mapping[str, Any],
    steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int = 0,
    vision_feature_layer: int = -1,
    **arguments: Any,
) -> dict[str, float]:
    """Put a vision tower into an MLLM through a fresh connector and measure the MLLM on held-out data.

    See `train_fresh_connector` for the arguments; `evaluation` holds the data sets of `evaluate_vlm`, whose metrics
    are returned. Neither the tower nor the language model is modified, and no random state outside is touched.
    """
    model = train_fresh_connector(
        vision_tower,
        language_model,
        processor,
        train_dataset,
        steps,
        learning_rate,
        batch_size,
        seed,
        vision_feature_layer,
        **arguments,
    )
    return evaluate_vlm(model, processor, evaluation)
