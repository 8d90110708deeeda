# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The recipes that are shipped: every line tells where it comes from, and every stage really runs, scaled down."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from PIL import Image

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import STAGES, pipeline
from sailvit_hf.refinement.arguments import RefinementArguments
from sailvit_hf.refinement.assembly import load_vlm
from sailvit_hf.refinement.lineage import Lineage
from sailvit_hf.refinement.pipeline import run_recipe
from sailvit_hf.refinement.recipes.batches import accumulation_steps
from sailvit_hf.refinement.recipes.recipe import Recipe, load_recipe, parse_recipe
from sailvit_hf.refinement.stages import TARGET_STAGES

RECIPES = Path(__file__).parents[2] / "recipes"
SCALED = sorted(path for folder in ("large", "huge", "mllm") for path in (RECIPES / folder).glob("*.yaml"))
KEYS = ("coarse", "fine", "world")
DEMO_SIZED = [RECIPES / "smollm2.yaml", RECIPES / "smollm2_gpu.yaml"]
MARKED = [*SCALED, RECIPES / "qlora.yaml", *DEMO_SIZED]
SOURCE = re.compile(r"# (published: (R|C|L|Q)\b|ours: \w+ ?\w*)")
# A key that opens a group: only where it is a stage is there something to say, namely what trains.
GROUP = re.compile(r"(\w+):( &\w+)?( +#.*)?")


def name(path: Path) -> str:
    return str(path.relative_to(RECIPES))


def test_these_are_shipped():
    wanted = [f"{size}/{key}.yaml" for size in ("huge", "large") for key in sorted((*KEYS, "all"))]
    assert sorted(map(name, SCALED)) == sorted([*wanted, "mllm/huge.yaml", "mllm/large.yaml"])


@pytest.mark.parametrize("path", MARKED, ids=name)
def test_every_line_with_a_value_says_where_it_comes_from(path):
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = line.strip()
        group = GROUP.fullmatch(text)
        if not text or text.startswith("#") or (group and group[1] not in (*STAGES, *TARGET_STAGES)):
            continue
        assert SOURCE.search(line), f"{name(path)}, line {number}: {text}"


@pytest.mark.parametrize("path", MARKED[: -len(DEMO_SIZED)], ids=name)
def test_what_a_stage_trains_is_said_where_it_begins(path):
    words = {"vision_tower": "the ViT", "multi_modal_projector": "connector", "language_model": "the language model"}
    stages = {**STAGES, **TARGET_STAGES}
    for key, comment in re.findall(rf"^  ({'|'.join(stages)}): +#(.*)", path.read_text(), flags=re.M):
        said = re.match(r" published: R[^(]*\(trains (.*?)\)", comment)[1]
        assert [word in said for word in words.values()] == [module in stages[key].trains for module in words]


@pytest.mark.parametrize("path", [path for path in SCALED if path.stem in ("world", "large")], ids=name)
def test_what_stands_for_a_set_is_what_the_docs_say(path):
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", (RECIPES.parent / "docs/recipes.md").read_text(), flags=re.M)
    for line in path.read_text().splitlines():
        stands = re.search(r"# ours: share; R names ([\w-]+), for which this one stands", line)
        if stands is not None:
            here = re.search(r"name: (\w+)|/([\w-]+),", line)
            assert any(stands[1] in row and f"{here[1] or here[2]}`" in sets for row, sets in rows), line


@pytest.mark.parametrize("path", SCALED, ids=name)
def test_the_reference_batch_stands_on_top(path):
    top = path.read_text().split("\nname:")[0]
    assert "# Reference batch: " in top
    for plan in load_recipe(path).stages.values():
        assert re.search(rf"\b{plan.arguments['global_batch_size']}\b", top)


@pytest.mark.parametrize("path", SCALED, ids=name)
def test_published_numbers(path):
    for key, plan in load_recipe(path).stages.items():
        stage, given = {**STAGES, **TARGET_STAGES}[key], plan.arguments
        assert (given["global_batch_size"], given["learning_rate"]) == (stage.global_batch_size, stage.learning_rate)
        assert (given["num_train_epochs"], given["max_length"], given["packing"]) == (1.0, 8192, True)
        assert "gradient_accumulation_steps" not in given and "max_steps" not in given
        assert given["per_device_train_batch_size"] == 1


