# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What is read from a chat before it is written as text: its pictures, the frames of its videos, its learnt tokens."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

# Keys of a part of type "image" or "video" that hold the picture or the frames, as in transformers' messages.
_IMAGE_KEYS, _VIDEO_KEYS = ("image", "url", "path", "base64", "image_url"), ("video", "frames")
_IMAGE_TYPES = ("image", "image_url")
_ORIENTATION = 0x0112  # in EXIF; from 5 on, rows and columns change places


class ConversationSize(NamedTuple):
    """How long a chat is: tokens of its text, tokens of its pictures, tiles of its pictures."""

    text: int
    image: int
    tiles: int

    @property
    def total(self) -> int:
        """All tokens of the chat."""
        return self.text + self.image


class ImageBudgetError(ValueError):
    """The pictures of a chat need more tokens than allowed, even with one tile each."""


def read_conversation(
    messages: Sequence[dict[str, Any]],
    images: Sequence[Any] | None,
    image_token: str,
    num_frames: int | None = None,
    name: str = "The conversation",
) -> tuple[list[dict[str, Any]], list[Any]]:
    """A chat as its template takes it, and its pictures in reading order.

    Videos become their frames: before each a text that tells its time, then a part of type `"image"`.

    Args:
        messages: The chat; `content` is a string or a list of parts of type `"text"`, `"image"` or `"video"`.
        images: The pictures of all image parts and frames, in reading order, instead of those inside the parts.
        image_token: The placeholder, which no text may hold.
        num_frames: Most frames taken of a video, unless its part says so itself.
        name: What the chat is called in errors.

    Raises:
        ValueError: if pictures and places are not as many, a part cannot be read, or a text holds the placeholder.
    """
    given = None if images is None else list(images)
    places = needed = 0
    chat: list[dict[str, Any]] = []
    kept: list[Any] = []
    for position, message in enumerate(messages, start=1):
        where = f"Message {position} of {name[:1].lower() + name[1:]}"
        check_text(message, image_token, where)
        content = message.get("content")
        if isinstance(content, str) or (content is None and message.get("tool_calls")):
            chat.append({key: value for key, value in message.items() if value is not None})
            continue
        if not isinstance(content, (list, tuple)):
            raise ValueError(f"{where} has the content {content!r}; give a text, or a list of parts.")
        parts: list[dict[str, Any]] = []
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else "text" if isinstance(part, str) else None
            if kind == "text":
                parts.append({"type": "text", "text": part if isinstance(part, str) else part["text"]})
            elif kind in _IMAGE_TYPES:
                inside = _held(part, _IMAGE_KEYS)
                pictures = inside if given is None else given[places : places + 1]
                places += 1
                kept += pictures[:1]
                parts.append({"type": "image"})
            elif kind == "video":
                video = _read_video(part, num_frames, where)
                pictures = video.frames if given is None else given[places : places + video.length]
                places += video.length
                kept += [pictures[index] for index in video.sampled if index < len(pictures)]
                for label in video.labels:
                    parts += [{"type": "text", "text": label}, {"type": "image"}]
            else:
                raise ValueError(f"{where} has a part of type {kind!r}; give 'text', 'image' or 'video'.")
        needed += sum(part["type"] == "image" for part in parts)
        chat.append({**{key: value for key, value in message.items() if value is not None}, "content": parts})
    have = len(kept) if given is None else len(given)
    if have != (needed if given is None else places):
        raise ValueError(
            f"{name} has {places} image parts but {have} pictures; give one picture for each part of type 'image' "
            "and for each frame of a video."
        )
    return chat, kept


def expand_videos(
    messages: Sequence[Any], image_token: str, num_frames: int | None = None, name: str = "The conversation"
) -> list[Any]:
    """The chat with the frames of its videos as parts of type `"image"` that hold them.

    Raises:
        ValueError: as [`read_conversation`].
    """
    chat = []
    for position, message in enumerate(messages, start=1):
        where = f"Message {position} of {name[:1].lower() + name[1:]}"
        if isinstance(message, dict):
            check_text(message, image_token, where)
            content = message.get("content")
            if isinstance(content, (list, tuple)):
                parts: list[Any] = []
                for part in content:
                    if isinstance(part, dict) and part.get("type") == "video":
                        video = _read_video(part, num_frames, where)
                        for index, label in zip(video.sampled, video.labels, strict=True):
                            picture = {"image": video.frames[index]} if video.frames else {}
                            parts += [{"type": "text", "text": label}, {"type": "image", **picture}]
                    else:
                        parts.append(part)
                message = {**message, "content": parts}
        chat.append(message)
    return chat


