# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The trainer of all stages: `transformers.Trainer` with a stage, an optimiser per module and whole checkpoints."""

import copy
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..data.encoding import EncodedStream, LaneSamples
from ..data.loss_weighting import WeightingCollator, sum_of_weights
from ..data.replacement import WithReplacements
from ..errors import NotAnswered, SailvitError
from .adapters.injection import (
    adapted_stage,
    adapter_configs,
    add_adapters,
    describe_all,
    load_adapters,
    refuse_conflicts,
    refuse_prepared,
    refuse_quantized_pieces,
)
from .arguments import RefinementArguments
from .callbacks import ModuleClipping, ModuleRates, ModuleTable, StageProgress
from .engine.contrastive import ContrastiveLoss, share_of_step
from .engine.optim import parameter_groups
from .launching import wants_fsdp
from .lineage import Lineage, StageRecord, describe_data, loss_summary, model_card, package_versions
from .monitoring import MEASURED, make_monitor
from .parents import describe_parent, find_lineage
from .processes import OrNothing, forget_evaluation, placed, refuse_other_shares
from .samples import DataPlace, by_index, encoded_dataset, raw_rows, stream_loader
from .saving.checkpoints import part_of_checkpoint
from .saving.damage import going_on
from .saving.data_state import DataState, Noting
from .saving.resuming import check_origin, load_weights
from .saving.safe_trainer import SafeTrainer
from .stages import MODULES, RefinementStage, get_stage, vision_tower_of

logger = logging.get_logger(__name__)

# The arguments that change the weights; the others (folders, logging, saving) stay out of the lineage.
_ARGUMENTS_THAT_MATTER = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "weight_decay",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "max_grad_norm",
    "clip_per_module",
    "freeze_vision_layers",
    "contrastive_loss",
    "contrastive_weight",
    "contrastive_temperature",
    "vision_tower_layer_decay",
    *(f"{module}_{what}" for what in ("warmup_steps", "weight_decay") for module in MODULES),
    "vision_tower_ema",
    "max_length",
    "packing",
    "max_tiles_per_pack",
    "packing_buffer",
    "loss_weighting",
    "overlong_samples",
    "max_image_tokens",
    "bf16",
    "fp16",
    "tf32",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "train_sampling_strategy",
    "dataloader_drop_last",
    "data_seed",
)


def settle_precision(model: nn.Module, autocast: bool) -> None:
    """Raise trainable parameters to fp32, so that AdamW's small updates are not lost in bf16's eight bits.

    Frozen parameters keep their dtype under autocast; without it the whole model becomes fp32, because layers of
    different dtypes could not be chained.
    """
    for parameter in model.parameters():
        if (
            parameter.is_floating_point()
            and parameter.element_size() < 4
            and (parameter.requires_grad or not autocast)
        ):
            parameter.data = parameter.data.float()


