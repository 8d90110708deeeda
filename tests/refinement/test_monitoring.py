# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a run measures of itself, where it goes, and that it changes nothing."""

import math
import re
import time

import pytest
import torch
from transformers import TrainerCallback, TrainerState

from sailvit_hf.data.skipped import OVERLONG_SAMPLE, UNREADABLE_SAMPLE, SkippedCounts, skipped_samples
from sailvit_hf.refinement import MODULES
from sailvit_hf.refinement.flops import ModelFlops, Work
from sailvit_hf.refinement.monitoring import (
    DRIFT_FILE,
    MEASURED,
    BatchCounts,
    FeatureDrift,
    Monitor,
    short,
    speed_line,
)

from .packed import TOKENS_PER_TILE, packed_trainer
from .tiny import IMAGE_TOKEN, LENGTH, collate, tiny_model, tiny_samples, tiny_trainer, weights


def counted(batch, flops=None):
    counts = BatchCounts(IMAGE_TOKEN, flops)
    counts.add(batch)
    return *counts.totals(), counts.places


def test_what_a_padded_batch_holds():
    batch = collate(tiny_samples(3, text_only=[1]))
    batch["attention_mask"][2, 8:] = 0
    samples, work, places = counted(batch, ModelFlops(tiny_model()))
    learnt = int((batch["labels"][:, 1:] != -100).sum())
    assert (samples, places) == (3, 3 * LENGTH)
    assert work == Work(12 + 12 + 8, 144 + 144 + 64, learnt, 8, 32, 32, 2 * 16 * 16)


def test_what_a_pack_holds():
    """Three samples in two packs, the second with an end that is padding."""
    ids = torch.full((2, 12), 5)
    ids[0, 1:5] = IMAGE_TOKEN
    positions = torch.tensor([[*range(7), *range(5)], [*range(9), 0, 0, 0]])
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    samples, work, places = counted({"input_ids": ids, "position_ids": positions, "attention_mask": mask})
    assert (samples, places) == (3, 24)
    assert (work.tokens, work.pairs, work.visual) == (21, 49 + 25 + 81, 4)
    ids[1, 9:], positions[1, 9:] = 0, torch.arange(3)  # as the packs' own collator fills them up, without a mask
    counts = BatchCounts(IMAGE_TOKEN, None, room=2 * 16)
    counts.add({"input_ids": ids, "position_ids": positions})
    assert counts.totals() == (3, work) and counts.places == 32


def test_a_batch_of_another_kind_counts_nothing():
    assert counted({"pixel_values": torch.zeros(1, 3, 4, 4)}) == (0.0, Work(), 0)


