# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Which files of a folder go to the Hub: a whole checkpoint, and nothing that is not one."""

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..errors import SailvitError
from .weights import read_json

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
# Everything else stays: optimiser state, pickles, the Trainer's state, checkpoints below, hidden files.
_TRAVEL = (
    "*.json", "*.py", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*", "NOTICE*", "lineage.png",
)  # fmt: skip
_STAY = ("trainer_state.json", "optimizer*", "scheduler*", "rng_state*", "scaler*", "adapter_config.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
STALE = ("*.safetensors", INDEX, "adapter_config.json", "*.bin.index.json", *_PICKLES)
"""What of an older checkpoint must not lie beside a newer one: transformers could load it, or it is a pickle."""

_SECRETS = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b|\bsk-[A-Za-z0-9_-]{40,}\b")


def files_to_push(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The files of a checkpoint that travel, by name, and the names of what stays.

    Raises:
        SailvitError: the folder holds no whole checkpoint of transformers in safetensors, or something in it is not
            to be published; the sentence names it.
    """
    if not folder.is_dir():
        raise SailvitError(f"{folder} is no folder: name the folder of a checkpoint")
    names = sorted(path.name for path in folder.iterdir())
    _refuse_what_is_no_model(folder, names)
    weights = _weights(folder, names)
    chosen = {name: folder / name for name in names if name in weights or _travels(name)}
    chosen = {name: path for name, path in chosen.items() if path.is_file()}
    for name, path in chosen.items():
        _check_file(folder, name, path)
    return chosen, [name for name in names if name not in chosen]


def _travels(name: str) -> bool:
    if name.startswith(".") or any(fnmatch(name, pattern) for pattern in _STAY):
        return False
    return name != INDEX and any(fnmatch(name, pattern) for pattern in _TRAVEL)


def _refuse_what_is_no_model(folder: Path, names: list[str]) -> None:
    if "adapter_config.json" in names:
        raise SailvitError(
            f"{folder} holds an adapter, which loads only beside its base: merge it first (model.merge_and_unload()) "
            "and push the merged model"
        )
    if "config.json" not in names or not read_json(folder / "config.json").get("model_type"):
        inside = [name for name in names if (folder / name / "config.json").is_file()]
        which = f"name one of the checkpoints in it ({', '.join(inside)})" if inside else "name one that it loads"
        raise SailvitError(f"{folder} is no checkpoint of transformers, whose config.json names a model: {which}")
    if WEIGHTS not in names and INDEX not in names:
        pickles = [name for name in names if any(fnmatch(name, pattern) for pattern in _PICKLES)]
        if pickles:
            raise SailvitError(
                f"{folder} holds its weights as a pickle only ({pickles[0]}), which runs code when it is opened: save "
                "them as safetensors"
            )
        raise SailvitError(f"{folder} holds no weights ({WEIGHTS} or {INDEX}): name the folder of a checkpoint")


def _weights(folder: Path, names: list[str]) -> set[str]:
    """The weight files that transformers would load, and their index."""
    if WEIGHTS in names:
        return {WEIGHTS}
    listed: Any = read_json(folder / INDEX).get("weight_map")
    shards = {str(name) for name in listed.values()} if isinstance(listed, dict) else set()
    for name in sorted(shards):
        if name not in names or not fnmatch(name, "*.safetensors"):
            raise SailvitError(f"{INDEX} of {folder} names {name}, which is no safetensors file in it: mend the index")
    return {INDEX, *shards}


def _check_file(folder: Path, name: str, path: Path) -> None:
    if path.is_symlink() and not _stays_near(folder, path):
        raise SailvitError(f"{path} is a link to a file elsewhere ({path.resolve()}): replace it by the file")
    if not name.endswith(".safetensors"):
        found = _SECRETS.search(path.read_bytes())
        if found is not None:
            raise SailvitError(f"{path} holds what looks like an access token: remove it, and revoke the token")


def _stays_near(folder: Path, path: Path) -> bool:
    """A link within the folder, or from a snapshot of the Hub's cache to its blobs."""
    target, home = path.resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs"
    return target.is_relative_to(home) or (home.parent.name == "snapshots" and target.is_relative_to(blobs))


def refuse_foreign_code(folder: Path, files: dict[str, Path]) -> None:
    """The code that travels is this package's, so running it for the check is running the package.

    Raises:
        SailvitError: a code file is not the package's, or a configuration names code in another repository.
    """
    package = Path(__file__).parent.parent
    for name, path in files.items():
        if name.endswith(".py"):
            ours = [package / part / name for part in ("modeling", "processing")]
            if path.read_bytes() not in [file.read_bytes() for file in ours if file.is_file()]:
                raise SailvitError(
                    f"{name} in {folder} is not the code of this sailvit_hf: load the checkpoint with the installed "
                    "package and save it again"
                )
        elif name.endswith(".json") and b'"auto_map"' in path.read_bytes():
            for value in _auto_maps(read_json(path)):
                module = str(value).split(".")[0]
                if "--" in str(value) or f"{module}.py" not in files:
                    raise SailvitError(
                        f"{name} in {folder} names the code {value}, which is not beside it: load the checkpoint with "
                        "the installed package and save it again"
                    )


def _auto_maps(value: Any) -> list[Any]:
    """Every class that an `auto_map` names, at any depth."""
    found: list[Any] = []
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "auto_map" and isinstance(item, dict):
                for named in item.values():
                    # A tokenizer names two, an image processor one for each backend.
                    several = list(named.values()) if isinstance(named, dict) else named
                    found += [one for one in (several if isinstance(several, list) else [several]) if one is not None]
            else:
                found += _auto_maps(item)
    elif isinstance(value, list):
        for item in value:
            found += _auto_maps(item)
    return found
