# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A Hub on loopback, and this process's Hugging Face client pointed at it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .server import HubServer, point_client_at

TOKENS = {"hf_alicealicealicealicealicealice": "alice", "hf_bobbobbobbobbobbobbobbobbobbob": "bob"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """The server, with Alice logged in; an empty cache; the client's waits between its tries take no time."""
    with HubServer(TOKENS) as server:
        point_client_at(server, monkeypatch, tmp_path / "hub-cache")
        monkeypatch.setenv("HF_TOKEN", next(iter(TOKENS)))
        yield server
