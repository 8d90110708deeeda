# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A data set, read once: what is in it, what is broken, how long its samples are. Made for sets of millions."""

from __future__ import annotations

import heapq
import itertools
import json
import os
import re
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..images import ImageError
from .pictures import PICTURE_SUFFIXES, Picture, PictureReader, digest_of, digest_of_path, thumbnail

if TYPE_CHECKING:
    from ..reading import BrokenEntry, Entry

MOST = 2**32 - 1  # what four bytes hold
KEPT = 100_000  # broken entries that are remembered; all are counted
NAMED = 10_000  # of each thing that is no fault, such as a wrong extension
TINY = 28  # pixels that one token of the published model stands for: two patches of 14
MOST_SHOWN = 8  # pictures of a sample to look at; frames of a video may be many
MEASURES = ("text_tokens", "image_tokens", "tokens", "tiles", "pictures", "characters", "turns")


class Size(Protocol):
    """What a processor's `count_tokens` returns."""

    text: int
    image: int
    tiles: int


class Broken(NamedTuple):
    """A sample that cannot be trained on: where it is, why in two or three words, and in a sentence."""

    where: str
    reason: str
    message: str


class Shown(NamedTuple):
    """A sample to look at: its conversation, its pictures as small JPEGs, their (height, width), its numbers."""

    number: int
    where: str
    messages: list[dict[str, Any]]
    thumbnails: list[bytes]
    sizes: list[tuple[int, int]]
    numbers: dict[str, int]


class Distribution(NamedTuple):
    """Percentiles are numbers that occur: the least one that so many per cent of the samples do not exceed."""

    total: int
    least: int
    p50: int
    p90: int
    p99: int
    most: int


def distribution(values: array[int]) -> Distribution | None:
    """Of one number for each sample; `None` if there is no sample."""
    if not values:
        return None
    numbers = np.frombuffer(values, dtype=np.uint32)
    cuts = np.percentile(numbers, [0, 50, 90, 99, 100], method="inverted_cdf")
    return Distribution(int(numbers.sum(dtype=np.int64)), *(int(cut) for cut in cuts))


class Places:
    """Where each sample is, such as "train.jsonl, line 12": what differs is kept in 12 bytes a sample."""

    _NUMBER = re.compile(r"(.*?)([1-9][0-9]{0,17}|0)([^0-9]*)", re.DOTALL)

    def __init__(self) -> None:
        self._around: dict[tuple[str, str], int] = {}
        self._texts: list[tuple[str, str]] = []
        self._text, self._number = array("I"), array("q")

    def __len__(self) -> int:
        return len(self._number)

    def __getitem__(self, index: int) -> str:
        before, after = self._texts[self._text[index]]
        number = self._number[index]
        return before if number < 0 else f"{before}{number}{after}"

    def add(self, where: str) -> None:
        """Append a place."""
        match = self._NUMBER.fullmatch(where)
        around, number = ((match[1], match[3]), int(match[2])) if match else ((where, ""), -1)
        known = self._around.setdefault(around, len(self._texts))
        if known == len(self._texts):
            self._texts.append(around)
        self._text.append(known)
        self._number.append(number)

    def cut(self, length: int) -> None:
        """Forget all but the first `length` places."""
        del self._text[length:], self._number[length:]


