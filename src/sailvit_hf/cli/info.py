# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Show what a checkpoint is and where it comes from: its model, parents, stages, data, metrics and weights."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SailvitError

if TYPE_CHECKING:
    from rich.tree import Tree

    from ..refinement.lineage import Lineage, StageRecord

WIDTH = 100
_SHORT = 12  # characters of a digest: enough to tell two apart


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("source", metavar="PATH_OR_ID", help="a checkpoint's folder, or a Hub repository")
    parser.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    parser.add_argument("--arguments", action="store_true", help="show all training arguments, and whole digests")
    parser.add_argument("--verify", action="store_true", help="compare the folder's weights with their digests")
    parser.add_argument("--json", action="store_true", help="print refinement.json itself")


def run(options: argparse.Namespace) -> int:
    """Print the tree; with `--verify` an error if the weights are not the ones described."""
    from rich.console import Console

    from ..refinement.parents import fetch, find_lineage

    config_file = fetch(options.source, "config.json", options.revision)
    lineage = find_lineage(options.source, options.revision)
    if config_file is None and lineage is None:
        raise SailvitError(f"{options.source} holds no config.json and no refinement.json{_hint(options.source)}")
    folder = Path(options.source).expanduser()
    if options.verify:
        _verify(options.source, folder, lineage)
    if options.json:
        if lineage is None:
            raise SailvitError(f"{options.source} has no refinement.json: leave --json out")
        found = fetch(options.source, "refinement.json", options.revision)
        assert found is not None
        print(found.read_text(encoding="utf-8"), end="")
        return 0
    console = Console()
    if not console.is_terminal or console.width > WIDTH:
        console = Console(width=WIDTH)
    console.print(_tree(options, config_file, lineage), highlight=False)
    return 0


def _hint(source: str) -> str:
    """What else a folder without a checkpoint may be."""
    folder = Path(source).expanduser()
    inside = sorted(path.parent.name for path in folder.glob("*/refinement.json")) if folder.is_dir() else []
    return f": name one of the checkpoints in it, {', '.join(inside)}" if inside else ": name a checkpoint's folder"


def _verify(source: str, folder: Path, lineage: "Lineage | None") -> None:
    if lineage is None:
        raise SailvitError(f"{source} has no refinement.json to compare its weights with: leave --verify out")
    if not folder.exists():
        raise SailvitError(f"{source} is not a folder: fetch it first (hf download), then verify the folder")
    lineage.verify(folder)


def _tree(options: argparse.Namespace, config_file: Path | None, lineage: "Lineage | None") -> "Tree":
    from rich.tree import Tree

    on_hub = not Path(options.source).expanduser().exists()
    file = config_file or (lineage and Path(options.source))
    commit = f" at revision {file.parent.name}" if on_hub and isinstance(file, Path) else ""
    name = f"{lineage.name}: " if lineage else ""
    tree = Tree(_text(f"{name}{options.source}{commit}", "bold"), guide_style="dim")
    if config_file is not None:
        _add_model(tree, config_file)
    if lineage is None:
        tree.add(_text("no refinement.json: not a checkpoint of a refinement", "dim"))
        return tree
    _add(tree, "made of", [_parent(*item, whole=options.arguments) for item in lineage.parents.items()])
    stages = tree.add(_text("stages" if lineage.stages else "stages: none yet", "bold"))
    for number, record in enumerate(lineage.stages, start=1):
        _add_stage(stages, number, record, options.arguments)
    verified = " (verified)" if options.verify else ""
    digests = [f"{file}: sha256 {_digest(value, options.arguments)}" for file, value in lineage.weights.items()]
    _add(tree, f"weights{verified}", digests)
    return tree


def _add_model(tree: "Tree", config_file: Path) -> None:
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SailvitError(f"config.json cannot be read ({error}): fetch the checkpoint again") from error
    if not isinstance(config, dict):
        raise SailvitError("config.json holds no object: fetch the checkpoint again")
    classes = config.get("architectures")
    title = ", ".join(map(str, classes)) if isinstance(classes, list) else str(config.get("model_type"))
    lines = []
    for part, label in (("vision_config", "vision tower"), ("text_config", "language model")):
        if isinstance(config.get(part), dict):
            lines.append(f"{label}: {_sizes(config[part])}")
    lines = lines or [_sizes(config)]
    written = [f"{what} {config[key]}" for what, key in (("dtype", "dtype"), ("transformers", "transformers_version"))
               if config.get(key)]  # fmt: skip
    _add(tree, f"model: {title}", [*lines, *([", ".join(written)] if written else [])])


