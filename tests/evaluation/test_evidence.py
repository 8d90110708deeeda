# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The arms differ in what they should and in nothing else; the comparison resumes, tunes, and says what came out."""

import json
import random

import pytest

from sailvit_hf.errors import SailvitError
from sailvit_hf.evaluation import evidence as module
from sailvit_hf.evaluation.arms import ARMS, arm_recipe, stage_steps
from sailvit_hf.evaluation.evidence import Job, run_evidence
from sailvit_hf.refinement.recipes.recipe import parse_recipe


def recipe(**changes):
    def stage(samples, steps, rate, **more):
        arguments = {"max_steps": steps, "learning_rate": rate, "per_device_train_batch_size": 8, **more}
        return {"data": {"demo": {"samples": samples}}, "arguments": arguments}

    data = {
        "name": "small",
        "output_dir": "somewhere",
        "foundations": {"cache_dir": "a cache"},
        "start": {"vision_tower": "demo", "language_model": "demo"},
        "stages": {
            "coarse": stage(80, 10, 4e-3),
            "fine": stage(400, 50, 2e-3, vision_tower_learning_rate=1e-3),
            "world": stage(240, 30, 1e-3, clip_per_module=True),
        },
        "evaluation": {"samples": 8, "encoder_swap": {"steps": 2, "learning_rate": 1e-3, "batch_size": 4}},
    }
    return parse_recipe({**data, **changes})


def arguments(of, stage):
    return of.stages[stage].arguments


def test_gradual_scales_every_stage_with_the_fine_stage_s_rate():
    tuned = arm_recipe(recipe(), "gradual", 7, rate=1e-3)
    assert tuned.seed == 7 and list(tuned.stages) == ["coarse", "fine", "world"]
    rates = [arguments(tuned, stage)["learning_rate"] for stage in tuned.stages]
    assert rates == pytest.approx([2e-3, 1e-3, 0.5e-3])
    assert arguments(tuned, "fine")["vision_tower_learning_rate"] == pytest.approx(0.5e-3)
    plain = arm_recipe(recipe(), "gradual", 7)
    assert arguments(plain, "coarse")["learning_rate"] == 4e-3


def test_direct_sees_the_same_samples_in_as_many_steps():
    direct = arm_recipe(recipe(), "direct", 0, rate=3e-3)
    (plan,) = direct.stages.values()
    assert list(direct.stages) == ["direct"]
    assert [(s.demo.stage, s.demo.samples) for s in plan.data] == [("coarse", 80), ("fine", 400), ("world", 240)]
    assert plan.arguments["max_steps"] == 90 and plan.arguments["learning_rate"] == 3e-3
    assert plan.arguments["clip_per_module"] is True and "vision_tower_learning_rate" not in plan.arguments
    assert arguments(arm_recipe(recipe(), "direct", 0), "direct")["learning_rate"] == 2e-3


def test_without_the_first_stage_the_second_is_longer():
    shorter = arm_recipe(recipe(), "fine_first", 0)
    assert list(shorter.stages) == ["fine", "world"]
    assert arguments(shorter, "fine")["max_steps"] == 60 and shorter.stages["fine"].data[0].demo.samples == 480


def test_steps_of_epochs():
    data = recipe().to_dict()
    data["stages"]["fine"]["arguments"] = {"per_device_train_batch_size": 16, "num_train_epochs": 2}
    assert stage_steps(data, "fine") == 50
    data["stages"]["fine"]["data"] = [{"messages": "x.jsonl"}]
    with pytest.raises(SailvitError, match=r"stages\.fine\.arguments\.max_steps"):
        stage_steps(data, "fine")


def test_recipes_that_do_not_fit():
    stages = recipe().to_dict()["stages"]
    with pytest.raises(SailvitError, match="coarse, fine and world"):
        arm_recipe(recipe(stages={"fine": stages["fine"]}), "gradual", 0)
    with pytest.raises(SailvitError, match="encoder_swap"):
        arm_recipe(recipe(evaluation={"samples": 8}), "gradual", 0)


def test_a_job_s_name_follows_what_matters():
    def name(of, arm="gradual", split="test", rate=None):
        return Job(arm, arm_recipe(of, arm, 0, rate), split).name

    base = name(recipe())
    assert base.startswith("gradual-seed0-")
    assert base == name(recipe(output_dir="elsewhere", foundations={"cache_dir": "another"}))
    different = {base, name(recipe(), split="validation"), name(recipe(), rate=1e-3), name(recipe(), arm="direct")}
    assert len(different) == 4


class FakeJobs:
    """In place of processes: results in which gradual is better by a margin, and direct best at 2e-3."""

    def __init__(self, margin):
        self.margin, self.ran = margin, []

    def __call__(self, jobs, job):
        self.ran.append(job)
        rng = random.Random(job.name)
        stage = next(iter(job.recipe.stages.values()))
        rate = stage.arguments["learning_rate"]
        loss = {"gradual": 1.0 - self.margin, "unrefined": 2.0}.get(job.arm, 1.0) + 0.02 * rng.random()
        if job.split == "validation":
            loss += {"gradual": 0.0, "direct": 100 * abs(rate - 2e-3)}[job.arm]
        swap = {"caption_loss": loss, "reading_loss": loss + 1, "reading_accuracy": 0.5, "question_accuracy": 0.5}
        own = {**swap, "text_accuracy": 0.7}
        result = {"own": own, "swap_original": swap, "swap_second": swap, "probes": {"scene_linear_seen": 1 / loss}}
        module.write_json(jobs._path(job), {"seconds": 1.0, "result": {} if job.arm == "foundations" else result})
        return job, 1.0


