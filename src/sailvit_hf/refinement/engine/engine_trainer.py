# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What saves arithmetic and memory in a training step, through the Trainer's public hooks; see docs/engine.md."""

import inspect
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ...errors import SailvitError
from ..arguments import RefinementArguments
from ..launching import check_layout, refuse
from ..saving.layouts import choose_layers, fit_checkpoint, keep_class_name
from ..stages import MODULES, find_module, vision_tower_of
from .ema import VisionTowerEma
from .feature_cache import DIGESTS, FeatureCache, WithDigests, refuse_a_trained_tower
from .schedules import schedule_by_module

logger = logging.get_logger(__name__)


def apply_liger(model: nn.Module, kernel_config: dict[str, Any] | None = None) -> None:
    """Put Liger's kernels into the inner language model.

    transformers' own call looks at our model type, which Liger does not know, and does nothing. Liger's own head and
    loss stay off: the head is ours, and its loss is made in chunks already.

    Raises:
        SailvitError: liger-kernel is not installed, or there is no language model.
    """
    _, language_model = find_module(model, "language_model", "use_liger_kernel")
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except ImportError as error:
        raise SailvitError(
            "use_liger_kernel needs the package liger-kernel and a GPU: pip install liger-kernel, or remove it"
        ) from error
    without_loss = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    _apply_liger_kernel_to_instance(model=language_model, **{**(kernel_config or {}), **without_loss})


def checkpoint_only(model: nn.Module, modules: list[str]) -> None:
    """Switch activation checkpointing off again in the modules of `MODULES` that are not named.

    Raises:
        SailvitError: there is no such module.
    """
    unknown = [name for name in modules if name not in MODULES]
    if unknown or not modules:
        raise SailvitError(
            f"gradient_checkpointing_modules names {unknown or 'nothing'}: choose out of {', '.join(MODULES)}"
        )
    others = set(MODULES) - set(modules)
    for path, part in model.named_modules():
        if hasattr(part, "gradient_checkpointing") and not others.isdisjoint(path.split(".")):
            part.gradient_checkpointing = False


class CheckpointOnly(TrainerCallback):
    """Once the Trainer has switched activation checkpointing on, for the whole model: see `checkpoint_only`."""

    def __init__(self, modules: list[str]) -> None:
        self.modules = modules

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        checkpoint_only(kwargs["model"], self.modules)


