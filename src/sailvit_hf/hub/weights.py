# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Safetensors files read and written a few megabytes at a time, however large the checkpoint is.

The library's own `save_file` wants all tensors of a file at once. All layouts of the family differ by names and by how
tensors are stacked along their first axis, so a new file is made of byte ranges of the old ones: nothing is ever held
in memory but one block.
"""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open

from ..errors import SailvitError

WEIGHTS_NAME, INDEX_NAME = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_BLOCK = 4 << 20


@dataclass(frozen=True)
class Slice:
    """Bytes of a file that hold numbers of type `dtype` (safetensors' name of it), row-major."""

    path: Path
    start: int
    size: int
    dtype: str


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a file holds it."""

    shape: tuple[int, ...]
    data: Slice

    @property
    def dtype(self) -> str:
        return self.data.dtype

    def part(self, first: int, count: int) -> Slice:
        """The bytes of `count` elements from number `first` on."""
        width = self.data.size // max(prod(self.shape), 1)
        return Slice(self.data.path, self.data.start + first * width, count * width, self.data.dtype)


@dataclass(frozen=True)
class NewTensor:
    """A tensor to write: its slices one after the other, as numbers of type `dtype`."""

    shape: tuple[int, ...]
    dtype: str
    slices: tuple[Slice, ...]

    @property
    def size(self) -> int:
        """Bytes in the new file."""
        return sum(piece.size // _SIZES.get(piece.dtype, 1) for piece in self.slices) * _SIZES.get(self.dtype, 1)


def weight_files(source: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, or the one file that `source` is.

    Raises:
        SailvitError: there is none, it is not clear which, or the index names one that is missing.
    """
    if source.is_file():
        if source.suffix != ".safetensors":
            raise SailvitError(f"{source} is not a safetensors file: {_NO_PICKLES}")
        return [source]
    if (source / INDEX_NAME).is_file():
        entries = read_json(source / INDEX_NAME).get("weight_map", {})
        names = sorted({str(name) for name in entries.values()}) if isinstance(entries, dict) else []
        for name in names:
            _check_own_file(source / INDEX_NAME, name)
        missing = [name for name in names if not (source / name).is_file()]
        if missing or not names:
            lacks = f"names {', '.join(missing)}, which the folder lacks" if missing else "names no file"
            raise SailvitError(f"{source / INDEX_NAME} {lacks}: fetch it again")
        return [source / name for name in names]
    if (source / WEIGHTS_NAME).is_file():
        return [source / WEIGHTS_NAME]
    found = sorted(source.glob("*.safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise SailvitError(
            f"{source} holds {len(found)} safetensors files but no {INDEX_NAME} that says which belong together: "
            "name one of them, or add the index"
        )
    pickles = sorted(path.name for path in source.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise SailvitError(f"{source} holds no safetensors file, only {pickles[0]}: {_NO_PICKLES}")
    raise SailvitError(f"{source} holds no safetensors file: name the folder of a checkpoint")


def _check_own_file(index: Path, name: str) -> None:
    """Refuse a name in an index that leads out of the folder, or to something else than safetensors."""
    if PurePosixPath(name).name != name or PureWindowsPath(name).name != name:
        raise SailvitError(f"{index} names {name!r}, which is not in its folder: fetch it from somebody you trust")
    if not name.endswith(".safetensors"):
        raise SailvitError(f"{index} names {name!r}, which is not a safetensors file: {_NO_PICKLES}")


_NO_PICKLES = (
    "only safetensors files are read, since other formats can run code when they are opened; save the model as "
    "safetensors with the library that made it"
)


def read_json(path: Path) -> dict:
    """The object in a JSON file; `SailvitError` if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SailvitError(f"{path} cannot be read as JSON ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise SailvitError(f"{path} holds no JSON object: fetch it again")
    return content


def read_headers(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Names, shapes, types and places of all tensors of some files; no weights are read.

    Raises:
        SailvitError: a file is damaged, or two hold a tensor of the same name.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt"):  # checks the header against the file's length
                pass
        except (SafetensorError, OSError) as error:
            raise SailvitError(f"{path} is not a whole safetensors file ({error}): fetch it again") from error
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if name in tensors:
                raise SailvitError(
                    f"{name} is in {tensors[name].data.path.name} and in {path.name}: keep one of the two files"
                )
            start, stop = entry["data_offsets"]
            data = Slice(path, 8 + length + start, stop - start, entry["dtype"])
            tensors[name] = StoredTensor(tuple(entry["shape"]), data)
    return tensors


def blocks(piece: Slice, files: Mapping[Path, BufferedReader], size: int = _BLOCK) -> Iterator[memoryview]:
    """The bytes of a slice in blocks; each is overwritten by the next one."""
    file = files[piece.path]
    file.seek(piece.start)
    buffer = bytearray(min(size, piece.size))
    left = piece.size
    while left:
        view = memoryview(buffer)[: min(size, left)]
        if file.readinto(view) != len(view):
            raise SailvitError(f"{piece.path} became shorter while it was read: leave it alone and start again")
        left -= len(view)
        yield view


def same_bytes(first: StoredTensor, second: StoredTensor) -> bool:
    """Whether two stored tensors have equal shapes, types and bytes."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    with ExitStack() as stack:
        # Opened apart even if it is one file: each has its own position.
        mine, other = (
            {tensor.data.path: stack.enter_context(tensor.data.path.open("rb"))} for tensor in (first, second)
        )
        pairs = zip(blocks(first.data, mine), blocks(second.data, other), strict=True)
        return all(a == b for a, b in pairs)


def plan_shards(tensors: Mapping[str, NewTensor], max_shard_size: int | str | None) -> StateDictSplit:
    """Which tensors go to which file: `model.safetensors`, or shards when they are more than `max_shard_size`.

    Args:
        max_shard_size: Bytes, or text as in "5GB"; `None` for one file whatever the size.

    Raises:
        SailvitError: the size cannot be understood.
    """
    total = sum(tensor.size for tensor in tensors.values())
    try:
        return split_state_dict_into_shards_factory(
            dict(tensors),
            get_storage_size=lambda tensor: tensor.size,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=max(total, 1) if max_shard_size is None else max_shard_size,
        )
    except ValueError as error:
        raise SailvitError(f"{max_shard_size!r} is no size of a file ({error}): write it as in 500MB") from error


def write_weights(
    folder: Path, tensors: Mapping[str, NewTensor], split: StateDictSplit, on_progress: Callable[[int], None]
) -> None:
    """Write tensors to the files of a plan, with their index when there are several.

    Args:
        on_progress: Called with the number of bytes written since the last call.
    """
    for name, members in split.filename_to_tensors.items():
        _write_file(folder / name, {member: tensors[member] for member in members}, on_progress)
    if split.is_sharded:
        index = {
            "metadata": {"total_size": sum(tensor.size for tensor in tensors.values())},
            "weight_map": dict(sorted(split.tensor_to_filename.items())),
        }
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_file(path: Path, tensors: Mapping[str, NewTensor], on_progress: Callable[[int], None]) -> None:
    # Wide types first, so that every tensor lies aligned for who maps the file into memory.
    ordered = sorted(tensors.items(), key=lambda item: -_SIZES.get(item[1].dtype, 1))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, tensor in ordered:
        entry = {"dtype": tensor.dtype, "shape": list(tensor.shape)}
        header[name] = {**entry, "data_offsets": [place, place + tensor.size]}
        place += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with ExitStack() as stack:
        paths = {piece.path for tensor in tensors.values() for piece in tensor.slices}
        files = {source: stack.enter_context(source.open("rb")) for source in paths}
        out = stack.enter_context(path.open("wb"))
        out.write(struct.pack("<Q", len(text)))
        out.write(text)
        for _, tensor in ordered:
            for piece in tensor.slices:
                for block in blocks(piece, files):
                    on_progress(out.write(_cast(block, piece.dtype, tensor.dtype)))


def _cast(block: memoryview, dtype: str, wanted: str) -> memoryview:
    if dtype == wanted:
        return block
    numbers = torch.frombuffer(block, dtype=DTYPES[dtype]).to(DTYPES[wanted])
    return memoryview(numbers.view(torch.uint8).numpy())
