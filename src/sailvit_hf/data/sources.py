# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Where rows come from: JSON and JSONL files, Parquet, WebDataset tars, saved data sets, folders, globs, the Hub.

Everything but local JSON and tars is read by `datasets`. Its reader of JSON cannot tell the line of a mistake; that of
tars wants the same members in all samples (so not one picture here and two there), and one bad JSON member ends it.
"""

from __future__ import annotations

import glob
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import SailvitError
from .formats import RowError
from .images import MAX_BYTES

_BOM = b"\xef\xbb\xbf"
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_KINDS = {".parquet": "parquet", ".tar": "webdataset", **dict.fromkeys(JSON_SUFFIXES, "json")}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PICTURE = re.compile(r"jpe?g|png|webp|gif|bmp|tiff?", re.IGNORECASE)
_TEXTS = ("txt", "text", "caption")
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")
ROWS_AT_ONCE = 16  # pictures come with their rows, and memory is to stay small


@dataclass(frozen=True)
class Place:
    """Where rows are, found out from a path alone.

    Attributes:
        kind: `json`, `parquet`, `webdataset`, `saved` (`Dataset.save_to_disk`), `folder` (one that `datasets` makes
            sense of) or `hub`.
        name: as a person gave it, or the name of its last part.
        files: of the first three kinds, in order.
        path: of the others: the folder or the Hub id.
        root: the folder that relative paths of pictures start from, unless another is named; none for the Hub.
    """

    kind: str
    name: str
    files: tuple[Path, ...] = ()
    path: str = ""
    root: Path | None = None

    @property
    def has_slots(self) -> bool:
        """Whether its files are read here and not by `datasets`."""
        return self.kind in ("json", "webdataset")

    def called(self, file: Path) -> str:
        """What messages call one of its files: no two of them alike."""
        return file.relative_to(self.root).as_posix() if self.root is not None else file.name


def find_place(path: str | Path) -> Place:
    """Find out what a path is: a file, a folder, a pattern such as `shards/*.tar`, or a Hub id.

    Raises:
        SailvitError: there is nothing, or nothing that can be read.
    """
    text = str(path)
    found = Path(text)
    if found.is_file():
        return _files([found], text, found.parent)
    if found.is_dir():
        return _folder(found)
    if any(sign in text for sign in "*?["):
        matches = sorted(Path(match) for match in glob.glob(text, recursive=True) if Path(match).is_file())
        if not matches:
            raise SailvitError(f"no file matches {text}: mend the pattern")
        fixed = Path(re.split(r"[*?\[]", text)[0] + "x").parent
        return _files(matches, text, fixed)
    if _HUB_ID.fullmatch(text) and found.suffix.lower() not in _KINDS:
        return Place("hub", text, path=text)
    raise SailvitError(f"the data set {text} does not exist: mend the path, or give a Hub id as owner/name")


def picture_root(place: Place, image_root: str | Path | None = None) -> Path:
    """The folder that paths of pictures start from and that none may leave: the one named, or the place's own.

    For a data set on the Hub that is the cache, where `datasets` unpacks pictures; a path that it took from anybody's
    rows leads nowhere else.

    Raises:
        SailvitError: there is no such folder.
    """
    if image_root is None and place.root is None:
        from datasets import config

        return Path(config.HF_CACHE_HOME)
    root = place.root if image_root is None else Path(image_root)
    if root is None or not root.is_dir():
        raise SailvitError(f"the folder of pictures {root} does not exist: mend image_root")
    return root


def _files(files: list[Path], name: str, root: Path) -> Place:
    kinds = {_KINDS.get(file.suffix.lower()) for file in files}
    if None in kinds:
        odd = next(file for file in files if file.suffix.lower() not in _KINDS)
        raise SailvitError(f"{odd} is no data set known by its name: give .jsonl, .json, .parquet or .tar")
    if len(kinds) > 1:
        listed = ", ".join(sorted(map(str, kinds)))
        raise SailvitError(f"{name} holds files of several kinds ({listed}): name those of one kind")
    return Place(str(kinds.pop()), name, files=tuple(files), root=root)


def _folder(folder: Path) -> Place:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return Place("saved", str(folder), path=str(folder), root=folder)
    for pattern in ("*", "**/*"):
        files = sorted(file for file in folder.glob(pattern) if file.is_file() and not file.name.startswith("."))
        suffixes = {file.suffix.lower() for file in files}
        if ".parquet" in suffixes:  # `datasets` knows splits by the names of the files, and what a README says of them
            return Place("folder", str(folder), path=str(folder), root=folder)
        if tars := [file for file in files if file.suffix.lower() == ".tar"]:
            return Place("webdataset", str(folder), files=tuple(tars), root=folder)
        of_json = [file for file in files if file.suffix.lower() in JSON_SUFFIXES and file.name != "metadata.jsonl"]
        if of_json:
            return Place("json", str(folder), files=tuple(of_json), root=folder)
    if any(folder.glob("**/metadata.*")):
        return Place("folder", str(folder), path=str(folder), root=folder)
    raise SailvitError(f"the folder {folder} holds no data set: put .jsonl, .json, .parquet or .tar files there")


# Files that are read here: where their rows stand


class Slot(NamedTuple):
    """Where a row of a JSON file or tar stands, without its content.

    Attributes:
        file: the file.
        label: what messages call the row, such as "train.jsonl, line 12".
        spans: name of a tar's member (`""` for JSON), first byte and number of bytes of each part.
        key: of a tar's sample, its name.
        start: for `file_slots`, to begin here: a byte of the file, and how many lines or entries lie before it.
    """

    file: str
    label: str
    spans: tuple[tuple[str, int, int], ...]
    key: str | None = None
    start: tuple[int, int] = (0, 0)

    def read(self) -> Any:
        """The row.

        Raises:
            RowError: it is no row.
            SailvitError: the file is gone.
        """
        try:
            with open(self.file, "rb") as stream:
                return self.read_from(stream)
        except OSError as error:
            raise _gone(self.file, error) from error

    def read_from(self, stream: IO[bytes]) -> Any:
        """The row, from its file that is open already."""
        if self.key is None:
            ((_, offset, length),) = self.spans
            return parse_json(_bytes_at(stream, offset, length))
        row: dict[str, Any] = {"__key__": self.key}
        for field, offset, length in self.spans:
            row[field] = _member(self.key, field, _bytes_at(stream, offset, length))
        return row


def read_in_order(slots: Iterable[Slot]) -> Iterator[tuple[Slot, Callable[[], Any]]]:
    """Slots and how to read each; a file is opened once for all of its slots that follow each other."""
    for file, group in groupby(slots, key=lambda slot: slot.file):
        with open(file, "rb") as stream:
            for slot in group:
                yield slot, partial(slot.read_from, stream)


def file_slots(file: Path, start: tuple[int, int] = (0, 0), name: str | None = None) -> Iterator[Slot]:
    """The places of the rows of a JSONL file, a JSON file with a list, or a WebDataset tar, in order.

    Args:
        file: the file.
        start: the `Slot.start` of the first one; what lies before it is not read, but for a JSON file with a list.
        name: what labels call the file; its own name, if not given.

    Raises:
        SailvitError: the file cannot be read, or not further.
    """
    name = name or file.name
    with told(str(file)):
        if file.suffix.lower() == ".tar":
            yield from _tar_slots(file, start[0], name)
            return
        try:
            with file.open("rb") as stream:
                head = stream.read(4096).removeprefix(_BOM).lstrip()
                stream.seek(0)
                if head.startswith(b"[") and file.suffix.lower() == ".json":
                    yield from islice(_array_slots(file, stream.read(), name), start[1], None)
                    return
                offset, before = start
                stream.seek(offset)
                for number, line in enumerate(stream, start=before + 1):
                    if line.strip() and line.strip() != _BOM:
                        span, at = ("", offset, len(line)), (offset, number - 1)
                        yield Slot(str(file), f"{name}, line {number}", (span,), start=at)
                    offset += len(line)
        except OSError as error:
            raise _gone(str(file), error) from error


def _array_slots(file: Path, content: bytes, name: str) -> Iterator[Slot]:
    """The entries of one list, found by reading them: their ends are not marked otherwise."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SailvitError(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    decoder, space = json.JSONDecoder(), re.compile(r"[\s\ufeff]*")

    def after_space(at: int) -> int:
        return space.match(text, at).end()  # type: ignore[union-attr]

    at = after_space(after_space(0) + 1)
    last, offset, number = 0, 0, 0
    while text[at : at + 1] != "]" or number:
        number += 1
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            line = text.count("\n", 0, getattr(error, "pos", at)) + 1
            raise SailvitError(f"{file} is not JSON (entry {number}, line {line}: {said}): mend it there") from error
        offset += len(text[last:at].encode())
        length = len(text[at:end].encode())
        yield Slot(str(file), f"{name}, entry {number}", (("", offset, length),), start=(0, number - 1))
        offset, last = offset + length, end
        at = after_space(end)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            line = text.count("\n", 0, at) + 1
            raise SailvitError(f"{file} is not JSON (line {line}: no comma after entry {number}): mend it there")
        at = after_space(at + 1)


