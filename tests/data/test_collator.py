# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from PIL import Image

from sailvit_hf.data.collator import VisionLanguageCollator
from sailvit_hf.data.demo_world import DemoWorld
from sailvit_hf.processing.image_processing_pil_sailvit import SAILViTImageProcessorPil
from sailvit_hf.processing.processing_sailvit import SAILViTProcessor


class Recorder:
    def encode_conversations(self, conversations, images, max_length):
        return {"conversations": conversations, "images": images, "max_length": max_length}


def test_samples_reach_the_processor_as_conversations_and_rgb_pictures(tmp_path):
    Image.new("L", (2, 2), 8).save(tmp_path / "gray.png")
    samples = [
        {"messages": ["first"], "images": [Image.new("RGBA", (2, 2)), tmp_path / "gray.png"], "kind": "x"},
        {"messages": ["second"], "images": None},
        {"messages": ["third"]},
    ]
    batch = VisionLanguageCollator(Recorder(), max_length=5)(samples)
    assert batch["conversations"] == [["first"], ["second"], ["third"]]
    assert [[image.getpixel((0, 0)) for image in images] for images in batch["images"]] == [
        [(255, 255, 255), (8, 8, 8)],
        [],
        [],
    ]
    assert batch["max_length"] == 5


@pytest.fixture(scope="module")
def processor():
    image_processor = SAILViTImageProcessorPil(size={"height": 64, "width": 64})
    return SAILViTProcessor.from_parts(image_processor, DemoWorld().tokenizer(), patch_size=8)


def test_labels_of_a_demo_batch_are_the_answers_and_their_stop_tokens(processor):
    dataset = DemoWorld().dataset("world", "train", 24)
    rows = [dataset[index] for index in range(24)]
    batch = VisionLanguageCollator(processor)(rows)
    pictures = sum(len(row["images"]) for row in rows)
    assert 0 < pictures < 24
    assert batch["pixel_values"].shape == (pictures, 3, 64, 64)
    assert batch["pixel_values"].dtype == torch.float32
    assert (batch["input_ids"] == processor.image_token_id).sum() == 16 * pictures
    for row, labels in zip(rows, batch["labels"], strict=True):
        answers = [m["content"][0]["text"] for m in row["messages"] if m["role"] == "assistant"]
        learnt = processor.tokenizer.decode(labels[labels != -100])
        assert learnt == " ".join(f"{answer} <|im_end|>" for answer in answers)


def test_a_batch_of_text_alone_has_no_pixels(processor):
    batch = VisionLanguageCollator(processor)(list(DemoWorld().text_corpus(4)))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_too_many_pictures_or_tokens_are_errors(processor):
    row = DemoWorld().dataset("coarse", "train", 4)[0]
    with pytest.raises(ValueError, match="1 image parts but 2 pictures"):
        VisionLanguageCollator(processor)([{**row, "images": row["images"] * 2}])
    with pytest.raises(ValueError, match="max_length=10"):
        VisionLanguageCollator(processor, max_length=10)([row])
