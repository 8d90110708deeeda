# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The layouts that conversations come in, each turned into ours: messages with parts, and a list of pictures.

`messages`: OpenAI's, TRL's and ours; `llava`: `conversations` of human and gpt with one `image`; `sharegpt`: the same
keys with `images` and a `system` text, as LLaMA-Factory has them; `cauldron`: `images` and `texts` of user and
assistant, as in The Cauldron, Docmatix and FineVision; `caption`: a picture and its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

FORMATS = ("messages", "llava", "sharegpt", "cauldron", "caption")
IMAGE_MARK = "<image>"

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
}
_CAPTIONS = ("caption", "text", "txt", "captions")
_IDS = ("id", "__key__", "sample_id", "question_id")
# The members of a WebDataset's sample that are pictures: `jpg`, but also `0.jpg` and `left.png`.
_PICTURE_FIELD = re.compile(r"(?:.*\.)?(?:jpe?g|png|webp|gif|bmp|tiff?)", re.IGNORECASE)
_OTHER_MEDIA = re.compile(r"<(?:video|audio)>")


class RowError(ValueError):
    """What is wrong with a row, in a sentence without its place; `reason`: the same in two or three words."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Conversation(NamedTuple):
    """A row in our layout.

    Attributes:
        messages: `{"role", "content"}` with the content as parts, each `{"type": "text", "text": str}` or
            `{"type": "image", "text": None}`.
        images: one source for `load_image` for each image part, in reading order; texts as `{"path", "bytes"}`.
        id: the row's own name, if it has one.
    """

    messages: list[dict[str, Any]]
    images: list[Any]
    id: str | None


def detect_format(row: Mapping[str, Any]) -> str:
    """The layout of a row, by its keys.

    Raises:
        RowError: none of those known.
    """
    row = _with_json_member(row)
    if _present(row, "messages"):
        return "messages"
    if _present(row, "conversations"):
        return "sharegpt" if {"images", "system"} & set(row) else "llava"
    if _present(row, "texts"):
        return "cauldron"
    if any(_present(row, key) for key in _CAPTIONS) and _has_pictures(row):
        return "caption"
    raise RowError(
        f'its keys are {_names(row)}, which is no layout known: write "messages" (or LLaVA\'s "conversations", or '
        '"image" and "caption")',
        "unknown layout",
    )


def to_conversation(row: Any, format: str = "auto") -> Conversation:
    """A row of any known layout in ours.

    A text may show its pictures by `<image>`; a line break next to the mark goes. As many marks as pictures are
    needed, but for LLaVA's habit of one picture without a mark: it comes first in the first turn of the user.

    Args:
        row (`Mapping`): as read from a file or a `datasets` data set, pictures not decoded.
        format (`str`, *optional*, defaults to `"auto"`): one of `FORMATS`; by default what the row's keys say.

    Raises:
        RowError: it cannot be trained on.
    """
    if not isinstance(row, Mapping):
        raise RowError(f"it is {_short(row)}: write an object with the conversation", "not an object")
    row = _with_json_member(row)
    if format == "auto":
        format = detect_format(row)
    messages, inline = _READERS[format](row)
    pictures = inline if inline is not None else _pictures(row)
    if format != "messages":
        _add_missing_mark(messages, pictures)
    _check(messages, len(pictures))
    found = next((row[key] for key in _IDS if row.get(key) is not None), None)
    return Conversation(messages, [_source(picture) for picture in pictures], None if found is None else str(found))


# Readers of the layouts: messages in our layout, and the pictures if they stand in the messages themselves


def _read_messages(row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[Any] | None]:
    chat = _as_list(row.get("messages"))
    if not chat:
        raise RowError('it has no list of "messages": write at least a question and an answer', "no conversation")
    named = _pictures(row)
    rest = iter(named)
    found: list[Any] = []
    messages, any_inline = [], False
    for position, message in enumerate(chat, start=1):
        message = _from_json(message)
        if not isinstance(message, Mapping):
            raise RowError(f'message {position} is {_short(message)}: write {{"role", "content"}}', "no conversation")
        role = _role(message.get("role"), position)
        content = message.get("content")
        if isinstance(content, str):
            messages.append({"role": role, "content": _split_marks(content)})
            continue
        parts: list[dict[str, Any]] = []
        for part in _as_list(content) or ():
            for kind, value in _read_part(_from_json(part), position):
                if kind == "image":
                    any_inline |= value is not None
                    found.append(next(rest, None) if value is None else value)
                parts.append({"type": kind, "text": value if kind == "text" else None})
        messages.append({"role": role, "content": parts})
    if any_inline:
        if any(picture is None for picture in found) or next(rest, None) is not None:
            raise RowError(
                'some pictures stand in the messages and some in "images": put all of them into one of the two',
                "pictures do not match",
            )
        return messages, found
    return messages, None


def _read_part(part: Any, position: int) -> list[tuple[str, Any]]:
    """The kind of a part, `text` or `image`, and its text or its picture (perhaps None); of a video, its frames."""
    where = f"message {position}"
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, str):
        return [("text", part)]
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return [("text", part["text"])]
    if kind in ("image", "image_url", "input_image"):
        for key in ("image", "image_url", "path", "url", "bytes"):
            value = part.get(key)
            if isinstance(value, Mapping) and "url" in value:
                value = value["url"]
            if value is not None:
                return [("image", value)]
        return [("image", None)]
    if kind == "video":
        return _read_video(part, where)
    if kind == "audio":
        raise RowError(f"{where} has audio: leave it out", "audio")
    raise RowError(
        f'{where} has the part {_short(part)}: write {{"type": "text", "text": "..."}} or {{"type": "image"}}',
        "unknown part",
    )


def _read_video(part: Mapping[str, Any], where: str) -> list[tuple[str, Any]]:
    """The frames of a video, each after its time: written as `SAILViTProcessor` writes the part."""
    frames = _as_list(part.get("video")) or _as_list(part.get("frames"))
    times = _as_list(part.get("timestamps"))
    count = len(frames or times or ())
    if not count:
        raise RowError(
            f'{where} has a video without frames: give its frames as pictures, and their seconds as "timestamps"',
            "a video",
        )
    if times is None and isinstance(part.get("fps"), (int, float)) and part["fps"] > 0:
        times = [index / part["fps"] for index in range(count)]
    if times is not None and (len(times) != count or not all(isinstance(time, (int, float)) for time in times)):
        raise RowError(f'{where} has a video of {count} frames: give as many seconds as "timestamps"', "a video")
    if (part.get("num_frames") or count) < count:
        raise RowError(f"{where} has num_frames: give only the frames that are to be seen", "a video")
    found: list[tuple[str, Any]] = []
    for index in range(count):
        found.append(("text", f"Frame {index + 1}: " if times is None else f"{times[index]:.1f} s: "))
        found.append(("image", frames[index] if frames else None))
    return found


def _read_turns(row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], None]:
    """LLaVA's and ShareGPT's `from` and `value`."""
    turns = _as_list(row.get("conversations"))
    if not turns:
        raise RowError('it has no list of "conversations": write a question and an answer', "no conversation")
    messages = []
    if row.get("system") is not None and str(row["system"]).strip():
        messages.append({"role": "system", "content": [{"type": "text", "text": str(row["system"])}]})
    for position, turn in enumerate(turns, start=1):
        turn = _from_json(turn)
        if not isinstance(turn, Mapping):
            raise RowError(f'turn {position} is {_short(turn)}: write {{"from", "value"}}', "no conversation")
        who, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if not isinstance(text, str):
            raise RowError(f"turn {position} has the value {_short(text)}: write a text", "no conversation")
        messages.append({"role": _role(who, position), "content": _split_marks(text)})
    return messages, None


def _read_texts(row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], None]:
    """The Cauldron's `user` and `assistant`; pictures without marks come first."""
    turns = _as_list(row.get("texts"))
    if not turns:
        raise RowError('it has no list of "texts": write a question and an answer', "no conversation")
    messages: list[dict[str, Any]] = []
    for position, turn in enumerate(turns, start=1):
        turn = _from_json(turn)
        for key in ("user", "assistant"):
            text = turn.get(key) if isinstance(turn, Mapping) else None
            if not isinstance(text, str):
                raise RowError(f'turn {position} is {_short(turn)}: write {{"user", "assistant"}}', "no conversation")
            messages.append({"role": key, "content": _split_marks(text)})
    if not any(_is_image(part) for message in messages for part in message["content"]):
        messages[0]["content"][:0] = [_image_part() for _ in _pictures(row)]
    return messages, None