def test_samples_and_shares_are_the_published_ones():
    plans = load_recipe(RECIPES / "large/all.yaml").stages
    assert [plans[key].samples for key in KEYS] == [8_000_000, 18_700_000, 36_500_000]
    for key in KEYS:  # a weight is millions of samples
        assert sum(source.weight for source in plans[key].data) * 1e6 == pytest.approx(plans[key].samples)
    captions = [sum(s.weight for s in plans[key].data if "ReCap" in s.dataset.path) for key in ("coarse", "fine")]
    assert captions == [4.9, pytest.approx(4.9 + 6.7)]
    targets = load_recipe(RECIPES / "mllm/large.yaml").stages
    assert {key: plan.samples for key, plan in targets.items()} == {"basic": 64_000_000, "multitask": 180_000_000}
    world = [(source.weight, source.dataset) for source in plans["world"].data]
    assert [(source.weight, source.dataset) for source in targets["multitask"].data] == world


@pytest.mark.parametrize("size", ["large", "huge"])
def test_three_recipes_are_the_one_of_all_stages(size):
    whole = load_recipe(RECIPES / size / "all.yaml")
    for key, before in zip(KEYS, (None, *KEYS), strict=False):
        alone = load_recipe(RECIPES / size / f"{key}.yaml")
        assert alone.stages == {key: whole.stages[key]} and alone.seed == whole.seed
        if before is None:
            assert alone.start == whole.start
        else:  # goes on from where the one before saves its stage
            assert alone.start.model == f"{load_recipe(RECIPES / size / f'{before}.yaml').output_dir}/{before}"
    assert whole.stages == load_recipe(RECIPES / "large/all.yaml").stages
    target = load_recipe(RECIPES / "mllm" / f"{size}.yaml")
    assert target.start.vision_tower == f"{load_recipe(RECIPES / size / 'world.yaml').output_dir}/backbone"
    assert target.stages == load_recipe(RECIPES / "mllm/large.yaml").stages


@pytest.mark.parametrize("path", SCALED, ids=name)
def test_data_sources_are_hub_ids_with_weights_and_revisions(path):
    for plan in load_recipe(path).stages.values():
        for source in plan.data:
            assert source.weight > 0 and re.fullmatch(r"[\w-]+/[\w-]+", source.dataset.path)
            assert re.fullmatch(r"main|[0-9a-f]{40}", source.dataset.revision)
        assert len({(s.dataset.path, s.dataset.name) for s in plan.data}) == len(plan.data), "no source twice"


# The batch on other machines


@pytest.mark.parametrize(
    ("batch", "processes", "steps"),
    [(1920, 8, 240), (1920, 64, 30), (1920, 480, 4), (512, 8, 64), (512, 64, 8), (512, 512, 1), (2048, 512, 4)],
)
def test_accumulation_on_other_machines(batch, processes, steps):
    assert accumulation_steps(batch, processes) == steps
    assert accumulation_steps(batch, processes, 1) * processes == batch


def test_arguments_derive_the_same(tmp_path, monkeypatch):
    for processes, steps in ((8, 240), (64, 30)):
        monkeypatch.setattr(RefinementArguments, "world_size", processes)
        given = {"global_batch_size": 1920, "per_device_train_batch_size": 1, "use_cpu": True}
        assert RefinementArguments(output_dir=str(tmp_path), **given).gradient_accumulation_steps == steps
    monkeypatch.setattr(RefinementArguments, "world_size", 512)
    with pytest.raises(SailvitError, match="480 processes"):
        RefinementArguments(output_dir=str(tmp_path), **given)


@pytest.mark.parametrize(
    ("batch", "processes", "each", "mend"),
    [
        (1920, 512, 1, "1920 is not a multiple of 512 (512 processes of 1 samples): use 480 processes, or another"),
        (1920, 512, 1, "another batch, global_batch_size 1536 or 2048"),
        (512, 64, 3, "use per_device_train_batch_size 2, or another batch, global_batch_size 384 or 576"),
        (512, 1024, 1, "use 512 processes, or another batch, global_batch_size 1024"),
        (0, 8, 1, "use another batch, global_batch_size 8"),
    ],
)
def test_an_impossible_batch_says_what_would_go(batch, processes, each, mend):
    with pytest.raises(SailvitError) as caught:
        accumulation_steps(batch, processes, each)
    assert mend in str(caught.value)


# Scaled down: tiny parts, a few rows a source in the layout it has on the Hub, everything else as it stands there


def picture(number: int) -> dict:
    content = io.BytesIO()
    Image.new("RGB", (40 + 30 * (number % 3), 40), (20 * number % 255, 90, 10)).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": f"{number}.jpg"}  # PNG: names in Parquet files say nothing


