# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The contrast of pictures and texts: its formulas, what it reads, and that processes make no difference.

Run as a script under torchrun it writes the loss and the gradients of one step.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sailvit_hf.cli.__main__ import leave
from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import RefinementArguments, RefinementTrainer
from sailvit_hf.refinement.engine.contrastive import (
    ContrastiveLoss,
    contrast,
    pooled_pictures,
    share_of_step,
    texts_of,
)

from ..packed import padded, ragged_samples, vision_language_model
from ..tiny import IMAGE_TOKEN, collate, tiny_model, tiny_samples, tiny_trainer, weights

ROOT = Path(__file__).parents[3]


def some_pairs(count=5, width=4):
    draw = torch.Generator().manual_seed(0)
    pictures, texts = torch.randn(2, count, width, generator=draw)
    return pictures, texts + 3.0, torch.arange(count)


def similarities(pictures, texts, temperature):
    """By hand, number by number."""

    def directions(states):
        mean = [sum(column) / len(states) for column in zip(*states, strict=True)]
        centred = [[value - m for value, m in zip(state, mean, strict=True)] for state in states]
        return [[value / math.hypot(*state) for value in state] for state in centred]

    a, b = directions(pictures.tolist()), directions(texts.tolist())
    return [[sum(x * y for x, y in zip(p, t, strict=True)) / temperature for t in b] for p in a]


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_infonce_is_its_formula(temperature):
    pictures, texts, keys = some_pairs()
    s = similarities(pictures, texts, temperature)
    n, expected = len(s), 0.0
    for i in range(n):
        to_text = sum(math.exp(s[i][j] - s[i][i]) for j in range(n))
        to_picture = sum(math.exp(s[j][i] - s[i][i]) for j in range(n))
        expected += (math.log(to_text) + math.log(to_picture)) / (2 * n)
    assert contrast("infonce", pictures, texts, keys, temperature).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_sigmoid_is_its_formula(temperature):
    pictures, texts, keys = some_pairs()
    s = similarities(pictures, texts, temperature)
    n, bias = len(s), -math.log(len(s) - 1)
    expected = sum(
        math.log(1 + math.exp(-(1 if i == j else -1) * (s[i][j] + bias))) for i in range(n) for j in range(n)
    )
    assert contrast("sigmoid", pictures, texts, keys, temperature).item() == pytest.approx(expected / n, rel=1e-4)


@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
def test_equal_texts_are_no_negatives(kind):
    pictures, texts, keys = some_pairs(3)
    texts[2], keys[2] = texts[0], keys[0]
    found = contrast(kind, pictures, texts, keys, 1.0)
    s, bias = similarities(pictures, texts, 1.0), -math.log(2)
    pairs = [(i, j) for i in range(3) for j in range(3) if {i, j} != {0, 2}]
    if kind == "infonce":
        rows = [sum(math.exp(s[i][j] - s[i][i]) for k, j in pairs if k == i) for i in range(3)]
        columns = [sum(math.exp(s[j][i] - s[i][i]) for j, k in pairs if k == i) for i in range(3)]
        expected = sum(map(math.log, rows + columns)) / 6
    else:
        expected = sum(math.log(1 + math.exp(-(1 if i == j else -1) * (s[i][j] + bias))) for i, j in pairs) / 3
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_pairs_give_finite_gradients(kind, count):
    pictures = torch.ones(count, 4, requires_grad=True)
    loss = contrast(kind, pictures, torch.ones(count, 4), torch.arange(count), 0.07)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(pictures.grad).all()
    assert count == 2 or loss.item() == 0.0


def test_what_pictures_and_texts_mean_nothing_to_a_common_offset():
    pictures, texts, keys = some_pairs()
    moved = contrast("infonce", pictures + 5.0, texts - 7.0, keys, 0.07)
    torch.testing.assert_close(moved, contrast("infonce", pictures, texts, keys, 0.07), rtol=1e-3, atol=1e-5)


# What a batch holds


def as_pack(samples):
    """The same samples in one row, one after the other, and an end that is not filled."""
    rows = collate(samples)
    count, length = rows["input_ids"].shape
    labels = rows["labels"].clone()
    labels[:, 0] = -100
    return {
        "input_ids": torch.nn.functional.pad(rows["input_ids"].reshape(1, -1), (0, 3)),
        "labels": torch.nn.functional.pad(labels.reshape(1, -1), (0, 3), value=-100),
        "position_ids": torch.cat([*[torch.arange(length)] * count, torch.arange(3)])[None],
        "pixel_values": rows["pixel_values"],
    }


def samples_of_three_kinds():
    samples = tiny_samples(5, text_only=[1])
    samples[3]["ids"][5:7] = IMAGE_TOKEN  # another picture's tokens, half as many
    return samples


