# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Recipes whose samples come from data sets: mixed by index, as streams, and refused before the first step."""

import io
import json
import tarfile

import pytest
from PIL import Image

from sailvit_hf.data.mixture import Mixture, StreamMixture
from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement.lineage import Lineage
from sailvit_hf.refinement.pipeline import Run, run_recipe
from sailvit_hf.refinement.recipes.recipe import parse_recipe


def row(answer, **more):
    turns = [{"from": "human", "value": "<image>\ndescribe"}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, **more}


@pytest.fixture
def data(tmp_path):
    """`llava.json` with six rows, and two tars with four samples each, of which one is broken."""
    for colour in ("red", "blue"):
        Image.new("RGB", (80, 40), colour).save(tmp_path / f"{colour}.png")
    rows = [row(colour, image=f"{colour}.png") for colour in ("red", "blue")] * 3
    (tmp_path / "llava.json").write_text(json.dumps(rows))
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for number in range(4):
                picture = (tmp_path / "red.png").read_bytes()
                members = {"png": picture[:50] if (shard, number) == (1, 2) else picture, "json": row("red")}
                for name, content in members.items():
                    content = content if isinstance(content, bytes) else json.dumps(content).encode()
                    info = tarfile.TarInfo(f"{shard}{number}.{name}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return tmp_path


def recipe_of(tiny_recipe, tiny_run, folder, **stages):
    made = tiny_recipe(folder, start={"model": str(tiny_run / "coarse")}, stages=stages, evaluation=None, report=False)
    return parse_recipe(made)


def test_a_run_on_a_mixture_and_then_on_a_stream(tiny_run, tiny_recipe, data):
    arguments = {"max_steps": 3, "per_device_train_batch_size": 2, "bad_sample_limit": 0.2}
    llava = {"dataset": {"path": str(data / "llava.json")}, "weight": 1}
    tars = {"dataset": {"path": str(data / "*.tar"), "streaming": True}, "max_samples": 8}
    stages = {
        "fine": {"data": [llava, {"demo": {"samples": 9}, "weight": 3}], "arguments": arguments},
        "world": {"data": [tars, {"demo": {"samples": 4}, "epochs": 2}], "arguments": arguments},
    }
    recipe = recipe_of(tiny_recipe, tiny_run, data / "run", **stages)
    run = Run(recipe)
    assert isinstance(run.training_data["fine"], Mixture) and run.training_data["fine"].sizes == [3, 9]
    assert isinstance(run.training_data["world"], StreamMixture)
    run.go()
    fine, world = Lineage.load(data / "run" / "world").stages[-2:]
    assert fine.data["samples"] == 12 and fine.data["source"] == "llava.json + demo world, fine"
    assert world.data["samples"] is None and world.samples_seen == 6
    assert world.data["source"] == "*.tar + demo world, world"


def test_mistakes_in_the_data_leave_nothing_behind(tiny_run, tiny_recipe, data):
    def refused(source, words, **arguments):
        stage = {"data": {"dataset": {"path": str(data / "llava.json"), **source}}, "arguments": arguments}
        with pytest.raises(SailvitError, match=words):
            run_recipe(recipe_of(tiny_recipe, tiny_run, data / "run", world=stage))
        assert not (data / "run").exists()

    refused({"path": str(data / "none.jsonl")}, "does not exist")
    refused({"image_root": str(data.parent / "none")}, "mend image_root")
    refused({"streaming": True, "image_root": "/"}, "entry 1: red.png does not exist", max_steps=1)
    lines = [json.dumps(row(answer, image="red.png")) for answer in ("red", "")]
    (data / "my.jsonl").write_text("\n".join(lines))
    refused({"path": str(data / "my.jsonl")}, "my.jsonl, line 2: message 2 is an empty answer")
    (data / "blue.png").rename(data / "blue.jpg")
    (data / "named.jsonl").write_text(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image"}]},
                    {"role": "assistant", "content": "blue"},
                ],
                "images": ["blue.jpg"],
            }
        )
    )
    stage = {"data": {"messages": str(data / "named.jsonl")}, "arguments": {"max_steps": 1}}
    with pytest.raises(SailvitError, match="line 1: blue.jpg is a PNG file in spite of its name"):
        run_recipe(recipe_of(tiny_recipe, tiny_run, data / "run", world=stage))
    stage["arguments"]["match_image_extension"] = False
    assert len(Run(recipe_of(tiny_recipe, tiny_run, data / "run", world=stage)).training_data["world"]) == 1