def hub_rows(dataset) -> list[dict]:
    """Rows as the data set has them; where it is text only, without pictures."""
    answers = [f"answer {'so ' * number}" for number in range(6)]
    if dataset.path.startswith("HuggingFaceM4/"):
        texts_only = str(dataset.name).startswith("text_")
        return [
            {
                "images": [] if texts_only else [picture(number)] * (1 + number % 2),
                "texts": [{"user": f"what {number}", "assistant": answer}, {"user": "more", "assistant": "yes"}],
                "source": dataset.name,
            }
            for number, answer in enumerate(answers)
        ]
    if "ReCap" in dataset.path:
        turns = [{"from": "human", "value": "<image>\nDescribe."}]
        return [
            {"id": str(n), "image": picture(n), "conversations": [*turns, {"from": "gpt", "value": answer}]}
            for n, answer in enumerate(answers)
        ]
    assert dataset.path.startswith("Magpie-Align/")
    ask = {"from": "human", "value": "What is it?"}
    return [{"uuid": str(n), "conversations": [ask, {"from": "gpt", "value": a}]} for n, a in enumerate(answers)]


@pytest.fixture(scope="module")
def local_copy(tmp_path_factory):
    """A function that gives the local stand-in of a source."""
    folder = tmp_path_factory.mktemp("hub")

    def copy(source):
        file = folder / (re.sub(r"\W", "-", f"{source.dataset.path}-{source.dataset.name}") + ".parquet")
        if not file.exists():
            Dataset.from_list(hub_rows(source.dataset)).to_parquet(file)
        return replace(source, dataset=replace(source.dataset, path=str(file), name=None, revision=None))

    return copy


SMALLER = {
    "global_batch_size": 2,
    "max_length": 256,
    "max_image_tokens": 128,
    "bf16": False,
    "dataloader_num_workers": 0,
    "save_steps": 2,
}


@pytest.fixture(scope="module")
def scaled(tiny_recipe, local_copy, tmp_path_factory):
    """A function that gives a shipped recipe scaled down, with its folders below one temporary folder."""
    folder = tmp_path_factory.mktemp("scaled")

    def scale(file: str) -> Recipe:
        recipe = load_recipe(RECIPES / file)
        stages = {
            key: replace(
                plan,
                data=[local_copy(source) for source in plan.data],
                samples=max(12, len(plan.data)),
                arguments={**plan.arguments, **SMALLER},
            )
            for key, plan in recipe.stages.items()
        }
        start, tiny = recipe.start, tiny_recipe(folder)
        if start.model is not None:
            start = replace(start, model=str(folder / start.model))
        else:
            tower = str(folder / start.vision_tower) if start.vision_tower.startswith("runs/") else "demo"
            start = replace(start, vision_tower=tower, language_model="demo", vision_tower_revision=None,
                            language_model_revision=None, pictures=replace(start.pictures, max_tiles=2))  # fmt: skip
        given = {**recipe.to_dict(), "foundations": tiny["foundations"]}
        made = replace(
            parse_recipe(given),
            start=start,
            stages=stages,
            output_dir=str(folder / recipe.output_dir),
            attention="eager",
        )
        return parse_recipe(yaml.safe_load(made.to_yaml()))

    return scale


def learnt(folder: Path) -> list[tuple[str, tuple[str, ...], int]]:
    return [(record.stage, record.trains, record.samples_seen) for record in Lineage.load(folder).stages]


STAGE_RECORDS = [(key, STAGES[key].trains) for key in KEYS]


@pytest.mark.slow
def test_the_chain_of_three_recipes_and_the_target_model_run(scaled):
    for number, key in enumerate(KEYS, start=1):
        recipe = scaled(f"large/{key}.yaml")
        result = run_recipe(recipe)
        found = learnt(result.folder / key)
        assert [(stage, tuple(trains)) for stage, trains, _ in found] == STAGE_RECORDS[:number]
        assert found[-1][2] == recipe.stages[key].samples
    target = run_recipe(scaled("mllm/large.yaml"))
    assert [(s, tuple(t)) for s, t, _ in learnt(target.folder / "multitask")] == [
        ("basic", TARGET_STAGES["basic"].trains), ("multitask", TARGET_STAGES["multitask"].trains)
    ]  # fmt: skip
    parents = Lineage.load(target.folder / "multitask").parents
    assert parents["vision_tower"]["source"] == "backbone (a local folder)"


def test_all_stages_in_one_run(scaled, monkeypatch):
    attention = []

    def load(*args, **kwargs):
        model = load_vlm(*args, **kwargs)
        attention.append((kwargs.get("attention"), model.config.text_config._attn_implementation))
        return model

    monkeypatch.setattr(pipeline, "load_vlm", load)
    result = run_recipe(scaled("huge/all.yaml"))
    assert attention.count(("eager", "eager")) == 3, "the stages train with the recipe's attention"
    assert [(stage, tuple(trains)) for stage, trains, _ in learnt(result.folder / "world")] == STAGE_RECORDS
