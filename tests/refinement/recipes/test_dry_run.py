# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a dry run finds: the batch, what trains, what is missing; and that it writes nothing and asks nobody."""

import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from huggingface_hub import HfApi
from PIL import Image
from transformers import Qwen3Config

from sailvit_hf.cli import main
from sailvit_hf.refinement import launching
from sailvit_hf.refinement.launching import Launch
from sailvit_hf.refinement.recipes import dry_run as module
from sailvit_hf.refinement.recipes.dry_run import dry_run
from sailvit_hf.refinement.recipes.recipe import load_recipe, parse_recipe

from ...data.sources import parquet_with_pictures
from ...hub.conftest import hub  # noqa: F401 - a fixture

RECIPES = Path(__file__).parents[3] / "recipes"
APPLE = {  # as the `config.json` of Apple's repositories names things
    "model_type": "aimv2", "architectures": ["AIMv2Model"], "num_hidden_layers": 24, "num_channels": 3,
    "image_size": 448, "patch_size": 14, "rms_norm_eps": 1e-5,
}  # fmt: skip


def written(folder: Path, config) -> str:
    folder.mkdir(parents=True)
    text = json.dumps(config) if isinstance(config, dict) else config.to_json_string()
    (folder / "config.json").write_text(text)
    return str(folder)


def under(found, title: str) -> list[str]:
    return next((lines for name, lines in found.lines if name.startswith(title)), [])


@pytest.fixture(autouse=True)
def without_flash_attention(monkeypatch):
    monkeypatch.setattr(module, "is_flash_attn_2_available", lambda: False)


@pytest.fixture
def nobody_is_asked(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(module, "get_session", refuse)
    monkeypatch.setattr(module, "HfApi", refuse)


def qwen3() -> Qwen3Config:
    sizes = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16}
    return Qwen3Config(vocab_size=151936, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True, **sizes)


