# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A person's own data: a JSONL file of conversations with pictures, checked line by line before any training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SailvitError
from .images import ImageError, check_image

if TYPE_CHECKING:
    from datasets import Dataset, Features

ROLES = ("system", "user", "assistant")
PART_TYPES = ("text", "image")
_EXAMPLE = (
    '{"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}, '
    '{"role": "assistant", "content": "A cat."}], "images": ["cat.png"]}'
)


class ConversationError(SailvitError):
    """A line that cannot be trained on; the message names the file and the line."""


def message_features(**columns: Any) -> Features:
    """The features of a data set with the column `messages` and the given ones."""
    from datasets import Features, List, Value

    part = {"type": Value("string"), "text": Value("string")}
    return Features({"messages": List({"role": Value("string"), "content": List(part)}), **columns})


def load_messages(
    path: str | Path,
    image_root: str | Path | None = None,
    *,
    match_extension: bool = False,
    decode: bool = False,
) -> Dataset:
    """Load a JSONL file with one conversation a line: `{"messages": [...], "images": ["cat.png", ...]}`.

    `content` is a string, or a list of `{"type": "text", "text": ...}` and `{"type": "image"}`, one of the latter for
    each picture, in the order of `images`. Other keys of a line are left out. Empty lines are skipped.

    Args:
        path (`str` or `Path`): the file, UTF-8.
        image_root (`str` or `Path`, *optional*): the folder that holds the pictures, itself or in folders below;
            defaults to the file's own folder.
        match_extension (`bool`, *optional*, defaults to `False`): refuse a picture whose name has the extension of
            another format than its content.
        decode (`bool`, *optional*, defaults to `False`): let `datasets` decode the pictures of a row when it is read;
            by default they are `{"path", "bytes"}`, for `load_image`, whose errors training knows how to take.

    Returns:
        `datasets.Dataset` with the columns `messages` and `images`; its
        fingerprint depends on the lines and on the pictures' paths and sizes in bytes.

    Raises:
        ConversationError: for the first line that is wrong: its number, the cause and the mend.
        SailvitError: there is no such file, or it holds no conversation.
    """
    path = Path(path)
    root = path.parent if image_root is None else Path(image_root)
    if not root.is_dir():
        raise SailvitError(f"the folder of pictures {root} does not exist: mend image_root")
    digest = hashlib.sha256()
    messages, images = [], []
    checked: dict[str, Path] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            chat, names = _conversation(line)
            for name in names:
                if name not in checked:
                    checked[name] = check_image(name, root, match_extension=match_extension)
        except (_LineError, ImageError) as error:
            raise ConversationError(f"{path}, line {number}: {error}") from error
        messages.append(chat)
        images.append([{"path": str(checked[name]), "bytes": None} for name in names])
        sizes = [[name, checked[name].stat().st_size] for name in names]
        digest.update(json.dumps([chat, sizes]).encode())
    if not messages:
        raise SailvitError(f"{path} holds no conversation: write one a line, such as {_EXAMPLE}")
    return _to_dataset(messages, images, digest.hexdigest()[:16], decode)


class _LineError(ValueError):
    """What is wrong with a line, without its number."""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise SailvitError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise SailvitError(f"the messages file {path} cannot be read ({error.strerror}): mend the path") from error


def _to_dataset(messages: list[Any], images: list[Any], fingerprint: str, decode: bool) -> Dataset:
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo, Image, List
    from datasets.table import InMemoryTable

    features = message_features(images=List(Image(decode=decode)))
    table = pa.Table.from_pydict({"messages": messages, "images": images}, schema=features.arrow_schema)
    return Dataset(InMemoryTable(table), info=DatasetInfo(features=features), fingerprint=fingerprint)


def _conversation(line: str) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise _LineError(f"not JSON ({error.msg} at column {error.colno}): write one JSON object a line") from error
    except RecursionError as error:
        raise _LineError("not a conversation (nested too deeply): write one JSON object a line") from error
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list) or not row["messages"]:
        raise _LineError(f'no list of "messages": write a line such as {_EXAMPLE}')
    names = row.get("images") or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise _LineError(f'"images" is {_short(names)}: write a list of paths, such as ["cat.png"]')
    chat = [_message(message, position) for position, message in enumerate(row["messages"], start=1)]
    if not any(message["role"] == "assistant" for message in chat):
        raise _LineError("no assistant turn, so there is nothing to learn: add a message with the role assistant")
    _check_placeholders(chat, names)
    return chat, names


def _message(message: Any, position: int) -> dict[str, Any]:
    where = f"message {position}"
    if not isinstance(message, dict):
        raise _LineError(f'{where} is {_short(message)}: write {{"role": ..., "content": ...}}')
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise _LineError(f"{where} has the role {_short(role)}: use one of {', '.join(ROLES)}")
    if role == "system" and position > 1:
        raise _LineError(f"{where} has the role system: put it first or drop it")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise _LineError(f'{where} has no "content": write a text, or a list of parts')
    parts = [_part(part, where) for part in content]
    if role != "user" and any(part["type"] == "image" for part in parts):
        raise _LineError(f"{where} shows a picture in a turn of the {role}: move it to a turn of the user")
    if role == "assistant" and not any((part["text"] or "").strip() for part in parts):
        raise _LineError(f"{where} is an empty answer: write it or drop the line")
    return {"role": role, "content": parts}


def _part(part: Any, where: str) -> dict[str, str | None]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in PART_TYPES:
        raise _LineError(
            f'{where} has the part {_short(part)}: write {{"type": "text", "text": "..."}} or {{"type": "image"}}'
        )
    if kind == "image":
        extra = sorted(key for key, value in part.items() if key not in ("type", "text") and value is not None)
        if extra or part.get("text") is not None:
            key = extra[0] if extra else "text"
            raise _LineError(
                f'{where} has "{key}" in an image part: write {{"type": "image"}} and its path into "images"'
            )
        return {"type": "image", "text": None}
    if not isinstance(part.get("text"), str):
        raise _LineError(f'{where} has a text part without "text": write {{"type": "text", "text": "..."}}')
    return {"type": "text", "text": part["text"]}


def _check_placeholders(chat: list[dict[str, Any]], names: list[str]) -> None:
    parts = [part for message in chat for part in message["content"]]
    places = sum(part["type"] == "image" for part in parts)
    if places == len(names):
        return
    mend = 'give one path in "images" for each {"type": "image"}, in their order'
    if any("<image>" in (part["text"] or "") for part in parts):
        mend = 'write {"type": "image"} as a part of "content" in place of "<image>" in a text'
    raise _LineError(f"{places} image parts in the messages but {len(names)} paths in images: {mend}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