def _read_caption(row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], None]:
    caption = next((row[key] for key in _CAPTIONS if row.get(key) is not None), None)
    if isinstance(caption, Sequence) and not isinstance(caption, str) and caption:
        caption = caption[0]  # several captions of one picture: the first, so that every pass is the same
    if not isinstance(caption, str):
        raise RowError(f"its caption is {_short(caption)}: write a text", "no conversation")
    return [
        {"role": "user", "content": [_image_part() for _ in _pictures(row)]},
        {"role": "assistant", "content": [{"type": "text", "text": caption}]},
    ], None


_READERS: dict[str, Any] = {
    "messages": _read_messages,
    "llava": _read_turns,
    "sharegpt": _read_turns,
    "cauldron": _read_texts,
    "caption": _read_caption,
}


# Pictures


def _pictures(row: Mapping[str, Any]) -> list[Any]:
    """The pictures of a row: those of a tar's sample, or what `images` or `image` holds."""
    members = sorted((key for key in row if _is_member(key, row)), key=_natural)
    if members and "__key__" in row:
        return [row[key] for key in members]
    for key in ("images", "image"):
        value = _from_json(row.get(key))
        if value is None or value == "" or isinstance(value, Sequence) and len(value) == 0:
            continue
        pictures = list(value) if isinstance(value, (list, tuple)) else [value]
        for picture in pictures:
            if picture is None or isinstance(picture, (int, float, bool, list)):
                raise RowError(
                    f'"{key}" holds {_short(picture)}: write a path, or a list of paths such as ["cat.png"]',
                    "no picture's path",
                )
        return pictures
    return [row[key] for key in members]