def _sizes(config: Mapping[str, Any]) -> str:
    """Kind and sizes of a model, as far as its configuration tells them."""
    known = [
        ("num_hidden_layers", "{} layers"),
        ("hidden_size", "width {}"),
        ("num_attention_heads", "{} heads"),
        ("image_size", "pictures of {} pixels"),
        ("patch_size", "patches of {}"),
        ("vocab_size", "vocabulary of {}"),
    ]
    found = [text.format(config[key]) for key, text in known if config.get(key) is not None]
    return f"{config.get('model_type')} ({', '.join(found)})" if found else str(config.get("model_type"))


def _parent(module: str, parent: Any, whole: bool) -> str | list[str]:
    from ..refinement.lineage import parent_name

    title = f"{module}: {parent_name(parent)}"
    if not isinstance(parent, Mapping):
        return title
    license_ = parent.get("license")
    weights = parent.get("weights")
    files = weights.items() if isinstance(weights, Mapping) else ()
    lines = [f"licence: {license_}"] if license_ else []
    return [title, *lines, *(f"{file}: sha256 {_digest(value, whole)}" for file, value in files)]


def _add_stage(tree: "Tree", number: int, record: "StageRecord", whole: bool) -> None:
    rates = [f"{module} {rate:g}" for module, rate in record.learning_rates.items()]
    same = len(set(record.learning_rates.values())) == 1
    rate = f"{next(iter(record.learning_rates.values())):g}" if same else ", ".join(rates) or "not recorded"
    losses = [(name, value) for name, value in (("mean", record.train_loss), ("last", record.final_loss))
              if value is not None]  # fmt: skip
    data = record.data
    samples = data.get("samples")
    lines: list[Any] = [
        f"trains: {', '.join(record.trains)}",
        f"learning rate: {rate}",
        [
            f"data: {data.get('source') or 'not recorded'}, "
            + (f"{samples:,} samples" if isinstance(samples, int) else "a stream"),
            *([f"fingerprint {_digest(data['fingerprint'], whole)}"] if data.get("fingerprint") else []),
        ],
        f"steps: {record.steps:,} of {record.max_steps:,}, {record.samples_seen:,} samples seen",
        *([f"loss: {', '.join(f'{name} {value:.4f}' for name, value in losses)}"] if losses else []),
        *([["metrics", *_metrics(record.metrics)]] if record.metrics else []),
        *([_start(record.start, whole)] if record.start else []),
        f"seed: {record.seed}",
        f"hardware: {', '.join(f'{key} {value}' for key, value in record.hardware.items())}",
        f"versions: {', '.join(f'{key} {value}' for key, value in record.versions.items())}",
    ]
    if whole:
        lines.append(["arguments", *(f"{key}: {value}" for key, value in record.arguments.items())])
    _add(tree, f"{number}. {record.stage}", lines)


def _start(start: Mapping[str, Any], whole: bool) -> str | list[str]:
    from ..refinement.lineage import parent_name

    weights = start.get("weights")
    files = weights.items() if isinstance(weights, Mapping) else ()
    where = f"started from: {parent_name(start) if start.get('source') else 'the checkpoint before'}"
    return [where, *(f"{file}: sha256 {_digest(value, whole)}" for file, value in files)]


def _metrics(metrics: Mapping[str, Any]) -> list[Any]:
    """Numbers in one line for each group, groups within groups below."""
    numbers = [f"{name} {_number(value)}" for name, value in metrics.items() if not isinstance(value, Mapping)]
    groups = [[str(name), *_metrics(value)] for name, value in metrics.items() if isinstance(value, Mapping)]
    return [*([", ".join(numbers)] if numbers else []), *groups]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _digest(value: Any, whole: bool) -> str:
    return str(value) if whole else str(value)[:_SHORT]


def _text(line: str, style: str = "") -> Any:
    """A line as it is: what a checkpoint says is no markup, and steers no terminal."""
    from rich.text import Text

    return Text("".join(sign if sign.isprintable() else "?" for sign in line), style=style)


def _add(tree: "Tree", title: str, lines: list[Any], style: str = "bold") -> None:
    """A branch of lines; a line that is a list is a branch of its own."""
    if not lines:
        tree.add(_text(title, style))
        return
    branch = tree.add(_text(title, style))
    for line in lines:
        if isinstance(line, list):
            _add(branch, line[0], line[1:], "")
        else:
            branch.add(_text(line))