class _Video(NamedTuple):
    frames: list[Any]  # empty when they are not inside the part
    length: int  # frames that the part stands for
    sampled: list[int]  # those that are shown
    labels: list[str]  # the text before each of these


def _read_video(part: dict[str, Any], num_frames: int | None, where: str) -> _Video:
    held = _held(part, (*_VIDEO_KEYS, "url", "path"))
    if held and not isinstance(held[0], (list, tuple, np.ndarray)):
        raise ValueError(
            f"{where} has a video that is not a list of pictures ({type(held[0]).__name__}); decode it, and give its "
            "frames as 'video' with their seconds as 'timestamps'."
        )
    frames = list(held[0]) if held else []
    times = part.get("timestamps")
    if times is None and not frames:
        raise ValueError(
            f"{where} has a video without frames; give them as 'video', or their seconds as 'timestamps' and the "
            "frames among the pictures."
        )
    count = len(frames) if times is None else len(times)
    if frames and len(frames) != count:
        raise ValueError(f"{where} has a video of {len(frames)} frames with {count} timestamps; give one for each.")
    if times is None and part.get("fps"):
        times = [index / part["fps"] for index in range(count)]
    most = part.get("num_frames") or num_frames or count
    sampled = sampled_frames(count, most)
    labels = [f"Frame {place}: " if times is None else f"{times[i]:.1f} s: " for place, i in enumerate(sampled, 1)]
    return _Video(frames, count, sampled, labels)