@pytest.fixture
def fake(monkeypatch):
    def install(margin):
        jobs = FakeJobs(margin)
        monkeypatch.setattr(module.Jobs, "_run_one", lambda self, job: jobs(self, job))
        return jobs

    return install


def test_the_whole_comparison_and_its_resumption(fake, tmp_path):
    jobs = fake(0.3)
    path = run_evidence(recipe(), [0, 1, 2], tmp_path, 100, [1e-3, 2e-3, 4e-3], command="make evidence")
    assert path == tmp_path / "evidence.md" and (tmp_path / "evidence.png").stat().st_size > 5000
    arms = [job.arm for job in jobs.ran]
    assert arms == ["foundations"] * 4 + ["gradual"] * 3 + ["direct"] * 3 + list(ARMS) * 3
    assert {job.split for job in jobs.ran if job.recipe.seed == 100 and job.arm != "foundations"} == {"validation"}
    assert {job.split for job in jobs.ran if job.recipe.seed != 100} == {"test"}

    evidence = json.loads((tmp_path / "evidence.json").read_text())
    assert evidence["tuning"]["chosen"]["direct"] == 2e-3
    (job,) = [job for job in jobs.ran if job.arm == "direct" and job.recipe.seed == 1]
    assert arguments(job.recipe, "direct")["learning_rate"] == 2e-3
    captions = evidence["comparisons"]["gradual - direct"]["swap_second"][0]
    assert captions["metric"] == "caption_loss" and captions["verdict"] == "better" and captions["wins"] == 3
    assert captions["mean"] == pytest.approx(-0.3, abs=0.02)
    assert "a cache" not in json.dumps(evidence) and "somewhere" not in json.dumps(evidence)

    text = path.read_text(encoding="utf-8")
    assert "Swapped into the original language model: gradual beats direct" in text
    assert "Made by `make evidence`" in text and "- direct: 0.002\n" in text
    assert f"{captions['mean']:+.3f}" in text

    count = len(jobs.ran)
    victim = next((tmp_path / "jobs").glob("direct-seed2-*.json"))
    victim.unlink()
    before = (tmp_path / "evidence.json").read_bytes()
    run_evidence(recipe(), [0, 1, 2], tmp_path, 100, [1e-3, 2e-3, 4e-3], command="make evidence")
    assert [job.arm for job in jobs.ran[count:]] == ["direct"]
    assert (tmp_path / "evidence.json").read_bytes() == before


def test_a_loss_is_called_a_loss(fake, tmp_path):
    fake(-0.3)
    text = run_evidence(recipe(), [0, 1], tmp_path, 100, [2e-3]).read_text(encoding="utf-8")
    assert "gradual loses to direct" in text and "gradual beats direct" not in text


def test_rates_at_the_edge_of_the_grid_are_pointed_out(fake, tmp_path):
    fake(0.3)
    text = run_evidence(recipe(), [0], tmp_path, 100, [2e-3, 4e-3]).read_text(encoding="utf-8")
    assert "- direct: 0.002 (the edge of the grid" in text
    assert "One seed proves nothing" in text


def test_seeds_and_rates_are_checked(tmp_path):
    for seeds, tuning, rates in (
        ([], 9, [1e-3]),
        ([0, 0], 9, [1e-3]),
        ([0, 9], 9, [1e-3]),
        ([0], 9, []),
        ([0], 9, [0]),
    ):
        with pytest.raises(SailvitError, match="The comparison needs"):
            run_evidence(recipe(), seeds, tmp_path, tuning, rates)


def test_a_failed_job_names_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    with pytest.raises(SailvitError, match=r"The job foundations-seed100-\w+ failed .*its log is"):
        run_evidence(recipe(), [0], tmp_path, 100, [1e-3], workers=1)


@pytest.mark.slow
def test_real_jobs(tmp_path):
    """Three arms and the start, trained for two steps by real processes."""
    plain = recipe().to_dict()
    for stage in plain["stages"].values():
        stage["arguments"]["max_steps"] = 2
    plain["foundations"] |= {"cache_dir": str(tmp_path / "cache"), "vision_steps": 2, "language_steps": 2,
                             "vision_batch_size": 8, "language_batch_size": 8, "samples": 16}  # fmt: skip
    run_evidence(parse_recipe(plain), [0], tmp_path / "out", 1, [1e-3])
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    losses = {arm: by_seed["0"]["own"]["caption_loss"] for arm, by_seed in evidence["results"].items()}
    assert len(set(losses.values())) == 4
    names = [path.suffix for path in (tmp_path / "out" / "jobs").iterdir()]
    assert names == [".json"] * 8