@pytest.mark.parametrize("packed", [False, True])
def test_texts_are_the_samples_with_pictures_without_them(packed):
    samples = samples_of_three_kinds()
    texts, chosen = texts_of(as_pack(samples) if packed else collate(samples), IMAGE_TOKEN)
    assert chosen.tolist() == [0, 2, 3, 4]
    for row, number in enumerate(chosen):
        sample = samples[number]
        kept = sample["ids"][sample["ids"] != IMAGE_TOKEN]
        assert texts.input_ids[row][texts.attention_mask[row].bool()].tolist() == kept.tolist()
        assert texts.input_ids[row][texts.answers[row]].tolist() == sample["ids"][-sample["answer"] :].tolist()
    assert len(set(texts.keys.tolist())) == 4


@pytest.mark.parametrize("packed", [False, True])
def test_pictures_are_the_mean_of_their_tokens(packed):
    samples = samples_of_three_kinds()
    batch = as_pack(samples) if packed else collate(samples)
    features = torch.randn(9, 2, 7, generator=torch.Generator().manual_seed(1))  # 18 picture tokens in all
    chosen = torch.tensor([0, 2, 3, 4])
    flat, start = features.reshape(-1, 7), 0
    expected = []
    for number in chosen.tolist():
        tokens = int((samples[number]["ids"] == IMAGE_TOKEN).sum())
        expected.append(flat[start : start + tokens].mean(0))
        start += tokens
    found = pooled_pictures(features, batch, IMAGE_TOKEN, chosen)
    torch.testing.assert_close(found, torch.stack(expected))


def test_equal_texts_have_equal_keys_wherever_they_stand():
    samples = tiny_samples(4)
    samples[2]["ids"] = samples[0]["ids"].clone()
    samples[2]["ids"][samples[0]["ids"] == IMAGE_TOKEN] = IMAGE_TOKEN
    keys = texts_of(collate(samples), IMAGE_TOKEN)[0].keys
    again = texts_of(as_pack(samples[::-1]), IMAGE_TOKEN)[0].keys
    assert keys[0] == keys[2] and len(set(keys.tolist())) == 3 and again.tolist() == keys.tolist()[::-1]


def test_a_sample_without_an_answer_is_left_out():
    batch = collate(tiny_samples(3))
    batch["labels"][1] = -100
    assert texts_of(batch, IMAGE_TOKEN)[1].tolist() == [0, 2]


@pytest.mark.parametrize("packed", [False, True])
def test_texts_are_read_without_pictures(packed):
    model, samples = tiny_model().eval(), samples_of_three_kinds()
    loss = ContrastiveLoss(model, "infonce", 0.07)
    batch = as_pack(samples) if packed else collate(samples)
    states, _, chosen = loss.read(model, batch)
    other = loss.read(model, {**batch, "pixel_values": torch.randn_like(batch["pixel_values"])})
    assert torch.equal(states, other.states) and not states.requires_grad
    for row, number in enumerate(chosen):
        ids = samples[number]["ids"]
        ids = ids[ids != IMAGE_TOKEN]
        hidden = model.model.language_model(input_ids=ids[None]).last_hidden_state[0]
        torch.testing.assert_close(states[row], hidden[-samples[number]["answer"] :].mean(0), rtol=1e-4, atol=1e-5)


# In training


def test_the_loss_is_the_sum_and_the_log_tells_both(tmp_path):
    entries = {}
    for kind in ("none", "infonce", "sigmoid"):
        trainer = tiny_trainer(tmp_path, stage="fine", max_steps=1, contrastive_loss=kind, contrastive_weight=0.5)
        trainer.train()
        entries[kind] = trainer.history[0]
    assert "contrastive_loss" not in entries["none"]
    for kind in ("infonce", "sigmoid"):
        own = entries[kind]["contrastive_loss"]
        assert own > 0 and entries[kind]["loss"] == pytest.approx(entries["none"]["loss"] + 0.5 * own, rel=1e-4)
    assert entries["infonce"]["grad_norm"] != entries["none"]["grad_norm"]


def test_the_contrast_falls_when_it_is_all_there_is(tmp_path):
    options = {
        "contrastive_loss": "infonce",
        "contrastive_weight": 100.0,
        "max_steps": 30,
        "lr_scheduler_type": "constant",
    }
    trainer = tiny_trainer(tmp_path, stage="fine", samples=tiny_samples(4), warmup_steps=0, **options)
    before = weights(trainer.model)
    trainer.train()
    found = [entry["contrastive_loss"] for entry in trainer.history]
    assert found[-1] < 0.5 * found[0]
    assert weights(trainer.model).keys() == before.keys()  # a checkpoint has no further weights


