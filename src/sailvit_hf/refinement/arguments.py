# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The arguments of one refinement stage: `TrainingArguments` with a rate per module and defaults for pictures."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..errors import SailvitError
from .stages import MODULES, RefinementStage


@dataclass
class RefinementArguments(TrainingArguments):
    """Arguments of a `RefinementTrainer`; usable with `transformers.HfArgumentParser`.

    Parameters that control the learning rates:
        learning_rate (`float`, *optional*): peak learning rate; defaults to the published one of the stage.
        vision_tower_learning_rate (`float`, *optional*): of the vision tower; defaults to `learning_rate`.
        multi_modal_projector_learning_rate (`float`, *optional*): of the connector; defaults to `learning_rate`.
        language_model_learning_rate (`float`, *optional*): of the language model; defaults to `learning_rate`.
        vision_tower_layer_decay (`float`, *optional*): each layer of the vision tower learns at this share of the rate
            of the layer above it, as in BEiT; in (0, 1], defaults to one rate for all.

    Parameters that control the data:
        bad_sample_limit (`float`, defaults to 0.01): the share of samples that may be unreadable (a broken picture, a
            missing file). They are replaced by others and reported once; past the limit training stops with the list.

    Parameters that control what trains:
        freeze_vision_layers (`int`, defaults to 0): how many groups of the vision tower stay frozen, counted from
            the input: the embeddings are the first, then comes each layer.

    Parameters that control the batch:
        global_batch_size (`int`, *optional*): samples per optimiser step over all devices. Sets
            `gradient_accumulation_steps`, so that a recipe means the same on any number of devices.
        max_length (`int`, *optional*): longest sequence in tokens, pictures included; defaults to no limit.

    Parameters that control the stability:
        clip_per_module (`bool`, defaults to `False`): clip the gradients of each module by `max_grad_norm` on its
            own, so that a fresh connector's large gradients do not slow the other modules down.

    Defaults that differ from `TrainingArguments` (all ours; the report publishes none of them): one epoch (table 3
    publishes one for two of the stages), AdamW with betas 0.9, 0.95 and weight decay 0.05, cosine schedule with 3 %
    warm-up, a log entry every 10 steps, no reporting integration, all columns kept, pushes
        (if asked for) to a private repository at the end of a stage only, and no per-step check for NaN (the
    trainer stops with an error at the next log entry instead of hiding it).
    """

    # Learning rates
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate. Defaults to the published one of the stage."}
    )
    vision_tower_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of the vision tower. Defaults to learning_rate."}
    )
    multi_modal_projector_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of the connector. Defaults to learning_rate."}
    )
    language_model_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of the language model. Defaults to learning_rate."}
    )
    vision_tower_layer_decay: float | None = field(
        default=None,
        metadata={"help": "Share of its rate that each layer of the vision tower hands down to the one below it."},
    )

    # Data
    bad_sample_limit: float = field(
        default=0.01, metadata={"help": "Share of the samples that may be unreadable; they are replaced by others."}
    )

    # What trains
    freeze_vision_layers: int = field(
        default=0, metadata={"help": "Groups of the vision tower that stay frozen: embeddings, first layer, ..."}
    )

    # Batch
    global_batch_size: int | None = field(
        default=None,
        metadata={"help": "Samples per optimiser step over all devices; sets gradient_accumulation_steps."},
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Longest sequence in tokens, pictures included. Defaults to no limit."}
    )

    # Stability
    clip_per_module: bool = field(
        default=False, metadata={"help": "Clip the gradients of each module by max_grad_norm on its own."}
    )

    # Defaults that differ from TrainingArguments
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the data."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Decay rate of AdamW's second moment."})
    weight_decay: float = field(
        default=0.05, metadata={"help": "Weight decay; biases, norms and position tables have none."}
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(
        default=0.03, metadata={"help": "Linear warm-up: steps, or a share of all steps if smaller than 1."}
    )
    logging_steps: float = field(
        default=10, metadata={"help": "Log every so many steps, or a share of all steps if smaller than 1."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave losses that are not finite out of the logged mean."}
    )
    report_to: None | str | list[str] = field(
        default="none", metadata={"help": "Reporting integrations, such as tensorboard or wandb."}
    )
    hub_strategy: str = field(
        default="end",
        metadata={"help": "When push_to_hub pushes: at the end, for the checkpoints before it hold pickles."},
    )
    hub_private_repo: bool | None = field(
        default=True, metadata={"help": "Make the Hub repository private, and refuse one that is public."}
    )
    remove_unused_columns: bool = field(
        default=False,
        metadata={"help": "Drop columns that the model's forward does not name; the collator needs them."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.push_to_hub and HubStrategy(self.hub_strategy) != HubStrategy.END:
            raise SailvitError(
                f"hub_strategy {HubStrategy(self.hub_strategy).value!r} would push optimiser state and pickles: use "
                "'end', which pushes the stage's checkpoint"
            )
        if not torch.cuda.is_available() and self.device.type == "cpu":
            self.dataloader_pin_memory = False  # nothing to copy to; torch would warn at every epoch
        if self.global_batch_size is not None:
            self._derive_accumulation(self.global_batch_size)

    def _derive_accumulation(self, global_batch_size: int) -> None:
        processes = self.world_size
        micro_batch = self.train_batch_size * processes
        if global_batch_size < 1 or global_batch_size % micro_batch:
            raise SailvitError(
                f"global_batch_size {global_batch_size} is not a multiple of {micro_batch} ({processes} processes of "
                f"{self.train_batch_size} samples): change per_device_train_batch_size"
            )
        self.gradient_accumulation_steps = global_batch_size // micro_batch

    def module_learning_rates(self, stage: RefinementStage) -> dict[str, float]:
        """Peak learning rate of every module that the stage trains, in the order of `MODULES`."""
        base = stage.learning_rate if self.learning_rate is None else self.learning_rate
        rates = {module: getattr(self, f"{module}_learning_rate") for module in MODULES}
        useless = [module for module, rate in rates.items() if rate is not None and module not in stage.trains]
        if useless:
            raise SailvitError(
                f"{useless[0]}_learning_rate is set, but stage {stage.key!r} does not train that module: remove it"
            )
        for name, unset in (("vision_tower_layer_decay", None), ("freeze_vision_layers", 0)):
            if getattr(self, name) != unset and "vision_tower" not in stage.trains:
                raise SailvitError(
                    f"{name} is set, but stage {stage.key!r} does not train the vision tower: remove it"
                )
        if self.freeze_vision_layers < 0:
            raise SailvitError(f"freeze_vision_layers is {self.freeze_vision_layers}: give 0 or more")
        if self.vision_tower_layer_decay is not None and not 0 < self.vision_tower_layer_decay <= 1:
            raise SailvitError(
                f"vision_tower_layer_decay is {self.vision_tower_layer_decay}: give a number above 0 and at most 1"
            )
        return {
            module: base if rates[module] is None else rates[module] for module in MODULES if module in stage.trains
        }