def _is_member(key: str, row: Mapping[str, Any]) -> bool:
    return row[key] is not None and isinstance(key, str) and _PICTURE_FIELD.fullmatch(key) is not None


def _has_pictures(row: Mapping[str, Any]) -> bool:
    return any(row.get(key) is not None for key in ("image", "images")) or any(_is_member(key, row) for key in row)


def _natural(key: str) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", key)]


def _source(picture: Any) -> Any:
    """A picture as `datasets` stores it, if it is a path or bytes."""
    if isinstance(picture, str):
        return {"bytes": None, "path": picture}
    if isinstance(picture, bytes):
        return {"bytes": picture, "path": None}
    if isinstance(picture, Mapping):
        return {"bytes": picture.get("bytes"), "path": picture.get("path")}
    return picture


# Texts and marks


def _image_part() -> dict[str, Any]:
    return {"type": "image", "text": None}


def _split_marks(text: str) -> list[dict[str, Any]]:
    """The parts of a text in which pictures stand as `<image>`."""
    pieces = text.split(IMAGE_MARK)
    parts: list[dict[str, Any]] = []
    for index, piece in enumerate(pieces):
        if index:
            parts.append(_image_part())
            piece = piece.removeprefix("\n")
        if index < len(pieces) - 1:
            piece = piece.removesuffix("\n")
        if piece or len(pieces) == 1:
            parts.append({"type": "text", "text": piece})
    return parts


def _add_missing_mark(messages: list[dict[str, Any]], pictures: Sequence[Any]) -> None:
    if len(pictures) == 1 and not any(_is_image(part) for message in messages for part in message["content"]):
        for message in messages:
            if message["role"] == "user":
                message["content"].insert(0, _image_part())
                return


def _role(role: Any, position: int) -> str:
    known = _ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        raise RowError(
            f"message {position} has the role {_short(role)}: use one of system, user, assistant (or human, gpt)",
            "unknown role",
        )
    return known


def _check(messages: Sequence[Mapping[str, Any]], pictures: int) -> None:
    """What holds of every conversation, whatever it was written in."""
    for position, message in enumerate(messages, start=1):
        role, parts = message["role"], message["content"]
        where = f"message {position}"
        if role == "system" and position > 1:
            raise RowError(f"{where} has the role system: put it first or drop it", "misplaced system")
        if not parts:
            raise RowError(f"{where} is empty: write a text", "empty message")
        if role != "user" and any(_is_image(part) for part in parts):
            raise RowError(
                f"{where} shows a picture in a turn of the {role}: move it to a turn of the user", "misplaced picture"
            )
        texts = [part["text"] for part in parts if not _is_image(part)]
        if role == "assistant" and not any(text.strip() for text in texts):
            raise RowError(f"{where} is an empty answer: write it or drop the row", "empty answer")
        if any(_OTHER_MEDIA.search(text) for text in texts) and not pictures:
            raise RowError(f"{where} asks about a video or a sound: leave it out", "a video or sound")
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            raise RowError(f"{where} holds half a character (a lone surrogate): mend the text", "not text") from error
    if not any(message["role"] == "assistant" for message in messages):
        raise RowError("it has no answer, so there is nothing to learn: add a turn of the assistant", "no answer")
    marks = sum(_is_image(part) for message in messages for part in message["content"])
    if marks != pictures:
        raise RowError(
            f"its places for pictures are {marks}, its pictures {pictures}: write {IMAGE_MARK} (or an image part) "
            "once for each picture, in their order",
            "pictures do not match",
        )


def _is_image(part: Mapping[str, Any]) -> bool:
    return part["type"] == "image"


# Values as they come


def _with_json_member(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A WebDataset's sample with the keys of its `json` member as its own."""
    member = _from_json(row.get("json"))
    if not isinstance(member, Mapping) or "__key__" not in row:
        return row
    return {**member, **{key: value for key, value in row.items() if key != "json" and value is not None}}


def _from_json(value: Any) -> Any:
    """What a JSON text holds; `datasets` keeps values of mixed types as such texts."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _as_list(value: Any) -> list[Any] | None:
    value = _from_json(value)
    return list(value) if isinstance(value, (list, tuple)) else None


def _present(row: Mapping[str, Any], key: str) -> bool:
    return row.get(key) is not None


def _names(keys: Iterable[Any]) -> str:
    names = [str(key) for key in keys]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"


def _short(value: Any) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
