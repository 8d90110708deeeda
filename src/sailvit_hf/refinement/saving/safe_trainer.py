# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The trainer that never loses work: complete checkpoints, and failures that are survived; see docs/faults.md.

At the end of each optimiser step, and after each batch of an evaluation between two steps, all processes agree, in one
small collective, on what only some of them may know: that a signal came, and that a loss or gradient is no number. So
all skip the same steps, and all save at the same one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, save_fsdp_optimizer
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ...errors import Preempted, SailvitError
from ..arguments import RefinementArguments
from ..engine.engine_trainer import EngineTrainer
from ..lineage import StageRecord
from ..stages import RefinementStage
from .checkpoints import (
    DRAFTS,
    MARKER,
    check_complete,
    check_resumable,
    could_not_write,
    last_complete_checkpoint,
    mark,
    numbered,
    publish,
    reason_of,
    rotate,
    set_later_aside,
    settle_drafts,
)
from .damage import damage_told
from .interruption import Watch, watched
from .nonfinite import WINDOW, NonFiniteSteps, weights_are_finite

logger = logging.get_logger(__name__)
_DIVERGED = (
    "for weights are no numbers any more: lower the learning rate or lengthen the warm-up, and begin the stage in "
    "another output_dir; the checkpoints hold the weights from before"
)


def account(record: StageRecord) -> str:
    """What a finished stage has seen, and what it left out, in one sentence."""
    left_out = {
        "skipped_samples": "samples could not be read",
        "overlong_samples": "samples were too long",
        "nonfinite_steps": "steps without a finite loss and gradients",
    }
    counts = [f"{record.data[name]:,} {what}" for name, what in left_out.items() if record.data.get(name)]
    seen = f"Stage {record.stage}: {record.steps:,} steps, {record.samples_seen:,} samples seen"
    return f"{seen}; left out: {', '.join(counts)}" if counts else f"{seen}, none left out"


