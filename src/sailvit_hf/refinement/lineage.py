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

from ..data.replacement import UNREADABLE
from ..errors import SailvitError

FILE_NAME = "refinement.json"
FORMAT = 2
_READABLE = (1, 2)  # 1 told a parent by its name only
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "huggingface_hub", "tokenizers", "safetensors", "peft")
_ROWS_IN_FINGERPRINT = 256


@dataclass(frozen=True)
class StageRecord:
    """What one stage did to the weights.

    Attributes:
        stage: key of the stage.
        trains: the modules that it trained.
        learning_rates: peak learning rate of each of them.
        arguments: the training arguments that matter for the result.
        data: `source`, number of `samples` and `fingerprint` of the data set; of several that were put together, also
            the `samples` and `fingerprint` of each, as `parts`.
        steps: optimiser steps done, of `max_steps`; smaller in a checkpoint on the way.
        samples_seen: samples that went through the model, repeated ones counted each time.
        train_loss: mean training loss over the steps logged; `None` if nothing was logged.
        final_loss: the last loss logged.
        seed: of the order of the samples and of dropout.
        versions: of Python and of the packages that take part.
        hardware: device, its name and number of processes.
        start: the checkpoint that it started from, as far as it is known: `weights` (file -> SHA-256), and of a Hub
            repository `source` and `revision`.
        metrics: what was measured after it, by data set or kind of test.
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
    start: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "trains", tuple(self.trains))  # JSON knows lists only


@dataclass(frozen=True)
class Lineage:
    """Everything that led to a checkpoint; immutable, each stage makes a new one.

    Attributes:
        name: of the refinement, for instance the recipe's.
        parents: what the model was put together from: module -> `source`, `revision`, `license` and `weights` (see
            `describe_parent`), or a name where no more is known.
        stages: the stages done, in order.
        weights: weight file -> SHA-256 of its bytes, as of the last `save`.
        origin: of a lineage read from the Hub, the `source` and `revision`; not stored.
    """

    name: str = "sailvit"
    parents: dict[str, Any] = field(default_factory=dict)
    stages: tuple[StageRecord, ...] = ()
    weights: dict[str, str] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict, compare=False)

    def with_stage(self, record: StageRecord) -> "Lineage":
        """This lineage and one more stage; the digests of the old weights are dropped."""
        return replace(self, stages=(*self.stages, record), weights={}, origin={})

    def found_at(self, source: str, revision: str) -> "Lineage":
        """This lineage, which was read from a Hub repository at a commit."""
        return replace(self, origin={"source": source, "revision": revision})

    def with_metrics(self, metrics: Mapping[str, Any]) -> "Lineage":
        """This lineage with what was measured after its last stage; of a model before its first stage as it is."""
        if not self.stages:
            return self
        last = replace(self.stages[-1], metrics={**self.stages[-1].metrics, **metrics})
        return replace(self, stages=(*self.stages[:-1], last))

    def as_start(self) -> dict[str, Any]:
        """What the record of a stage says about the checkpoint that it starts from."""
        return {**self.origin, "weights": dict(self.weights)} if self.weights else dict(self.origin)

    def save(self, folder: str | os.PathLike) -> "Lineage":
        """Write `refinement.json` into a checkpoint, with the digests of the weight files found there."""
        saved = replace(self, weights=weight_digests(folder))
        saved.write(folder)
        return saved

    def write(self, folder: str | os.PathLike) -> None:
        """Write `refinement.json` with the digests that this lineage has: the weights are as they were."""
        values = asdict(self)
        del values["origin"]
        text = json.dumps({"format": FORMAT, **values}, indent=2, ensure_ascii=False) + "\n"
        path = Path(folder, FILE_NAME)
        draft = path.with_name(f".{FILE_NAME}.{os.getpid()}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)  # in one go: a reader never sees half a file

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
        except (OSError, ValueError, RecursionError) as error:
            raise SailvitError(f"{path} cannot be read ({error}): restore it from the checkpoint's source") from error
        found = content.get("format") if isinstance(content, dict) else None
        if found not in _READABLE:
            known = " and ".join(map(str, _READABLE))
            raise SailvitError(f"{path} has format {found!r}, this version reads {known}: update sailvit_hf")
        del content["format"]
        try:
            _check_shape(content)
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


def _check_shape(content: dict[str, Any]) -> None:
    """Raise a TypeError for values that no lineage has; the files may come from anywhere."""
    kinds: dict[str, type] = {"name": str, "parents": dict, "stages": list, "weights": dict}
    unknown = sorted(content.keys() - kinds.keys())
    if unknown:
        raise TypeError(f"unknown: {', '.join(unknown)}")
    for name, kind in kinds.items():
        if not isinstance(content.get(name, kind()), kind):
            raise TypeError(f"{name} is a {type(content[name]).__name__}")
    number, loss = (int, float), (int, float, type(None))
    of_stage: dict[str, Any] = {
        "stage": str, "trains": list, "learning_rates": dict, "arguments": dict, "data": dict, "steps": int,
        "max_steps": int, "samples_seen": int, "train_loss": loss, "final_loss": loss, "versions": dict,
        "hardware": dict, "start": dict, "metrics": dict,
    }  # fmt: skip
    for record in content.get("stages", []):
        if not isinstance(record, dict):
            raise TypeError(f"a stage is a {type(record).__name__}")
        values = {name: record[name] for name in of_stage if name in record}
        for name, value in values.items():
            if not isinstance(value, of_stage[name]):
                raise TypeError(f"{name} of a stage is a {type(value).__name__}")
        if not all(isinstance(rate, number) for rate in record.get("learning_rates", {}).values()):
            raise TypeError("a learning rate is no number")


def parent_name(parent: Any) -> str:
    """A parent in one line: its source, and its revision if it has one."""
    if not isinstance(parent, Mapping):
        return str(parent)
    revision = parent.get("revision")
    return f"{parent.get('source')}@{revision}" if revision else str(parent.get("source"))


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
    the same on every machine, and cheap because no picture is decoded. Of a file named by its whole path only the name
    is kept: the path is nobody else's matter. Data sets that were put together are described one by one, too.
    """
    if source is not None:
        source = " + ".join(Path(one).name if Path(one).is_absolute() else one for one in source.split(" + "))
    samples, fingerprint = _fingerprint(dataset)
    described: dict[str, Any] = {"source": source, "samples": samples, "fingerprint": fingerprint}
    parts = getattr(dataset, "datasets", None)  # torch's ConcatDataset
    if samples is not None and isinstance(parts, list) and len(parts) > 1:
        described["parts"] = [dict(zip(("samples", "fingerprint"), _fingerprint(part), strict=True)) for part in parts]
    return described


