# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Whole plans: what the numbers must be to each other, and FLOPs as torch counts them."""

import json

import pytest
from torch.utils.flop_counter import FlopCounterMode

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import STAGES, RefinementArguments
from sailvit_hf.refinement.planning import Question, find_gpu, plan_recipes
from sailvit_hf.refinement.planning.compute import Tile, compute_of, tile_of
from sailvit_hf.refinement.planning.data_sizes import Sizes
from sailvit_hf.refinement.planning.plot import plan_picture
from sailvit_hf.refinement.planning.text import WIDTH, duration, plan_text, short
from sailvit_hf.refinement.recipes.recipe import parse_recipe
from sailvit_hf.refinement.stages import MODULES

from ..tiny import LENGTH, collate, tiny_model, tiny_samples

ARGUMENTS = {"bf16": True, "packing": True, "max_length": 64, "per_device_train_batch_size": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "vlm"
    tiny_model(layers=3).save_pretrained(path)
    return path


def recipe(folder, stages=("coarse", "world"), **arguments):
    plans = {
        stage: {"samples": 6400, "data": {"dataset": {"path": "some/data"}}, "arguments": {**ARGUMENTS, **arguments}}
        for stage in stages
    }
    start = {"model": str(folder)}
    return parse_recipe({"name": "tiny", "output_dir": "runs/tiny", "start": start, "stages": plans})


def without_none(values):
    return {key: value for key, value in values.items() if value is not None}


def question(*gpus, **options):
    return Question(gpus, find_gpu("h100"), tokens=16.0, tiles=2.0, **options)


PLANS = {}  # a plan is a value: made once for all tests


def planned(folder, asked, stages=("world",), **arguments):
    key = (asked, stages, tuple(arguments.items()))
    if key not in PLANS:
        PLANS[key] = plan_recipes([(recipe(folder, stages, **arguments), None)], asked)
    return PLANS[key]


@pytest.mark.parametrize("stage", list(STAGES))
@pytest.mark.parametrize("tower", ["sailvit", "clip"])
def test_flops_of_a_sample_are_those_that_torch_counts(stage, tower):
    model, rows = tiny_model(tower=tower, layers=3), 6
    STAGES[stage].apply(model)
    assert tile_of(model) == Tile(4, (16, 16))
    samples = collate(tiny_samples(rows))
    batch = {**samples, "labels": samples["input_ids"].clone()}  # torch counts all logits
    tiles = len(batch["pixel_values"]) / rows
    found = compute_of(model, Sizes(1, LENGTH, tiles, LENGTH - 1, ""), tile_of(model), (), True)
    model.train().set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    assert rows * found.total == pytest.approx(counter.get_total_flops(), rel=0.03)
    assert found.recomputed == 0
    assert [p.requires_grad for p in model.parameters()].count(True) > 0  # as the stage left it


def test_what_is_computed_again():
    model, sizes = tiny_model(layers=3), Sizes(1, 12, 1, 5, "")
    STAGES["world"].apply(model)
    every = tuple(("vision_tower", "multi_modal_projector", "language_model"))
    again = compute_of(model, sizes, tile_of(model), every, True)
    assert 0.28 < again.recomputed / again.total < 0.34  # a third: one forward more beside one and two
    STAGES["coarse"].apply(model)
    frozen = compute_of(model, sizes, tile_of(model), ("vision_tower",), True)
    assert frozen.recomputed == 0  # a frozen tower keeps nothing, and computes nothing twice


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_checkpointing_by_either_name(folder, name):
    if name not in RefinementArguments.__dataclass_fields__:
        pytest.skip(f"this transformers has no {name}")
    stages = [planned(folder, question(1), **{name: switch}).stages[0] for switch in (True, False)]
    assert [stage.checkpointing for stage in stages] == [MODULES, ()]


def test_time_and_work(folder):
    plan = planned(folder, question(8, 64, mfu=0.5), stages=("coarse", "world"), global_batch_size=64)
    assert [stage.stage for stage in plan.stages] == ["coarse", "world"]
    coarse, world = plan.stages
    assert coarse.tokens == 6400 * 16 and coarse.micro.pictures == 8 and coarse.micro.length == 64
    assert world.flops > coarse.flops
    few, many = world.answers
    assert few.days == pytest.approx(world.flops / (8 * 989.4e12 * 0.5) / 86_400)
    assert few.gpu_hours == pytest.approx(many.gpu_hours)
    assert (few.batch.accumulation, many.batch.accumulation) == (8, 1)
    # 6400 samples of 16 tokens in packs of 64 that are 98 % full, 64 packs a step
    assert few.steps == many.steps == 26
    assert few.chosen == "ddp" and list(few.memory) == ["ddp", "zero2", "fsdp2", "zero3"]
    halved = planned(folder, question(8, mfu=0.25, sharding="ddp"), global_batch_size=64)
    assert halved.stages[0].answers[0].days == pytest.approx(2 * few.days)


def test_one_gpu_needs_no_layout(folder):
    plan = planned(folder, question(1))
    assert "On 1 GPU\n" in plan_text(plan) and "1 GPUs" not in plan_text(plan)
    assert list(plan.stages[0].answers[0].memory) == ["single"]
    with pytest.raises(SailvitError, match="--sharding fsdp2 divides nothing on one GPU"):
        question(1, sharding="fsdp2")


def test_a_batch_that_does_not_divide_is_said(folder):
    plan = planned(folder, question(7), global_batch_size=64)
    answer = plan.stages[0].answers[0]
    assert answer.batch.rows == 63 and not answer.batch.whole
    assert any("world on 7 GPUs would be refused" in note for note in plan.assumptions)
    assert "63 (!)" in plan_text(plan)


def test_samples_are_of_stages_that_say_none(folder):
    with pytest.raises(SailvitError, match=r"--samples changes nothing: .* --set stages.coarse.samples=1000000"):
        planned(folder, question(8, samples=1e6), stages=("coarse", "world"))
    values = recipe(folder).to_dict()
    values["stages"]["world"]["samples"] = None
    mixed = parse_recipe(without_none(values))
    plan = plan_recipes([(mixed, None)], question(8, samples=1e6, sharding="ddp"))
    assert [stage.sizes.samples for stage in plan.stages] == [6400, 1e6]
    (note,) = (note for note in plan.assumptions if "--samples" in note)
    assert note == (
        "coarse has 6,400 samples (the recipe), which --samples does not change; --set stages.coarse.samples=N does"
    )


def test_what_a_plan_does_not_count_is_said(folder):
    plan = planned(folder, question(8, mfu=0.4, sharding="ddp"), gradient_checkpointing=True)
    text = " ".join(plan_text(plan).split())
    for words in ("the exchange between GPUs is not simulated", "without evaluation, encoder swap and foundations",
                  "one of text alone learns more"):  # fmt: skip
        assert words in text
    compute = plan.stages[0].compute
    again = 0.4 * (compute.total + compute.recomputed) / compute.total
    assert 0.5 < again < 0.54 and f"share of their peak: {again:.0%} in world" in text
    plain = planned(folder, question(8, mfu=0.4, sharding="ddp"), gradient_checkpointing=False)
    assert "computed again the GPUs" not in " ".join(plan_text(plain).split())


def test_checkpoints(folder):
    plan = planned(folder, question(8, sharding="ddp"), save_steps=10, global_batch_size=64)
    (stage,) = plan.stages
    (answer,) = stage.answers
    assert stage.saving.bytes == 12 * stage.parameters.total  # all of it trains: fp32 weights and two moments
    assert (answer.steps, stage.saving.every(26), stage.saving.count(26), stage.saving.kept) == (26, 10, 3, 2)
    assert stage.seconds_between(answer) == pytest.approx(10 * answer.days * 86_400 / 26)
    values = plan.to_dict()["stages"][0]["answers"][0]
    assert values["checkpoints"] == 3
    assert values["seconds_between_checkpoints"] == stage.seconds_between(answer)
    assert "checkpoints" in plan_text(plan) and "3 x " in plan_text(plan)
    quiet = planned(folder, question(8, sharding="ddp"), save_strategy="no")
    assert quiet.stages[0].seconds_between(quiet.stages[0].answers[0]) is None
    assert [line.split() for line in plan_text(quiet).splitlines() if line.startswith("world")][2][-2:] == ["-", "-"]


def test_gradients_between_micro_batches_of_fsdp2(folder):
    said = {"gradient_accumulation_kwargs": {"sync_each_batch": False}}
    found = []
    for arguments in ({}, {"accelerator_config": {}}, {"accelerator_config": said}):
        asked = recipe(folder, ("world",), global_batch_size=64, **arguments)
        (stage,) = plan_recipes([(asked, None)], question(8, sharding="fsdp2")).stages
        found.append(stage.answers[0].memory["fsdp2"].gradients)
    parameters = stage.parameters.total  # all of them train
    assert found == [4 * parameters / 8, 4 * parameters / 8, 2 * parameters]


def test_the_layout_that_fits(folder):
    whole = planned(folder, question(8)).stages[0].answers[0].memory["ddp"].total
    tight = Question((8,), find_gpu("h100"), tokens=16.0, tiles=2.0, reserve_gib=80 - 0.9 * (whole / 2**30 - 6))
    answer = planned(folder, tight).stages[0].answers[0]
    assert answer.chosen in ("zero2", "fsdp2", "zero3") and answer.memory["ddp"].total > 80 * 2**30
    none = planned(folder, question(8, reserve_gib=80.0))
    assert none.stages[0].answers[0].chosen is None
    assert "none fits" in plan_text(none) and "too much" in plan_text(none)


@pytest.mark.parametrize(
    ("option", "layouts"),
    [
        ({"clip_per_module": True}, ("zero2", "zero3")),
        ({"vision_feature_cache": "cache"}, ("zero2", "fsdp2", "zero3")),
        ({"vision_tower_ema": 0.99}, ("zero2", "fsdp2", "zero3")),
    ],
)
def test_a_layout_that_would_refuse_the_stage_is_not_chosen(folder, option, layouts):
    (name,) = option
    plan = planned(folder, question(2), stages=("coarse",), **option)
    (answer,) = plan.stages[0].answers
    assert answer.chosen == "ddp" and answer.refused == layouts
    text = plan_text(plan)
    for layout in ("ddp", "zero2", "fsdp2", "zero3"):
        (row,) = [line for line in text.splitlines() if line.startswith(f"coarse {layout} ")]
        assert row.endswith("refused") == (layout in layouts)
    alone = planned(folder, question(2, sharding="zero3"), stages=("coarse",), **option)
    assert alone.stages[0].answers[0].chosen is None
    assert f"coarse would be refused in zero3: {name} needs" in " ".join(plan_text(alone).split())


def test_adapters_train_less_and_keep_less(folder):
    pytest.importorskip("peft")
    plain = planned(folder, question(8)).stages[0]
    values = recipe(folder, ("world",)).to_dict()
    values["stages"]["world"]["adapters"] = {"language_model": {"rank": 2}}
    found = plan_recipes([(parse_recipe(without_none(values)), None)], question(8)).stages[0]
    assert 0 < found.parameters.trained["language_model"] < plain.parameters.trained["language_model"]
    assert (
        found.answers[0].memory["ddp"].by_part()["optimiser"] < plain.answers[0].memory["ddp"].by_part()["optimiser"]
    )


def test_text_is_at_most_a_hundred_columns_and_holds_the_assumptions(folder):
    plan = planned(folder, question(8, 64, 512, price=2.5), global_batch_size=512)
    text = plan_text(plan)
    assert max(map(len, text.splitlines())) <= WIDTH == 100
    for words in ("tiny on 8, 64, 512 x H100 SXM, 80 GB, 40% MFU", "On 512 GPUs", "cost", "What is assumed",
                  "MFU 40% of 989.4 TFLOP/s", "as asked: tokens, tiles"):  # fmt: skip
        assert words in text
    values = json.loads(json.dumps(plan.to_dict()))
    assert values["stages"][0]["answers"][2]["gpus"] == 512
    assert values["stages"][0]["flops"] == pytest.approx(plan.stages[0].flops)


def test_the_picture_is_a_png(folder):
    pytest.importorskip("matplotlib")
    picture = plan_picture(planned(folder, question(8, 64, 512, price=2.5), global_batch_size=512))
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


@pytest.mark.parametrize(
    ("options", "words"),
    [({"mfu": 0.0}, "--mfu is 0.0"), ({"mfu": 40}, "--mfu is 40"), ({"sharding": "fsdp1"}, "choose auto, ddp"),
     ({"reserve_gib": -1.0}, "--reserve"), ({"samples": -1.0}, "--samples is -1: give more than 0")],
)  # fmt: skip
def test_questions_that_make_no_sense(options, words):
    with pytest.raises(SailvitError, match=words):
        Question((8,), find_gpu("h100"), **options)
    with pytest.raises(SailvitError, match="--gpus"):
        Question((0,), find_gpu("h100"))


def test_gpus():
    assert find_gpu("H100").tflops == 989.4
    with pytest.raises(SailvitError, match="choose one of h100, "):
        find_gpu("abacus")


def test_numbers_for_people():
    assert [short(n) for n in (8e6, 121e9, 1915, 2.419e9, 0.5)] == ["8M", "121B", "1.92k", "2.42B", "0.5"]
    assert [duration(d) for d in (9.81, 0.5, 0.01, 1e-5)] == ["9.8 d", "12.0 h", "14.4 min", "0.9 s"]