@dataclass
class Findings:
    """What a data set holds. A sample takes some 60 bytes here, a picture 28, however long they are.

    Attributes:
        complete (`bool`): `False` if the reading was interrupted.
        entries (`int`): samples read, broken ones among them.
        numbers (dictionary of `array`): a number for each good sample, by name (`MEASURES`); without a processor those
            of tokens are empty, and `tiles` without a counter of tiles.
        heights, widths, contents, files, owners (`array`): of each picture of a good sample, size in pixels, digests
            of content and path (see `Picture`), and which sample it belongs to.
        formats (`Counter`): pictures by the format of their file.
        broken (list of `Broken`), reasons (`Counter`), first (dictionary): broken samples, the first `KEPT` of them;
            how many by reason; where the first of each reason is.
        wrong_extensions (list of (`str`, `str`)), wrong_extension_count (`int`): pictures named like another format,
            where that is allowed: the first `NAMED` with place and sentence, and how many.
        shown (list of `Shown`): the samples to look at, in order.
        orphans (list of `str`, *optional*), orphan_count (`int`): see `find_orphans`.
    """

    complete: bool = True
    entries: int = 0
    numbers: dict[str, array[int]] = field(default_factory=lambda: {name: array("I") for name in MEASURES})
    places: Places = field(default_factory=Places)
    digests: array[int] = field(default_factory=lambda: array("Q"))
    heights: array[int] = field(default_factory=lambda: array("I"))
    widths: array[int] = field(default_factory=lambda: array("I"))
    contents: array[int] = field(default_factory=lambda: array("Q"))
    files: array[int] = field(default_factory=lambda: array("Q"))
    owners: array[int] = field(default_factory=lambda: array("I"))
    formats: Counter[str] = field(default_factory=Counter)
    broken: list[Broken] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    wrong_extensions: list[tuple[str, str]] = field(default_factory=list)
    wrong_extension_count: int = 0
    shown: list[Shown] = field(default_factory=list)
    orphans: list[str] | None = None
    orphan_count: int = 0

    @property
    def good(self) -> int:
        """Samples that nothing was found wrong with."""
        return len(self.digests)

    @property
    def broken_count(self) -> int:
        """Samples that cannot be trained on."""
        return sum(self.reasons.values())

    @property
    def pictures(self) -> int:
        """Pictures of good samples, each as often as it is shown."""
        return len(self.contents)

    @property
    def distinct_pictures(self) -> int:
        """Pictures of different content."""
        return len(np.unique(_numpy(self.contents)))

    def text_only(self) -> int:
        """Good samples without a picture."""
        return self.numbers["pictures"].count(0)

    def distribution(self, name: str) -> Distribution | None:
        """Of one of `MEASURES` over the good samples."""
        return distribution(self.numbers[name])

    def sizes(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None:
        """(height, width) of the smallest, the median and the largest picture by their pixels."""
        if not self.heights:
            return None
        heights, widths = _numpy(self.heights), _numpy(self.widths)
        order = np.argsort(heights.astype(np.uint64) * widths, kind="stable")
        least, middle, most = ((int(heights[i]), int(widths[i])) for i in order[[0, (len(order) - 1) // 2, -1]])
        return least, middle, most

    def tiny_pictures(self) -> list[int]:
        """Samples of the pictures with a side of less than `TINY` pixels."""
        owners = _numpy(self.owners)
        return owners[np.minimum(_numpy(self.heights), _numpy(self.widths)) < TINY].tolist()

    def overlong(self, max_length: int, most: int | None = None) -> list[tuple[str, int]]:
        """The good samples of more than `max_length` tokens (the first `most`), and how long they are."""
        tokens = _numpy(self.numbers["tokens"])
        return [(self.places[i], int(tokens[i])) for i in np.flatnonzero(tokens > max_length)[:most].tolist()]

    def overlong_count(self, max_length: int) -> int:
        """How many good samples have more than `max_length` tokens."""
        return int((_numpy(self.numbers["tokens"]) > max_length).sum())

    def longest(self, name: str, count: int) -> list[tuple[str, int]]:
        """The samples with the largest number of that name, the largest first."""
        numbers = _numpy(self.numbers[name])
        order = np.argsort(-numbers.astype(np.int64), kind="stable")[:count]
        return [(self.places[i], int(numbers[i])) for i in order.tolist()]

    def find_orphans(self, root: str | Path) -> None:
        """Look in a folder for files named like pictures that no good sample shows; the first `NAMED` are kept.

        By their paths alone, so that one that is shown through a link counts as an orphan.
        """
        shown = set(np.unique(_numpy(self.files)).tolist())
        self.orphans, self.orphan_count = [], 0
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                if not name.lower().endswith(PICTURE_SUFFIXES):
                    continue
                if digest_of_path(path) in shown or digest_of_path(os.path.relpath(path, root)) in shown:
                    continue
                self.orphan_count += 1
                if len(self.orphans) < NAMED:
                    self.orphans.append(os.path.relpath(path, root))

    def duplicate_samples(self) -> list[list[int]]:
        """Groups of samples with the same conversation and pictures of the same content, by their numbers."""
        return _groups(_numpy(self.digests))

    def picture_copies(self) -> list[list[int]]:
        """Groups of samples whose pictures are the same, byte for byte, in different files."""
        files, contents, owners = _numpy(self.files), _numpy(self.contents), _numpy(self.owners)
        # One occurrence of each file; a picture without one is stored anew wherever it is shown.
        first = np.sort(np.unique(files, return_index=True)[1]) if len(files) else files[:0].astype(np.int64)
        kept = np.union1d(first, np.flatnonzero(files == 0)).astype(np.int64)
        return [owners[kept[group]].tolist() for group in _groups(contents[kept])]


def _numpy(values: array[int]) -> np.ndarray:
    return np.frombuffer(values, dtype=np.uint32 if values.typecode == "I" else np.uint64)


def _groups(digests: np.ndarray) -> list[list[int]]:
    """Indices of equal digests, for those that occur more than once; in order of the first."""
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    groups: list[list[int]] = []
    last = -2
    for i in np.flatnonzero(ordered[1:] == ordered[:-1]).tolist():
        if i != last + 1:
            groups.append([int(order[i])])
        groups[-1].append(int(order[i + 1]))
        last = i
    return sorted(groups)


class DataCheck:
    """Reads entries once and counts.

    Args:
        count (callable, *optional*): A processor's `count_tokens`: messages and (height, width) of their pictures to
            tokens of text and pictures and to tiles.
        tiles (callable, *optional*): (height, width) of a picture to its tiles, where there is no `count`.
        decode (`bool`, *optional*, defaults to `False`): Decode every picture; see `PictureReader` for what is
            checked without.
        match_extension (`bool`, *optional*, defaults to `True`): Whether a file that is named like another format is
            broken, as it is for training unless told otherwise.
        workers (`int`, *optional*, defaults to 1): Threads that read pictures. The result does not depend on it.
        samples (`int`, *optional*, defaults to 24): Samples to look at. These are decoded.
        seed (`int`, *optional*, defaults to 0): Chooses them, together with their place in the set.
    """

    def __init__(
        self,
        *,
        count: Callable[[list[dict[str, Any]], list[tuple[int, int]]], Size] | None = None,
        tiles: Callable[[int, int], int] | None = None,
        decode: bool = False,
        match_extension: bool = True,
        workers: int = 1,
        samples: int = 24,
        seed: int = 0,
    ) -> None:
        self.count, self.tiles = count, tiles
        self.workers, self.samples, self.seed = workers, samples, seed
        self.pictures = PictureReader(decode, match_extension)
        self.findings = Findings()
        self._shown: list[tuple[int, int, Shown]] = []

    def run(
        self,
        entries: Iterable[Entry | BrokenEntry],
        limit: int | None = None,
        on_progress: Callable[[int, int], None] = lambda read, broken: None,
    ) -> Findings:
        """Read all entries, or the first `limit`; after an interrupt (Ctrl-C) the findings cover what was read.

        Args:
            on_progress (callable, *optional*): Called after each sample with how many were read and broken so far.
        """
        found = self.findings
        try:
            for entry, pictures in self._with_pictures(itertools.islice(entries, limit)):
                self._take(entry, pictures)
                on_progress(found.entries, found.broken_count)
        except KeyboardInterrupt:
            found.complete = False
            self._forget_half()
        chosen = [shown for *_, shown in sorted(self._shown, key=lambda item: item[1])]
        found.shown = [shown for shown in chosen if shown.number < found.good]
        return found

    def _with_pictures(self, entries: Iterable[Any]) -> Iterator[tuple[Any, list[Picture] | ImageError]]:
        """Each entry with what its pictures are, in order; threads read ahead by a few entries."""
        if self.workers < 2:
            for entry in entries:
                yield entry, self._read_pictures(entry)
            return
        pool = ThreadPoolExecutor(self.workers)
        waiting: deque[tuple[Any, Future[list[Picture] | ImageError]]] = deque()
        try:
            for entry in entries:
                waiting.append((entry, pool.submit(self._read_pictures, entry)))
                if len(waiting) >= 8 * self.workers:
                    ready, future = waiting.popleft()
                    yield ready, future.result()
            while waiting:
                ready, future = waiting.popleft()
                yield ready, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _read_pictures(self, entry: Any) -> list[Picture] | ImageError:
        return [] if hasattr(entry, "reason") else self.pictures.read_all(entry.images, entry.root)

    def _take(self, entry: Any, pictures: list[Picture] | ImageError) -> None:
        if hasattr(entry, "reason"):
            self._reject(entry.where, entry.reason, entry.message)
        elif isinstance(pictures, ImageError):
            self._reject(entry.where, f"picture: {pictures.reason}", str(pictures))
        else:
            self._accept(entry, pictures)
        self.findings.entries += 1

    def _reject(self, where: str, reason: str, message: str) -> None:
        found = self.findings
        message = " ".join(message.split())
        for prefix in (f"{where}: ", f"{where}, "):
            message = message.removeprefix(prefix)
        if len(found.broken) < KEPT:
            found.broken.append(Broken(where, reason, message))
        found.first.setdefault(reason, where)
        found.reasons[reason] += 1

    def _accept(self, entry: Any, pictures: list[Picture]) -> None:
        sizes = [(picture.height, picture.width) for picture in pictures]
        try:
            numbers = self._numbers(entry.messages, sizes)
        except Exception as error:  # a template raises what it likes, and the other samples are still to be checked
            said = str(error).strip() or type(error).__name__
            return self._reject(entry.where, "cannot be encoded", f"the processor refuses it ({said})")
        found = self.findings
        key = digest_of(f"{self.seed}:{found.entries}".encode())
        wanted = self.samples > 0 and (len(self._shown) < self.samples or -key > self._shown[0][0])
        small: list[bytes] = []
        if wanted:
            try:
                small = [thumbnail(source, entry.root, f"picture {number}")
                         for number, source in enumerate(entry.images[:MOST_SHOWN], start=1)]  # fmt: skip
            except ImageError as error:
                return self._reject(entry.where, f"picture: {error.reason}", str(error))
        if wanted:
            shown = Shown(found.good, entry.where, entry.messages, small, sizes, numbers)
            push = heapq.heappushpop if len(self._shown) == self.samples else heapq.heappush
            push(self._shown, (-key, found.entries, shown))
        self._record(entry, pictures, numbers)

    def _numbers(self, messages: list[dict[str, Any]], sizes: list[tuple[int, int]]) -> dict[str, int]:
        """This sample's numbers, by the names of `MEASURES`."""
        numbers = {"pictures": len(sizes), "turns": len(messages), "characters": sum(map(len, texts(messages)))}
        if self.count is not None:
            size = self.count(messages, sizes)
            return {"text_tokens": int(size.text), "image_tokens": int(size.image),
                    "tokens": int(size.text) + int(size.image), "tiles": int(size.tiles), **numbers}  # fmt: skip
        if self.tiles is not None:
            numbers = {"tiles": sum(self.tiles(height, width) for height, width in sizes), **numbers}
        return numbers

    def _record(self, entry: Any, pictures: list[Picture], numbers: Mapping[str, int]) -> None:
        found = self.findings
        for picture in pictures:
            found.heights.append(min(picture.height, MOST))
            found.widths.append(min(picture.width, MOST))
            found.files.append(picture.file)
            found.owners.append(found.good)
            found.formats[picture.format] += 1
            if picture.wrong_extension:
                found.wrong_extension_count += 1
                if len(found.wrong_extensions) < NAMED:
                    found.wrong_extensions.append((entry.where, picture.wrong_extension))
            found.contents.append(picture.digest)
        for name, value in numbers.items():
            found.numbers[name].append(min(value, MOST))
        found.places.add(entry.where)
        # Last of all: what `_forget_half` goes by.
        found.digests.append(_sample_digest(entry.messages, pictures))

    def _forget_half(self) -> None:
        """Cut what an interrupt left half recorded."""
        found = self.findings
        for values in found.numbers.values():
            del values[found.good :]
        found.places.cut(found.good)
        length = len(found.contents)
        while length and found.owners[length - 1] >= found.good:
            length -= 1
        for each in (found.heights, found.widths, found.contents, found.files, found.owners):
            del each[length:]
        found.entries = found.good + found.broken_count


def texts(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """All texts of a conversation, in order."""
    for message in messages:
        content = message["content"]
        for part in [{"text": content}] if isinstance(content, str) else content:
            if part.get("text"):
                yield part["text"]


def _sample_digest(messages: Sequence[Mapping[str, Any]], pictures: Sequence[Picture]) -> int:
    """Of roles, texts and the pictures' contents; neither the sample's id nor its files' names count."""
    said = [[message["role"], [[part.get("type"), part.get("text")] for part in message["content"]]
             if not isinstance(message["content"], str) else message["content"]] for message in messages]  # fmt: skip
    return digest_of(json.dumps([said, [picture.digest for picture in pictures]]).encode())
