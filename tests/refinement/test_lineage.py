# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Every checkpoint is whole and says where it comes from."""

import hashlib
import json

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForImageTextToText

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import Lineage
from sailvit_hf.refinement.lineage import describe_data, loss_summary, model_card

from .tiny import tiny_model, tiny_samples, tiny_trainer, weights

START = Lineage(name="test", parents={"vision_tower": "some/tower@abc", "language_model": "some/model@def"})


def test_every_checkpoint_carries_its_lineage(tmp_path):
    trainer = tiny_trainer(
        tmp_path, stage="fine", lineage=START, data_source="mine.jsonl", save_strategy="steps", save_steps=2
    )
    trainer.train()
    halfway, end = (Lineage.load(tmp_path / f"checkpoint-{step}") for step in (2, 4))
    assert (halfway.stages[0].steps, halfway.stages[0].max_steps, end.stages[0].steps) == (2, 4, 4)
    record = end.stages[0]
    assert (end.name, end.parents) == ("test", START.parents)
    assert (record.stage, record.trains) == ("fine", ("vision_tower", "multi_modal_projector"))
    assert record.learning_rates == {"vision_tower": 1e-2, "multi_modal_projector": 1e-2}
    assert (record.samples_seen, record.seed) == (16, 3)
    assert (record.data["source"], record.data["samples"]) == ("mine.jsonl", 32)
    assert record.arguments["lr_scheduler_type"] == "cosine" and "output_dir" not in record.arguments
    assert record.train_loss == pytest.approx(sum(e["loss"] for e in trainer.history) / 4)
    assert record.final_loss == trainer.history[-1]["loss"]
    assert record.versions["torch"] == torch.__version__ and "sailvit_hf" in record.versions
    assert record.hardware["device"] == "cpu" and record.hardware["processes"] == 1
    assert str(tmp_path) not in (tmp_path / "checkpoint-4" / "refinement.json").read_text()


def test_the_next_stage_goes_on_from_a_checkpoint(tmp_path):
    tiny_trainer(tmp_path / "a", stage="coarse", lineage=START, save_strategy="steps", save_steps=4).train()
    folder = tmp_path / "a" / "checkpoint-4"
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    trainer = tiny_trainer(tmp_path / "b", model, stage="fine", lineage=Lineage.load(folder))
    assert trainer.current_lineage().stages == Lineage.load(folder).stages  # nothing done yet
    trainer.train()
    trainer.save_model()
    lineage = Lineage.load(tmp_path / "b")
    assert [record.stage for record in lineage.stages] == ["coarse", "fine"]
    assert "| coarse |" in (tmp_path / "b" / "README.md").read_text()
    reloaded = weights(AutoModelForImageTextToText.from_pretrained(tmp_path / "b", dtype=torch.float32))
    assert all(torch.equal(tensor, reloaded[name]) for name, tensor in weights(trainer.model).items())


def test_digests_of_the_weights(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    saved = START.save(tmp_path)
    expected = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert saved.weights == {"model.safetensors": expected} and Lineage.load(tmp_path) == saved
    saved.verify(tmp_path)
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SailvitError, match="model.safetensors is not the file"):
        saved.verify(tmp_path)


def test_weights_of_the_parent_are_dropped(tmp_path):
    lineage = Lineage(weights={"model.safetensors": "0"})
    trainer = tiny_trainer(tmp_path, lineage=lineage, max_steps=1)
    trainer.train()
    assert trainer.current_lineage().weights == {}


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "does not exist"),
        ("{", "cannot be read"),
        ('{"format": 3}', "has format 3, this version reads 1 and 2"),
        ("[]", "has format None"),
        ('{"format": 1, "stages": [{"stage": "fine"}]}', "not a lineage"),
        ('{"format": 1, "colour": "red"}', "not a lineage.*colour"),
        ('{"format": 2, "origin": {}}', "not a lineage.*origin"),
        ('{"format": 2, "weights": []}', "not a lineage.*weights is a list"),
        ('{"format": 2, "stages": [3]}', "not a lineage.*a stage is a int"),
        ('{"format": 2, "stages": [{"stage": "fine", "data": "mine"}]}', "not a lineage.*data of a stage is a str"),
    ],
)
def test_broken_files_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "refinement.json").write_text(content)
    with pytest.raises(SailvitError, match=f"refinement.json.*{message}"):
        Lineage.load(tmp_path)