def sampled_frames(count: int, num_frames: int) -> list[int]:
    """Which of `count` frames are taken: all, or `num_frames` at even distances from the first, as transformers'."""
    if count <= num_frames:
        return list(range(count))
    return [index * count // num_frames for index in range(num_frames)]


def check_text(message: dict[str, Any], image_token: str, where: str) -> None:
    """Refuse a placeholder that somebody typed: it would be taken for a picture.

    Raises:
        ValueError: if a text of the message holds it.
    """
    content = message.get("content")
    texts: list[Any] = list(message.values())
    for part in content if isinstance(content, (list, tuple)) else ():
        texts.append(part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None)
    if any(image_token in text for text in texts if isinstance(text, str)):
        raise ValueError(
            f"{where} has {image_token} in its text, which stands for a picture; take it out, and give pictures as "
            "parts of type 'image'."
        )


def check_tools(template: str, chats: Sequence[Any], tools: Any = None) -> None:
    """Refuse tools, and turns of tools, that the chat template would leave out.

    Raises:
        ValueError: if it does not know them.
    """
    messages = [message for chat in chats if isinstance(chat, list) for message in chat if isinstance(message, dict)]
    used = tools or any(message.get("role") == "tool" or message.get("tool_calls") for message in messages)
    if used and "tool" not in template:
        raise ValueError(
            "The chat template writes no tools; pass one that does as chat_template, such as the tokenizer's own "
            "through chat_templates_sailvit.with_pictures."
        )


def _held(part: dict[str, Any], keys: Sequence[str]) -> list[Any]:
    """What a part holds under the first of these keys that is there."""
    for key in keys:
        value = part.get(key)
        if value is not None:
            return [value.get("url") if key == "image_url" and isinstance(value, dict) else value]
    return []


def marked_tokens(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Which tokens lie in one of the spans, wholly or in part: bool of shape `(L,)`.

    Args:
        offsets: First and last character of each token; as transformers', a token without width outside is no part.
        spans: Stretches of characters, in order.
    """
    places = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    marked = np.zeros(len(places), dtype=bool)
    for start, end in spans:
        marked |= (places[:, 0] < end) & (places[:, 1] > start)
    return marked


def find_tokens(row: np.ndarray, tokens: np.ndarray) -> int | None:
    """Where `tokens` begin in `row`, or None."""
    for start in np.flatnonzero(row[: len(row) - len(tokens) + 1] == tokens[0]) if len(tokens) else ():
        if np.array_equal(row[start : start + len(tokens)], tokens):
            return int(start)
    return None


def answers_by_prefix(
    render: Callable[[list[dict[str, Any]], bool], str], chat: list[dict[str, Any]], text: str, ends: Sequence[str]
) -> list[tuple[int, int]]:
    """Where the assistant's answers stand in a text whose template does not mark them.

    An answer is what stands between the prompt that asks for it and the next turn; white space after the token that
    stops it belongs to no answer.

    Args:
        render: Writes the beginning of a chat, with or without the prompt for an answer.
        ends: Tokens that may stop an answer.

    Raises:
        ValueError: if a turn is written otherwise when more turns follow.
    """
    spans = []
    for index, message in enumerate(chat):
        if message["role"] != "assistant":
            continue
        before, after = render(chat[:index], True), render(chat[: index + 1], False)
        if not (after.startswith(before) and text.startswith(after)):
            raise ValueError(
                "The chat template does not mark the assistant's answers, and writes turns otherwise when more "
                "follow, so they cannot be found; put {% generation %} and {% endgeneration %} around them."
            )
        bare = after.rstrip()
        spans.append((len(before), len(bare) if bare.endswith(tuple(ends)) else len(after)))
    return spans


def lowered(
    counts: Callable[[int, int | None], tuple[int, int]], sizes: Sequence[tuple[int, int]], most: int, budget: int
) -> list[int | None]:
    """Largest number of tiles for each picture, so that all together have no more than `budget` tokens.

    The picture with the most tokens gets fewer tiles first; among such the larger one, then the one that comes first
    (ours).

    Args:
        counts: Tokens and tiles of picture `index` with at most so many tiles, None for the processor's own setting.
        sizes: Height and width of each picture.
        most: The processor's own setting.

    Raises:
        ImageBudgetError: if one tile for each is too much already.
    """
    limits: list[int | None] = [None] * len(sizes)
    tokens = [counts(index, None)[0] for index in range(len(sizes))]
    open_ = set(range(len(sizes)))
    while sum(tokens) > budget:
        if not open_:
            raise ImageBudgetError(
                f"{len(sizes)} pictures need {sum(tokens)} tokens even with one tile each, more than "
                f"max_image_tokens={budget}; show fewer pictures, or raise it."
            )
        index = max(open_, key=lambda i: (tokens[i], sizes[i][0] * sizes[i][1], -i))
        limit = limits[index]
        for fewer in range((most if limit is None else limit) - 1, 0, -1):
            found = counts(index, fewer)[0]
            if found < tokens[index]:
                limits[index], tokens[index] = fewer, found
                break
        else:
            open_.discard(index)
    return limits


def levelled(total: Callable[[int | None], int], most: int, budget: int) -> int | None:
    """The largest level (of pictures at their own resolution) at which all have no more than `budget` tokens.

    A level bounds the size of every picture, so that the largest are lowered first, to the size of the next (ours).

    Args:
        total: Tokens of all pictures at a level, None for the processor's own setting.
        most: The processor's own setting.

    Raises:
        ImageBudgetError: if they have more at the lowest level, which is 1.
    """
    if total(None) <= budget:
        return None
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if total(middle) <= budget:
            low = middle
        else:
            high = middle - 1
    if low == 0:
        raise ImageBudgetError(
            f"The pictures need {total(1)} tokens even at their smallest, more than max_image_tokens={budget}; show "
            "fewer pictures, or raise it."
        )
    return low


def size_of(picture: Any) -> tuple[int, int]:
    """Height and width of a picture as it is seen: PIL (turned as its EXIF block says), or an array or tensor with its
    channels first or last (first where both could be, as transformers reads it)."""
    shape = getattr(picture, "shape", None)
    if shape is None:
        width, height = picture.size
        try:
            turned = picture.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
        except Exception:  # EXIF blocks are broken in many ways
            turned = False
        return (int(width), int(height)) if turned else (int(height), int(width))
    if len(shape) == 3:
        shape = shape[1:] if shape[0] in (1, 3, 4) else shape[:2]
    return int(shape[-2]), int(shape[-1])


def flat(images: Any) -> Iterator[Any]:
    """All pictures of nested lists."""
    if isinstance(images, (list, tuple)):
        for image in images:
            yield from flat(image)
    else:
        yield images


def joined(parts: list[Any]) -> Any:
    """Arrays, tensors or lists of them, one after the other; a list if they do not fit together."""
    if len(parts) == 1:
        return parts[0]
    shapes = {getattr(part, "shape", (None,))[1:] for part in parts}
    if len(shapes) == 1 and all(isinstance(part, torch.Tensor) for part in parts):
        return torch.cat(parts)
    if len(shapes) == 1 and all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [tile for part in parts for tile in part]


def as_tensors(pixels: Any) -> Any:
    """One tensor (tiles, C, H, W), or a list of tensors where shapes differ."""
    if isinstance(pixels, torch.Tensor):
        return pixels
    if isinstance(pixels, np.ndarray):
        return torch.from_numpy(pixels)
    tiles = [torch.as_tensor(tile) for tile in pixels]
    return torch.stack(tiles) if len({tile.shape for tile in tiles}) == 1 else tiles


__all__ = [
    "ConversationSize",
    "ImageBudgetError",
    "answers_by_prefix",
    "as_tensors",
    "check_text",
    "check_tools",
    "expand_videos",
    "find_tokens",
    "flat",
    "joined",
    "levelled",
    "lowered",
    "marked_tokens",
    "read_conversation",
    "sampled_frames",
    "size_of",
]
