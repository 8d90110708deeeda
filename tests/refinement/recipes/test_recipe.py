# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
from pathlib import Path

import pytest
import yaml

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement.recipes.recipe import describe_difference, load_recipe, parse_recipe

DEMO = Path(__file__).parents[3] / "recipes" / "demo.yaml"


def smallest(**changes):
    data = {
        "name": "small",
        "output_dir": "runs/small",
        "start": {"vision_tower": "demo", "language_model": "demo"},
        "stages": {"coarse": {"data": {"demo": {"samples": 8}}}},
    }
    return {**data, **changes}


def test_demo_recipe_reads_as_its_file_says():
    recipe = load_recipe(DEMO)
    assert (recipe.name, recipe.output_dir, recipe.seed) == ("demo", "runs/demo", 0)
    assert list(recipe.stages) == ["coarse", "fine", "world"]
    assert recipe.demo_parts() == ("vision_tower", "language_model", "second_language_model")
    assert recipe.foundations_seed == 0 and recipe.foundations.settings() == {}
    for plan in recipe.stages.values():
        arguments = plan.arguments
        samples = arguments["max_steps"] * arguments["per_device_train_batch_size"]
        assert sum(source.demo.samples for source in plan.data) == samples, "one pass: no picture is seen twice"


def test_defaults_and_a_list_of_sources():
    data = [{"demo": {"samples": 4, "stage": "world"}}, {"messages": "mine.jsonl", "image_root": "pictures"}]
    recipe = parse_recipe(smallest(stages={"fine": {"data": data, "arguments": {"learning_rate": "2e-3"}}}))
    first, second = recipe.stages["fine"].data
    assert (first.demo.stage, first.demo.samples, first.messages) == ("world", 4, None)
    assert (second.messages, second.image_root) == ("mine.jsonl", "pictures")
    assert recipe.stages["fine"].arguments == {"learning_rate": 0.002}
    assert (recipe.seed, recipe.evaluation, recipe.report) == (0, None, True)
    assert recipe.demo_parts() == ("vision_tower", "language_model"), "without a swap no second language model"


