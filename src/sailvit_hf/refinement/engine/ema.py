# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A moving average of the vision tower, kept beside the training and saved as a model of its own."""

from pathlib import Path
from typing import Any

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...errors import SailvitError

EMA_FOLDER = "vision_tower_ema"


class VisionTowerEma(TrainerCallback):
    """After every optimiser step: average = decay * average + (1 - decay) * weights, from the first step's weights on.

    The arithmetic is torch's. The average is kept by the process that saves, in the weights' dtype and on their
    device, and costs one more copy of the tower.

    Args:
        tower: the vision tower in training.
        decay: in (0, 1), such as 0.999.

    Raises:
        SailvitError: the decay is out of range, or nothing of the tower trains.
    """

    def __init__(self, tower: PreTrainedModel, decay: float) -> None:
        if not 0 < decay < 1:
            raise SailvitError(f"vision_tower_ema is {decay}: give a number between 0 and 1, such as 0.999")
        if not any(parameter.requires_grad for parameter in tower.parameters()):
            raise SailvitError("vision_tower_ema is set, but the vision tower does not train: remove it")
        self.tower, self.decay = tower, decay
        self.averaged: AveragedModel | None = None
        self.resume_from: Path | None = None

    @property
    def average(self) -> PreTrainedModel | None:
        """The averaged tower; None before training, and in processes that do not save."""
        module: Any = None if self.averaged is None else self.averaged.module
        return module

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not args.should_save:
            return
        self.averaged = AveragedModel(self.tower, multi_avg_fn=get_ema_multi_avg_fn(self.decay))
        self.averaged.requires_grad_(False)
        if self.resume_from is not None:
            self._load(self.resume_from / EMA_FOLDER)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.averaged is not None:
            self.averaged.update_parameters(self.tower)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load(Path(state.best_model_checkpoint, EMA_FOLDER))  # as the Trainer did with the weights

    def save(self, folder: Path) -> None:
        """Save the average as a whole vision tower in `folder/vision_tower_ema`, for use and for resuming."""
        if self.averaged is not None and self.average is not None and int(self.averaged.n_averaged):
            self.average.save_pretrained(folder / EMA_FOLDER)

    def _load(self, folder: Path) -> None:
        if self.averaged is None or self.average is None:
            return
        try:
            found = type(self.tower).from_pretrained(folder, dtype="auto", local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise SailvitError(
                f"{folder.parent} has no average of the vision tower ({EMA_FOLDER}): resume without vision_tower_ema"
            ) from error
        self.average.load_state_dict(found.state_dict())
        self.averaged.n_averaged += 1  # else the next step would begin anew