def _tar_slots(file: Path, start: int, name: str) -> Iterator[Slot]:
    """The samples of a tar: files that follow each other and are named alike up to the first dot.

    Kept are pictures, texts and JSON. Links are never followed; a compressed tar has no places to go back to.
    """
    with file.open("rb") as stream:
        stream.seek(start)
        yield from _archive_slots(file, stream, name)


def _archive_slots(file: Path, stream: IO[bytes], name: str) -> Iterator[Slot]:
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        key, spans, start = None, [], 0
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # else it keeps every header
            match = _MEMBER.fullmatch(member.name)
            if match is None or not member.isreg() or member.issparse():
                continue
            if key is not None and key != match[1]:
                yield Slot(str(file), f"{name}, sample {key}", tuple(spans), key, (start, 0))
                key, spans = None, []
            if key is None:
                key, start = match[1], member.offset
            if _PICTURE.fullmatch(kind := _kind(match[2])) or kind == "json" or kind in _TEXTS:
                spans.append((match[2], member.offset_data, member.size))
        if key is not None:
            yield Slot(str(file), f"{name}, sample {key}", tuple(spans), key, (start, 0))


def _kind(field: str) -> str:
    return field.rsplit(".", 1)[-1].lower()


def _member(key: str, field: str, content: bytes) -> Any:
    if _PICTURE.fullmatch(_kind(field)):
        return {"bytes": content, "path": f"{key}.{field}"}
    if _kind(field) == "json":
        return parse_json(content)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RowError(f"it is not UTF-8 text (byte {error.start}): save it as UTF-8", "not UTF-8") from error