def measured(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_the_log_tells_speed_work_and_gradients(tmp_path):
    options = {"max_steps": 4, "gradient_accumulation_steps": 2, "peak_tflops": 1e-3, "feature_drift_every": 2}
    trainer = tiny_trainer(tmp_path, samples=tiny_samples(32, text_only=range(0, 32, 4)), stage="fine", **options)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    entries = measured(trainer)
    assert len(entries) == 4 and all(set(MEASURED) <= entry.keys() for entry in entries)
    for entry in entries:
        assert entry["samples_per_second"] * seconds > 8  # of each step
        visual, text = entry["visual_tokens_per_second"], entry["text_tokens_per_second"]
        assert visual + text == pytest.approx(LENGTH * entry["samples_per_second"], rel=1e-5)
        assert entry["packing_efficiency"] == 1.0 and 0 < entry["data_wait"] < 1 and entry["memory_gib"] > 0.05
        assert entry["mfu"] == pytest.approx(entry["tflops_per_device"] / 1e-3)
        norms = [entry[f"grad_norm/{module}"] for module in ("vision_tower", "multi_modal_projector")]
        assert math.hypot(*norms) == pytest.approx(entry["grad_norm"], rel=1e-5)
    tflop = sum(entry["tflops_per_device"] / entry["samples_per_second"] for entry in entries) / 4
    counts = BatchCounts(IMAGE_TOKEN, ModelFlops(trainer.model))
    counts.add(collate(trainer.train_dataset.dataset))
    assert tflop * 1e12 * 32 == pytest.approx(sum(ModelFlops(trainer.model)(counts.totals()[1]).values()), rel=0.1)
    assert ["feature_drift" in entry for entry in entries] == [False, True, False, True]
    assert all(not set(MEASURED) & entry.keys() for entry in trainer.history)  # equal runs: equal histories


def test_norms_of_gradients_that_were_clipped_are_those_before(tmp_path):
    norms = {}
    for limit in (1e-3, 1e9):
        trainer = tiny_trainer(tmp_path, max_steps=1, max_grad_norm=limit)
        trainer.train()
        norms[limit] = [measured(trainer)[0][f"grad_norm/{module}"] for module in MODULES]
    assert norms[1e-3] == pytest.approx(norms[1e9], rel=1e-4) and min(norms[1e9]) > 1e-3


def test_measuring_changes_nothing(tmp_path):
    def train(**options):
        trainer = tiny_trainer(tmp_path, tiny_model(dropout=0.3), max_steps=6, feature_drift_every=1, **options)
        trainer.train()
        return weights(trainer.model)

    with_monitor, without = train(), train(monitoring=False)
    assert all(torch.equal(with_monitor[name], without[name]) for name in without)


def test_without_a_monitor_the_log_is_transformers(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=1, monitoring=False)
    trainer.train()
    assert trainer.monitor is None
    assert measured(trainer)[0].keys() == {"loss", "grad_norm", "learning_rate", "epoch", "step"}


class Slow(list):
    def __getitem__(self, index):
        time.sleep(0.1)
        return super().__getitem__(index)


def test_waiting_for_data_shows(tmp_path):
    waits = {}
    for kind in (list, Slow):
        trainer = tiny_trainer(tmp_path, samples=kind(tiny_samples(32)), max_steps=3, monitoring=True)
        trainer.train()
        waits[kind] = measured(trainer)[1]["data_wait"]
    assert waits[Slow] > 0.5 > waits[list]


class SlowSaving(TrainerCallback):
    def on_save(self, *arguments, **kwargs):
        time.sleep(0.5)


def test_saving_is_no_training(tmp_path):
    options = {"max_steps": 4, "logging_steps": 2, "save_strategy": "steps", "save_steps": 1}
    trainer = tiny_trainer(tmp_path, **options)
    trainer.add_callback(SlowSaving())
    trainer.train()
    assert measured(trainer)[1]["samples_per_second"] > 8 / 0.5


def test_packs_tell_how_full_they_are(tmp_path):
    trainer = packed_trainer(tmp_path, max_steps=3, logging_steps=3)
    trainer.train()
    (entry,) = measured(trainer)
    counts = trainer._packs.counts_after(3)
    assert entry["packing_efficiency"] == pytest.approx(counts["tokens"] / (3 * 8 * 64)) and counts["packs"] == 24
    tokens = entry["text_tokens_per_second"] + entry["visual_tokens_per_second"]
    assert tokens / entry["samples_per_second"] == pytest.approx(counts["tokens"] / counts["samples"], rel=1e-5)
    visual = entry["visual_tokens_per_second"] / entry["samples_per_second"]
    assert visual == pytest.approx(TOKENS_PER_TILE * counts["tiles"] / counts["samples"], rel=1e-5)


def test_features_that_are_kept_cost_no_forward_of_the_tower(tmp_path):
    found = {}
    for folder in (None, str(tmp_path / "cache")):
        trainer = tiny_trainer(tmp_path, stage="coarse", max_steps=1, vision_feature_cache=folder)
        trainer.train()
        entry = measured(trainer)[0]
        found[folder is None] = entry["tflops_per_device"] / entry["samples_per_second"]
    assert found[False] < 0.8 * found[True]


# Drift


def test_drift_is_the_relative_distance_of_the_features():
    model = tiny_model()
    tower = model.model.vision_tower
    drift = FeatureDrift(tower, -1, torch.enable_grad)
    pictures = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert not drift
    drift.begin(pictures)
    assert drift and drift.measure() == 0.0
    with torch.no_grad():
        before = tower(pictures[:4]).last_hidden_state
        for parameter in tower.parameters():
            parameter.mul_(1.1)
        after = tower(pictures[:4]).last_hidden_state
    assert drift.measure() == pytest.approx(((after - before).norm() / before.norm()).item(), rel=1e-5)


def test_drift_of_pictures_of_several_sizes(tmp_path):
    tower = tiny_model().model.vision_tower
    drift = FeatureDrift(tower.train(), -1, torch.enable_grad)
    drift.begin([torch.zeros(3, 16, 16), torch.ones(3, 8, 20)])
    drift.save(tmp_path)
    other = FeatureDrift(tower, -1, torch.enable_grad)
    other.load(tmp_path)
    assert other.measure() == 0.0 and tower.training


def test_drift_begins_at_the_start_of_the_stage_also_after_a_resume(tmp_path):
    options = {"max_steps": 6, "feature_drift_every": 1, "stage": "fine", "samples": tiny_samples(16)}
    whole = tiny_trainer(tmp_path / "whole", **options)
    whole.train()
    first = tiny_trainer(tmp_path / "parts", save_strategy="steps", save_steps=3, **options)
    first.train()
    assert (tmp_path / "parts" / "checkpoint-3" / DRIFT_FILE).is_file()
    second = tiny_trainer(tmp_path / "parts", tiny_model(seed=5), **options)
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-3"))
    expected = [entry["feature_drift"] for entry in whole.history]
    assert [entry["feature_drift"] for entry in second.history] == expected
    assert expected[0] == 0.0 < expected[1] < expected[-1]  # the warm-up begins at a rate of 0


def test_a_frozen_tower_does_not_drift(tmp_path):
    trainer = tiny_trainer(tmp_path, stage="coarse", max_steps=2, feature_drift_every=1)
    trainer.train()
    assert "feature_drift" not in trainer.history[-1]
    trainer.save_model(str(tmp_path / "checkpoint-2"))
    assert not (tmp_path / "checkpoint-2" / DRIFT_FILE).exists()


# Skipped samples


class Counting(list):
    """Counts every fourth sample as unreadable, every eighth as too long."""

    def __init__(self, samples):
        super().__init__(samples)
        self.skipped = SkippedCounts()

    def __getitem__(self, index):
        if index % 4 == 0:
            self.skipped.add()
        if index % 8 == 0:
            self.skipped.add(OVERLONG_SAMPLE)
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_samples_of_all_workers(tmp_path, workers):
    data = Counting(tiny_samples(32))
    options = {"dataloader_num_workers": workers, "max_steps": -1, "num_train_epochs": 2.0}
    trainer = tiny_trainer(tmp_path, samples=data, **options)
    trainer.train()
    last = measured(trainer)[-1]
    assert (last["skipped_samples"], last["overlong_samples"]) == (16, 8)
    assert skipped_samples(data) == (16, 8) and skipped_samples([]) == (0, 0)


class OnePlace(list):
    """Whose second sample cannot be read."""

    def __getitem__(self, index):
        if index == 1:
            raise OSError("image file is truncated")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_samples_that_were_replaced(tmp_path, workers):
    options = {"dataloader_num_workers": workers, "max_steps": -1, "num_train_epochs": 2.0}
    trainer = tiny_trainer(tmp_path, samples=OnePlace(tiny_samples(16)), bad_sample_limit=0.5, **options)
    trainer.train()
    assert measured(trainer)[-1]["skipped_samples"] == 2  # once an epoch


# Where it goes


def test_every_integration_gets_the_same_numbers(tmp_path):
    seen = []

    class Integration(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(dict(logs))

    trainer = tiny_trainer(tmp_path, max_steps=2)
    trainer.add_callback(Integration())
    trainer.train()
    for logs, entry in zip(seen[:2], measured(trainer), strict=True):
        assert set(MEASURED) - {"mfu"} <= logs.keys() and "mfu" not in logs  # no MFU on a CPU
        assert {name: entry[name] for name in logs} == logs
        assert all(isinstance(value, (int, float)) for value in logs.values())


def test_tensorboard(tmp_path):
    proto = pytest.importorskip("tensorboardX.proto.event_pb2", reason="pip install tensorboardX")
    trainer = tiny_trainer(tmp_path, max_steps=2, report_to="tensorboard")
    trainer.train()
    (path,) = tmp_path.rglob("events.out.tfevents.*")
    data, place, found = path.read_bytes(), 0, {}
    while place < len(data):  # records: length, its checksum, the event, its checksum
        length = int.from_bytes(data[place : place + 8], "little")
        event = proto.Event.FromString(data[place + 12 : place + 12 + length])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        place += length + 16
    for entry in measured(trainer):
        for name in ("samples_per_second", "memory_gib", "data_wait", "grad_norm/vision_tower"):
            assert found[f"train/{name}", entry["step"]] == pytest.approx(entry[name])


def test_the_slowest_process_decides_and_counts_add_up():
    def gather(own):
        other = own.clone()
        other[0], other[5], other[7] = 2 * own[0], own[5] + 1.0, own[7] + 3.0
        return torch.cat([own, other])

    data = Counting([])
    for kind in (UNREADABLE_SAMPLE, UNREADABLE_SAMPLE, OVERLONG_SAMPLE):
        data.skipped.add(kind)

    class Packs:
        def counts_after(self, step):
            return {"unreadable": 10, "overlong": step}

    class Loader:
        dataset, batch_sampler = data, Packs()

    class Optimizer:
        param_groups = []

    class Control:
        should_log = True

    monitor = Monitor(gather, torch.device("cpu"), IMAGE_TOKEN)
    state = TrainerState(logging_steps=1, global_step=1, max_steps=9)
    monitor.on_train_begin(None, state, None, optimizer=Optimizer(), train_dataloader=Loader())
    monitor.count([collate(tiny_samples(4))])
    monitor.on_step_end(None, state, Control())
    values = monitor.take({})
    assert values["samples_per_second"] == pytest.approx(12, rel=0.1)  # 4 + 8 in a second and a bit
    assert (values["skipped_samples"], values["overlong_samples"]) == (2 * 12, 2 * 2)
    assert values["memory_gib"] > 3.0 and monitor.take({}) == {}


# The line


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.1512, "0.15"), (9.994, "9.99"), (9.9951, "10.0"), (97.34, "97.3"), (812.4, "812"), (999.4, "999"),
     (999.6, "1.0k"), (1234, "1.2k"), (187_400, "187k"), (999_600, "1.0M"), (3.4e6, "3.4M")],
)  # fmt: skip
def test_short_numbers(number, text):
    assert short(number) == text


