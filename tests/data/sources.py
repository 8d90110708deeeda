# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Data sets of a few rows in every layout and kind of file, and a processor that needs no model: for several tests."""

import io
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image

IMAGE_TOKEN = 3


def picture(colour, size=(6, 4), format="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format=format)
    return buffer.getvalue()


def llava(name="a.png", question="<image>\nWhat?", answer="A square.", **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": answer, "image": name, "conversations": turns, **more}


def numbered(number, name=None):
    """A text row, or one with a picture, whose answer is its number."""
    question = "say" if name is None else "<image>say"
    row = llava(name, question, str(number))
    return {key: value for key, value in row.items() if value is not None}


def write_jsonl(path: Path, rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def write_tar(path: Path, members) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            content = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def parquet_with_pictures(path: Path, size: int, start: int = 0) -> Path:
    content = datasets.Value("string")
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "messages": datasets.List({"role": content, "content": content}),
        }
    )
    rows = [
        {
            "images": [{"bytes": picture((number, 0, 0)), "path": f"{number}.png"}],
            "messages": [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": str(number)}],
        }
        for number in range(start, start + size)
    ]
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)
    return path


class CharacterProcessor:
    """One token a character of the answer, four for a picture: enough to see which samples come, and to train on."""

    image_tokens, room = 4, 8

    def encode_conversation(self, messages, images, max_image_tokens=None):
        answer = messages[-1]["content"]
        answer = answer if isinstance(answer, str) else answer[0]["text"]
        ids = [IMAGE_TOKEN] * (self.image_tokens * len(images)) + [4 + ord(c) % 16 for c in answer]
        labels = [-100] * (self.image_tokens * len(images)) + ids[self.image_tokens * len(images) :]
        sample = {"input_ids": torch.tensor([1, *ids]), "labels": torch.tensor([-100, *labels])}
        if images:
            pixels = [np.asarray(image.resize((16, 16)), np.float32).transpose(2, 0, 1) / 255 for image in images]
            sample["pixel_values"] = torch.from_numpy(np.stack(pixels))
            sample["num_tiles"] = torch.ones(len(images), dtype=torch.int64)
        return sample

    def pad_conversations(self, samples):
        length = max(len(sample["input_ids"]) for sample in samples)

        def padded(name, value):
            return torch.stack(
                [torch.nn.functional.pad(s[name], (0, length - len(s[name])), value=value) for s in samples]
            )

        batch = {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100)}
        batch["attention_mask"] = (batch["input_ids"] != 0).long()
        pixels = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
        return {**batch, "pixel_values": torch.cat(pixels)} if pixels else batch


def answer_of(sample):
    """The characters' tokens of an encoded sample's answer."""
    labels = sample["labels"]
    return tuple(labels[labels != -100].tolist())


def tokens_of(number):
    return tuple(4 + ord(c) % 16 for c in str(number))