def test_file_is_plain_json_with_a_format(tmp_path):
    START.save(tmp_path)
    content = json.loads((tmp_path / "refinement.json").read_text())
    assert list(content) == ["format", "name", "parents", "stages", "weights"] and content["format"] == 2


def test_fingerprint_is_of_the_messages():
    rows = [{"messages": sample["messages"]} for sample in tiny_samples(12)]
    plain, arrow = describe_data(rows, None), describe_data(Dataset.from_list(rows), "x")
    assert plain["fingerprint"] == arrow["fingerprint"] and (arrow["samples"], arrow["source"]) == (12, "x")
    assert describe_data(rows[:11], None)["fingerprint"] != plain["fingerprint"]
    assert describe_data(rows[::-1], None)["fingerprint"] != plain["fingerprint"]
    assert describe_data(iter(rows), "stream") == {"source": "stream", "samples": None, "fingerprint": None}


def test_samples_seen_counts_short_batches(tmp_path):
    trainer = tiny_trainer(tmp_path, samples=tiny_samples(10), max_steps=5)  # epochs of 4, 4 and 2 samples
    trainer.train()
    assert trainer.current_lineage().stages[0].samples_seen == 10 + 4 + 4


def test_loss_summary_weighs_by_steps():
    history = [{"step": 2, "loss": 4.0}, {"step": 5, "loss": 1.0}, {"step": 5, "train_loss": 9.0}]
    assert loss_summary(history) == (pytest.approx(11 / 5), 1.0)
    assert loss_summary([]) == (None, None)


def test_card_without_anything_known():
    card = model_card(Lineage())
    assert card.startswith("---\nlibrary_name: transformers\n") and "not recorded" in card


def test_a_stage_tells_the_weights_it_started_from(tmp_path):
    tiny_trainer(tmp_path / "a", lineage=START, save_strategy="steps", save_steps=4).train()
    before = Lineage.load(tmp_path / "a" / "checkpoint-4")
    trainer = tiny_trainer(tmp_path / "b", lineage=before, max_steps=1)
    trainer.train()
    assert before.stages[0].start == {}
    assert trainer.current_lineage().stages[1].start == {"weights": before.weights} and before.weights


def test_metrics_are_of_the_last_stage(tmp_path):
    tiny_trainer(tmp_path, lineage=START, save_strategy="steps", save_steps=4).train()
    lineage = Lineage.load(tmp_path / "checkpoint-4")
    lineage.with_metrics({"vlm": {"loss": 1.0}}).with_metrics({"probes": 2}).write(tmp_path / "checkpoint-4")
    again = Lineage.load(tmp_path / "checkpoint-4")
    assert again.stages[0].metrics == {"vlm": {"loss": 1.0}, "probes": 2} and again.weights == lineage.weights
    assert START.with_metrics({"vlm": 1}) is START


def test_the_trainers_own_evaluation_is_recorded(tmp_path):
    trainer = tiny_trainer(tmp_path, lineage=START, max_steps=1)
    trainer.train()
    trainer.evaluate(tiny_samples(4))
    metrics = trainer.current_lineage().stages[0].metrics
    assert metrics["eval_loss"] > 0 and not [name for name in metrics if name.endswith(("runtime", "per_second"))]


def test_data_put_together_is_described_part_by_part():
    from torch.utils.data import ConcatDataset

    rows = [{"messages": sample["messages"]} for sample in tiny_samples(6)]
    whole = describe_data(ConcatDataset([rows[:4], rows[4:]]), "/home/me/mine.jsonl + demo world, fine")
    one, other = (describe_data(part, None) for part in (rows[:4], rows[4:]))
    assert whole["source"] == "mine.jsonl + demo world, fine" and whole["samples"] == 6
    assert whole["parts"] == [{"samples": 4, "fingerprint": one["fingerprint"]},
                              {"samples": 2, "fingerprint": other["fingerprint"]}]  # fmt: skip
    assert whole["fingerprint"] == describe_data(rows, None)["fingerprint"]


def test_files_of_the_first_format_are_read(tmp_path):
    content = {"format": 1, "name": "old", "parents": {"vision_tower": "some/tower@abc"}, "stages": [], "weights": {}}
    (tmp_path / "refinement.json").write_text(json.dumps(content))
    assert Lineage.load(tmp_path) == Lineage("old", {"vision_tower": "some/tower@abc"})
