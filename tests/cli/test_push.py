# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""`sailvit push`: what it asks of the package, what it prints, how it refuses."""

from pathlib import Path

import pytest

from sailvit_hf.cli import main
from sailvit_hf.errors import SailvitError
from sailvit_hf.hub import publish
from sailvit_hf.hub.remote import Commit

OID = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict:
    found: dict = {}

    def pretend(folder: str, repo: str, **options) -> publish.Published:
        found.update(options, folder=folder, repo=repo)
        number = 3 if options["pull_request"] and options["branch"] is None else None
        revision = f"refs/pr/{number}" if number else options["branch"] or "main"
        commit = Commit("alice/tower", revision, OID, True, number, "https://example.org/alice/tower")
        options["on_step"]("Pushing to alice/tower")
        return publish.Published(commit, ["config.json"], ["optimizer.pt"], options["private"])

    monkeypatch.setattr(publish, "publish_checkpoint", pretend)
    return found


def test_by_default_private_and_a_pull_request(asked: dict, capsys) -> None:
    assert main(["push", "folder", "alice/tower"]) == 0
    assert (asked["folder"], asked["repo"]) == ("folder", "alice/tower")
    assert (asked["private"], asked["pull_request"], asked["branch"], asked["message"]) == (True, True, None, None)
    captured = capsys.readouterr()
    assert captured.err == "Pushing to alice/tower ...\n"
    assert captured.out.splitlines() == [
        "Pushed: alice/tower, pull request 3",
        "Visible to: you and your organisation",
        "Address:    https://example.org/alice/tower",
        f'Load with:  from_pretrained("alice/tower", revision="{OID}")',
        "Left out:   optimizer.pt",
    ]


@pytest.mark.parametrize(
    ("words", "expected", "line"),
    [
        (["--no-pr"], {"pull_request": False}, "Pushed: alice/tower, branch main"),
        (["--branch", "next"], {"branch": "next"}, "Pushed: alice/tower, branch next"),
        (["--public", "--message", "Hi"], {"private": False, "message": "Hi"}, "Visible to: everybody"),
        (["--keep-card"], {"keep_card": True}, "Pushed: alice/tower, pull request 3"),
    ],
)
def test_options(words: list[str], expected: dict, line: str, asked: dict, capsys) -> None:
    assert main(["push", "folder", "alice/tower", *words]) == 0
    assert expected.items() <= asked.items() and line in capsys.readouterr().out


def test_a_branch_is_no_pull_request(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["push", "folder", "alice/tower", "--no-pr", "--branch", "next"])
    assert "not allowed with" in capsys.readouterr().err


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "publish_checkpoint", interrupted)
    assert main(["push", "folder", "alice/tower"]) == 130
    assert "the same command finds out whether it was pushed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "repo", "expected"),
    [("nowhere", "alice/tower", "nowhere is no folder"), (".", "a/b/c", "a/b/c is no name of a repository")],
)
def test_a_mistake_is_one_sentence(folder: str, repo: str, expected: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["push", folder, repo]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and expected in line


def test_offline_is_a_sentence_too(tmp_path: Path) -> None:
    from sailvit_hf.hub.remote import Remote

    with pytest.raises(SailvitError, match="offline mode is enabled"):
        Remote("alice/tower", token="hf_" + "x" * 34, pause=lambda seconds: None).open(private=True)
