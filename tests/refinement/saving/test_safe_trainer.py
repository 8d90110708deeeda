# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A full disk, a signal, a loss that is no number: what the trainer survives, and how it ends where it cannot."""

import errno
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import TrainerCallback

from sailvit_hf.errors import Preempted, SailvitError
from sailvit_hf.refinement import RefinementArguments, WorldKnowledgeTrainer
from sailvit_hf.refinement.saving.checkpoints import last_complete_checkpoint
from sailvit_hf.refinement.saving.interruption import SIGNALS, watched
from sailvit_hf.refinement.saving.safe_trainer import account

from ..tiny import tiny_model, tiny_samples, tiny_trainer, weights

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def announcements(monkeypatch):
    monkeypatch.setattr(logging.getLogger("sailvit_hf"), "propagate", True)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


class At(TrainerCallback):
    """Do something once a number of steps is done."""

    def __init__(self, step, what):
        self.step, self.what = step, what

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.what()


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


# --- a full disk -----------------------------------------------------------------------------------------------------


def no_room(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def no_room_for_tensors(*_args, **_kwargs):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def no_room_in_torch(*_args, **_kwargs):
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


@pytest.mark.parametrize(
    ("place", "error", "said"),
    [
        ("transformers.modeling_utils.safe_save_file", no_room_for_tensors, "No space left on device"),
        ("torch.save", no_room_in_torch, "torch could not write to its end"),
        ("pathlib.Path.write_text", no_room, "No space left on device"),
        ("sailvit_hf.refinement.saving.checkpoints.on_disk", no_room, "No space left on device"),
    ],
)
def test_a_checkpoint_that_finds_no_room_is_tried_again(place, error, said, tmp_path, monkeypatch, caplog):
    """Step 1 saves, step 2 finds no room, step 3 saves; the weights are those of a run without the fault."""
    trainer = tiny_trainer(tmp_path / "run", save_strategy="steps", save_steps=1, max_steps=3)
    patch = pytest.MonkeyPatch()
    seen = []

    class Fault(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 1:
                patch.setattr(place, error)

        def on_save(self, args, state, control, **kwargs):
            patch.undo()
            seen.append((state.global_step, names(tmp_path / "run")))

    trainer.add_callback(Fault())
    trainer.train()
    assert seen[0][1] == seen[1][1] == ["checkpoint-1"]
    assert seen[2][1] == ["checkpoint-1", "checkpoint-3"]
    (warning,) = [record.getMessage() for record in caplog.records if "could not be written" in record.getMessage()]
    assert "checkpoint of step 2" in warning and said in warning and "the next save tries again" in warning
    clean = tiny_trainer(tmp_path / "clean", max_steps=3)
    clean.train()
    assert_equal(weights(trainer.model), weights(clean.model))


def test_the_end_of_a_stage_that_finds_no_room_is_an_error(tmp_path, monkeypatch):
    trainer = tiny_trainer(tmp_path / "run", max_steps=1)
    trainer.train()
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", no_room_for_tensors)
    with pytest.raises(SailvitError, match=r"final could not be written \(.*No space left.*\): make room"):
        trainer.save_model(str(tmp_path / "final"))


def test_other_errors_while_saving_are_not_hidden(tmp_path, monkeypatch):
    def mistake(*_args, **_kwargs):
        raise RuntimeError("a mistake")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", mistake)
    with pytest.raises(RuntimeError, match="a mistake"):
        tiny_trainer(tmp_path, save_strategy="steps", save_steps=1).train()


FULL_DISK = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from tests.refinement.tiny import tiny_trainer
folder, how = Path(sys.argv[1]), sys.argv[2]
trainer = tiny_trainer(folder, save_strategy="steps", save_steps=1, max_steps=3, save_total_limit=1)
filler = folder / "filler"

class Disk(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 1 and how == "fill":
            free = os.statvfs(folder)
            filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 30_000))
        if state.global_step == 1 and how == "limit":
            import resource
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    def on_save(self, args, state, control, **kwargs):
        print(state.global_step, sorted(path.name for path in folder.glob("checkpoint-*")), flush=True)
        filler.unlink(missing_ok=True)
        if how == "limit":
            import resource
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

trainer.add_callback(Disk())
trainer.train()
"""


def fill(folder, how):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder), how],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["1 ['checkpoint-1']", "2 ['checkpoint-1']", "3 ['checkpoint-3']"]
    assert "The checkpoint of step 2 could not be written" in done.stderr
    assert not (folder / ".saving").exists()


def test_files_that_must_not_grow(tmp_path):
    """Real writes that fail in the middle, in safetensors and torch."""
    fill(tmp_path, "limit")


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine mounts no file systems")
    try:
        fill(disk, "fill")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("strategy", ["no", "epoch"])
def test_a_signal_saves_and_the_run_goes_on_as_if_it_had_not_come(number, strategy, tmp_path):
    before = [signal.getsignal(known) for known in SIGNALS]
    options = {"save_strategy": strategy, "max_steps": 4, "lr_scheduler_type": "cosine"}
    clean = tiny_trainer(tmp_path / "clean", **options)
    clean.train()
    trainer = tiny_trainer(tmp_path / "run", **options)
    trainer.add_callback(At(1, lambda: os.kill(os.getpid(), number)))
    with pytest.raises(Preempted, match=f"{number.name} came: training ended at step 2 of 4, and .*checkpoint-2"):
        trainer.train()
    assert [signal.getsignal(known) for known in SIGNALS] == before
    assert names(tmp_path / "run") == ["checkpoint-2"]
    again = tiny_trainer(tmp_path / "run", **options)
    again.train(resume_from_checkpoint=True)
    assert_equal(weights(again.model), weights(clean.model))
    assert again.history == clean.history


def test_a_signal_at_the_last_step_changes_nothing(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=2)
    trainer.add_callback(At(1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert trainer.train().global_step == 2


def test_a_signal_where_nothing_trains_stops_at_once(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match="SIGTERM came between two steps of the run"), watched():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:  # as a reader of broken pictures does
            pytest.fail("taken for something else")
        pytest.fail("went on")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_during_a_training_that_ends_is_found_afterwards(tmp_path):
    with pytest.raises(Preempted), watched() as watch:
        trainer = tiny_trainer(tmp_path, max_steps=2)
        trainer.add_callback(At(2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        trainer.train()
        assert watch.asked == "SIGTERM"
        watch.check()


def _sleep(_):
    time.sleep(60)


def test_a_pool_inside_ends_its_workers():
    """They are forked with our handler, and a pool ends them by the signal and waits."""
    start = time.monotonic()
    with watched(), multiprocessing.get_context("fork").Pool(1) as pool:
        pool.map_async(_sleep, range(4))
        time.sleep(0.5)
    assert time.monotonic() - start < 30


def test_just_in_time_checkpoints_of_transformers_are_refused(tmp_path):
    with pytest.raises(SailvitError, match="enable_jit_checkpoint is not needed"):
        RefinementArguments(output_dir=str(tmp_path), use_cpu=True, enable_jit_checkpoint=True)


@pytest.mark.parametrize("option", ["save_only_model", "save_on_each_node"])
def test_what_leaves_nothing_to_go_on_from_is_refused(option, tmp_path):
    with pytest.raises(SailvitError, match=f"^{option} .*: remove it"):
        RefinementArguments(output_dir=str(tmp_path), use_cpu=True, **{option: True})


class Evaluated(WorldKnowledgeTrainer):
    """Evaluates on eight samples, one a batch, and finds its first loss the best."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, eval_dataset=tiny_samples(8))

    def evaluate(self, *args, **kwargs):
        metrics = super().evaluate(*args, **kwargs)
        metrics["eval_loss"] = 1.0 + self.state.global_step
        return metrics


EVALUATED = {
    "cls": Evaluated, "max_steps": 6, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps",
    "eval_steps": 2, "per_device_eval_batch_size": 1,
}  # fmt: skip


@pytest.mark.parametrize("best", [{"load_best_model_at_end": True}, {"metric_for_best_model": "loss"}])
def test_the_newest_checkpoint_stays_beside_the_best(best, tmp_path):
    """The Trainer ends with the best one alone if only one is to stay, after a signal, too."""
    options = {**EVALUATED, **best, "save_total_limit": 1}
    trainer = tiny_trainer(tmp_path / "run", **options)
    trainer.add_callback(At(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    ends = {name: tensor.clone() for name, tensor in weights(trainer.model).items()}
    trainer.add_callback(At(5, lambda: ends.update(weights(trainer.model))))
    with pytest.raises(Preempted, match="ended at step 5 of 6, and .*checkpoint-5 is complete"):
        trainer.train()
    assert names(tmp_path / "run") == ["checkpoint-2", "checkpoint-5"]
    assert_equal(weights(trainer.model), ends)  # the best one is not loaded for a run that ends
    assert trainer.args.save_total_limit == 1
    assert trainer.args.load_best_model_at_end is best.get("load_best_model_at_end", False)
    saved = torch.load(tmp_path / "run" / "checkpoint-5" / "training_args.bin", weights_only=False)
    assert (saved.save_total_limit, saved.output_dir) == (1, str(tmp_path / "run"))
    tiny_trainer(tmp_path / "run", **options).train(resume_from_checkpoint=True)
    assert names(tmp_path / "run") == ["checkpoint-2", "checkpoint-6"]
    clean = tiny_trainer(tmp_path / "clean", **{**options, "load_best_model_at_end": False})
    clean.train()
    last = load_file(tmp_path / "run" / "checkpoint-6" / "model.safetensors")
    assert all(torch.equal(weights(clean.model)[name], tensor) for name, tensor in last.items())


@pytest.mark.parametrize("length", [{"max_steps": 4}, {"max_steps": -1, "num_train_epochs": 1.0}])
def test_a_run_that_had_made_its_last_step_makes_none(length, tmp_path):
    """Killed between its last checkpoint and the saving of the stage; the Trainer by itself would make one more."""
    options = {**EVALUATED, **length, "lr_scheduler_type": "constant", "save_strategy": "epoch"}
    options |= {"eval_strategy": "epoch"}
    whole = tiny_trainer(tmp_path, **options)
    whole.train()
    again = tiny_trainer(tmp_path, **options)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == whole.state.global_step == length["max_steps"] % 9
    assert_equal(weights(again.model), weights(whole.model))
    assert again.history == whole.history
    evaluated = [entry["step"] for entry in again.state.log_history if "eval_loss" in entry]
    assert evaluated == [again.state.global_step]


class Gone(BaseException):
    """The process is killed."""


class InEvaluation(TrainerCallback):
    """A signal at the first batch of the evaluation after a step, and the end of the process some batches later."""

    def __init__(self, step, batches=None):
        self.step, self.batches, self.seen = step, batches, 0

    def on_prediction_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.seen += 1
            if self.seen == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            if self.seen == self.batches:
                raise Gone


def test_a_signal_in_an_evaluation_saves_before_its_end(tmp_path, caplog):
    """The grace is shorter than the evaluation: nothing but the evaluation is lost."""
    options = {**EVALUATED, "save_strategy": "no", "lr_scheduler_type": "cosine"}
    clean = tiny_trainer(tmp_path / "clean", tiny_model(dropout=0.1), **options)
    clean.train()
    trainer = tiny_trainer(tmp_path / "run", tiny_model(dropout=0.1), **options)
    trainer.add_callback(InEvaluation(4, batches=4))
    with pytest.raises(Gone):
        trainer.train()
    assert "SIGTERM came during an evaluation: step 4 is saved now" in caplog.text
    assert names(tmp_path / "run") == ["checkpoint-4"]
    again = tiny_trainer(tmp_path / "run", tiny_model(1, dropout=0.1), **options)
    again.train(resume_from_checkpoint=True)
    assert_equal(weights(again.model), weights(clean.model))
    assert again.history == clean.history
    evaluated = [[entry["step"] for entry in t.state.log_history if "eval_loss" in entry] for t in (again, clean)]
    assert evaluated == [[2, 6], [2, 4, 6]]


def test_an_evaluation_that_has_the_time_ends_first(tmp_path):
    trainer = tiny_trainer(tmp_path, **EVALUATED, metric_for_best_model="loss")
    trainer.add_callback(InEvaluation(2))
    saves = []
    save = trainer._save_checkpoint
    trainer._save_checkpoint = lambda *args: (saves.append(trainer.state.global_step), save(*args))
    with pytest.raises(Preempted, match="ended at step 3 of 6, and .*checkpoint-3 is complete"):
        trainer.train()
    assert saves == [2, 2, 3]  # at once, once more with what the evaluation found, and the step of the end
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["best_metric"] == 3.0 and state["best_global_step"] == 2
    assert [entry["step"] for entry in state["log_history"] if "eval_loss" in entry] == [2]


def test_an_evaluation_within_a_step_saves_nothing(tmp_path):
    """Batches of the step were taken, so a checkpoint would not know its place in the data."""
    trainer = tiny_trainer(tmp_path, **{**EVALUATED, "eval_strategy": "no", "save_strategy": "no"})

    class Within(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                trainer.evaluate()
                assert not list(tmp_path.glob("checkpoint-*"))

    trainer.add_callback(Within())
    trainer.add_callback(InEvaluation(2))
    with pytest.raises(Preempted, match="ended at step 3 of 6"):
        trainer.train()
    assert names(tmp_path) == ["checkpoint-3"]


# --- what is no number -----------------------------------------------------------------------------------------------


def poisoned(bad, size=32):
    samples = tiny_samples(size)
    for index in bad:
        samples[index]["pixels"] = samples[index]["pixels"] * float("nan")
    return samples


SEQUENTIAL = {"train_sampling_strategy": "sequential", "max_steps": 4}


@pytest.mark.parametrize("clip", [True, False])
def test_a_step_without_a_number_is_left_out(clip, tmp_path, caplog):
    """The second step of four has a NaN: the weights after it are those after the first, moments included."""
    seen = {}
    trainer = tiny_trainer(
        tmp_path, samples=poisoned([5]), save_strategy="steps", save_steps=1, clip_per_module=clip, **SEQUENTIAL
    )

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
            moments = {str(i): s["exp_avg"].clone() for i, s in optimizer.state_dict()["state"].items()}
            seen[state.global_step] = weights(model) | moments

    trainer.add_callback(Look())
    trainer.train()
    assert_equal(seen[1], seen[2])
    assert not torch.equal(seen[2]["0"], seen[3]["0"])
    assert "the loss of stage 'world' is nan at step 2: the step is left out, the 1. of this stage" in caplog.text
    losses = [(entry["step"], entry.get("nonfinite_steps")) for entry in trainer.state.log_history if "loss" in entry]
    assert losses == [(1, None), (3, 1), (4, 1)]
    left_out = next(entry for entry in trainer.state.log_history if entry["step"] == 2)
    assert left_out["nonfinite_steps"] == 1 and "grad_norm" not in left_out
    assert "NaN" not in (tmp_path / "checkpoint-4" / "trainer_state.json").read_text()
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert state["NonFiniteSteps"]["attributes"] == {"total": 1, "recent": [2]}


def test_the_account_of_a_stage(tmp_path):
    trainer = tiny_trainer(tmp_path, samples=poisoned([5]), **SEQUENTIAL)
    trainer.train()
    record = trainer.current_lineage().stages[-1]
    assert record.data["nonfinite_steps"] == 1
    seen = "Stage world: 4 steps, 16 samples seen"
    assert account(record) == f"{seen}; left out: 1 steps without a finite loss and gradients"
    del record.data["nonfinite_steps"]
    assert account(record) == f"{seen}, none left out"


def test_the_logged_loss_is_the_mean_of_what_is_a_number(tmp_path):
    """Log entries of two steps; samples 8 to 11 are the third step."""
    plain = tiny_trainer(tmp_path / "plain", learning_rate=1e-30, logging_steps=1, **SEQUENTIAL)
    plain.train()
    bad = tiny_trainer(tmp_path / "bad", samples=poisoned([9]), learning_rate=1e-30, logging_steps=2, **SEQUENTIAL)
    bad.train()
    one, two, _, four = (entry["loss"] for entry in plain.history)
    assert [entry["loss"] for entry in bad.history] == pytest.approx([(one + two) / 2, four], abs=1e-5)


def test_gradients_alone_are_enough(tmp_path, caplog):
    trainer = tiny_trainer(tmp_path, **SEQUENTIAL)
    weight = next(p for p in trainer.model.parameters() if p.requires_grad)
    weight.register_hook(lambda gradient: gradient * float("inf") if trainer.state.global_step == 1 else gradient)
    trainer.train()
    assert "is finite, but its gradients are not at step 2: the step is left out" in caplog.text
    assert all(torch.isfinite(tensor).all() for tensor in trainer.model.parameters())


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_finite_gradients_whose_norm_overflows_are_not_clipped_to_zero(clip, tmp_path, caplog):
    """Adam would go on by its moments, without a word."""
    trainer = tiny_trainer(tmp_path, max_grad_norm=clip, **SEQUENTIAL)
    weight = next(p for p in trainer.model.parameters() if p.requires_grad)
    weight.register_hook(lambda grad: torch.full_like(grad, 1e30) if trainer.state.global_step == 1 else grad)
    seen = {}
    for step in (1, 2):
        trainer.add_callback(At(step, lambda step=step: seen.update({step: weights(trainer.model)})))
    trainer.train()
    assert_equal(seen[1], seen[2])
    assert trainer.nonfinite.recent == [2] and trainer.nonfinite.norm is None
    assert "is finite, but its gradients are not at step 2: the step is left out" in caplog.text
    assert [entry["step"] for entry in trainer.state.log_history if "grad_norm" in entry] == [1, 3, 4]


def test_past_the_limit_the_batch_is_saved(tmp_path):
    trainer = tiny_trainer(tmp_path, samples=poisoned([1, 5, 13]), nonfinite_limit=1, **SEQUENTIAL)
    with pytest.raises(SailvitError, match=r"nan at step 2, the 2\. such step of 100: .*its batch is saved in"):
        trainer.train()
    found = load_file(tmp_path / "nonfinite" / "step-2-process-0.safetensors")
    batch = trainer.data_collator(trainer.train_dataset.dataset[4:8])
    assert torch.equal(found["0.input_ids"], batch["input_ids"])
    assert torch.equal(found["0.pixel_values"].isnan().any(dim=(1, 2, 3)), torch.tensor([False, True, False, False]))
    facts = json.loads((tmp_path / "nonfinite" / "step-2-process-0.json").read_text())
    assert facts["losses"] == ["nan"] and facts["parameters_not_finite"] == []
    assert facts["tensors"]["0.pixel_values"] == ["torch.float32", [4, 3, 16, 16]]
    assert (facts["stage"], facts["step"], facts["process"]) == ("world", 2, 0)


def test_the_count_survives_a_resume(tmp_path):
    samples = poisoned([1, 13])
    options = {"samples": samples, "nonfinite_limit": 1, "save_strategy": "steps", "save_steps": 2, **SEQUENTIAL}
    with pytest.raises(SailvitError, match="at step 4, the 2. such step"):
        tiny_trainer(tmp_path, **options).train()
    with pytest.raises(SailvitError, match="at step 4, the 2. such step"):
        tiny_trainer(tmp_path, **options).train(resume_from_checkpoint=True)
    again = tiny_trainer(tmp_path, **{**options, "nonfinite_limit": 2})
    again.train(resume_from_checkpoint=True)
    assert again.nonfinite.total == 2


def test_restored_callbacks_go_on_counting(tmp_path):
    options = {"samples": poisoned([1, 13]), "save_strategy": "steps", "save_steps": 2, **SEQUENTIAL}
    tiny_trainer(tmp_path, **{**options, "max_steps": 2}).train()
    again = tiny_trainer(tmp_path, restore_callback_states_from_checkpoint=True, **options)
    again.train(resume_from_checkpoint=True)
    assert again.nonfinite.total == 2
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert state["NonFiniteSteps"]["attributes"]["total"] == 2


def test_the_scaler_of_fp16_leaves_the_step_out_itself(tmp_path):
    """It must see the gradients: without any it stops."""
    trainer = tiny_trainer(tmp_path, samples=poisoned([5]), clip_per_module=True, **SEQUENTIAL)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    trainer.train()
    assert trainer.nonfinite.total == 1
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_old_ones_are_forgotten(tmp_path):
    steps = tiny_trainer(tmp_path, nonfinite_limit=1).nonfinite
    assert steps.skip(1) and steps.skip(101) and not steps.skip(102)
    assert (steps.total, steps.recent) == (3, [101, 102])


def test_a_checkpoint_of_an_earlier_version_has_no_count(tmp_path):
    tiny_trainer(tmp_path, save_strategy="steps", save_steps=2, max_steps=2).train()
    folder = last_complete_checkpoint(tmp_path)
    state = json.loads((folder / "trainer_state.json").read_text())
    del state["stateful_callbacks"]["NonFiniteSteps"]
    (folder / "trainer_state.json").write_text(json.dumps(state))
    (folder / "complete.json").unlink()
    tiny_trainer(tmp_path, save_strategy="steps", save_steps=4).train(resume_from_checkpoint=True)
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-4"


class Diverging(TrainerCallback):
    """After the third step a weight is no number."""

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step == 3:
            with torch.no_grad():
                next(weight for weight in model.parameters() if weight.requires_grad).view(-1)[0] = float("nan")


@pytest.mark.parametrize(
    ("save_steps", "what"),
    [(1, "step 3 of stage 'world' cannot be saved"), (2, "the loss of stage 'world' is nan at step 4")],
)
def test_weights_that_are_no_numbers_end_the_run_and_are_not_saved(save_steps, what, tmp_path):
    """Whether it is noticed when they are to be saved, or by the next loss: the checkpoint from before stays."""
    options = {"save_strategy": "steps", "save_steps": save_steps, "save_total_limit": 1, "max_steps": 6}
    trainer = tiny_trainer(tmp_path, **options)
    trainer.add_callback(Diverging())
    with pytest.raises(SailvitError, match=f"{what}, for weights are no numbers any more: lower the learning rate"):
        trainer.train()
    assert names(tmp_path) == ["checkpoint-2"]
    kept = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())


@pytest.mark.parametrize("limit", [-1])
def test_the_limit_is_no_negative_number(limit, tmp_path):
    with pytest.raises(SailvitError, match="nonfinite_limit is -1"):
        tiny_trainer(tmp_path, model=tiny_model(), nonfinite_limit=limit)
