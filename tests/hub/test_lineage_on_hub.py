# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Lineages through the real client and a Hub on loopback: `sailvit info`, and what a stage starts from."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from sailvit_hf import cli
from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import Lineage
from sailvit_hf.refinement.lineage import weight_digests
from sailvit_hf.refinement.parents import describe_parent, find_lineage

from . import tiny
from .server import HubServer

NAME = "alice/model"


@pytest.fixture
def commits(hub: HubServer, tmp_path: Path) -> list[str]:
    """Two commits of a private repository: the encoder as it was made, and after it got a lineage and a card."""
    folder = tmp_path / "encoder"
    tiny.save_sailvit(folder)
    api = HfApi()
    api.create_repo(NAME, private=True)
    first = api.upload_folder(repo_id=NAME, folder_path=folder, commit_message="bare").oid
    Lineage(name="refined", parents={"vision_tower": "some/tower@abc"}).save(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return [first, api.upload_folder(repo_id=NAME, folder_path=folder, commit_message="with its lineage").oid]


def test_info_of_a_repository_fetches_no_weights(commits: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", NAME]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"refined: {NAME} at revision {commits[1]}") and "some/tower@abc" in shown
    assert cli.main(["info", NAME, "--revision", commits[0]]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{NAME} at revision {commits[0]}") and "no refinement.json" in shown
    cached = [path.name for path in Path(constants.HF_HUB_CACHE).rglob("*") if path.is_file() or path.is_symlink()]
    assert "config.json" in cached and not [name for name in cached if name.endswith((".safetensors", ".py"))]


def test_what_cannot_be_had_is_one_sentence(commits: list[str], capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["info", NAME, "--revision", "nowhere"]) == 2
    assert "cannot be fetched from the Hub" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    for name in (NAME, "alice/none"):
        assert cli.main(["info", name, "--revision", "main"]) == 2
        error = capsys.readouterr().err
        assert "cannot be fetched from the Hub" in error and "hf_" not in error and error.count("\n") == 1


def test_a_parent_is_pinned_to_its_commit(commits: list[str], tmp_path: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(NAME, revision="main")
    parent = describe_parent(NAME, "main")
    assert type(model).__name__ == "SAILViTModel"
    assert (parent["source"], parent["revision"], parent["license"]) == (NAME, commits[1], "mit")
    assert parent["weights"] == weight_digests(tmp_path / "encoder")
    lineage = find_lineage(NAME)
    assert lineage is not None and lineage.as_start()["revision"] == commits[1]
    assert find_lineage(NAME, commits[0]) is None
    with pytest.raises(SailvitError, match="cannot be fetched"):
        find_lineage("alice/none")
