# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""However a global batch is cut up, packed or not, over one process or two: the same losses. And resuming exactly."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from sailvit_hf import SAILViTImageProcessorPil, SAILViTProcessor
from sailvit_hf.data.demo_world import DemoWorld
from sailvit_hf.data.loss_weighting import LOSS_WEIGHTINGS
from sailvit_hf.data.mixture import Part, StreamMixture
from sailvit_hf.data.streams import IndexedSource
from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import RefinementArguments, RefinementTrainer

from .packed import (
    language_model_sizes,
    losses,
    main,
    packed_trainer,
    padded,
    ragged_samples,
    sharded_main,
    vision_language_model,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Ten steps of eight packs, one at a time, for each weighting."""
    return {
        weighting: losses(main(tmp_path_factory.mktemp("reference"), 1, 8, weighting)) for weighting in LOSS_WEIGHTINGS
    }


def assert_same(found, expected):
    assert len(found) == len(expected) == 10
    assert max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True)) <= 1e-5


@pytest.mark.parametrize(
    ("weighting", "cut"), [("token", (2, 4)), ("token", (8, 1)), ("sample", (2, 4)), ("square-root", (8, 1))]
)
def test_micro_batch_and_accumulation_do_not_matter(weighting, cut, reference, tmp_path):
    assert_same(losses(main(tmp_path, *cut, weighting)), reference[weighting])


class PlannedPacks:
    """The samples of each pack, as one item of a data set in the plan's order."""

    def __init__(self, samples, packs):
        self.samples, self.packs = samples, packs

    def __len__(self):
        return len(self.packs)

    def __getitem__(self, index):
        return [self.samples[key] for key in self.packs[index]]


def one_a_row(items):
    return padded([sample for item in items for sample in item])


@pytest.mark.parametrize(
    ("weighting", "cut"), [("token", (1, 8)), ("token", (4, 2)), ("sample", (4, 2)), ("square-root", (1, 8))]
)
def test_packing_does_not_matter(weighting, cut, reference, tmp_path):
    samples = ragged_samples(120)
    plan = packed_trainer(tmp_path, samples).get_train_dataloader().batch_sampler.plan
    packs = [pack for _ in range(10) for pack in plan.next_step()]
    unpacked = packed_trainer(
        tmp_path,
        PlannedPacks(samples, packs),
        collator=one_a_row,
        packing=False,
        loss_weighting=weighting,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=cut[0],
        gradient_accumulation_steps=cut[1],
    )
    unpacked.train()
    assert_same(losses(unpacked), reference[weighting])


def test_the_weightings_differ(reference):
    for one, other in (("token", "sample"), ("token", "square-root"), ("sample", "square-root")):
        assert abs(reference[one][0] - reference[other][0]) > 1e-3


def in_two_processes(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "tests.refinement.packed"]
    done = subprocess.run(
        [sys.executable, *command, str(folder), *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "losses.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("weighting", LOSS_WEIGHTINGS)
def test_two_processes_do_not_matter(weighting, reference, tmp_path):
    assert_same(in_two_processes(tmp_path, "1", "4", weighting), reference[weighting])


@pytest.mark.slow
def test_a_sharded_model_does_not_matter(tmp_path):
    """torch's `fully_shard` over gloo; in half of the micro-batches one process has pictures, the other none."""
    expected = sharded_main(tmp_path, shard=False)
    assert_same(in_two_processes(tmp_path, "sharded"), expected)


def test_an_epoch_takes_every_sample_once(tmp_path):
    seen = []

    class Watched(RefinementTrainer):
        def get_batch_samples(self, *args):
            batches, items = super().get_batch_samples(*args)
            seen.extend(batches)
            return batches, items

    samples = ragged_samples(90)
    trainer = packed_trainer(tmp_path, samples, max_steps=-1, num_train_epochs=1, cls=Watched)
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps == len(seen) // 8
    assert len(seen) % 8 == 0  # every micro-batch of the last step is there
    tokens = sum(len(sample["input_ids"]) for sample in samples)
    learnt = sum(int((sample["labels"] != -100).sum()) for sample in samples)
    counts = trainer.current_lineage().stages[-1]
    assert counts.samples_seen == 90
    assert sum(int((batch["labels"] != -100).sum()) for batch in seen) == learnt
    filling = sum(int((batch["input_ids"] == 0).sum()) for batch in seen)  # nobody's tokens
    assert sum(batch["input_ids"].numel() for batch in seen) - filling == tokens
    tiles = sum(len(batch["pixel_values"]) for batch in seen if "pixel_values" in batch)
    assert tiles == sum(len(sample.get("pixel_values", ())) for sample in samples)
    assert trainer.state.epoch == 1.0


def test_a_run_whose_steps_are_bounded_ends_with_its_samples(tmp_path, monkeypatch):
    """And a resumed one does not count anew: the checkpoint knows."""
    monkeypatch.setattr("sailvit_hf.data.packing.plan._PLANNED_WHOLE", 1)
    options = {"max_steps": -1, "num_train_epochs": 1, "save_strategy": "steps", "save_steps": 2}
    samples = ragged_samples(90)
    whole = packed_trainer(tmp_path, samples, **options)
    whole.train()
    last, foreseen = whole.state.global_step, whole._packs.steps
    assert last == whole.state.max_steps < foreseen
    assert whole.current_lineage().stages[-1].samples_seen == 90 and (tmp_path / f"checkpoint-{last}").is_dir()
    monkeypatch.setattr("sailvit_hf.refinement.packing.planned_steps", None)
    resumed = packed_trainer(tmp_path, samples, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert (resumed._packs.steps, resumed.state.global_step) == (foreseen, last)
    assert losses(resumed) == losses(whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_goes_on_exactly(workers, tmp_path):
    options = {"gradient_accumulation_steps": 2, "dataloader_num_workers": workers}
    whole = packed_trainer(tmp_path, save_strategy="steps", save_steps=3, **options)
    whole.train()
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    plan = json.loads(state["stateful_callbacks"]["PackingState"]["attributes"]["plan"])
    assert plan["counts"]["packs"] == 12 and plan["packer"]["waiting"]  # the buffer is part of it
    reads = []

    class Counting(list):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    resumed = packed_trainer(tmp_path, Counting(ragged_samples(120)), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert losses(resumed) == losses(whole)
    if not workers:
        assert len(reads) < 80  # 8 packs and the buffer, each measured and encoded: nothing is read from the start
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    assert resumed.state.epoch == whole.state.epoch
    again = packed_trainer(tmp_path, **options)  # a second time, from one that the run had gone back behind
    again.train(resume_from_checkpoint=str(tmp_path / "set-aside-1" / "checkpoint-9"))
    assert losses(again) == losses(whole)


class Rows(torch.utils.data.IterableDataset):
    """A stream that knows its place."""

    def __init__(self, samples):
        self.samples, self.position, self.restored, self.reads = samples, 0, None, 0

    def __iter__(self):
        self.position, self.restored = self.restored or 0, None
        while self.position < len(self.samples):
            self.position += 1
            self.reads += 1
            yield self.samples[self.position - 1]

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.restored = state["position"]


def test_a_resumed_stream_goes_on_exactly(tmp_path):
    options = {"gradient_accumulation_steps": 2, "packing_buffer": 6}
    whole = packed_trainer(tmp_path, Rows(ragged_samples(400)), save_strategy="steps", save_steps=8, **options)
    whole.train()
    rows = Rows(ragged_samples(400))
    resumed = packed_trainer(tmp_path, rows, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert losses(resumed) == losses(whole)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    packed_trainer(tmp_path, save_strategy="steps", save_steps=2, max_steps=2).train()
    other = packed_trainer(tmp_path, max_length=80)
    with pytest.raises(SailvitError, match="packed with max_length 64, and is to go on with 80"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_checkpoint_without_packing_is_refused(tmp_path):
    packed_trainer(tmp_path, save_strategy="steps", save_steps=2, max_steps=2, packing=False).train()
    with pytest.raises(SailvitError, match="made without packing"):
        packed_trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"max_length": None}, "set max_length"),
        ({"loss_weighting": "word"}, "loss_weighting 'word' is unknown: use one of token, square-root, sample"),
        ({"train_sampling_strategy": "group_by_length"}, "chooses by length, as the packer does"),
        ({"max_length": 20}, "does not fit into a pack of 20 tokens: raise the limits"),
        ({"max_tiles_per_pack": 2}, "and 3 tiles does not fit into a pack of 64 tokens and 2 tiles"),
    ],
)
def test_wrong_arguments(arguments, sentence, tmp_path):
    with pytest.raises(SailvitError, match=re.escape(sentence)):
        packed_trainer(tmp_path, **arguments).train()


def test_a_stream_needs_max_steps(tmp_path):
    # A number above zero satisfies transformers, which asks before us.
    with pytest.raises((SailvitError, ValueError), match="max_steps"):
        packed_trainer(tmp_path, Rows(ragged_samples(40)), max_steps=-1).train()


def test_overlong_samples_are_dropped_and_counted(tmp_path):
    trainer = packed_trainer(tmp_path, max_tiles_per_pack=2, overlong_samples="drop", max_steps=2)
    trainer.train()
    assert trainer.state.log_history[-1]["overlong_samples"] == trainer._packs.counts_after(2)["overlong"] > 0


def test_the_trained_weights_of_two_cuts_agree(tmp_path):
    for folder, cut in (("one", (1, 8)), ("other", (4, 2))):
        (tmp_path / folder).mkdir()
        main(tmp_path / folder, *cut, "token")
    one, other = (load_file(tmp_path / folder / "weights.safetensors") for folder in ("one", "other"))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-4)


def whole_trainer(folder, dataset, **arguments):
    """As a person uses it: conversations with pictures, a processor, no collator of their own."""
    world = DemoWorld()
    tokenizer = world.tokenizer()
    images = SAILViTImageProcessorPil(size={"height": 16, "width": 16})
    processor = SAILViTProcessor.from_parts(images, tokenizer, patch_size=4)
    sizes = language_model_sizes(vocab_size=len(tokenizer), max_position_embeddings=256)
    model = vision_language_model(LlamaForCausalLM(LlamaConfig(**sizes)), image_token_id=processor.image_token_id)
    options = {
        "output_dir": str(folder), "packing": True, "max_length": 256, "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 1, "learning_rate": 1e-3, "logging_steps": 1, "save_strategy": "steps",
        "save_steps": 2, "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    options = RefinementArguments(**{**options, **arguments})
    return RefinementTrainer(model, options, None, dataset(world), processing_class=processor, stage="world")


KINDS = {
    "by index": lambda world: world.dataset("world", "train", 60),
    "stream": lambda world: StreamMixture([Part(IndexedSource(world.dataset("world", "train", 60)))]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_conversations_with_pictures(kind, tmp_path):
    whole = whole_trainer(tmp_path, KINDS[kind], max_steps=4)
    whole.train()
    found = losses(whole)
    assert len(found) == 4 and found[-1] < found[0]
    counts = whole._packs.counts_after(4)
    assert counts["packs"] == 8 and counts["samples"] > 2 * 8 and counts["tiles"] > 0
    resumed = whole_trainer(tmp_path, KINDS[kind], max_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert losses(resumed) == found


def test_evaluation_is_not_packed(tmp_path):
    trainer = whole_trainer(tmp_path, KINDS["by index"], max_steps=1, loss_weighting="sample")
    trainer.train()
    found = trainer.evaluate(DemoWorld().dataset("world", "test", 8))
    plain = whole_trainer(tmp_path, KINDS["by index"], packing=False)
    plain.model.load_state_dict(trainer.model.state_dict())
    expected = plain.evaluate(DemoWorld().dataset("world", "test", 8))
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-6)
