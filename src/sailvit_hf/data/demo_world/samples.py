# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Samples of the demo world and their `datasets.Dataset`: messages, pictures as PNG, kind, answer."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from ..conversations import message_features
from .scenes import Scene
from .texts import Turn
from .words import WordPage

if TYPE_CHECKING:
    from datasets import Dataset, Features

FORMAT = 3  # raise it when the same seed gives other samples: it is part of the fingerprint


class Sample(NamedTuple):
    """A conversation about `picture` (none: text only); `kind` says what is practised, `system` begins the chat."""

    kind: str
    turns: Sequence[Turn]
    picture: Scene | WordPage | None
    system: str | None = None


def sample_features() -> Features:
    """The columns of the demo world's data sets: `messages`, `images`, `kind`, `answer`."""
    from datasets import Image as ImageFeature
    from datasets import List, Value

    return message_features(images=List(ImageFeature()), kind=Value("string"), answer=Value("string"))


def to_dataset(samples: Sequence[Sample], name: str) -> Dataset:
    """Render and encode `samples`; the fingerprint depends on `name` alone, so that lineages agree everywhere.

    Args:
        samples (sequence of `Sample`): what to encode.
        name (`str`): says which world, split, size and seed made them.

    Returns:
        `datasets.Dataset` with the columns of `sample_features()`; `answer` is the last turn's.
    """
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo
    from datasets.table import InMemoryTable

    features = sample_features()
    columns = {
        "messages": [messages(sample) for sample in samples],
        "images": [[{"bytes": _png(sample.picture), "path": None}] if sample.picture else [] for sample in samples],
        "kind": [sample.kind for sample in samples],
        "answer": [sample.turns[-1].answer for sample in samples],
    }
    table = InMemoryTable(pa.Table.from_pydict(columns, schema=features.arrow_schema))
    fingerprint = hashlib.sha256(f"sailvit_hf demo world {FORMAT} {name}".encode()).hexdigest()[:16]
    return Dataset(table, info=DatasetInfo(features=features), fingerprint=fingerprint)


def messages(sample: Sample) -> list[dict[str, Any]]:
    """The conversation as chat messages; the picture stands before the first question."""
    chat: list[dict[str, Any]] = []
    for turn in sample.turns:
        content: list[dict[str, str | None]] = [{"type": "text", "text": turn.question}]
        if sample.picture and not chat:
            content.insert(0, {"type": "image", "text": None})
        chat.append({"role": "user", "content": content})
        chat.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    if sample.system is not None:
        chat.insert(0, {"role": "system", "content": [{"type": "text", "text": sample.system}]})
    return chat


def _png(picture: Scene | WordPage) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture.render()).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