def test_a_recipe_survives_yaml(tmp_path):
    recipe = load_recipe(DEMO)
    (tmp_path / "copy.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "copy.yaml") == recipe


def test_overrides_are_read_as_yaml():
    recipe = load_recipe(DEMO, ["seed=7", "evaluation.probes=false", "stages.fine.arguments.max_steps=3"])
    assert (recipe.seed, recipe.evaluation.probes, recipe.stages["fine"].arguments["max_steps"]) == (7, False, 3)
    assert recipe.foundations_seed == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sede=1", "Unknown key sede in the recipe; did you mean seed?"),
        ("stages.fines={}", "Unknown key stages.fines in the recipe; did you mean stages.fine?"),
        ("stages.fine.argument={}", "stages.fine.argument in the recipe; did you mean stages.fine.arguments?"),
        ("stages.fine.data.demo.sample=1", "did you mean stages.fine.data.demo.samples?"),
        ("stages.fine.arguments.max_step=1", "did you mean stages.fine.arguments.max_steps?"),
        ("evaluation.encoder_swap.step=1", "did you mean evaluation.encoder_swap.steps?"),
        ("seed=soon", "seed must be a whole number, but is the text 'soon'."),
        ("seed=true", "seed must be a whole number, but is true."),
        ("name=3", "name must be a text, but is the number 3."),
        ("report=1", "report must be true or false, but is the number 1."),
        ("stages=[]", "stages must be a group of keys, but is a list."),
        ("stages={}", "stages is empty; give at least one of coarse, fine, world, direct, basic, multitask."),
        ("stages.fine=null", "stages.fine must be a group of keys, but is nothing."),
        ("stages.fine.data=[]", "stages.fine.data must be a source of samples or a list of them, but is a list."),
        ("stages.fine.data.demo=null", "stages.fine.data needs exactly one of demo, messages and dataset for each"),
        ("stages.fine.data.messages=a.jsonl", "stages.fine.data needs exactly one of demo, messages and dataset"),
        ("stages.fine.data.wieght=2", "stages.fine.data.wieght in the recipe; did you mean stages.fine.data.weight?"),
        ("stages.fine.data.weight=0", "stages.fine.data.weight must be greater than 0, not 0.0; leave the source out"),
        ("stages.fine.data.max_samples=0", "stages.fine.data.max_samples must be at least 1, not 0."),
        ("stages.fine.data.epochs=-1", "stages.fine.data.epochs must be greater than 0, not -1.0"),
        ("stages.fine.data={dataset: {}}", "The recipe lacks the key stages.fine.data.dataset.path; add it."),
        ("stages.fine.data={dataset: {path: a, splt: b}}", "did you mean stages.fine.data.dataset.split?"),
        ("stages.fine.data={dataset: {path: a, format: lava}}", "cauldron, caption (did you mean llava?), not lava."),
        ("stages.fine.data={dataset: {path: a, streaming: yes please}}", "streaming must be true or false"),
        ("stages.fine.data={dataset: {path: a, shuffle_buffer: 5}}", "belongs to streaming: true; remove it."),
        ("stages.fine.data={dataset: {path: a}, image_root: b}", "did you mean stages.fine.data.dataset.image_root?"),
        (
            "stages.fine.data=[{messages: a, weight: 1}, {messages: b}]",
            "some sources have a weight and some have none",
        ),
        ("evaluation.encoder_swap.data={dataset: {path: a, streaming: true}}", "the swap needs samples by index"),
        ("stages.fine.samples=0", "stages.fine.samples must be at least 1, not 0."),
        ("stages.fine.data.demo.samples=0", "stages.fine.data.demo.samples must be at least 1, not 0."),
        ("stages.fine.data.demo.stage=wrld", "must be one of coarse, fine, world (did you mean world?)."),
        ("stages.fine.arguments.max_steps=many", "must be a whole number, but is the text 'many'."),
        ("stages.fine.arguments.learning_rate=[1]", "must be a number, but is a list."),
        ("stages.fine.arguments.bf16=maybe", "must be true or false, but is the text 'maybe'."),
        ("stages.fine.arguments.seed=1", "is set by the pipeline; use `seed` at the top of the recipe."),
        ("stages.fine.arguments.output_dir=x", "is set by the pipeline; use `output_dir` at the top of the recipe."),
        ("stages.fine.arguments.max_steps=0", "stages.fine.arguments.max_steps must be greater than 0, not 0; leave"),
        ("stages.fine.arguments.per_device_train_batch_size=0", "per_device_train_batch_size must be at least 1"),
        ("start.model=x", "start.vision_tower and start.model exclude each other; keep one of the two."),
        ("start.language_model=null", "lacks the key start.language_model; give both parts, or a whole start.model."),
        ("evaluation.encoder_swap.steps=0", "evaluation.encoder_swap.steps must be at least 1, not 0."),
        ("seed.deep=1", "--set seed.deep: seed is no group of keys in the recipe."),
        ("seed", "--set needs key=value"),
        ("seed=[", "--set seed: '[' is not valid YAML."),
    ],
)
def test_a_mistake_is_named_in_one_sentence(override, message):
    with pytest.raises(SailvitError) as caught:
        load_recipe(DEMO, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_foundations_keys_are_the_fields_of_their_settings():
    import dataclasses

    from sailvit_hf.refinement.foundations import FoundationSettings

    fields = dataclasses.fields(FoundationSettings)
    settings = {field.name: field.default or 16 for field in fields}  # the ViT's sizes have no default of their own
    recipe = parse_recipe(smallest(foundations=settings))
    assert recipe.foundations.settings() == settings
    assert {field.name for field in dataclasses.fields(recipe.foundations)} == {"seed", "cache_dir", *settings}


def test_a_missing_key_is_named():
    data = smallest()
    del data["start"]
    with pytest.raises(SailvitError, match="The recipe lacks the key start; add it."):
        parse_recipe(data)


@pytest.mark.parametrize(
    ("content", "message"), [("a: [", "is not valid YAML"), ("- 1", "holds no keys"), ("", "holds no keys")]
)
def test_a_file_that_is_no_recipe(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(SailvitError, match=message):
        load_recipe(path)
    with pytest.raises(SailvitError, match="There is no recipe"):
        load_recipe(tmp_path / "absent.yaml")


def test_without_the_demo_world_a_swap_needs_samples():
    start = {"model": "some/model"}
    stages = {"world": {"data": {"messages": "mine.jsonl"}}}
    evaluation = {"encoder_swap": {"steps": 1, "learning_rate": 0.1}}
    with pytest.raises(SailvitError, match="lacks the key evaluation.encoder_swap.data"):
        parse_recipe(smallest(start=start, stages=stages, evaluation=evaluation))


def test_difference_of_two_recipes():
    demo = load_recipe(DEMO)
    assert describe_difference(demo, load_recipe(DEMO, ["output_dir=elsewhere"])) is None
    assert describe_difference(demo, load_recipe(DEMO, ["seed=4"])) == "seed is 4 there and 0 here"
    other = load_recipe(DEMO, ["stages.fine.arguments.save_steps=7"])
    assert describe_difference(other, demo).startswith("stages.fine.arguments.save_steps is absent there and 7")
    assert describe_difference(other, demo, {"save_steps"}) is None
    assert describe_difference(demo, other, {"save_steps"}) is None
    reordered = parse_recipe({**demo.to_dict(), "stages": dict(reversed(demo.to_dict()["stages"].items()))})
    difference = describe_difference(demo, reordered)
    assert difference == "stages are world, fine, coarse there and coarse, fine, world here"


def test_a_stream_needs_steps_and_whole_passes():
    stream = "stages.fine.data={dataset: {path: a, streaming: true}}"
    recipe = load_recipe(DEMO, [stream, "stages.fine.arguments.max_steps=5"])
    assert recipe.stages["fine"].data[0].dataset.split == "train"
    with pytest.raises(SailvitError, match="lacks the key stages.fine.arguments.max_steps; a stream has no length"):
        load_recipe(DEMO, [stream, "stages.fine.arguments.max_steps=-1", "stages.fine.arguments.num_train_epochs=1"])
    half = "stages.fine.data=[{dataset: {path: a, streaming: true}}, {messages: b, epochs: 0.5}]"
    with pytest.raises(SailvitError, match=r"data.epochs must be a whole number beside a stream, not 0.5"):
        load_recipe(DEMO, [half, "stages.fine.arguments.max_steps=5"])


def test_a_stage_may_be_taken_from_another_recipe(tmp_path):
    (tmp_path / "one").mkdir()
    own = smallest(stages={"fine": {"data": {"messages": "mine.jsonl"}, "arguments": {"learning_rate": 2e-3}}})
    (tmp_path / "one/first.yaml").write_text(yaml.safe_dump(own))
    (tmp_path / "one/second.yaml").write_text(yaml.safe_dump(smallest(stages={"fine": "first.yaml"})))
    (tmp_path / "third.yaml").write_text(yaml.safe_dump(smallest(stages={"fine": "one/second.yaml"})))
    recipe = load_recipe(tmp_path / "third.yaml", ["stages.fine.arguments.max_steps=3"])
    assert recipe.stages["fine"].arguments == {"learning_rate": 2e-3, "max_steps": 3}
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe, "its copy stands alone"
    (tmp_path / "one/first.yaml").write_text(yaml.safe_dump(smallest(stages={"fine": "second.yaml"})))
    with pytest.raises(SailvitError, match="asked for the stage again"):
        load_recipe(tmp_path / "third.yaml")
    (tmp_path / "one/first.yaml").write_text(yaml.safe_dump(smallest()))
    with pytest.raises(SailvitError, match="first.yaml is no recipe with a stage fine; mend it."):
        load_recipe(tmp_path / "third.yaml")


def test_samples_need_weights_and_an_end():
    def refused(words, *sources):
        stage = {"data": list(sources), "samples": 10, "arguments": {"max_steps": 5}}
        with pytest.raises(SailvitError, match=words):
            parse_recipe(smallest(stages={"coarse": stage}))

    refused("stages.coarse.samples needs to know how much of each", {"messages": "a"}, {"messages": "b"})
    stream = {"dataset": {"path": "a", "streaming": True}}
    refused("samples: a stream has no end; use stages.coarse.arguments.max_steps", stream)
    refused("coarse.data.epochs: stages.coarse.samples says", {"messages": "a", "epochs": 2})
    stage = {"data": {"messages": "a"}, "samples": 10}
    assert parse_recipe(smallest(stages={"basic": stage})).stages["basic"].samples == 10


def test_pictures_belong_to_parts():
    start = {"vision_tower": "demo", "language_model": "demo", "pictures": {"max_tiles": 4}}
    plan = parse_recipe(smallest(start=start)).start.pictures
    assert (plan.statistics, plan.max_tiles) == ("imagenet", 4)
    for pictures, words in (
        ({"statistics": "mine"}, "start.pictures.statistics must be imagenet or clip, not mine."),
        ({"max_tiles": 0}, "start.pictures.max_tiles must be at least 1, not 0."),
    ):
        with pytest.raises(SailvitError, match=words):
            parse_recipe(smallest(start={**start, "pictures": pictures}))
    with pytest.raises(SailvitError, match="start.pictures and start.model exclude each other"):
        parse_recipe(smallest(start={"model": "a", "pictures": {}}))
