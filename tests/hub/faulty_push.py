# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Pushes while requests fail, and what became of them. `python -m tests.hub.faulty_push` counts over many seeds."""

import argparse
import logging
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.utils import disable_progress_bars

from sailvit_hf.errors import SailvitError
from sailvit_hf.hub.remote import Change, Remote

from .server import Faults, HubServer, point_client_at

NAME = "alice/tower"
RATE = 0.3


def small_change(folder: Path) -> Change:
    """Three small files, of which the Hub wants one with LFS."""
    names = ("config.json", "a.py", "model.safetensors")
    for name in names:
        (folder / name).write_bytes(name.encode() * 200)
    return Change({name: folder / name for name in names}, "Push", ("*.bin",))


def holds(hub: HubServer, revision: str, change: Change) -> bool:
    """Whether a revision has exactly what was pushed."""
    files = hub.repos[NAME].files(revision)
    return all(name in files and files[name].content == path.read_bytes() for name, path in change.files.items())


def push_with_faults(hub: HubServer, change: Change, seed: int, tries: int, pull_request: bool) -> str:
    """One push while a share of `RATE` of the requests fail; what it says became of it, checked against the truth."""
    hub.repos.clear()
    hub.objects.clear()
    hub.log.clear()
    remote = Remote(NAME, pause=lambda seconds: None, tries=tries)
    remote.prepare(private=True)
    before = hub.state()
    hub.faults = Faults(rate=RATE, seed=seed)
    try:
        result = remote.commit(change, pull_request=pull_request)
    except SailvitError as error:
        hub.faults = Faults()
        if "not changed" in str(error):
            assert hub.state() == before, error
            return "unchanged, said so"
        assert "is not known" in str(error), error
        return "said not to know: " + ("unchanged" if hub.state() == before else "pushed whole")
    hub.faults = Faults()
    assert holds(hub, result.revision, change)
    assert len(hub.repos[NAME].commits) == 2 and len(hub.repos[NAME].discussions) == int(pull_request)
    return "pushed whole"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--tries", type=int, nargs="+", default=[1, 3, 10])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    disable_progress_bars()
    warnings.simplefilter("ignore")
    kinds = ", ".join(Faults().kinds)
    print(f"huggingface_hub {huggingface_hub.__version__}; {RATE:.0%} of all requests fail: {kinds}", flush=True)
    patch = pytest.MonkeyPatch()
    with HubServer({"hf_token": "alice"}) as hub, tempfile.TemporaryDirectory() as folder:
        point_client_at(hub, patch, Path(folder, "cache"))
        patch.setenv("HF_TOKEN", "hf_token")
        change = small_change(Path(folder))
        for tries in options.tries:
            for pull_request in (True, False):
                runs = range(options.seeds)
                found = Counter(push_with_faults(hub, change, seed, tries, pull_request) for seed in runs)
                kind = "as a pull request" if pull_request else "to main"
                counted = ", ".join(f"{count} {what}" for what, count in sorted(found.items()))
                print(f"the commit sent at most {tries} times, {kind}: {counted} (of {options.seeds})", flush=True)
    patch.undo()
    return 0


if __name__ == "__main__":
    sys.exit(main())
