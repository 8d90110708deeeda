# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Where a checkpoint comes from: its parents, the stages it went through, and the digests of its weights.

Every checkpoint carries its lineage as `refinement.json` beside the weights, so that a model can tell years later what
it was made of, and the next stage can go on from it.
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import SailvitError

FILE_NAME = "refinement.json"
FORMAT = 1
_PACKAGES = ("torch", "transformers", "accelerate", "datasets")
_ROWS_IN_FINGERPRINT = 256


@dataclass(frozen=True)
class StageRecord:
    """What one stage did to the weights.

    Attributes:
        stage: key of the stage.
        trains: the modules that it trained.
        learning_rates: peak learning rate of each of them.
        arguments: the training arguments that matter for the result.
        data: `source`, number of `samples` and `fingerprint` of the data set.
        steps: optimiser steps done, of `max_steps`; smaller in a checkpoint on the way.
        samples_seen: samples that went through the model, repeated ones counted each time.
        train_loss: mean training loss over the steps logged; `None` if nothing was logged.
        final_loss: the last loss logged.
        seed: of the order of the samples and of dropout.
        versions: of Python and of the packages that take part.
        hardware: device, its name and number of processes.
    """

    stage: str
    trains: tuple[str, ...]
    learning_rates: dict[str, float]
    arguments: dict[str, Any]
    data: dict[str, Any]
    steps: int
    max_steps: int
    samples_seen: int
    train_loss: float | None
    final_loss: float | None
    seed: int
    versions: dict[str, str]
    hardware: dict[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "trains", tuple(self.trains))  # JSON knows lists only


@dataclass(frozen=True)
class Lineage:
    """Everything that led to a checkpoint; immutable, each stage makes a new one.

    Attributes:
        name: of the refinement, for instance the recipe's.
        parents: what the model was put together from: module -> folder or Hub id with a revision.
        stages: the stages done, in order.
        weights: weight file -> SHA-256 of its bytes, as of the last `save`.
    """

    name: str = "sailvit"
    parents: dict[str, Any] = field(default_factory=dict)
    stages: tuple[StageRecord, ...] = ()
    weights: dict[str, str] = field(default_factory=dict)

    def with_stage(self, record: StageRecord) -> "Lineage":
        """This lineage and one more stage; the digests of the old weights are dropped."""
        return replace(self, stages=(*self.stages, record), weights={})

    def save(self, folder: str | os.PathLike) -> "Lineage":
        """Write `refinement.json` into a checkpoint, with the digests of the weight files found there."""
        saved = replace(self, weights=weight_digests(folder))
        text = json.dumps({"format": FORMAT, **asdict(saved)}, indent=2, ensure_ascii=False) + "\n"
        path = Path(folder, FILE_NAME)
        draft = path.with_name(f".{FILE_NAME}.{os.getpid()}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)  # in one go: a reader never sees half a file
        return saved

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Lineage":
        """Read the lineage of a checkpoint.

        Raises:
            SailvitError: there is no readable `refinement.json` of a format known here.
        """
        path = Path(folder, FILE_NAME)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SailvitError(f"{path} does not exist: the folder holds no checkpoint of a refinement") from None
        except (OSError, ValueError) as error:
            raise SailvitError(f"{path} cannot be read ({error}): restore it from the checkpoint's source") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else None
            raise SailvitError(f"{path} has format {found!r}, this version reads {FORMAT}: update sailvit_hf")
        del content["format"]
        try:
            stages = tuple(StageRecord(**record) for record in content.pop("stages", []))
            return cls(stages=stages, **content)
        except TypeError as error:
            raise SailvitError(
                f"{path} is not a lineage ({error}): restore it from the checkpoint's source"
            ) from error

    def verify(self, folder: str | os.PathLike) -> None:
        """Check that a folder holds exactly the weights of this lineage.

        Raises:
            SailvitError: a weight file is missing, new or changed; the message names it.
        """
        found = weight_digests(folder)
        differing = sorted(name for name in {*found, *self.weights} if found.get(name) != self.weights.get(name))
        if differing:
            raise SailvitError(
                f"{Path(folder, differing[0])} is not the file that {FILE_NAME} describes: fetch the checkpoint again"
            )


def weight_digests(folder: str | os.PathLike) -> dict[str, str]:
    """SHA-256 (hexadecimal) of every safetensors file of a folder, by file name."""
    digests = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
        digests[path.name] = digest.hexdigest()
    return digests


def describe_data(dataset: Any, source: str | None) -> dict[str, Any]:
    """Source, number of samples and fingerprint of a data set; what cannot be known (a stream's length) is `None`.

    The fingerprint is the SHA-256 of the number of samples and of the messages of at most 256 of them, evenly spaced:
    the same on every machine, and cheap because no picture is decoded.
    """
    try:
        samples = len(dataset)
    except TypeError:
        return {"source": source, "samples": None, "fingerprint": None}
    rows = dataset
    if hasattr(dataset, "select_columns"):
        if "messages" not in dataset.column_names:
            return {"source": source, "samples": samples, "fingerprint": None}
        rows = dataset.with_format(None).select_columns(["messages"])
    digest = hashlib.sha256(str(samples).encode())
    step = max(1, -(-samples // _ROWS_IN_FINGERPRINT))
    for index in range(0, samples, step):
        row = rows[index]
        messages = row.get("messages") if isinstance(row, Mapping) else None
        digest.update(json.dumps(messages, sort_keys=True, default=str).encode())
    return {"source": source, "samples": samples, "fingerprint": digest.hexdigest()}


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that take part in a refinement."""
    from .. import __version__

    versions = {"python": platform.python_version(), "sailvit_hf": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # optional: another source of data than datasets
    return versions


def loss_summary(log_history: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Mean and last of the logged training losses, each entry weighted by the steps it stands for."""
    total = 0.0
    previous = 0
    last = None
    for entry in log_history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - previous)
            previous, last = entry["step"], entry["loss"]
    return (total / previous if previous else None), last


def _table(lineage: Lineage) -> str:
    lines = [
        "| stage | trains | learning rate | data | steps | samples seen | mean loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in lineage.stages:
        rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(record.learning_rates.values()))
        loss = "" if record.train_loss is None else f"{record.train_loss:.4f}"
        data = f"{record.data.get('source') or 'not recorded'} ({record.data.get('samples') or 'stream'})"
        trains = ", ".join(record.trains)
        lines.append(
            f"| {record.stage} | {trains} | {rates} | {data} | {record.steps} | {record.samples_seen} | {loss} |"
        )
    return "\n".join(lines)


def model_card(lineage: Lineage) -> str:
    """The `README.md` of a checkpoint, filled in from its lineage."""
    parents = "\n".join(f"- {module}: {source}" for module, source in lineage.parents.items()) or "- not recorded"
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [sailvit, vision-encoder, gradual-feature-refinement]
---

# {lineage.name}

A vision-language model whose vision tower was refined step by step with `sailvit_hf`
([SAILViT: Gradual Feature Refinement, arXiv 2507.01643](https://arxiv.org/abs/2507.01643)).

## Made of

{parents}

## Stages

{_table(lineage)}

Data fingerprints, arguments, versions, hardware and the SHA-256 of the weights are in `{FILE_NAME}`.

## Use

```python
import sailvit_hf  # registers the Auto classes
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "."  # or the Hub id, then with revision="<commit>"
processor = AutoProcessor.from_pretrained(folder)
model = AutoModelForImageTextToText.from_pretrained(folder)
vision_tower = model.model.vision_tower  # the refined backbone
```
"""
