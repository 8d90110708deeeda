# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The arguments of one refinement stage: `TrainingArguments` with a rate per module and defaults for pictures."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..data.loss_weighting import check_weighting
from ..errors import SailvitError
from .engine.contrastive import check_contrast
from .recipes.batches import accumulation_steps
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
        vision_tower_warmup_steps, multi_modal_projector_warmup_steps, language_model_warmup_steps (`float`,
            *optional*): warm-up of a module, in steps or as a share of all steps; defaults to `warmup_steps`.
        vision_tower_weight_decay, multi_modal_projector_weight_decay, language_model_weight_decay (`float`,
            *optional*): weight decay of a module; defaults to `weight_decay`.

    Parameters that control the data:
        bad_sample_limit (`float`, defaults to 0.01): the share of samples that may be unreadable (a broken picture, a
            missing file). They are replaced by others and reported once; past the limit training stops with the list.
            Each worker counts for itself, and of few samples has some room for bad luck.

        overlong_samples (`str`, defaults to `"raise"`): what becomes of a sample longer than `max_length`: training
            stops, or (`"drop"`) another one takes its place and it is counted. None is ever cut.
        max_image_tokens (`int`, *optional*): tokens of all pictures of a sample together; with more, the tiling of the
            largest pictures is lowered first.
        match_image_extension (`bool`, defaults to `True`): refuse a picture whose name has the extension of another
            format than its content, as a sign that files were mixed up.
        stream_lanes (`int`, *optional*): how many parts a stream is read in, side by side. Its order hangs on this and
            the seed; defaults to the processes times their workers at the first start, and stays as it was then.

    Parameters that control what trains:
        freeze_vision_layers (`int`, defaults to 0): how many groups of the vision tower stay frozen, counted from
            the input: the embeddings are the first, then comes each layer.

    Parameters that control the batch:
        global_batch_size (`int`, *optional*): samples per optimiser step over all devices. Sets
            `gradient_accumulation_steps`, so that a recipe means the same on any number of devices.
        max_length (`int`, *optional*): longest sequence in tokens, pictures included; defaults to no limit.
        packing (`bool`, defaults to `False`): put several samples into each sequence of `max_length` tokens; none sees
            another. The batch sizes then count packs. See docs/packing.md.
        max_tiles_per_pack (`int`, *optional*): most tiles of pictures in a pack; defaults to no limit.
        packing_buffer (`int`, defaults to 128): samples that wait to be chosen for a pack.
        loss_weighting (`str`, defaults to `"token"`): what counts the same: each learnt token, each sample
            (`"sample"`), or what lies between them (`"square-root"`).

    Parameters that control the stability:
        clip_per_module (`bool`, defaults to `False`): clip the gradients of each module by `max_grad_norm` on its
            own, so that a fresh connector's large gradients do not slow the other modules down.
        vision_tower_ema (`float`, *optional*): keep a moving average of the vision tower with this decay per step,
            such as 0.999; every checkpoint has it as a model of its own in `vision_tower_ema`.

    Parameters that control what is survived (see docs/faults.md):
        nonfinite_limit (`int`, defaults to 3): how many of any 100 optimiser steps are left out because their loss or
            gradients are no numbers; one more, and the run stops with the batch saved.

    Parameters that control what is computed, and how (see docs/engine.md):
        chunked_loss (`bool`, defaults to `True`): make the loss of the learnt positions in chunks, without logits.
        gradient_checkpointing_modules (`list[str]`, *optional*): the modules that keep no activations and compute them
            again; switches `gradient_checkpointing` on. Defaults to all modules where that is on.
        torch_compile_regions (`bool`, defaults to `False`): compile each repeated block instead of the whole model;
            switches `torch_compile` on.
        vision_feature_cache (`str`, *optional*): folder in which the features of a frozen vision tower are kept, for
            further epochs and runs.
        vision_feature_cache_gb (`float`, defaults to 100): gigabytes that the folder may hold.

    Parameters of a contrast of pictures and their texts, which is no part of the published recipe (see
    docs/monitoring.md):
        contrastive_loss (`str`, defaults to `"none"`): `"infonce"` or `"sigmoid"`, in the stages coarse and fine; in
            the logs `loss` is then the sum and `contrastive_loss` this part, without its weight.
        contrastive_weight (`float`, defaults to 0.1): its weight in the loss.
        contrastive_temperature (`float`, defaults to 0.07): of the cosines; fixed, the one that CLIP begins with.

    Parameters that control what a run shows of itself (see docs/monitoring.md):
        monitoring (`bool`, defaults to `True`): measure speed, use of the machine, waiting for data and the gradients
            of each module, and log them.
        feature_drift_every (`int`, defaults to 5): at every so many log entries, measure how far the features of the
            vision tower are from those at the start of the stage; 0 does not.
        peak_tflops (`float`, *optional*): what a device could do, in TFLOP/s, for the log's `mfu`; defaults to the
            data sheet's number of a known GPU in half precision.

    Defaults that differ from `TrainingArguments` (all ours; the report publishes none of them): one epoch (table 3
    publishes one for two of the stages), AdamW with betas 0.9, 0.95 and weight decay 0.05, cosine schedule with 3 %
    warm-up, a log entry every 10 steps, no reporting integration, all columns kept, pushes
    (if asked for) to a private repository at the end of a stage only, and no loss that is not finite hidden in
    a mean.
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
    vision_tower_warmup_steps: float | None = field(
        default=None, metadata={"help": "Warm-up of the vision tower. Defaults to warmup_steps."}
    )
    multi_modal_projector_warmup_steps: float | None = field(
        default=None, metadata={"help": "Warm-up of the connector. Defaults to warmup_steps."}
    )
    language_model_warmup_steps: float | None = field(
        default=None, metadata={"help": "Warm-up of the language model. Defaults to warmup_steps."}
    )
    vision_tower_weight_decay: float | None = field(
        default=None, metadata={"help": "Weight decay of the vision tower. Defaults to weight_decay."}
    )
    multi_modal_projector_weight_decay: float | None = field(
        default=None, metadata={"help": "Weight decay of the connector. Defaults to weight_decay."}
    )
    language_model_weight_decay: float | None = field(
        default=None, metadata={"help": "Weight decay of the language model. Defaults to weight_decay."}
    )

    # Data
    bad_sample_limit: float = field(
        default=0.01, metadata={"help": "Share of the samples that may be unreadable; they are replaced by others."}
    )

    overlong_samples: str = field(
        default="raise", metadata={"help": "Samples longer than max_length: raise, or drop (replaced and counted)."}
    )
    max_image_tokens: int | None = field(
        default=None, metadata={"help": "Tokens of a sample's pictures; the largest get fewer tiles to keep to it."}
    )
    match_image_extension: bool = field(
        default=True, metadata={"help": "Refuse pictures whose name has the extension of another format."}
    )

    stream_lanes: int | None = field(
        default=None,
        metadata={"help": "Parts that a stream is read in. Defaults to processes times workers at the first start."},
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
    packing: bool = field(
        default=False, metadata={"help": "Put several samples into each sequence of max_length tokens."}
    )
    max_tiles_per_pack: int | None = field(
        default=None, metadata={"help": "Most tiles of pictures in a pack. Defaults to no limit."}
    )
    packing_buffer: int = field(default=128, metadata={"help": "Samples that wait to be chosen for a pack."})
    loss_weighting: str = field(
        default="token", metadata={"help": "What counts the same: each 'token', each 'sample', or 'square-root'."}
    )

    # Stability
    clip_per_module: bool = field(
        default=False, metadata={"help": "Clip the gradients of each module by max_grad_norm on its own."}
    )

    vision_tower_ema: float | None = field(
        default=None, metadata={"help": "Decay of a moving average of the vision tower, such as 0.999."}
    )

    # What is survived
    nonfinite_limit: int = field(
        default=3, metadata={"help": "Steps of any 100 whose loss is no number and that are left out before a stop."}
    )

    # A contrast of pictures and texts
    contrastive_loss: str = field(
        default="none", metadata={"help": "Add a contrast of pictures and their texts: none, infonce or sigmoid."}
    )
    contrastive_weight: float = field(default=0.1, metadata={"help": "Weight of this contrast in the loss."})
    contrastive_temperature: float = field(default=0.07, metadata={"help": "Its temperature, which stays fixed."})

    # What is computed, and how
    chunked_loss: bool = field(
        default=True, metadata={"help": "Make the loss of the learnt positions in chunks, without all logits."}
    )
    gradient_checkpointing_modules: list[str] | None = field(
        default=None, metadata={"help": "Modules that compute their activations again. Defaults to all, if any."}
    )
    torch_compile_regions: bool = field(
        default=False, metadata={"help": "Compile each repeated block instead of the whole model."}
    )
    vision_feature_cache: str | None = field(
        default=None, metadata={"help": "Folder in which the features of a frozen vision tower are kept."}
    )
    vision_feature_cache_gb: float = field(default=100.0, metadata={"help": "Gigabytes that this folder may hold."})

    # What a run shows of itself
    monitoring: bool = field(
        default=True, metadata={"help": "Measure and log speed, use of the machine, and each module's gradients."}
    )
    feature_drift_every: int = field(
        default=5, metadata={"help": "Log the drift of the vision tower's features every so many entries; 0: never."}
    )
    peak_tflops: float | None = field(
        default=None, metadata={"help": "TFLOP/s that a device could do, for the MFU. Defaults to that of known GPUs."}
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
        if self.gradient_checkpointing_modules is not None:
            self.gradient_checkpointing = True
        if getattr(self, "activation_checkpointing", False) is None and self.gradient_checkpointing:
            # What transformers 5.23 calls it; 5.17 knows the old name only, so here both are as good, with no warning.
            self.activation_checkpointing = True
            if getattr(self, "activation_checkpointing_kwargs", None) is None:
                self.activation_checkpointing_kwargs = self.gradient_checkpointing_kwargs
        if self.torch_compile_regions:
            self.torch_compile = True
        super().__post_init__()
        if self.push_to_hub and HubStrategy(self.hub_strategy) != HubStrategy.END:
            raise SailvitError(
                f"hub_strategy {HubStrategy(self.hub_strategy).value!r} would push optimiser state and pickles: use "
                "'end', which pushes the stage's checkpoint"
            )
        if not torch.cuda.is_available() and self.device.type == "cpu":
            self.dataloader_pin_memory = False  # nothing to copy to; torch would warn at every epoch
        if self.overlong_samples not in ("raise", "drop"):
            raise SailvitError(f"overlong_samples is {self.overlong_samples!r}: choose raise or drop")
        if self.max_image_tokens is not None and self.max_image_tokens < 1:
            raise SailvitError(f"max_image_tokens is {self.max_image_tokens}: give 1 or more, or leave it out")
        if self.stream_lanes is not None and self.stream_lanes < 1:
            raise SailvitError(f"stream_lanes is {self.stream_lanes}: give 1 or more, or leave it out")
        if self.nonfinite_limit < 0:
            raise SailvitError(f"nonfinite_limit is {self.nonfinite_limit}: give 0 (stop at once) or more")
        if self.enable_jit_checkpoint:
            raise SailvitError("enable_jit_checkpoint is not needed: SIGTERM saves and stops without it; remove it")
        if self.save_only_model:
            raise SailvitError(
                "save_only_model leaves checkpoints that no run can go on from: remove it, and limit their number by "
                "save_total_limit"
            )
        if self.save_on_each_node:
            raise SailvitError(
                "save_on_each_node would let several nodes write the same files: remove it, and give all nodes the "
                "same output_dir"
            )
        if self.feature_drift_every < 0:
            raise SailvitError(f"feature_drift_every is {self.feature_drift_every}: give 0 (never) or more")
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise SailvitError(f"peak_tflops is {self.peak_tflops}: give a number above 0, or leave it out")
        check_weighting(self.loss_weighting)
        if self.auto_find_batch_size:
            raise SailvitError(
                "auto_find_batch_size would change the samples of a step on the way: remove it, and lower "
                "per_device_train_batch_size under a global_batch_size"
            )
        if self.train_sampling_strategy == "group_by_length" and not self.packing:
            raise SailvitError(
                "train_sampling_strategy 'group_by_length' draws an order that a resumed run cannot draw again: set "
                "packing=True, or take 'batch_rebalance'"
            )
        if self.packing and self.max_length is None:
            raise SailvitError("packing needs the length of a pack: set max_length, such as 8192")
        if self.global_batch_size is not None:
            self.gradient_accumulation_steps = accumulation_steps(
                self.global_batch_size, self.world_size, self.train_batch_size
            )

    def module_learning_rates(self, stage: RefinementStage) -> dict[str, float]:
        """Peak learning rate of every module that the stage trains, in the order of `MODULES`."""
        base = stage.learning_rate if self.learning_rate is None else self.learning_rate
        rates = {module: getattr(self, f"{module}_learning_rate") for module in MODULES}
        for module in (module for module in MODULES if module not in stage.trains):
            for what in ("learning_rate", "warmup_steps", "weight_decay"):
                if getattr(self, f"{module}_{what}") is not None:
                    raise SailvitError(
                        f"{module}_{what} is set, but stage {stage.key!r} does not train that module: remove it"
                    )
        tower_options = (("vision_tower_layer_decay", None), ("freeze_vision_layers", 0), ("vision_tower_ema", None))
        for name, unset in tower_options:
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
        check_contrast(self.contrastive_loss, self.contrastive_weight, self.contrastive_temperature, stage)
        return {
            module: base if rates[module] is None else rates[module] for module in MODULES if module in stage.trains
        }

    def module_weight_decays(self) -> dict[str, float]:
        """Weight decay of every module."""
        own = {module: getattr(self, f"{module}_weight_decay") for module in MODULES}
        return {module: self.weight_decay if decay is None else decay for module, decay in own.items()}