def _bytes_at(stream: IO[bytes], offset: int, length: int) -> bytes:
    if length > MAX_BYTES:
        raise RowError(f"it has more than {MAX_BYTES} bytes: make it smaller", "too many bytes")
    stream.seek(offset)
    return stream.read(length)


def parse_json(content: bytes) -> Any:
    """What a JSON text in UTF-8 holds.

    Raises:
        RowError: it is none.
    """
    try:
        return json.loads(content.strip().removeprefix(_BOM).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError(f"it is not UTF-8 text (byte {error.start}): save it as UTF-8", "not UTF-8") from error
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise RowError(f"it is not JSON ({error.msg} at {where}): write one JSON object a line", "not JSON") from error
    except RecursionError as error:
        raise RowError("it is nested too deeply: write one JSON object a line", "not JSON") from error
    except ValueError as error:  # a number of thousands of digits
        raise RowError(f"it is not JSON ({error}): write one JSON object a line", "not JSON") from error


def _gone(file: str, error: OSError) -> SailvitError:
    return SailvitError(f"{file} cannot be read ({error.strerror or error}): mend the path")


# `datasets`


def open_with_datasets(
    place: Place,
    *,
    files: tuple[Path, ...] | None = None,
    split: str = "train",
    name: str | None = None,
    revision: str | None = None,
    streaming: bool = True,
) -> Any:
    """What is at a place, as a `datasets.Dataset` or, streaming, an `IterableDataset`.

    Args:
        place: not of the kind `json` or `webdataset`.
        files (*optional*): only these of the place's files.
        split, name, revision, streaming: as in `datasets.load_dataset`.

    Raises:
        SailvitError: `datasets` cannot read it; the sentence has its reason.
    """
    import datasets

    files = place.files if files is None else files
    options: dict[str, Any] = {"split": split, "streaming": streaming}
    with told(place.name):
        if place.kind == "saved":
            loaded = datasets.load_from_disk(place.path)
            if isinstance(loaded, datasets.DatasetDict):
                if split not in loaded:
                    raise SailvitError(f"{place.name} has no split {split}: choose one of {', '.join(loaded)}")
                loaded = loaded[split]
            return loaded.to_iterable_dataset() if streaming else loaded
        if place.kind in ("hub", "folder"):
            options |= {"name": name, "revision": revision} if place.kind == "hub" else {"name": name}
            return datasets.load_dataset(place.path, **options)
        data_files = {split: [str(file) for file in files]}
        return datasets.load_dataset(place.kind, data_files=data_files, **options)


def stored_rows(dataset: Any, rows_at_once: int = ROWS_AT_ONCE, skip: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of a `datasets` data set as they are stored: pictures are bytes and paths, never decoded.

    Unlike the data set itself it gives every row in every worker of a data loader. The first `skip` ones are left out.
    """
    rows = dataset.with_format("arrow")
    if getattr(dataset, "epoch", 0):
        rows.set_epoch(dataset.epoch)  # it begins with the first pass again
    for table in rows.iter(batch_size=rows_at_once):
        yield from table.slice(skip).to_pylist()
        skip = max(0, skip - table.num_rows)


class told:
    """Errors of `datasets` and of what it stands on as one sentence that names the data set."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, SailvitError):
            return
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, SailvitError):
            raise cause from error
        said = " ".join(str(cause).split())[:300] or type(cause).__name__
        raise SailvitError(f"the data set {self.name} cannot be read ({said}): mend it, or its name") from error
