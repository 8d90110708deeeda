# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Tables of the tokens and tiles of each sample, kept beside the data: a pack plan then measures nothing.

A table lies in `.sailvit_sizes` in the folder of the data, of a Hub data set in the cache of `datasets`. Its name is
made of the data (files with sizes and times, or the fingerprint of `datasets`), of how they are read (layout, folder
of pictures) and of what they were measured with, so that other data or another processor do not find it. Pictures that
change without the rows changing are not noticed here, but when a pack turns out too long: then remove the folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SailvitError
from .encoding import Encoder
from .replacement import UNREADABLE
from .streams import short_digest

FOLDER = ".sailvit_sizes"
_AT_ONCE = 512  # samples that a worker measures before it reports
_PROBE = (
    "What is in the picture? 12,345.67 is E = mc²; naïve, ΔΩ, Что это? ما هذا؟ def f(x):\n\treturn x "
    "\u56fe\u7247\u91cc\u6709\u4ec0\u4e48 \u3053\u308c\u306f\u4f55\u3067\u3059\u304b"
)
_SIDES = (16, 100, 224, 336, 448, 500, 640, 1000, 1344, 2000, 4000)

Size = tuple[int, int]


def measured_with(encoder: Encoder) -> str:
    """What lengths hang on, in a few signs: they are asked of the processor, so that one that was saved and loaded is
    the same."""
    processor, budget = encoder.processor, encoder.max_image_tokens
    content = [{"type": "image"}, {"type": "text", "text": _PROBE}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": _PROBE}]
    limit = {} if budget is None else {"max_image_tokens": budget}
    counts = []
    for height in _SIDES:
        for width in _SIDES:
            try:
                counts.append(tuple(processor.count_tokens(messages, [(height, width)], **limit)))
            except ValueError:  # no tiling keeps to the budget
                counts.append(())
    words = processor.tokenizer(_PROBE)["input_ids"], len(processor.tokenizer), str(processor.chat_template)
    return short_digest([counts, words, budget, encoder.match_extension, str(encoder.image_root)])


@lru_cache(maxsize=8)
def _measured_with(encoder: Encoder, settings: tuple[str, ...]) -> str:
    """`measured_with`, remembered while the processor's settings are these: all data sets of a run ask for it."""
    return measured_with(encoder)


def _settings(processor: Any) -> tuple[str, ...]:
    return str(getattr(processor, "image_processor", "")), str(processor.chat_template), str(len(processor.tokenizer))


def table_file(rows: Any, encoder: Encoder) -> Path | None:
    """Where the table of a data set lies, or would lie; `None` if it or the processor cannot be told from others."""
    place = getattr(rows, "place", None)
    if place is not None and place.files:
        stats = [(file, file.stat()) for file in place.files]
        data: Any = [(str(file.relative_to(place.root)), stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    else:
        data = getattr(getattr(rows, "rows", rows), "_fingerprint", None)
    if data is None or not hasattr(encoder.processor, "count_tokens"):
        return None
    if place is None or place.root is None:
        from datasets import config

        folder = Path(config.HF_DATASETS_CACHE)
    else:
        folder = place.root
    with_what = _measured_with(encoder, _settings(encoder.processor))
    reader = getattr(rows, "reader", None)
    read = None if reader is None else [reader.format, os.path.relpath(reader.image_root or folder, folder)]
    return folder / FOLDER / f"{short_digest([data, len(rows), read, with_what])}.npy"


def load_table(rows: Any, encoder: Encoder | None) -> np.ndarray | None:
    """The table of a data set, if there is one: (samples, 2) int32, tokens and tiles, no tokens where a sample cannot
    be read. It is mapped, not read: the processes of a machine share it, and what one writes stays its own."""
    file = None if encoder is None else table_file(rows, encoder)
    if file is None or not file.is_file():
        return None
    table: np.ndarray = np.load(file, mmap_mode="c", allow_pickle=False)
    return table if table.shape == (len(rows), 2) else None


def write_table(
    rows: Any,
    encoder: Encoder,
    measure: Callable[[int], Sequence[int]],
    workers: int = 1,
    on_progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Measure every sample of a data set and keep the table; complete or not there at all.

    Args:
        rows: the data set.
        encoder: what it will be encoded with.
        measure: gives tokens and tiles of an index; for several workers it must be possible to pickle it.
        workers: processes that measure.
        on_progress: told how many more samples are measured.

    Returns:
        What is written beside the table: `samples`, `unreadable`, `tokens`, `tiles` (sums) and `file`.

    Raises:
        SailvitError: the data set cannot be told from others, a worker died, or the folder cannot be written to.
    """
    file = table_file(rows, encoder)
    if file is None:
        raise SailvitError(
            "sizes cannot be kept of rows in memory, or for a processor that does not count tokens: save the rows to "
            "a file, or with `datasets`"
        )
    draft = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        table = np.lib.format.open_memmap(draft, "w+", np.int32, (len(rows), 2))
        for start, sizes in _measured(len(rows), measure, workers):
            table[start : start + len(sizes)] = sizes
            on_progress(len(sizes))
        table.flush()
        found = {
            "samples": len(rows), "unreadable": int((table[:, 0] == 0).sum()),
            "tokens": int(table[:, 0].sum(dtype=np.int64)), "tiles": int(table[:, 1].sum(dtype=np.int64)),
        }  # fmt: skip
        file.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        raise SailvitError(f"{file.parent} cannot be written to ({error.strerror}): make room there") from error
    except BrokenProcessPool as error:
        raise SailvitError("a process that measures was killed: look for too little memory, or use fewer") from error
    finally:
        draft.unlink(missing_ok=True)
    return {**found, "file": str(file)}


def _measured(count: int, measure: Callable[[int], Sequence[int]], workers: int) -> Iterator[tuple[int, np.ndarray]]:
    pieces = [(start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE)]
    if workers == 1:
        _begin(measure)
        yield from map(_piece, pieces)
        return
    with ProcessPoolExecutor(workers, initializer=_begin, initargs=(measure,)) as pool:
        yield from pool.map(_piece, pieces)


_measure: Callable[[int], Sequence[int]] | None = None


def _begin(measure: Callable[[int], Sequence[int]]) -> None:
    global _measure
    _measure = measure
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _piece(bounds: tuple[int, int]) -> tuple[int, np.ndarray]:
    assert _measure is not None
    found = np.zeros((bounds[1] - bounds[0], 2), dtype=np.int32)
    for place, index in enumerate(range(*bounds)):
        try:
            found[place] = _measure(index)
        except UNREADABLE:
            pass  # the plan will meet it, and count it
    return bounds[0], found