def test_the_line_holds_everything_and_fits():
    logs = {
        "samples_per_second": 73.0, "text_tokens_per_second": 187_400.0, "visual_tokens_per_second": 187_400.0,
        "packing_efficiency": 0.973, "tflops_per_device": 412.0, "mfu": 0.41, "memory_gib": 71.24, "data_wait": 0.004,
        "skipped_samples": 2.0, "overlong_samples": 1.0, "feature_drift": 0.0342,
    }  # fmt: skip
    line = speed_line(logs)
    assert line == (
        "  187k text, 187k visual tokens/s  97% full  data 0.4%  41% MFU  71.2 GiB  3 skipped  drift 0.034"
    )
    assert len(line) <= 100 and len(speed_line(logs, 60)) <= 60
    del logs["mfu"]
    assert "412 TFLOP/s" in speed_line(logs) and len(speed_line(logs)) <= 100
    assert speed_line({"loss": 1.0}) == ""


def test_the_line_stands_under_the_progress(tmp_path, capsys):
    tiny_trainer(tmp_path, stage="fine", max_steps=20, disable_tqdm=False).train()
    lines = capsys.readouterr().err.splitlines()
    found = [number for number, line in enumerate(lines) if " visual tokens/s  100% full  data " in line]
    assert len(found) == 10 and all(re.match(r"Fine-grained alignment +\d+/20", lines[n - 1]) for n in found)
    assert max(map(len, lines)) <= 100
