# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Publish a checkpoint: check it in a clean process, write its card, and push it in one commit."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import SailvitError
from .lineage_card import FIGURE, card, figure
from .reload import difference, outputs, outputs_elsewhere
from .remote import MAIN, TRIES, Change, Commit, Remote, describe
from .travel import STALE, files_to_push, refuse_foreign_code
from .weights import read_json

LINEAGE = "refinement.json"


@dataclass(frozen=True)
class Published:
    """What a push did.

    Attributes:
        commit: where it is on the Hub.
        files: names of the files that were pushed.
        left_out: names of what stayed in the folder.
        private: whether the repository is private.
    """

    commit: Commit
    files: list[str]
    left_out: list[str]
    private: bool


def publish_checkpoint(
    folder: str | Path,
    repo: str,
    *,
    private: bool = True,
    pull_request: bool = True,
    branch: str | None = None,
    message: str | None = None,
    token: str | None = None,
    keep_card: bool = False,
    tries: int = TRIES,
    on_step: Callable[[str], None] = lambda step: None,
    pause: Callable[[float], None] | None = None,
) -> Published:
    """Push a checkpoint to the Hub as one commit: all of it, or nothing.

    Before anything is sent, the files that would be pushed are loaded here and in a clean process that cannot import
    this package; a difference between their outputs is an error. Only safetensors, configurations, code, processor
    and card are pushed, never optimiser state or pickles. Weights of an older checkpoint go in the same commit.

    Args:
        folder: a checkpoint that transformers loads.
        repo: `owner/name`, or a name alone for the own account's; made if there is none.
        private: make it private, and refuse one that is public.
        pull_request: open a pull request instead of committing to `main`.
        branch: commit to this branch (made from `main` if need be); then no pull request is opened.
        message: title of the commit, and below it its description.
        token: instead of the one that `hf auth login` stored or `HF_TOKEN` holds.
        keep_card: push the folder's `README.md` as it is, instead of one made from `refinement.json`.
        tries: how often the commit is sent at most.
        on_step: told what is being done, in a few words.
        pause: waits for a number of seconds between tries; `time.sleep` by default.

    Raises:
        SailvitError: nothing was pushed; the sentence says why, and what holds now.
    """
    folder = Path(folder).expanduser()
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise SailvitError(f"{repo} is no name of a repository: give it as owner/name") from error
    chosen, left_out = files_to_push(folder)
    refuse_foreign_code(folder, chosen)
    _verify_weights(folder, chosen)
    with tempfile.TemporaryDirectory(prefix="sailvit-push-") as scratch:
        staged = _stage(Path(scratch), chosen)
        on_step("Loading it here and in a clean process")
        check_reload(staged, folder)
        remote = Remote(repo, token, tries, pause)
        if not keep_card:
            _write_card(staged, remote.repo, remote.api)
        on_step(f"Pushing to {remote.repo}")
        remote.open(private)
        files = {path.name: path for path in sorted(staged.iterdir())}
        change = Change(files, message or _message(staged), STALE)
        commit = remote.commit(change, branch or MAIN, pull_request and branch is None)
        info = remote.info()
    return Published(commit, list(files), left_out, bool(info.private) if info else private)


def check_reload(staged: Path, folder: Path) -> None:
    """Load a checkpoint here and in a clean process.

    Raises:
        SailvitError: it cannot be loaded, or the outputs differ.
    """
    from .. import _registration  # noqa: F401  # our classes are known to the Auto classes

    remedy = "load it with the installed package, look at what differs and save it again"
    try:
        here = outputs(str(staged), trust_remote_code=False)
    except Exception as error:  # whatever the libraries raise, it cannot be published
        raise SailvitError(f"{folder} cannot be loaded and run here ({describe(error)}): {remedy}") from error
    code = any(path.suffix == ".py" for path in staged.iterdir())
    there = outputs_elsewhere(staged, trust_remote_code=code)
    if isinstance(there, str):
        raise SailvitError(f"{folder} cannot be loaded without this package ({there}): {remedy}")
    found = difference(here, there)
    if found is not None:
        raise SailvitError(f"{folder} does something else in a clean process ({found}): {remedy}")


def _stage(scratch: Path, chosen: dict[str, Path]) -> Path:
    """The chosen files in a folder of their own: what is checked is what is pushed."""
    for name, path in chosen.items():
        target = scratch / name
        if name.endswith(".safetensors"):
            target.symlink_to(path.resolve())  # gigabytes; the others may be changed here
        else:
            shutil.copyfile(path, target)
    return scratch


def _verify_weights(folder: Path, chosen: dict[str, Path]) -> None:
    from ..refinement.lineage import Lineage, weight_digests

    if LINEAGE not in chosen:
        return
    noted = Lineage.load(folder).weights
    found = {name: digest for name, digest in weight_digests(folder).items() if name in chosen}
    for name, digest in found.items():
        if noted.get(name) != digest:
            raise SailvitError(
                f"{folder / name} is not the file that {LINEAGE} describes: push the checkpoint as it was saved"
            )


def _write_card(staged: Path, repo: str, api: HfApi) -> None:
    lineage_file, readme = staged / LINEAGE, staged / "README.md"
    if not lineage_file.is_file() and readme.is_file():
        return  # the card of a conversion, which says more than could be said here
    lineage = read_json(lineage_file) if lineage_file.is_file() else {}

    def license_of(name: str, revision: str | None) -> str | None:
        try:
            data = api.model_info(name, revision=revision).card_data
        except Exception:  # a card without a licence is better than no push; it says "not recorded"
            return None
        found = data.get("license") if data is not None else None
        return found if isinstance(found, str) else None

    readme.write_text(card(lineage, read_json(staged / "config.json"), repo, license_of), encoding="utf-8")
    figure(lineage).save(staged / FIGURE)


def _message(staged: Path) -> str:
    try:
        lineage = json.loads((staged / LINEAGE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "Push a checkpoint"
    stages = ", ".join(str(stage.get("stage")) for stage in lineage.get("stages") or ())
    return f"Push {lineage.get('name') or 'a checkpoint'} ({f'stages: {stages}' if stages else 'start'})"
