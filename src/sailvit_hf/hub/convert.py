# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Every checkpoint of the family into every other: read as it is found, checked, streamed, written in one go."""

import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import SailvitError
from ..modeling.modeling_sailvit_vlm import SAILViTForConditionalGeneration
from . import chat, mllm
from .cards import write_card
from .layouts import assemble, check, is_head, vision_tensors
from .preprocessing import read_preprocessing
from .sources import Source, open_source
from .vision_targets import WRITERS, save_without_weights
from .weights import DTYPES, NewTensor, plan_shards, write_weights

TARGETS = ("sailvit", "aimv2", "timm", "sail-vl2")
PARTS = ("vision", "all")
_DTYPE_NAMES = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}
# timm reads a single file.
_ONE_FILE = {"timm"}


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion did.

    Attributes:
        source: What was converted, as the caller named it.
        source_layout: How it names its tensors.
        target_layout: "sailvit", "aimv2", "timm", "sailvit-vlm" (the whole model, ours) or "sail-vl2".
        folder: The new checkpoint.
        tensors: Number of tensors written.
        bytes: Their size.
        files: All files of the new checkpoint, by name.
        left_out: Names of the source's tensors for which the target has no place: a head, or the rest of a whole model
            when only its vision tower was asked for.
    """

    source: str
    source_layout: str
    target_layout: str
    folder: Path
    tensors: int
    bytes: int
    files: tuple[str, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Plan:
    """All that is decided before the first byte is written."""

    target: str
    source_layout: str
    tensors: Mapping[str, NewTensor]
    write_companions: Callable[[Path], None]
    left_out: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(tensor.size for tensor in self.tensors.values())


def convert_checkpoint(
    source: str | os.PathLike,
    dest: str | os.PathLike,
    to: str = "sailvit",
    *,
    part: str | None = None,
    revision: str | None = None,
    preset: str | None = None,
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    drop_head: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ConversionResult:
    """Convert a checkpoint of the SAILViT family; the weights are copied bit by bit, a few megabytes at a time.

    The source is told by its tensor names: SAILViT and original AIMv2, `Aimv2VisionModel` of transformers, timm's
    `aimv2_*`, each alone or inside a larger model, and the whole vision-language models SAIL-VL2 and ours. The result
    is a whole checkpoint: weights, configuration, image processor, model card, and whatever else its library wants.

    Args:
        source: A folder, one safetensors file, or a Hub repository.
        dest: The folder to make. It appears in one go when everything is written.
        to: `"sailvit"` (ours: of a whole model the whole), `"aimv2"` (`Aimv2VisionModel`), `"timm"`, or `"sail-vl2"`.
        part: `"vision"` for the vision tower of a whole model, `"all"` for all of it; by default what `to` can hold.
        revision: Branch, tag or commit of the Hub repository.
        preset: Configuration for weights without `config.json`: `"large"`, `"huge"` or `"tiny"`; by default it is read
            off the tensors' shapes, with 128 channels to an attention head.
        dtype: `"float32"`, `"bfloat16"` or `"float16"` to store numbers so; by default they stay as they are.
        max_shard_size: Largest weight file, in bytes or as in "5GB". For timm it is always one file.
        overwrite: Replace the checkpoint that is in `dest`.
        drop_head: Leave out a classifier or an attention pooling, which no target has a place for.
        on_progress: Called with the bytes written and their total.

    Returns:
        [`ConversionResult`].

    Raises:
        SailvitError: the source is none of the family; a tensor is missing, unexpected or misshapen (named, before
            anything is written); the target cannot hold it; `dest` is not free.
    """
    if to not in TARGETS or part not in (None, *PARTS):
        raise SailvitError(f"There is no target {to!r} with part {part!r}: targets are {', '.join(TARGETS)}")
    if dtype is not None and dtype not in _DTYPE_NAMES:
        raise SailvitError(f"There is no dtype {dtype!r}: choose one of {', '.join(sorted(_DTYPE_NAMES))}")
    folder = Path(dest).expanduser().absolute()
    opened = open_source(os.fspath(source), revision, preset)
    _check_destination(folder, opened, overwrite)
    plan = _plan(opened, to, part, None if dtype is None else _DTYPE_NAMES[dtype], drop_head)
    split = plan_shards(plan.tensors, None if plan.target in _ONE_FILE else max_shard_size)
    _check_space(folder, plan)
    total, written = plan.size, 0

    def report(count: int) -> None:
        nonlocal written
        written += count
        if on_progress is not None:
            on_progress(written, total)

    with _appearing(folder) as draft:
        plan.write_companions(draft)
        write_weights(draft, plan.tensors, split, report)
        _carry_lineage(opened, draft, plan.target)
        files = tuple(sorted(path.name for path in draft.iterdir()))
    return ConversionResult(
        opened.name, plan.source_layout, plan.target, folder, len(plan.tensors), total, files, plan.left_out
    )


def _plan(source: Source, to: str, part: str | None, dtype: str | None, drop_head: bool) -> _Plan:
    whole = mllm.mllm_layout(source)
    if to == "sail-vl2" or part == "all":
        if whole is None:
            raise SailvitError(f"{source.name} holds a vision tower only: choose sailvit, aimv2 or timm as the target")
        if to in ("aimv2", "timm") or part == "vision":
            raise SailvitError(f"{to} cannot hold part {part}: for a whole model choose sailvit or sail-vl2")
        return _plan_whole(source, whole, to, dtype)
    if to == "sailvit" and whole is not None and part is None:
        return _plan_whole(source, whole, to, dtype)
    return _plan_vision(source, to, whole, dtype, drop_head)


def _plan_vision(source: Source, to: str, whole: str | None, dtype: str | None, drop_head: bool) -> _Plan:
    config = source.vision_config
    wanted = vision_tensors(source.layout, config, source.prefix)
    heads = [name for name in source.tensors if name not in wanted and is_head(source.layout, source.prefix, name)]
    outside = [name for name in source.tensors if not name.startswith(source.prefix) and name not in heads]
    left_out = (*heads, *outside)
    unexpected = source.tensors.keys() - wanted.keys() - {*left_out}
    check(wanted, source.tensors, unexpected, f"vision tower in the layout of {source.layout}")
    if heads and not drop_head:
        named = ", ".join(heads[:4]) + (" ..." if len(heads) > 4 else "")
        raise SailvitError(f"The checkpoint has a head ({named}), which {to} has no place for: drop it (--drop-head)")
    prepared, said = read_preprocessing(source)
    tensors = assemble(vision_tensors(to, config), wanted, source.tensors, dtype)
    label = (whole or source.layout) if source.prefix == "" or whole else f"{source.layout} under {source.prefix}"

    def write(folder: Path) -> None:
        WRITERS[to](folder, config, prepared, _main_dtype(tensors))
        write_card(folder, to, source, label, said)

    return _Plan(to, label, tensors, write, left_out)


def _plan_whole(source: Source, layout: str, to: str, dtype: str | None) -> _Plan:
    target = "sailvit-vlm" if to == "sailvit" else to
    tokenizer, theirs, token = None, None, None
    if layout != target:
        tokenizer = chat.read_tokenizer(source, mllm.read_text_config(source, layout))
        token = tokenizer.convert_tokens_to_ids(chat.IMAGE_TOKEN)
        theirs = chat.read_template(source, tokenizer)
    model, wanted = mllm.read_whole_model(source, layout, token)
    prepared, said = read_preprocessing(source)
    new = model.tensors(target, with_head=target == "sail-vl2" or not model.tied)
    tensors = assemble(new, wanted, source.tensors, dtype)

    def write(folder: Path) -> None:
        stored = _main_dtype(tensors)
        if target == "sail-vl2":
            text = json.dumps(mllm.sail_vl2_config(model.config, stored), indent=2)
            (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        else:
            if layout == "sail-vl2":
                model.config.sail_vl2 = {**model.config.sail_vl2, **chat.remember(source, theirs)}
            save_without_weights(folder, SAILViTForConditionalGeneration, model.config, stored)
        if layout == target:
            chat.copy_processor(folder, source)
        elif target == "sail-vl2":
            chat.write_sail_vl2_processor(folder, tokenizer, prepared, model.config, theirs)
        else:
            template = chat.our_template(tokenizer, theirs) if theirs else None
            chat.write_processor(folder, tokenizer, prepared, model.config, template)
        chat.copy_generation_config(folder, source)
        write_card(folder, target, source, layout, said)

    return _Plan(target, layout, tensors, write)


def _main_dtype(tensors: Mapping[str, NewTensor]) -> str | None:
    """The type of most of the bytes, in torch's words."""
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        sizes[tensor.dtype] += tensor.size
    dtype = DTYPES.get(sizes.most_common(1)[0][0])
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _carry_lineage(source: Source, folder: Path, target: str) -> None:
    """Our checkpoints keep the record of their refinement, with the digests of the new files."""
    from ..refinement.lineage import FILE_NAME, Lineage

    if target in ("sailvit", "sailvit-vlm") and source.file(FILE_NAME) is not None:
        Lineage.load(source.folder).save(folder)


def _check_destination(folder: Path, source: Source, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise SailvitError(f"{folder} is a file: name a folder that is free")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise SailvitError(f"{folder} is not empty: name another folder, or ask to overwrite it (--overwrite)")
        if not (folder / "config.json").is_file():
            raise SailvitError(f"{folder} holds no config.json, so it is no checkpoint to overwrite: name another")
        if folder.resolve() in (source.folder.resolve(), *source.folder.resolve().parents):
            raise SailvitError(f"{folder} holds the source itself: name another folder")


def _check_space(folder: Path, plan: _Plan) -> None:
    place = next(parent for parent in folder.parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < plan.size:
        raise SailvitError(
            f"The new checkpoint needs {plan.size / 1e9:.2f} GB, and {place} has {free / 1e9:.2f} GB left: make room"
        )


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` to write to, which takes its name when all went well and goes when not."""
    draft = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.partial"
    draft.mkdir(parents=True)
    try:
        yield draft
        old = None
        if folder.is_dir():
            old = draft.with_suffix(".old")
            folder.rename(old)
        draft.rename(folder)
        if old is not None:
            shutil.rmtree(old)
    finally:
        if draft.exists():
            shutil.rmtree(draft)
