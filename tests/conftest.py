# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What all tests share: no network, and one tiny finished run of all three stages."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest


def shared_folder(tmp_path_factory) -> Path:
    """A folder that the workers of one test session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session")
def foundations_cache(tmp_path_factory) -> Path:
    """Where the tests' demo foundations are kept; the user's cache is not touched."""
    return shared_folder(tmp_path_factory) / "foundations"


@pytest.fixture(scope="session")
def tiny_recipe(foundations_cache):
    """A function that gives the values of a recipe that runs in seconds; keyword arguments replace its keys."""

    def make(output_dir: Path, **changes) -> dict:
        def stage(learning_rate: float, **arguments) -> dict:
            common = {"max_steps": 5, "per_device_train_batch_size": 4, "save_steps": 2, "logging_steps": 1}
            return {
                "data": {"demo": {"samples": 20}},
                "arguments": {"learning_rate": learning_rate, **common, **arguments},
            }

        recipe = {
            "name": "tiny",
            "output_dir": str(output_dir),
            "seed": 0,
            "start": {"vision_tower": "demo", "language_model": "demo"},
            "foundations": {
                "cache_dir": str(foundations_cache),
                "vision_steps": 2,
                "language_steps": 2,
                "vision_batch_size": 8,
                "language_batch_size": 8,
                "samples": 32,
            },
            "stages": {"coarse": stage(3e-3), "fine": stage(2e-3, clip_per_module=True), "world": stage(1e-3)},
            "evaluation": {
                "samples": 8,
                "probes": False,
                "encoder_swap": {"steps": 2, "learning_rate": 3e-3, "batch_size": 4},
            },
        }
        return {**recipe, **changes}

    return make


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, tiny_recipe) -> Path:
    """The folder of a finished tiny run of the demo, never to be written to."""
    from filelock import FileLock

    from sailvit_hf.refinement.pipeline import run_recipe
    from sailvit_hf.refinement.recipes.recipe import parse_recipe

    folder = shared_folder(tmp_path_factory) / "tiny-run"
    with FileLock(f"{folder}.lock"):
        if not (folder / "report.html").exists():
            run_recipe(parse_recipe(tiny_recipe(folder)), resume=True)
    return folder


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """What SAIL-VL2-2B publishes but its weights: in `$SAILVIT_REFERENCE`, or beside the checkout."""
    folder = Path(os.environ.get("SAILVIT_REFERENCE", Path(__file__).parents[2] / "shared/reference/sail-vl2-2b"))
    if not folder.is_dir():
        pytest.skip(f"no reference data of SAIL-VL2-2B in {folder}: set SAILVIT_REFERENCE to a folder that holds it")
    return folder