def _fingerprint(dataset: Any) -> tuple[int | None, str | None]:
    try:
        samples = len(dataset)
    except TypeError:
        return None, None
    rows = dataset
    if hasattr(dataset, "select_columns"):
        if "messages" not in dataset.column_names:
            return samples, None
        rows = dataset.with_format(None).select_columns(["messages"])
    digest = hashlib.sha256(str(samples).encode())
    step = max(1, -(-samples // _ROWS_IN_FINGERPRINT))
    for index in range(0, samples, step):
        try:
            row = rows[index]
        except UNREADABLE:
            row = None  # training replaces it
        messages = row.get("messages") if isinstance(row, Mapping) else None
        digest.update(json.dumps(messages, sort_keys=True, default=str).encode())
    return samples, digest.hexdigest()


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
        trains = ", ".join(name + _adapters_of(record, name) for name in record.trains)
        lines.append(
            f"| {record.stage} | {trains} | {rates} | {data} | {record.steps} | {record.samples_seen} | {loss} |"
        )
    return "\n".join(lines)


def _adapters_of(record: StageRecord, module: str) -> str:
    """What follows the name of a module that trained through adapters: ` (dora, rank 16)`."""
    adapters = record.arguments.get("adapters")
    own = adapters.get(module) if isinstance(adapters, Mapping) else None
    return f" ({own.get('method')}, rank {own.get('rank')})" if isinstance(own, Mapping) else ""


def model_card(lineage: Lineage) -> str:
    """The `README.md` of a checkpoint, filled in from its lineage."""
    named = [f"- {module}: {parent_name(parent)}" for module, parent in lineage.parents.items()]
    parents = "\n".join(named) or "- not recorded"
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