class EngineTrainer(Trainer):
    """`transformers.Trainer` that makes the loss in chunks, and knows the further options of docs/engine.md."""

    args: RefinementArguments
    lr_scheduler: Any
    data_collator: Any

    def __init__(self, model: nn.Module, args: RefinementArguments, **kwargs: Any) -> None:
        if args.use_liger_kernel:
            apply_liger(model, args.liger_kernel_config)
            args.use_liger_kernel = False  # done; the Trainer's own call would find nothing to do
        super().__init__(model=model, args=args, **kwargs)
        accepted = self._accepted_by(model)
        self._takes_options = {"skip_logits", "kwargs"} <= accepted
        if self._takes_options:
            # The Trainer's own smoothing takes labels as they are for models it does not know: without the shift.
            self.label_smoother = None
        if args.gradient_checkpointing_modules is not None:
            self.add_callback(CheckpointOnly(args.gradient_checkpointing_modules))
        self._install_ema(model)
        self._feature_cache: FeatureCache | None = None
        if args.vision_feature_cache:
            self._prepare_cache(model)

    @staticmethod
    def _accepted_by(model: nn.Module) -> set[str]:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        return set(inspect.signature(inner.forward).parameters)

    # --- compiling and checkpointing ---------------------------------------------------------------------------

    def create_accelerator_and_postprocess(self) -> None:
        """As the Trainer does; with `torch_compile_regions` accelerate compiles block by block."""
        super().create_accelerator_and_postprocess()
        check_layout(self.args, self.accelerator)
        if self.is_fsdp_enabled:
            choose_layers(self.accelerator.state.fsdp_plugin, self.model)
        if self.args.torch_compile_regions:
            self.accelerator.state.dynamo_plugin.use_regional_compilation = True

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The schedule, with a warm-up of their own for the modules that were given one."""
        warmups = {module: getattr(self.args, f"{module}_warmup_steps") for module in MODULES}
        to_make = self.lr_scheduler is None and any(steps is not None for steps in warmups.values())
        super().create_scheduler(num_training_steps, optimizer)
        if to_make:
            self.lr_scheduler = schedule_by_module(self.args, optimizer or self.optimizer, num_training_steps, warmups)
        return self.lr_scheduler

    # --- the loss ----------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The Trainer's loss; without logits where nobody asked for outputs, and with label smoothing where set."""
        inputs = self._with_features(inputs)
        if self._takes_options and self.compute_loss_func is None and inputs.get("labels") is not None:
            if not return_outputs and self.args.chunked_loss:
                inputs.setdefault("skip_logits", True)
            if self.args.label_smoothing_factor:
                inputs["label_smoothing"] = self.args.label_smoothing_factor
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> Any:
        """One step of an evaluation; without logits if only losses are asked for."""
        inputs = self._with_features(self._prepare_inputs(inputs))
        skip = self._takes_options and prediction_loss_only and self.args.chunked_loss
        if skip and self.compute_loss_func is None and inputs.get("labels") is not None:
            inputs["skip_logits"] = True
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    # --- features of a frozen tower ----------------------------------------------------------------------------

    def _prepare_cache(self, model: nn.Module) -> None:
        found = vision_tower_of(model)
        if found is None or "kwargs" not in self._accepted_by(model) or not self._takes_options:
            raise SailvitError("vision_feature_cache needs a SAILViTForConditionalGeneration: remove it")
        refuse_a_trained_tower(found[1])
        refuse(self, "vision_feature_cache")
        self.data_collator = WithDigests(self.data_collator)

    def _with_features(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A copy of the inputs, with the tower's features of the pictures if they are kept."""
        inputs = dict(inputs)
        digests, pictures = inputs.pop(DIGESTS, None), inputs.get("pixel_values")
        if self.args.vision_feature_cache and pictures is not None and "vision_features" not in inputs:
            inputs["vision_features"] = self.feature_cache(pictures, digests)
        return inputs

    @property
    def feature_cache(self) -> FeatureCache:
        """The cache of `vision_feature_cache`."""
        if self._feature_cache is None:
            found = vision_tower_of(self.model)
            if found is None or not self.args.vision_feature_cache:
                raise SailvitError("there is no cache of features: set vision_feature_cache to a folder")
            layers = (getattr(getattr(m, "config", None), "vision_feature_layer", None) for m in self.model.modules())
            layer = next((layer for layer in layers if layer is not None), -1)
            precision = self.accelerator.mixed_precision
            self._feature_cache = FeatureCache(
                self.args.vision_feature_cache, found[1], layer, self.args.vision_feature_cache_gb * 1e9,
                self.args.world_size, nullcontext if precision == "no" else self.accelerator.autocast, precision,
            )  # fmt: skip
        return self._feature_cache

    # --- the average of the tower ------------------------------------------------------------------------------

    def _install_ema(self, model: nn.Module) -> None:
        self.ema: VisionTowerEma | None = None
        if self.args.vision_tower_ema is None:
            return
        found = vision_tower_of(model)
        if found is None:
            raise SailvitError("vision_tower_ema needs a vision tower of transformers: remove it")
        refuse(self, "vision_tower_ema")
        self.ema = VisionTowerEma(found[1], self.args.vision_tower_ema)
        self.add_callback(self.ema)

    def train(self, resume_from_checkpoint: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """See [`~transformers.Trainer.train`]; the average of the tower goes on from where it was, too."""
        source = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        if source is not None:
            fit_checkpoint(self, source)
        if self.ema is not None:
            self.ema.resume_from = source
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model as the Trainer does, and the average of its tower beside it."""
        keep_class_name(self.model)
        super().save_model(output_dir, _internal_call)
        if self.ema is not None and self.args.should_save:
            self.ema.save(Path(output_dir or self.args.output_dir))
