# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Where a model's parts come from: a folder or a Hub repository at a commit, and their weights' digests.

Only small files are fetched here; weights are looked at where a `from_pretrained` has left them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, metadata_load
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from ..errors import SailvitError
from .lineage import FILE_NAME, Lineage, weight_digests


def fetch(source: str | Path, name: str, revision: str | None = None) -> Path | None:
    """A small file of a checkpoint, in a folder or on the Hub (through the cache); None if it has no such file.

    Raises:
        SailvitError: there is no such folder or repository, or it cannot be asked.
    """
    folder = Path(source).expanduser()
    if folder.exists():
        if revision is not None:
            raise SailvitError(f"{source} is on this machine, where it has no revisions: leave the revision out")
        path = folder / name
        return path if path.is_file() else None
    if str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        raise SailvitError(f"{source} does not exist: name a checkpoint's folder or a Hub repository")
    try:
        return Path(hf_hub_download(str(source), name, revision=revision))
    except LocalEntryNotFoundError as error:
        # Also what an offline client says of a file that the repository may never have had.
        if _snapshot(source, revision) is not None:
            return None
        raise SailvitError(
            f"{source} is neither on this machine nor in the cache, and the Hub was not asked or did not answer: "
            "check the name and the connection"
        ) from error
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SailvitError(
            f"{source} cannot be fetched from the Hub ({reason}): check the name and the revision"
        ) from error


def _snapshot(source: str | Path, revision: str | None) -> Path | None:
    """Where the cache holds a Hub repository; its name is the commit."""
    if Path(source).expanduser().exists():
        return None
    try:
        return Path(hf_hub_download(str(source), "config.json", revision=revision, local_files_only=True)).parent
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
        return None


def find_lineage(source: str | Path, revision: str | None = None) -> Lineage | None:
    """The lineage of a checkpoint, in a folder or on the Hub; None if it is not one of a refinement.

    What it says about where it was found goes into the record of the next stage.

    Raises:
        SailvitError: as `fetch` and `Lineage.load`.
    """
    path = fetch(source, FILE_NAME, revision)
    if path is None:
        return None
    lineage = Lineage.load(path.parent)
    if not Path(source).expanduser().exists():
        lineage = lineage.found_at(str(source), path.parent.name)
    return lineage


def describe_parent(source: str | Path, revision: str | None = None) -> dict[str, Any]:
    """What a lineage tells about a part that was loaded just now.

    Returns:
        `source` (a Hub id; of a folder its name, for its path is nobody else's matter), `revision` (the commit; None
        for a folder), `license` (as its card says, None if it does not) and `weights` (file -> SHA-256).
    """
    folder = Path(source).expanduser()
    local = folder.exists()
    snapshot = folder if local else _snapshot(source, revision)
    return {
        "source": f"{folder.resolve().name} (a local folder)" if local else str(source),
        "revision": revision if local or snapshot is None else snapshot.name,
        "license": _license(source, None if local else revision),
        "weights": {} if snapshot is None else weight_digests(snapshot),
    }


def _license(source: str | Path, revision: str | None) -> str | None:
    try:
        path = fetch(source, "README.md", revision)
        card = metadata_load(path) if path is not None else None
    except (SailvitError, ValueError, OSError):
        return None  # nice to know, no reason to stop a training
    value = card.get("license") if isinstance(card, Mapping) else None
    return value if isinstance(value, str) else None
