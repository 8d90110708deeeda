# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A run that meets every fault sees what a clean one sees, but for what cannot be read; its weights are the same."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from sailvit_hf.refinement import Lineage

from .faulty_run import numbers, question

ROOT = Path(__file__).parents[2]
SAMPLES = 60
BROKEN = set(range(3, SAMPLES, 10))  # ten per cent
STAGES = ["coarse", "fine", "world"]

# Of each session of the run: its faults, its exit status, and what it announces.
SESSIONS = [
    ({"coarse": {1: ["worker"], 5: ["kill"]}}, -9, ["A worker of the data loader died, and the loader starts again"]),
    ({"coarse": {6: ["term"]}}, 75, ["checkpoint-4", "SIGTERM came: training ended at step 7 of 15"]),
    (
        {"fine": {4: ["disk"], 7: ["kill"]}},
        -9,
        [
            "checkpoint-7",
            "Stage coarse: 15 steps, 60 samples seen; left out: 6 samples could not be read",
            "The checkpoint of step 4 could not be written",
        ],
    ),
    ({"fine": {8: ["worker"], 9: ["term"]}}, 75, ["checkpoint-6", "SIGTERM came: training ended at step 10"]),
    ({"world": {2: ["disk", "worker"], 5: ["kill"]}}, -9, ["checkpoint-10", "The checkpoint of step 2 could not"]),
    ({"world": {5: ["term"]}}, 75, ["checkpoint-4", "SIGTERM came: training ended at step 6"]),
    ({}, 0, ["checkpoint-6", "54 samples seen; left out: 6 samples could not be read"]),
]


def write_data(folder, broken):
    from sailvit_hf.data.demo_world import DemoWorld

    folder.mkdir()
    rows = DemoWorld(seed=0).dataset("fine", "train", SAMPLES, 0)
    lines = []
    for number in range(SAMPLES):
        name = f"{number}.jpg"
        rows[number]["images"][0].save(folder / name)
        if number in broken:
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(content[: len(content) // 2])  # its header is whole: found when it is decoded
        messages = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question(number)}]},
            {"role": "assistant", "content": [{"type": "text", "text": rows[number]["answer"]}]},
        ]
        lines.append(json.dumps({"messages": messages, "images": [name]}))
    (folder / "data.jsonl").write_text("\n".join(lines))


@pytest.fixture
def run(tiny_recipe, tmp_path):
    """A function that runs a recipe over clean or broken data, one session, and gives what it announced."""
    for name, broken in (("clean", set()), ("broken", BROKEN)):
        write_data(tmp_path / f"{name}-data", broken)

    def one_session(name, data, faults, status):
        recipe = tiny_recipe(tmp_path / name, report=False)
        for key in STAGES:
            arguments = {
                "learning_rate": 1e-3, "per_device_train_batch_size": 4, "save_steps": 2, "save_total_limit": 2,
                "logging_steps": 1, "bad_sample_limit": 0.2, "dataloader_num_workers": 2,
            }  # fmt: skip
            if key == "world":
                arguments |= {"packing": True, "max_length": 96, "per_device_train_batch_size": 2, "packing_buffer": 8}
            folder = tmp_path / f"{data}-data"
            source = {"path": str(folder / "data.jsonl"), "image_root": str(folder)}
            if key == "fine":
                source |= {"streaming": True, "shuffle_buffer": 16}
                # With more lanes one may come to its second pass before another has done its first.
                arguments |= {"max_steps": SAMPLES // 4, "stream_lanes": 1, "dataloader_num_workers": 1}
            recipe["stages"][key] = {"data": {"dataset": source}, "arguments": arguments}
        del recipe["evaluation"]
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(recipe))
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        }  # fmt: skip
        command = [sys.executable, "-m", "tests.refinement.faulty_run", str(file), str(tmp_path / f"{name}.ledger")]
        done = subprocess.run(
            [*command, json.dumps(faults)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == status, done.stderr[-4000:]
        return done.stderr

    return one_session


def ledger(path):
    """Samples by stage and step; what was done again after a kill must be what was done before it."""
    seen = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        key = entry["stage"], entry["step"]
        assert seen.setdefault(key, entry["samples"]) == entry["samples"], key
    return seen


def in_order(seen, stage):
    return [sample for (key, _), samples in sorted(seen.items()) if key == stage for sample in samples]


def test_the_ledger_knows_a_sample_by_its_question():
    assert [numbers(question(number)) for number in range(100)] == [[number] for number in range(100)]


@pytest.mark.slow
def test_all_faults(run, tmp_path):
    run("clean", "clean", {}, 0)
    run("broken", "broken", {}, 0)
    for faults, status, expected in SESSIONS:
        announced = run("faulty", "broken", faults, status)
        for text in expected:
            assert text in announced, (text, announced[-4000:])
    clean, broken, faulty = (ledger(tmp_path / f"{name}.ledger") for name in ("clean", "broken", "faulty"))
    assert faulty == broken
    for stage in STAGES:
        one, other = in_order(clean, stage), in_order(faulty, stage)
        assert Counter(one) == Counter(range(SAMPLES))
        readable = Counter(set(range(SAMPLES)) - BROKEN)
        assert Counter(other) >= readable
        if stage == "fine":  # a stream goes on with the next sample, and in the end with the next pass
            assert len(other) == len(one) and not BROKEN & set(other)
        elif stage == "world":  # packs are made of what can be read
            assert Counter(other) == readable
        else:  # elsewhere another sample takes the place
            assert len(one) == len(other) and not BROKEN & set(other)
            assert all(theirs == ours or ours in BROKEN for ours, theirs in zip(one, other, strict=True))
        for name in ("broken", "faulty"):
            record = Lineage.load(tmp_path / name / stage).stages[-1]
            assert record.data["skipped_samples"] == len(BROKEN), (name, stage)
            assert record.samples_seen == len(other)
        ours, theirs = (load_file(tmp_path / name / stage / "model.safetensors") for name in ("broken", "faulty"))
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