@contextmanager
def _no_shard_bars() -> Iterator[None]:
    """Silence the bar that transformers draws per saved file: it would cut through the progress line."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class RefinementTrainer(SafeTrainer):
    """Trains one stage of the refinement; see `RefinementArguments` for what can be set.

    Args:
        model: a vision-language model with `vision_tower`, `multi_modal_projector` and `language_model`. The stage
            decides which of its parameters are trainable; those become fp32.
        args: `RefinementArguments`; a copy is kept, with the stage's learning rate filled in.
        data_collator: defaults to `VisionLanguageCollator(processing_class)`.
        train_dataset: rows with `messages` and `images`, by index or as a stream (then `max_steps` says how long).
            Unusable samples are replaced by others, see `bad_sample_limit`. With a collator of your own it gets the
            rows as they are, and only a data set with a length replaces any.
        processing_class: the processor, saved with every checkpoint.
        stage: a `RefinementStage` or its key; defaults to the class's.
        lineage: of the model at its start; defaults to an empty one.
        data_source: where the data comes from, for the lineage.
        peft_config: adapters in the vision tower, the language model or both instead of their weights: a
            `peft.PeftConfig`, or one for each module by name. The connector trains as a whole. See docs/adapters.md.
        kwargs: the further arguments of `transformers.Trainer`.

    Raises:
        SailvitError: no stage, a model without the known modules, or arguments that contradict each other.
    """

    stage: RefinementStage  # a subclass may set it
    args: RefinementArguments
    optimizer: Any
    data_collator: Any

    def __init__(
        self,
        model: nn.Module,
        args: RefinementArguments,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        stage: RefinementStage | str | None = None,
        lineage: Lineage | None = None,
        data_source: str | None = None,
        peft_config: Any = None,
        **kwargs: Any,
    ) -> None:
        stage = stage or getattr(self, "stage", None)
        if stage is None:
            raise SailvitError(f"{type(self).__name__} needs a stage: pass stage='coarse', 'fine' or 'world'")
        self.stage = get_stage(stage)
        self.adapters = adapter_configs(peft_config, self.stage)
        self.stage = adapted_stage(self.stage, self.adapters)
        refuse_conflicts(args, self.adapters)
        refuse_prepared(model)
        self.lineage = lineage or Lineage()
        self.data_source = data_source
        self._data_description: dict[str, Any] | None = None
        self._asked_steps = args.max_steps
        self._resumed: str | None = None
        self._packs: Any = None
        self.data_state = DataState(self)
        self._replaced: dict[str, int] = {}
        self.learning_rates = args.module_learning_rates(self.stage)
        self.max_grad_norm = args.max_grad_norm
        self.stage.apply(model, args.freeze_vision_layers)
        add_adapters(model, self.adapters, args.seed)
        settle_precision(model, autocast=args.bf16 or args.fp16)
        if data_collator is None and processing_class is not None:
            from ..data.collator import VisionLanguageCollator

            data_collator = VisionLanguageCollator(
                processing_class, args.max_length, args.max_image_tokens, match_extension=args.match_image_extension
            )
            train_dataset = encoded_dataset(train_dataset, processing_class, args)
        elif by_index(train_dataset):
            train_dataset = WithReplacements(train_dataset, args.bad_sample_limit)
        super().__init__(
            model=model,
            args=self._resolve(args, model),
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        refuse_quantized_pieces(self)
        self.contrast: ContrastiveLoss | None = None
        if args.contrastive_loss != "none":
            self.contrast = ContrastiveLoss(model, args.contrastive_loss, args.contrastive_temperature)
        self._install_callbacks()
        self.add_callback(DataPlace(self.train_dataset))

    def _resolve(self, args: RefinementArguments, model: nn.Module) -> RefinementArguments:
        """A copy of the arguments as this run uses them."""
        refuse_other_shares(args)
        args = copy.copy(args)
        if args.ddp_find_unused_parameters is None and vision_tower_of(model) is not None:
            # The stage froze what is never used, and text-only batches see a blank picture: every batch uses all
            # that trains, which spares DDP a walk over the graph at every step.
            args.ddp_find_unused_parameters = False
        args.learning_rate = next(iter(self.learning_rates.values()))
        args.accelerator_config = copy.copy(args.accelerator_config)
        if args.accelerator_config.dispatch_batches is None:
            # Else accelerate cuts the batches of a stream, one piece a process, where pictures are no samples.
            args.accelerator_config.dispatch_batches = False
        if wants_fsdp(args):
            # Else every process keeps whole gradients between the micro-batches, and sums them in half precision.
            options = args.accelerator_config.gradient_accumulation_kwargs or {}
            args.accelerator_config.gradient_accumulation_kwargs = {"sync_each_batch": True, **options}
        if args.data_seed is None:
            args.data_seed = args.seed  # else the order of samples hangs on what happened to draw from torch before
        if args.clip_per_module:
            args.max_grad_norm = 0.0  # the Trainer's own clipping off: ModuleClipping does it
        return args

    def _install_callbacks(self) -> None:
        if self.args.packing:
            from .packing import PackingState

            self.add_callback(PackingState())
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.rates = ModuleRates()
        self.add_callback(self.rates)
        self.clipping: ModuleClipping | None = None
        if self.args.clip_per_module and self.max_grad_norm > 0:
            self.clipping = ModuleClipping(self.max_grad_norm)
            self.add_callback(self.clipping)
        self.monitor = make_monitor(self)
        if self.monitor is not None:
            self.add_callback(self.monitor)
        if not self.args.disable_tqdm:
            self.add_callback(ModuleTable(self.stage, self.learning_rates))
            self.add_callback(StageProgress(self.stage.title))

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
        *,
        weights_only: bool = False,
    ) -> Any:
        """Train the stage; see [`~transformers.Trainer.train`].

        Args:
            resume_from_checkpoint: a checkpoint of this run, or `True` for its last complete one. For one from
                elsewhere there is a warning: the state of the optimiser is stored as pickles.
            weights_only: take the weights of `resume_from_checkpoint` and nothing else, and begin the stage anew.

        Raises:
            SailvitError: a checkpoint from elsewhere has no weights as safetensors, or not those of this model; one
                is damaged.
        """
        if isinstance(resume_from_checkpoint, str | os.PathLike):
            if weights_only:
                folder, resume_from_checkpoint = resume_from_checkpoint, None
                if self.adapters:
                    raise SailvitError("weights_only=True does not go with adapters: make a trainer of that model")
                load_weights(self.model, folder)
                self.lineage = find_lineage(folder) or Lineage(self.lineage.name, {"model": describe_parent(folder)})
            else:
                check_origin(resume_from_checkpoint, self.args.output_dir)
        elif weights_only:
            raise SailvitError("weights_only=True needs the folder to read: name it in resume_from_checkpoint")
        self._resumed = resume_from_checkpoint = self.checkpoint_to_resume(resume_from_checkpoint)
        with going_on(self, resume_from_checkpoint):
            if resume_from_checkpoint:
                load_adapters(self.model, resume_from_checkpoint)
            if self.monitor is not None and resume_from_checkpoint:
                self.monitor.resume(resume_from_checkpoint)
            self.data_state.resume(None if self.args.ignore_data_skip else resume_from_checkpoint)
            forget_evaluation(self)
            result = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        self._count_replaced()
        return result

    def _count_replaced(self) -> None:
        """Log how many samples were replaced by others or left out of packs, over all processes."""
        if self._packs is None and not hasattr(self.train_dataset, "skipped"):
            return
        found = self.data_state.unreadable, self.data_state.overlong
        if self._packs is not None and self.is_world_process_zero():
            planned = self._packs.counts_after(self.state.global_step)  # all processes plan the same
            found = found[0] + planned["unreadable"], found[1] + planned["overlong"]
        counts = torch.tensor(found, device=self.args.device)
        unreadable, overlong = self.accelerator.reduce(counts, reduction="sum").tolist()
        self._replaced = {"skipped_samples": unreadable, "overlong_samples": overlong}
        # Not through `log`: the integrations have closed their files, and would begin new ones in their place.
        self.state.log_history.append({**self._replaced, "step": self.state.global_step})

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One optimiser whose groups are the stage's modules, each with its own rate, with and without decay."""
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        cls, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, model)
        makes_groups = {"params", "model", "optimizer_dict"} & set(options)
        if makes_groups or not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
            raise SailvitError(
                f"optim {self.args.optim!r} makes its own parameter groups: choose another, such as adamw_torch"
            )
        groups = parameter_groups(
            model, self.learning_rates, self.args.module_weight_decays(), self.args.vision_tower_layer_decay
        )
        self.optimizer = cls(groups, **options)
        return self.optimizer

    def get_train_dataloader(self) -> Any:
        """The training data loader, with `packing` one of packs; its batches tell the weights of their tokens.

        Nobody trains on a sample twice because the processes do not divide the data; a resumed run goes on without
        reading what it has seen, see `DataState`.
        """
        if self.args.packing:
            return self._packed_dataloader()
        collator: Any = self.data_collator
        samples = self.data_state.source(self.train_dataset)
        self.data_collator = Noting(WeightingCollator(OrNothing(collator), self.args.loss_weighting), samples)
        try:
            if isinstance(samples, LaneSamples):
                return stream_loader(samples, self)
            return placed(super().get_train_dataloader())
        finally:
            self.data_collator = collator

    def _packed_dataloader(self) -> Any:
        from .packing import attention_of, check_packable, packed_loader

        check_packable(self.model, self.accelerator.autocast)
        flatten = "flash" in attention_of(self.model)
        loader = packed_loader(self.train_dataset, self.args, flatten, self._asked_steps, self._resumed)
        # What an epoch of the Trainer is, the whole run, does not hang on num_train_epochs.
        self._packs = loader.batch_sampler
        loader.collate_fn = Noting(loader.collate_fn, self.data_state.source(loader.dataset))
        self.args.max_steps = self._packs.steps
        return loader

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The batches of one optimiser step, as the Trainer gets them; the monitor counts them and the wait."""
        epoch_iterator = self.data_state.follow(epoch_iterator)
        if self.monitor is not None:
            epoch_iterator = self.monitor.timed(epoch_iterator)
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.monitor is not None:
            self.monitor.count(batches)
        weights = sum_of_weights(batches)
        if weights is not None:
            # The weighted loss is a mean by weights, over the same micro-batches and processes as the count of tokens.
            items = weights.to(device)
            if self.args.world_size > 1:
                items = self.accelerator.gather(items).sum()
        return batches, items

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of the answers; in training plus that of `contrastive_loss`, if there is one."""
        if self.contrast is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        read = self.contrast.read(model, inputs)
        asked = {**inputs, "skip_logits": True} if self.args.chunked_loss and not return_outputs else inputs
        loss, outputs = super().compute_loss(model, asked, True, num_items_in_batch)
        own = self.contrast(read, inputs, outputs.get("image_hidden_states"))
        summed_up = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        loss = loss + self.args.contrastive_weight * share_of_step(
            own, self.args.world_size, self.current_gradient_accumulation_steps if summed_up else 1
        )
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Zero: the usual estimate counts text tokens only and walks over all parameters at every step."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with each module's learning rate (if they differ) and gradient norm, and what the monitor measured."""
        if "loss" in logs:
            warmups = {getattr(self.args, f"{module}_warmup_steps") for module in self.stage.trains}
            if len(set(self.learning_rates.values())) > 1 or warmups != {None}:
                logs.update({f"learning_rate/{module}": rate for module, rate in self.rates.used.items()})
            if self.contrast is not None:
                logs["contrastive_loss"] = self.contrast.take()
            if self.monitor is not None:
                logs.update(self.monitor.take(logs))
            if self.clipping is not None:
                logs.update({f"grad_norm/{module}": norm.item() for module, norm in self.clipping.norms.items()})
        super().log(logs, start_time)

    @property
    def history(self) -> list[dict[str, float]]:
        """The logged training steps so far, those before a resume included: step, loss, learning rate, ...

        What hangs on the machine is left out (speed, memory, ...): equal runs have equal histories.
        """
        entries = [entry for entry in self.state.log_history if "loss" in entry]
        return [{name: value for name, value in entry.items() if name not in MEASURED} for entry in entries]

    def current_lineage(self) -> Lineage:
        """The lineage of the model as it is now: that of its start, and this stage as far as it has come."""
        return self.lineage.with_stage(self._record()) if self.state.global_step else self.lineage

    @part_of_checkpoint
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a whole checkpoint: weights, config, code, processor, `README.md` and `refinement.json`.

        With `push_to_hub=True` it is then published, once everything is there.
        """
        token, self.args.hub_token = self.args.hub_token, None  # the arguments are written as they are
        try:
            with _no_shard_bars():
                super().save_model(output_dir, _internal_call=True)  # which does not push what is not yet whole
        finally:
            self.args.hub_token = token
        folder = Path(output_dir or self.args.output_dir)
        if folder.name.startswith(PREFIX_CHECKPOINT_DIR):
            self.data_state.save(folder)
        if self.args.should_save:
            lineage = self.current_lineage().save(folder)
            (folder / "README.md").write_text(model_card(lineage), encoding="utf-8")
            if self.monitor is not None and folder.name.startswith(PREFIX_CHECKPOINT_DIR):
                self.monitor.save(folder)
        if self.args.push_to_hub and not _internal_call:
            self._publish(output_dir or self.args.output_dir, None, None, self.args.hub_revision)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Find or make the repository; one that is public is an error, unless `hub_private_repo=False`."""
        from ..hub.remote import Remote

        if self.is_world_process_zero():
            name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
            self.hub_model_id, self.push_in_progress = name, None
            try:
                remote = Remote(name, token or self.args.hub_token)
                self.hub_model_id = remote.repo
                remote.open(self._private(private))
            except NotAnswered as error:
                logger.warning(f"{error}. Training begins all the same; it is pushed when it ends.")

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save to `output_dir` and publish that as `sailvit push` does, in one commit to `main` or `revision`.

        Args:
            commit_message: title of the commit; says the stages by default.
            blocking: always so; the push has ended when this returns.
            token: instead of `hub_token` and the one of `hf auth login`.
            revision: the branch, `hub_revision` by default.
            private: whether the repository is to be private, `hub_private_repo` by default.
            kwargs: what transformers would put into its own card; ours comes from the lineage.

        Returns:
            `Published` (see `sailvit_hf.hub.publish`); None in the processes that do not write.

        Raises:
            SailvitError: nothing was pushed; the sentence says why.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        return self._publish(self.args.output_dir, commit_message, token, revision or self.args.hub_revision, private)

    def _private(self, private: bool | None) -> bool:
        chosen = self.args.hub_private_repo if private is None else private
        return True if chosen is None else chosen

    def _publish(
        self, folder: str, message: str | None, token: str | None, branch: str | None, private: bool | None = None
    ) -> Any:
        if not self.is_world_process_zero():
            return None
        from ..hub.publish import publish_checkpoint

        published = publish_checkpoint(
            folder,
            self.hub_model_id,
            private=self._private(private),
            pull_request=False,
            branch=branch,
            message=message,
            token=token or self.args.hub_token,
        )
        logger.info(f"Pushed to {published.commit.repo}, commit {published.commit.oid}")
        return published

    def _record(self) -> StageRecord:
        args = self.args.to_dict()
        train_loss, final_loss = loss_summary(self.state.log_history)
        if self._data_description is None:
            self._data_description = describe_data(raw_rows(self.train_dataset), self.data_source)
        record = StageRecord(
            stage=self.stage.key,
            trains=self.stage.trains,
            learning_rates=self.learning_rates,
            arguments={
                **{name: args[name] for name in _ARGUMENTS_THAT_MATTER},
                "max_grad_norm": self.max_grad_norm,
                **({"adapters": describe_all(self.adapters)} if self.adapters else {}),
            },
            data={**self._data_description, **self._left_out()},
            steps=self.state.global_step,
            max_steps=self.state.max_steps,
            samples_seen=self._samples_seen(self._data_description["samples"]),
            train_loss=train_loss,
            final_loss=final_loss,
            seed=self.args.seed,
            versions=package_versions(),
            hardware=self._hardware(),
            start=self.lineage.as_start(),
            metrics=self._last_evaluation(),
        )
        return self._as_of_the_best(record)

    def _as_of_the_best(self, record: StageRecord) -> StageRecord:
        """The record once training has ended with the weights of the best checkpoint: how far that one had come."""
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        found = None if best is None or self.is_in_train or not Path(best).is_dir() else find_lineage(best)
        if found is None or not found.stages:
            return record
        facts = ("steps", "samples_seen", "train_loss", "final_loss", "metrics")
        return replace(record, **{name: getattr(found.stages[-1], name) for name in facts})

    def _left_out(self) -> dict[str, int]:
        counts = {**self._replaced, "nonfinite_steps": self.nonfinite.total}
        return {name: count for name, count in counts.items() if count}

    def _samples_seen(self, samples: int | None) -> int:
        """Steps times batch, but the last batch of an epoch may be short, and packs hold several."""
        if self._packs is not None:
            planned = self._packs.counts_after(self.state.global_step)
            # Of those that were packed by their headers some could not be read, once all is counted.
            unread = sum(self._replaced.values()) - planned["unreadable"] - planned["overlong"]
            return int(planned["samples"]) - (unread if self._replaced else 0)
        if isinstance(self.train_dataset, EncodedStream) and not self.args.ignore_data_skip:
            return self.data_state.samples  # a run that went on may have had steps of another size
        batch = self.get_total_train_batch_size(self.args)
        if not samples or self.args.dataloader_drop_last:
            return self.state.global_step * batch
        epochs, steps = divmod(self.state.global_step, -(-samples // batch))
        return epochs * samples + min(samples, steps * batch)

    def _last_evaluation(self) -> dict[str, Any]:
        """The Trainer's own evaluation, if it was asked for one, as `eval_*` without what hangs on the machine."""
        times = ("runtime", "per_second")
        for entry in reversed(self.state.log_history):
            found = {name: value for name, value in entry.items() if name.startswith("eval_")}
            if found:
                return {name: value for name, value in found.items() if not name.endswith(times)}
        return {}

    def _hardware(self) -> dict[str, Any]:
        device = self.args.device
        hardware = {"device": device.type, "name": platform.machine(), "processes": self.args.world_size}
        if device.type == "cuda":
            hardware |= {"name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        return hardware