class _StepEnd(TrainerCallback):
    """What all processes agree on at the end of a step, or in an evaluation after it, and what follows from it."""

    def __init__(self, trainer: "SafeTrainer") -> None:
        self.trainer = trainer
        self.stopping = False
        self.between_steps = False  # the step is whole, and no batch of the next one was taken
        self.was_done = False  # resumed from its last step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.stopping = self.between_steps = False
        self.was_done = state.global_step >= state.max_steps
        control.should_training_stop = control.should_training_stop or self.was_done
        # `restore_callback_states_from_checkpoint` puts others in the place of those that were added.
        callbacks = self.trainer.callback_handler.callbacks
        self.trainer.nonfinite = next(each for each in callbacks if isinstance(each, NonFiniteSteps))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.between_steps = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.stopping = self.trainer.agree_on_step(kwargs["optimizer"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.between_steps = True
        if self.stopping and state.global_step < state.max_steps:
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False  # there may be seconds left

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.between_steps and not self.stopping:
            self.trainer.save_before_evaluation_ends()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stopping and state.global_step < state.max_steps:
            control.should_save = control.should_evaluate = False  # it was saved when the step ended
            args.load_best_model_at_end = False  # for nobody: the run ends, and may have seconds for it
        evaluated = (entry for entry in state.log_history if any(name.startswith("eval_") for name in entry))
        if self.was_done and any(entry["step"] == state.global_step for entry in evaluated):
            control.should_save = control.should_evaluate = False  # neither is done again


class SafeTrainer(EngineTrainer):
    """`EngineTrainer` whose checkpoints are complete or invisible, and that survives what is no fault of the run.

    Signals to stop end the training with `Preempted`, after a checkpoint; steps whose loss or gradients are no numbers
    are left out, up to `nonfinite_limit`.
    """

    stage: RefinementStage
    is_saving = False
    saved_step = -1
    save_error: BaseException | None = None

    def __init__(self, model: nn.Module, args: RefinementArguments, **kwargs: Any) -> None:
        super().__init__(model=model, args=args, **kwargs)
        self.nonfinite = NonFiniteSteps(args.nonfinite_limit)
        self._step_end = _StepEnd(self)
        self._watch = Watch()
        self._given: dict[str, Any] = {}  # arguments that have another value just now
        self._trial: Any = None
        self.add_callback(self.nonfinite)
        self.add_callback(self._step_end)

    # --- the end of a step -----------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None, *args: Any, **kwargs: Any) -> Any:
        """See [`~transformers.Trainer.train`].

        Raises:
            Preempted: SIGTERM or SIGUSR1 came, and the training was saved before its end.
        """
        self._trial, self.saved_step = trial, -1
        with self._own_rotation(), watched() as self._watch, self._watch.until_the_step_ends():
            result = super().train(resume_from_checkpoint, trial, *args, **kwargs)
        if self._step_end.stopping and self.state.global_step < self.state.max_steps:
            saved = last_complete_checkpoint(self.args.output_dir)
            place = "nothing could be saved" if saved is None else f"{saved} is complete"
            raise Preempted(
                f"{self._watch.asked or 'a signal to another process'} came: training ended at step "
                f"{self.state.global_step} of {self.state.max_steps}, and {place}; resume the run"
            )
        return result

    @contextmanager
    def _own_rotation(self) -> Iterator[None]:
        """Keep `save_total_limit` from the Trainer, which ends by removing all but the best checkpoint if it is 1.

        The newest would be gone: after a signal the one to go on from, and at the end of a stage the one that has its
        last step, before the stage's model is saved.
        """
        self._given = {name: getattr(self.args, name) for name in ("save_total_limit", "load_best_model_at_end")}
        self.args.save_total_limit = None
        try:
            yield
        finally:
            for name, value in self._given.items():
                setattr(self.args, name, value)
            self._given, self._step_end.between_steps = {}, False

    def save_before_evaluation_ends(self) -> None:
        """Save the step before an evaluation at once if a signal came: the evaluation may last longer than is left.

        It goes on after that, and the run ends with the next step. All processes take equally many batches, for they
        gather the losses of each; only with batches that are not even they might not, and nothing is done here.
        """
        if self.saved_step == self.state.global_step or self.args.accelerator_config.even_batches is False:
            return
        signals = int(self._watch.asked is not None)
        if self.args.world_size > 1:
            signals = int(self.accelerator.reduce(torch.tensor(signals, device=self.args.device), reduction="sum"))
        if signals:
            if self.is_world_process_zero():
                logger.warning(
                    f"{self._watch.asked or 'A signal to another process'} came during an evaluation: step "
                    f"{self.state.global_step} is saved now, and the training ends with the next one."
                )
            self._save_checkpoint(self.model_wrapped, self._trial)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The Trainer's, kept for the end of the step; by then clipping has made zeros of what was too large.

        A private method of the Trainer: no public hook is told the norm before the optimiser's step.
        """
        self.nonfinite.norm = super()._get_grad_norm(model, grad_norm)
        return self.nonfinite.norm

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The Trainer's, and nothing after the last step: resumed from there, the Trainer would make one more."""
        if self._step_end.was_done:
            return [], None
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """The Trainer's, with a loss of zero for the log's mean where it is no number."""
        return self.nonfinite.seen(inputs, super().training_step(model, inputs, num_items_in_batch))

    def agree_on_step(self, optimizer: Any) -> bool:
        """Before the optimiser's step: leave it out if any process found that it must be, and tell of a signal.

        DeepSpeed has made the step by then, so nothing can be left out; the gradients under fp16 are the affair of its
        scaler, which leaves out steps as a matter of course.

        Raises:
            SailvitError: more steps than `nonfinite_limit` would be left out; the batch was saved. Or weights are no
                numbers themselves, and no step to come would be better.
        """
        with_gradients = self.accelerator.scaler is None and not self.is_deepspeed_enabled
        counts = self.nonfinite.counts(optimizer, with_gradients)
        counts = torch.cat([counts, counts.new_tensor([self._watch.asked is not None])])
        micro_batches, bad, infinite, signals = self.accelerator.reduce(counts, reduction="sum").tolist()
        self.nonfinite.count(micro_batches, bad)
        if bad or infinite:
            self._leave_out(optimizer, bad, here=bool(counts[1] or counts[2] and not bad))
        self.nonfinite.end()
        return bool(signals)

    def _leave_out(self, optimizer: Any, bad: int, here: bool) -> None:
        step = self.state.global_step + 1
        what = f"the loss of stage {self.stage.key!r} is {self.nonfinite.what(bad)} at step {step}"
        if not self._none(not weights_are_finite(self.model)):
            raise SailvitError(f"{what}, {_DIVERGED}")
        if self.nonfinite.skip(step) and not self.is_deepspeed_enabled:
            if self.accelerator.scaler is None:  # which leaves the step out itself, and must see why
                optimizer.zero_grad(set_to_none=True)  # the optimiser passes over parameters without gradients
            if here or self.is_world_process_zero():
                logger.warning(f"{what}: the step is left out, the {self.nonfinite.total}. of this stage")
            return
        file = None
        if here:
            facts = {"stage": self.stage.key, "step": step, "process": self.args.process_index}
            name = f"step-{step}-process-{self.args.process_index}"
            file = self.nonfinite.save(Path(self.args.output_dir), name, self.model, facts)
        of = f"the {len(self.nonfinite.recent)}. such step of {WINDOW}"
        batch = "another process saved its batch" if file is None else f"its batch is saved in {file}"
        raise SailvitError(
            f"{what}, {of}: lower the learning rate, lengthen the warm-up or look at the samples ({batch}); the last "
            "checkpoint is intact"
        )

    def _none(self, here: bool) -> bool:
        """Whether something holds in no process; all of them wait for each other here."""
        found = torch.tensor(int(here), device=self.args.device)
        return not int(self.accelerator.reduce(found, reduction="sum"))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """See [`~transformers.Trainer.log`]; steps that were left out are counted, and do not count for the loss."""
        super().log(self.nonfinite.corrected(logs) if "loss" in logs else logs, start_time)

    # --- checkpoints ---------------------------------------------------------------------------------------------

    @contextmanager
    def _saving_to(self, folder: Path) -> Iterator[None]:
        """Let the Trainer write its checkpoint into another folder."""
        self._given["output_dir"] = self.args.output_dir
        self.args.output_dir, self.is_saving, self.save_error = str(folder), True, None
        try:
            yield
        finally:
            self.args.output_dir, self.is_saving = self._given.pop("output_dir"), False

    @contextmanager
    def given_arguments(self) -> Iterator[None]:
        """While the model is saved the arguments, which are written too, are those that were given."""
        present = {name: getattr(self.args, name) for name in self._given}
        try:
            for name, value in self._given.items():
                setattr(self.args, name, value)
            yield
        finally:
            for name, value in present.items():
                setattr(self.args, name, value)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint as a draft, which gets its name once all processes have written their part.

        A private method of the Trainer is overridden here (TRL overrides it, too): no public hook lies
        between "the checkpoint is to be written" and "it can be seen". A checkpoint that cannot be written is told,
        removed, and tried again at the next save; training goes on.

        Raises:
            SailvitError: weights are no numbers any more; checkpoints from before would make room for them.
        """
        if not self._none(not weights_are_finite(self.model)):
            step = f"step {self.state.global_step} of stage {self.stage.key!r}"
            raise SailvitError(f"{step} cannot be saved, {_DIVERGED}")
        run_dir, best_before = Path(self._get_output_dir(trial)), self.state.best_model_checkpoint
        drafts = Path(self.args.output_dir) / DRAFTS
        if self.args.should_save:
            settle_drafts(Path(self.args.output_dir))
        self.accelerator.wait_for_everyone()
        with self._saving_to(drafts):
            draft = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            try:
                super()._save_checkpoint(model, trial)
            except Exception as error:
                if not could_not_write(error):
                    raise
                self.save_error = self.save_error or error
        folder = run_dir / draft.name
        best = folder.with_name(f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
        if best == folder or best.is_dir():  # each process loads it at the end
            self.state.best_model_checkpoint = str(best)
        if self._all_saved() and self.args.should_save:
            try:
                self._finish_checkpoint(draft, folder)
            except OSError as error:
                self.save_error = error
        if self._all_saved():
            self.saved_step = self.state.global_step
        else:
            self.state.best_model_checkpoint = best_before
            self._give_up_checkpoint(draft)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """The Trainer's, without FSDP's own copy of the weights, which `fit_checkpoint` makes of the safetensors.

        Also, all that the processes do together is done before the first one writes: if it cannot, none waits for it.
        """
        if not self.is_fsdp_enabled or self.args.load_best_model_at_end:  # for which the copy is read
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_fsdp_optimizer(
            self.accelerator.state.fsdp_plugin, self.accelerator, self.optimizer, self.model, output_dir
        )
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER_NAME))

    def _all_saved(self) -> bool:
        """Whether no process failed to write."""
        return self._none(self.save_error is not None)

    def _finish_checkpoint(self, draft: Path, folder: Path) -> None:
        if self.state.best_model_checkpoint is not None:  # the Trainer looked for it among the drafts
            self.state.save_to_json(str(draft / TRAINER_STATE_NAME))
        mark(draft, self.state.global_step, self.args.world_size)
        publish(draft, folder)
        settle_drafts(Path(self.args.output_dir))
        limit = self._given.get("save_total_limit", self.args.save_total_limit)
        rotate(folder.parent, limit, (folder, self.state.best_model_checkpoint))

    def _give_up_checkpoint(self, draft: Path) -> None:
        if self.args.should_save:
            (draft / MARKER).unlink(missing_ok=True)
            settle_drafts(Path(self.args.output_dir))
        if self.save_error is not None:
            logger.warning(
                f"The checkpoint of step {self.state.global_step} could not be written "
                f"({reason_of(self.save_error)}): training goes on, and the next save tries again."
            )

    def checkpoint_to_resume(self, asked: Any) -> str | None:
        """The folder that is meant by `resume_from_checkpoint`, checked; `True` means the last complete one.

        Going back to an earlier checkpoint of the run sets its later ones aside.

        Raises:
            SailvitError: there is none, or it cannot be gone on from.
        """
        if not asked:
            return None
        found, problem = None, None
        if self.args.process_index == 0:
            try:
                found = self._last_checkpoint() if asked is True else self._named_checkpoint(Path(asked))
                check_resumable(found)
            except SailvitError as error:
                problem = str(error)
        # The first process chooses: on a network's file system another may not see the newest folder yet.
        found, problem = broadcast_object_list([None if found is None else str(found), problem])
        if problem is not None:
            raise SailvitError(problem)
        return str(found)

    def _last_checkpoint(self) -> Path:
        output_dir = Path(self.args.output_dir)
        settle_drafts(output_dir)
        found = last_complete_checkpoint(output_dir)
        if found is None:
            raise SailvitError(f"there is no complete checkpoint in {output_dir}: start without resuming")
        return found

    def _named_checkpoint(self, folder: Path) -> Path:
        output_dir = Path(self.args.output_dir)
        check_complete(folder)
        check_resumable(folder)
        if not folder.resolve().is_relative_to(output_dir.resolve()):
            return folder
        settle_drafts(output_dir)  # a later one may be among them
        try:
            with damage_told(folder):
                aside = set_later_aside(output_dir, folder)
        except OSError as error:
            raise SailvitError(
                f"the checkpoints that are later than {folder} could not be set aside ({reason_of(error)}): move them"
            ) from error
        if aside is not None:
            names = ", ".join(path.name for _, path in numbered(aside))
            logger.warning(
                f"The run goes back to {folder}, and its later checkpoints are set aside in {aside}: {names}. They "
                "are whole, and no resume takes them unless it names them."
            )
        return folder