@pytest.mark.parametrize(
    ("size", "sizes", "tower", "connector"),
    [("large", (1024, 2816, 8), 309_984_256, 12_595_200), ("huge", (1536, 4096, 12), 682_031_616, 16_793_600)],
)
def test_parameters_of_the_published_sizes(tmp_path, nobody_is_asked, size, sizes, tower, connector):
    hidden, inner, heads = sizes
    apple = {**APPLE, "hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads}
    parts = {
        "vision_tower": written(tmp_path / "aimv2", apple),
        "language_model": written(tmp_path / "qwen3", qwen3()),
    }
    overrides = [f"start.{name}={folder}" for name, folder in parts.items()]
    overrides += [f"start.{name}_revision=null" for name in parts] + [f"output_dir={tmp_path / 'run'}"]
    found = dry_run(load_recipe(RECIPES / size / "all.yaml", overrides), processes=64, ask_hub=False)
    assert under(found, "coarse") == [
        "batch: 1920 packs of 8192 tokens = 64 processes x 1 x 30 accumulation steps",
        "length: 1 x 8,000,000 samples",
        f"frozen: vision_tower, {tower:,} parameters",
        f"trains: multi_modal_projector at 0.0002, {connector:,} of {connector:,} parameters",
        "frozen: language_model, 1,720,574,976 parameters",
    ]
    assert under(found, "fine")[2] == f"trains: vision_tower at 2e-05, {tower:,} of {tower:,} parameters"
    assert under(found, "world")[4].startswith("trains: language_model at 1e-05, 1,720,574,976 of")
    assert found.missing == [] and not (tmp_path / "run").exists()
    assert [text.split(" on the Hub")[0] for text in found.unchecked] == [
        "attention: flash_attention_2, which needs a GPU and pip install 'sailvit_hf[flash]'",
        "data: lmms-lab/LLaVA-ReCap-CC12M",
        "data: HuggingFaceM4/FineVision",
        "data: lmms-lab/LLaVA-ReCap-CC3M",
        "data: HuggingFaceM4/Docmatix",
        "data: Magpie-Align/Magpie-Pro-300K-Filtered",
    ]


@pytest.mark.parametrize("name", ["large/fine", "mllm/huge"])
def test_what_an_earlier_recipe_makes_is_missing_but_its_sizes_are_known(nobody_is_asked, name):
    path = RECIPES / f"{name}.yaml"
    found = dry_run(load_recipe(path), processes=8, ask_hub=False, path=path)
    (missing,) = found.missing
    assert "there is no folder runs/" in missing and "run what makes it first" in missing
    tower = "309,984,256" if "large" in name else "682,031,616"
    assert any(tower in line for _, lines in found.lines for line in lines)


def test_a_run_that_could_start(tmp_path, tiny_run, tiny_recipe, nobody_is_asked):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    turns = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "b"}]
    row = {"messages": turns, "images": ["a.png"]}
    (tmp_path / "mine.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    stage = {"data": {"dataset": {"path": str(tmp_path / "mine.jsonl")}}, "arguments": {"freeze_vision_layers": 1}}
    given = tiny_recipe(tmp_path / "run", start={"model": str(tiny_run / "coarse")}, stages={"fine": stage})
    given |= {"evaluation": None}
    found = dry_run(parse_recipe(given), ask_hub=False)
    assert found.missing == found.unchecked == [] and under(found, "data") == [f"{tmp_path}/mine.jsonl: 3 rows"]
    lines = under(found, "fine")
    assert lines[0] == "batch: 8 samples = 1 process x 8 x 1 accumulation steps"
    assert lines[1] == "length: 1 x the samples of its sources"
    assert lines[2].endswith(" of 468,000 parameters") and " 468,000 of" not in lines[2], "the embeddings are frozen"
    (tmp_path / "a.png").unlink()
    (missing,) = dry_run(parse_recipe(given), ask_hub=False).missing
    assert "mine.jsonl, line 1: a.png does not exist" in missing


def test_whose_the_folder_is(tiny_run, tiny_recipe):
    recipe = parse_recipe(tiny_recipe(tiny_run))
    (missing,) = dry_run(recipe, ask_hub=False).missing
    assert "holds a run already; go on by --resume" in missing
    assert dry_run(recipe, resume=True, ask_hub=False).missing == []
    (missing,) = dry_run(parse_recipe(tiny_recipe(tiny_run, seed=5)), ask_hub=False).missing
    assert "seed is 0 there and 5 here" in missing


def test_the_command(capsys, tmp_path):
    file, to = str(RECIPES / "large/all.yaml"), ["--output-dir", str(tmp_path / "run"), "--offline-check"]
    assert main(["refine", file, "--dry-run", "--processes", "128", *to]) == 0
    told = capsys.readouterr().out
    assert "batch: 1920 packs of 8192 tokens = 128 processes x 1 x 15 accumulation steps" in told
    assert main(["refine", file, "--dry-run", "--processes", "512", *to]) == 1
    told = capsys.readouterr().out
    assert "batch: 512 packs of 8192 tokens = 512 processes x 1 x 1 accumulation steps" in told
    assert "would stop the run\n  stages.coarse.arguments: global_batch_size 1920 is not a multiple of 512" in told
    assert "\nnot checked: " in told and "\n  start.vision_tower: apple/aimv2-large" in told
    assert "not pinned to a commit" in told and "Qwen/Qwen3-1.7B at main" in told
    assert not (tmp_path / "run").exists()


def test_the_batch_is_that_of_the_processes_asked_for(tmp_path, tiny_recipe, nobody_is_asked):
    given = tiny_recipe(tmp_path / "run")
    given["stages"]["fine"]["arguments"]["global_batch_size"] = 98
    found = dry_run(parse_recipe(given), processes=32, ask_hub=False)
    (missing,) = found.missing
    assert missing.startswith("stages.fine.arguments: global_batch_size 98 is not a multiple of 128 (32")
    assert under(found, "fine")[0] == "batch: 98 is not possible with 32 processes x 4"
    given["stages"]["fine"]["arguments"]["global_batch_size"] = 256
    found = dry_run(parse_recipe(given), processes=32, ask_hub=False)
    assert under(found, "fine")[0] == "batch: 256 samples = 32 processes x 4 x 2 accumulation steps"


@pytest.mark.parametrize(
    ("launch", "processes", "missing", "unchecked"),
    [
        (Launch("ddp", 2), "2 processes", [], []),
        (Launch("ddp"), "1 process", [], ["the number of processes: there is no GPU to count"]),
        (Launch("fsdp2", 2), "2 processes", [], ["--launch fsdp2: it needs a GPU, none here"]),
        (Launch("nonsense", 2), "2 processes", ["There is no launch nonsense: choose out of ddp, fsdp2"], []),
    ],
)
def test_a_launch(launch, processes, missing, unchecked, tmp_path, tiny_recipe, nobody_is_asked, monkeypatch):
    for place in (module, launching):
        monkeypatch.setattr(place, "accelerators", lambda: 0)
    found = dry_run(parse_recipe(tiny_recipe(tmp_path / "run")), ask_hub=False, launch=launch)
    assert f"= {processes} x 4" in under(found, "fine")[0]
    for texts, expected in ((found.missing, missing), (found.unchecked, unchecked)):
        assert len(texts) == len(expected) and all(map(str.startswith, texts, expected))


def test_the_gpus_of_all_machines_are_counted(tmp_path, tiny_recipe, nobody_is_asked, monkeypatch):
    monkeypatch.setattr(module, "accelerators", lambda: 8)
    launch = Launch("fsdp2", machines=2, main_address="one")
    found = dry_run(parse_recipe(tiny_recipe(tmp_path / "run")), ask_hub=False, launch=launch)
    assert "= 16 processes x 4" in under(found, "fine")[0] and found.unchecked == []


def test_the_command_hands_the_launch_on(capsys, tmp_path):
    file, to = str(RECIPES / "demo.yaml"), ["--output-dir", str(tmp_path / "run"), "--offline-check"]
    assert main(["refine", file, "--dry-run", "--launch", "nonsense", "--processes", "3", *to]) == 1
    told = capsys.readouterr().out
    assert "There is no launch nonsense" in told and "= 3 processes x 32" in told


def test_adapters_for_layers_that_are_not_there(tmp_path, tiny_recipe, nobody_is_asked):
    given = tiny_recipe(tmp_path / "run")
    given["stages"]["world"]["adapters"] = {"language_model": {"targets": ["q_projj"]}}
    (missing,) = dry_run(parse_recipe(given), ask_hub=False).missing
    assert missing.startswith("stages.world.adapters.language_model: no linear layer of language_model that this")
    assert "called q_projj: they are called down_proj" in missing
    given["stages"]["world"]["adapters"]["language_model"]["targets"] = ["q_proj"]
    assert dry_run(parse_recipe(given), ask_hub=False).missing == []


def test_a_disk_without_room(tmp_path, tiny_recipe, nobody_is_asked, monkeypatch):
    """869,000 weights of four bytes, at the start and after three stages."""
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000_000))
    (missing,) = dry_run(parse_recipe(tiny_recipe(tmp_path / "run")), ask_hub=False).missing
    assert f"{tmp_path} has room for 0.002 GB, and the weights of its 4 states alone, in fp32, are 0.0139" in missing


