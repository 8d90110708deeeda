# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Data sets on the Hub, through the real client and a Hub on loopback: at a revision, prepared and as a stream."""

from pathlib import Path

import datasets
import pytest
from huggingface_hub import HfApi

from sailvit_hf.data.reading import read_entries
from sailvit_hf.data.rows import load_conversations
from sailvit_hf.data.streams import ConversationStream
from sailvit_hf.errors import SailvitError

from ..hub.conftest import hub  # noqa: F401 - a fixture
from .sources import parquet_with_pictures

NAME = "alice/pictures"


@pytest.fixture
def commits(hub, tmp_path: Path, monkeypatch) -> list[str]:  # noqa: F811 - the fixture
    """Two commits of a data set of Parquet files, the second with three more rows and a split to test on."""
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "files" / "data"
    folder.mkdir(parents=True)
    api = HfApi()
    api.create_repo(NAME, repo_type="dataset")
    parquet_with_pictures(folder / "train-00000-of-00001.parquet", 4)
    first = api.upload_folder(repo_id=NAME, repo_type="dataset", folder_path=folder.parent).oid
    parquet_with_pictures(folder / "train-00000-of-00001.parquet", 7)
    parquet_with_pictures(folder / "test-00000-of-00001.parquet", 1, start=9)
    return [first, api.upload_folder(repo_id=NAME, repo_type="dataset", folder_path=folder.parent).oid]


def answers(rows):
    return [row["messages"][-1]["content"][0]["text"] for row in rows]


def test_a_data_set_on_the_hub_at_its_revisions(commits):
    first, second = commits
    rows = load_conversations(NAME, revision=first)
    assert answers(rows) == ["0", "1", "2", "3"]
    assert rows[3]["where"] == f"{NAME} (train), row 4" and rows[3]["images"][0]["bytes"][:4] == b"\x89PNG"
    assert len(load_conversations(NAME, revision=second)) == 7
    assert answers(load_conversations(NAME, split="test", revision=second)) == ["9"]
    stream = ConversationStream(NAME, revision=first, shuffle_buffer=0)
    assert answers(pending.read() for pending in stream.one_pass(0, 1, 2)) == ["1", "3"]
    entries = list(read_entries(NAME, split="test", revision=second))
    assert [(entry.where, entry.id) for entry in entries] == [(f"{NAME} (test), row 1", None)]


def test_what_is_not_there_is_one_sentence(commits):
    for options in ({"split": "dev"}, {"revision": "nowhere"}):
        with pytest.raises(SailvitError, match="the data set alice/pictures cannot be read") as caught:
            load_conversations(NAME, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(SailvitError, match="alice/none cannot be read"):
        ConversationStream("alice/none")
