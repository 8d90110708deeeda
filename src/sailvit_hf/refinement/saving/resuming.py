# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Resuming a stage from a folder that another run wrote: what is said about it, and what is read of it."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ...errors import SailvitError
from ...hub.weights import PICKLES, weight_files

logger = logging.get_logger(__name__)


def check_origin(checkpoint: str | os.PathLike, output_dir: str | os.PathLike) -> None:
    """Warn about the pickles of a checkpoint that does not lie in the run's own folder.

    The optimiser's state and that of the random generators are pickles. transformers opens them with restrictions
    (`weights_only=True`), which lowers the risk of code being run, and does not remove it.

    Raises:
        SailvitError: a foreign checkpoint holds no weights as safetensors.
    """
    folder = Path(checkpoint)
    if not folder.is_dir() or folder.resolve().is_relative_to(Path(output_dir).resolve()):
        return
    if not (folder / "adapter_model.safetensors").is_file():
        weight_files(folder)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        logger.warning(
            f"{folder} was not written by this run, and its {', '.join(pickles)} are pickles, which can run code when "
            "they are opened; if you do not trust its author, stop here and use train(..., weights_only=True), which "
            "reads its safetensors and begins the stage anew."
        )


def load_weights(model: Any, checkpoint: str | os.PathLike) -> None:
    """Put the weights of a checkpoint into a model of its class; only configuration and safetensors are read.

    Raises:
        SailvitError: the checkpoint holds no such model as safetensors.
    """
    try:
        found = type(model).from_pretrained(checkpoint, dtype=torch.float32)
        model.load_state_dict(found.state_dict())
    except (OSError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SailvitError(f"{checkpoint} cannot be loaded: {reason}") from error