# With a Hub on loopback


@pytest.fixture
def commit(hub, tmp_path, monkeypatch) -> str:  # noqa: F811 - the fixture
    """The commit of a data set `alice/pictures` that the Hub has."""
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "files/data").mkdir(parents=True)
    parquet_with_pictures(tmp_path / "files/data/train-00000-of-00001.parquet", 4)
    HfApi().create_repo("alice/pictures", repo_type="dataset")
    return HfApi().upload_folder(repo_id="alice/pictures", repo_type="dataset", folder_path=tmp_path / "files").oid


def test_the_hub_is_asked_for_first_rows_and_commits(commit, tmp_path, tiny_run, tiny_recipe):
    def checked(**source):
        stage = {"data": {"dataset": {"path": "alice/pictures", **source}}, "arguments": {"max_steps": 1}}
        start = {"model": str(tiny_run / "coarse")}
        return dry_run(
            parse_recipe(tiny_recipe(tmp_path / "run", start=start, stages={"fine": stage}, evaluation=None))
        )

    found = checked(revision=commit)
    assert (found.missing, found.unchecked, under(found, "not pinned")) == ([], [], [])
    assert under(checked(), "not pinned") == [f"alice/pictures at main, now {commit}"]
    (missing,) = checked(revision=commit, split="dev").missing
    assert "the data set alice/pictures cannot be read" in missing
    assert len(checked(path="alice/none").missing) == 2  # neither a row nor a commit


def test_a_hub_that_does_not_answer(hub, monkeypatch, tmp_path):  # noqa: F811 - the fixture
    monkeypatch.setattr(module.constants, "ENDPOINT", "http://127.0.0.1:9")
    found = dry_run(load_recipe(RECIPES / "large/coarse.yaml", [f"output_dir={tmp_path / 'run'}"]))
    assert found.missing == [] and len(found.unchecked) == 5


def test_demo_parts_are_known_without_making_them(tmp_path, nobody_is_asked):
    given = [f"output_dir={tmp_path / 'run'}", f"foundations.cache_dir={tmp_path / 'cache'}"]
    found = dry_run(load_recipe(RECIPES / "demo.yaml", given), ask_hub=False)
    assert under(found, "world")[1:] == [
        "length: 400 steps",
        "trains: vision_tower at 0.001, 468,000 of 468,000 parameters",
        "trains: multi_modal_projector at 0.001, 47,040 of 47,040 parameters",
        "trains: language_model at 0.001, 353,664 of 353,664 parameters",
    ]
    assert found.missing == found.unchecked == [] and not list(tmp_path.iterdir())
