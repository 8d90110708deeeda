# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Where the parts of a model come from, in folders and in a cache of the Hub."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import Lineage
from sailvit_hf.refinement.lineage import parent_name, weight_digests
from sailvit_hf.refinement.parents import describe_parent, fetch, find_lineage

from .tiny import tiny_model, tiny_trainer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    tiny_model().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    Lineage(name="before").save(folder)
    return folder


@pytest.fixture
def published(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The checkpoint as a repository in the cache, with a branch that points to its commit."""
    repository = tmp_path / "cache" / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / COMMIT).symlink_to(checkpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return "some/model"


def test_a_folder_is_known_by_its_name(checkpoint: Path) -> None:
    parent = describe_parent(checkpoint)
    assert parent == {
        "source": "checkpoint (a local folder)",
        "revision": None,
        "license": "apache-2.0",
        "weights": weight_digests(checkpoint),
    }
    assert list(parent["weights"]) == ["model.safetensors"]
    assert parent_name(parent) == "checkpoint (a local folder)" and parent_name("demo foundation") == "demo foundation"


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_repository_is_known_by_its_commit(published: str, checkpoint: Path, revision: str | None) -> None:
    parent = describe_parent(published, revision)
    assert (parent["source"], parent["revision"], parent["license"]) == (published, COMMIT, "apache-2.0")
    assert parent["weights"] == weight_digests(checkpoint) and parent_name(parent) == f"some/model@{COMMIT}"
    lineage = find_lineage(published, revision)
    assert lineage is not None and lineage.name == "before"
    assert lineage.as_start() == {"source": published, "revision": COMMIT, "weights": lineage.weights}


def test_a_stage_tells_what_it_started_from(published: str, tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path / "next", lineage=find_lineage(published), max_steps=1)
    trainer.train()
    trainer.save_model()
    record = Lineage.load(tmp_path / "next").stages[0]
    assert record.start["revision"] == COMMIT and record.start["weights"] == find_lineage(published).weights
    assert "origin" not in (tmp_path / "next" / "refinement.json").read_text()


def test_what_has_no_lineage(published: str, checkpoint: Path) -> None:
    (checkpoint / "refinement.json").unlink()
    assert find_lineage(checkpoint) is None and find_lineage(published) is None
    (checkpoint / "README.md").unlink()
    assert describe_parent(published)["license"] is None


def test_a_broken_lineage_is_an_error(checkpoint: Path) -> None:
    (checkpoint / "refinement.json").write_text("{")
    with pytest.raises(SailvitError, match="cannot be read"):
        find_lineage(checkpoint)


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("other/model", None, "neither on this machine nor in the cache"),
        ("some/model", "other", "neither on this machine nor in the cache"),
        ("./nothing/here", None, "does not exist"),
        ("{checkpoint}", "main", "no revisions"),
    ],
)
def test_what_is_not_there(published: str, checkpoint: Path, source: str, revision: str | None, message: str) -> None:
    with pytest.raises(SailvitError, match=message):
        fetch(source.format(checkpoint=checkpoint), "refinement.json", revision)