@pytest.mark.parametrize("text_only", [range(8), range(1, 8)], ids=["no picture", "one picture"])
def test_batches_of_few_pictures(tmp_path, text_only):
    options = {"contrastive_loss": "infonce", "max_steps": 2}
    trainer = tiny_trainer(tmp_path, stage="fine", samples=tiny_samples(8, text_only=text_only), **options)
    trainer.train()
    assert [entry["contrastive_loss"] for entry in trainer.history] == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
def test_packs_are_contrasted_as_padded_rows_are(tmp_path, kind):
    samples = ragged_samples(6)
    found = []
    for layout in ({"packing": True, "max_length": 256}, {"per_device_train_batch_size": 6}):
        options = {"per_device_train_batch_size": 1, "num_train_epochs": 1, "contrastive_loss": kind, **layout}
        args = RefinementArguments(str(tmp_path), **options, use_cpu=True, disable_tqdm=True, logging_steps=1, seed=3)
        trainer = RefinementTrainer(vision_language_model(), args, padded, samples, stage="fine")
        trainer.train()
        found.append([trainer.history[0][name] for name in ("loss", "contrastive_loss", "grad_norm")])
    assert found[0] == pytest.approx(found[1], rel=1e-4) and found[0][1] > 0


def test_evaluation_has_no_contrast(tmp_path):
    losses = []
    for kind in ("none", "sigmoid"):
        trainer = tiny_trainer(tmp_path, stage="fine", contrastive_loss=kind)
        losses.append(trainer.evaluate(trainer.train_dataset)["eval_loss"])
    assert losses[0] == losses[1]


def test_the_value_of_a_share_and_its_gradient():
    loss = torch.tensor(3.0, requires_grad=True)
    share = share_of_step(loss, processes=4, batches=2)
    share.backward()
    assert share.item() == 1.5 and loss.grad.item() == 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contrastive_loss": "clip"}, "contrastive_loss 'clip' is unknown: choose one of none, infonce, sigmoid"),
        ({"contrastive_loss": "infonce", "contrastive_weight": 0.0}, "contrastive_weight is 0.0: give a number above"),
        ({"contrastive_loss": "sigmoid", "contrastive_temperature": -1.0}, "contrastive_temperature is -1.0: give"),
        (
            {"contrastive_loss": "infonce", "stage": "world"},
            "stage 'world' trains the language model, and texts could",
        ),
    ],
)
def test_what_a_stage_cannot_have(tmp_path, arguments, message):
    with pytest.raises(SailvitError, match=message):
        tiny_trainer(tmp_path, **{"stage": "fine", **arguments})


# Two processes


def one_step(folder, micro_batch, kind, text_only):
    """Loss and gradients of the first step over eight samples."""
    trainer = tiny_trainer(
        folder, stage="fine", samples=tiny_samples(8, text_only=text_only), max_steps=1, max_grad_norm=0.0,
        per_device_train_batch_size=micro_batch, train_sampling_strategy="sequential", contrastive_loss=kind,
        contrastive_weight=2.0,
    )  # fmt: skip
    kept = {}
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(
        lambda *_: kept.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
    )
    trainer.train()
    if trainer.is_world_process_zero():
        entry = trainer.history[0]
        losses = {name: torch.tensor(entry[name]) for name in ("loss", "contrastive_loss")}
        # What the monitor counts, too, is that of all processes.
        logged = trainer.state.log_history[0]
        speeds = {name: logged[f"{name}_per_second"] for name in ("samples", "text_tokens", "visual_tokens")}
        losses |= {name: torch.tensor(speed / speeds["samples"]) for name, speed in speeds.items()}
        save_file({**kept, **losses}, f"{folder}/step.safetensors")
    return trainer


@pytest.mark.parametrize(
    ("kind", "text_only"),
    [("infonce", (1, 6)), pytest.param("sigmoid", (4, 5, 6, 7), marks=pytest.mark.slow)],
    ids=["infonce, pictures in both", "sigmoid, in one"],
)
def test_two_processes_are_one_with_the_whole_batch(tmp_path, kind, text_only):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    one_step(tmp_path / "one", 8, kind, text_only)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", __name__]
    arguments = [str(tmp_path / "two"), kind, ",".join(map(str, text_only))]
    done = subprocess.run(
        [sys.executable, *command, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = (load_file(tmp_path / folder / "step.safetensors") for folder in ("one", "two"))
    assert expected.keys() == found.keys() and expected["contrastive_loss"] > 0
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    numbers = [int(number) for number in sys.argv[3].split(",")]
    one_step(Path(sys.argv[1]), 4, sys.argv[2], numbers).accelerator.wait_for_everyone()
    leave(0)
