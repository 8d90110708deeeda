# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Entries and findings that the tests of checking a data set share."""

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sailvit_hf.data.checking.check import DataCheck, Findings
from sailvit_hf.data.checking.summary import Asked
from sailvit_hf.data.reading import BrokenEntry, Entry

ASKED = Asked("pets.jsonl")


def encoded(width: int, height: int, seed: int = 0, format: str = "PNG", **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def chat(answer: str = "a cat", images: int = 1, question: str = "what is it") -> list[dict]:
    shown = [{"type": "image", "text": None}] * images
    return [
        {"role": "user", "content": [*shown, {"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


def entry(number: int, *images, root: Path | None = None, **words: str) -> Entry:
    folder = None if root is None else str(root)
    return Entry(f"pets.jsonl, line {number}", chat(images=len(images), **words), list(images), None, folder)


def check(*entries: Entry | BrokenEntry, **options) -> Findings:
    return DataCheck(**options).run(iter(entries))


class Counted(NamedTuple):
    text: int
    image: int
    tiles: int


def count_words(messages: list[dict], sizes: list[tuple[int, int]]) -> Counted:
    words = " ".join(part["text"] for message in messages for part in message["content"] if part["text"])
    if "refuse" in words:
        raise KeyError("roles must alternate")
    return Counted(len(words.split()), 4 * len(sizes), len(sizes))


def write_broken_set(folder: Path) -> Path:
    """Write a JSONL file with every kind of breakage, one a line, between good lines."""
    (folder.parent / "outside.png").write_bytes(encoded(30, 40, 9))
    whole, jpeg = encoded(30, 40), encoded(60, 40, format="JPEG")
    files = {
        "good.png": whole, "photo.jpg": jpeg, "copy.jpg": jpeg, "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": whole[: len(whole) // 2], "flipped.png": whole[:60] + bytes(20) + whole[80:],
        "page.jpg": b"<!doctype html><html>404</html>", "zero.png": b"", "named.png": encoded(31, 40, 3, "JPEG"),
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "loop.png").symlink_to(folder / "loop.png")

    def line(*images: str, answer: str = "a cat") -> str:
        return json.dumps({"messages": chat(answer, len(images)), "images": images})

    lines = [
        line("good.png"), '{"messages": [', "[1, 2]", "{}", line("good.png", answer=" "),
        json.dumps({"messages": chat(images=2), "images": ["good.png"]}),
        json.dumps({"messages": [{"role": "narrator", "content": "hm"}]}), line("missing.png"), line("cut.jpg"),
        line("cut.png"), line("flipped.png"), line("page.jpg"), line("zero.png"), line("../outside.png"),
        line("http://a.example/b.png"), line("loop.png"), line("photo.jpg", "copy.jpg"), line("named.png"),
        line("good.png"), line(), "", line("photo.jpg", "missing.png"),
    ]  # fmt: skip
    (folder / "pets.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "pets.jsonl"
