# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The processor: placeholders as many as tokens, labels on exactly the answers and their stop tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

from sailvit_hf import SAILViTImageProcessorPil, SAILViTProcessor
from sailvit_hf.data.demo_world import DemoWorld
from sailvit_hf.processing.chat_templates_sailvit import CHAT_TEMPLATE


def text(words: str) -> dict:
    return {"type": "text", "text": words}


IMAGE = {"type": "image"}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return DemoWorld().tokenizer()


@pytest.fixture
def processor(tokenizer: PreTrainedTokenizerFast) -> SAILViTProcessor:
    image_processor = SAILViTImageProcessorPil(size={"height": 64, "width": 64})
    return SAILViTProcessor.from_parts(image_processor, tokenizer, patch_size=8)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def learnt(processor: SAILViTProcessor, batch: dict[str, torch.Tensor], row: int) -> str:
    labels = batch["labels"][row]
    return processor.tokenizer.decode(labels[labels != -100])


def test_a_chat_reads_as_published(processor: SAILViTProcessor) -> None:
    chat = [
        {"role": "user", "content": [IMAGE, text("what is at top-left")]},
        {"role": "assistant", "content": [text("cat")]},
    ]
    assert processor.apply_chat_template(chat, add_generation_prompt=True) == (
        "<|im_start|>user\n<img><IMG_CONTEXT></img>\nwhat is at top-left<|im_end|>\n"
        "<|im_start|>assistant\ncat<|im_end|>\n<|im_start|>assistant\n"
    )


def test_each_picture_gets_as_many_placeholders_as_the_connector_yields_tokens(
    processor: SAILViTProcessor, picture: Image.Image
) -> None:
    chats = [
        [{"role": "user", "content": [IMAGE, IMAGE, text("read")]}, {"role": "assistant", "content": "a b"}],
        [{"role": "user", "content": "read"}, {"role": "assistant", "content": "c"}],
        [{"role": "user", "content": [IMAGE]}, {"role": "assistant", "content": "d"}],
    ]
    batch = processor.encode_conversations(chats, [[picture, picture], [], [picture]])
    placeholders = (batch["input_ids"] == processor.image_token_id).sum(1)
    assert placeholders.tolist() == [2 * 16, 0, 16]  # 64 pixels, patches of 8, merged 2x2: a grid of 4x4
    assert batch["pixel_values"].shape == (3, 3, 64, 64)
    assert batch["pixel_values"].dtype == torch.float32


def test_labels_cover_exactly_the_answers_and_their_stop_tokens(
    processor: SAILViTProcessor, picture: Image.Image
) -> None:
    chats = [
        [
            {"role": "system", "content": "read and describe"},
            {"role": "user", "content": [IMAGE, text("where is the cat")]},
            {"role": "assistant", "content": [text("top-left")]},
            {"role": "user", "content": "what color is behind the cat"},
            {"role": "assistant", "content": "red"},
        ],
        [{"role": "user", "content": "how many drawings"}, {"role": "assistant", "content": ""}],
    ]
    batch = processor.encode_conversations(chats, [[picture], []])
    assert learnt(processor, batch, 0) == "top-left <|im_end|> red <|im_end|>"
    assert learnt(processor, batch, 1) == "<|im_end|>"
    marked = batch["labels"] != -100
    assert torch.equal(batch["labels"][marked], batch["input_ids"][marked])
    assert not (marked & (batch["attention_mask"] == 0)).any()
    # The answer's own role is not learnt: its token stands right before the first learnt one.
    first = int(marked[0].nonzero()[0])
    assert processor.tokenizer.decode(batch["input_ids"][0, first - 2 : first]) == "<|im_start|> assistant"


def test_batches_are_padded_on_the_right(processor: SAILViTProcessor) -> None:
    chats = [
        [{"role": "user", "content": "read"}, {"role": "assistant", "content": "a b c d"}],
        [{"role": "user", "content": "read"}, {"role": "assistant", "content": "a"}],
    ]
    batch = processor.encode_conversations(chats)
    assert "pixel_values" not in batch
    lengths = batch["attention_mask"].sum(1)
    assert lengths[0] - lengths[1] == 3
    assert batch["attention_mask"][1, : lengths[1]].all()
    assert (batch["input_ids"][1, lengths[1] :] == processor.tokenizer.pad_token_id).all()


def test_a_batch_equals_its_chats_one_by_one(processor: SAILViTProcessor, picture: Image.Image) -> None:
    rows = DemoWorld().dataset("world", "train", 12)
    batch = processor.encode_conversations(rows["messages"], rows["images"])
    pictures = iter(batch["pixel_values"])
    for index, row in enumerate(rows):
        alone = processor.encode_conversations([row["messages"]], [row["images"]])
        length = alone["input_ids"].shape[1]
        for key in ("input_ids", "labels"):
            assert torch.equal(batch[key][index, :length], alone[key][0])
        for pixel_values in alone.get("pixel_values", []):
            assert torch.equal(next(pictures), pixel_values)
    assert next(pictures, None) is None


@pytest.mark.parametrize(("given", "parts"), [(0, 1), (2, 1), (1, 0)])
def test_a_wrong_number_of_pictures_is_named(
    processor: SAILViTProcessor, picture: Image.Image, given: int, parts: int
) -> None:
    chat = [{"role": "user", "content": [IMAGE] * parts + [text("read")]}, {"role": "assistant", "content": "a"}]
    with pytest.raises(ValueError, match=f"has {parts} image parts but {given} pictures"):
        processor.encode_conversations([chat], [[picture] * given])


def test_a_chat_is_never_cut(processor: SAILViTProcessor) -> None:
    chat = [{"role": "user", "content": "read"}, {"role": "assistant", "content": "a b c"}]
    assert processor.encode_conversations([chat], max_length=10)["input_ids"].shape == (1, 10)
    with pytest.raises(ValueError, match="has 10 tokens, more than max_length=9"):
        processor.encode_conversations([chat], max_length=9)


def test_special_tokens_are_added_once() -> None:
    tokenizer = DemoWorld().tokenizer()
    size = len(tokenizer)
    image_processor = SAILViTImageProcessorPil(size={"height": 64, "width": 64})
    for _ in range(2):
        SAILViTProcessor.from_parts(image_processor, tokenizer, patch_size=8)
    assert len(tokenizer) == size


def test_a_tokenizer_without_the_image_tokens_gets_them() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"<unk>": 0, "hello": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>")
    image_processor = SAILViTImageProcessorPil(size={"height": 64, "width": 64})
    with pytest.raises(ValueError, match="does not know the image token"):
        SAILViTProcessor(image_processor, tokenizer, patch_size=8)
    processor = SAILViTProcessor.from_parts(image_processor, tokenizer, patch_size=8)
    assert len(tokenizer) == 2 + 5
    assert processor.tokenizer.convert_ids_to_tokens(processor.image_token_id) == "<IMG_CONTEXT>"


def test_one_file_holds_the_whole_processor(
    processor: SAILViTProcessor, picture: Image.Image, tmp_path: Path
) -> None:
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, SAILViTProcessor)
    assert not (tmp_path / "preprocessor_config.json").exists()
    chat = [{"role": "user", "content": [IMAGE, text("read")]}, {"role": "assistant", "content": "a"}]
    before, after = (p.encode_conversations([chat], [[picture]]) for p in (processor, again))
    for key in before:
        assert torch.equal(before[key], after[key]), key


def test_the_published_tokenizer_needs_no_new_token(reference_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reference_folder)
    size = len(tokenizer)
    processor = SAILViTProcessor.from_parts(SAILViTImageProcessorPil(), tokenizer, patch_size=14)
    assert len(tokenizer) == size
    assert processor.image_token_id == 151671
    chat = [{"role": "user", "content": [IMAGE, text("Hi?")]}, {"role": "assistant", "content": "Hello, world!"}]
    batch = processor.encode_conversations([chat], [[Image.new("RGB", (30, 50), "red")]])
    assert int((batch["input_ids"] == 151671).sum()) == 256
    assert learnt(processor, batch, 0) == "Hello, world!<|im_end|>"


@pytest.mark.parametrize(("size", "tokens"), [((64, 64), 16), ((56, 64), 16), ((60, 41), 12), ((8, 8), 1)])
def test_a_token_for_each_square_of_patches_whole_or_not(size, tokens):
    """Odd grids are filled up by the connector; what is less than a patch is not seen."""
    images = SAILViTImageProcessorPil(size=dict(zip(("height", "width"), size, strict=True)))
    processor = SAILViTProcessor.from_parts(images, DemoWorld().tokenizer(), patch_size=8)
    batch = processor(text=["<IMG_CONTEXT>"], images=[np.zeros((30, 40, 3), np.uint8)], return_tensors="pt")
    assert batch["pixel_values"].shape[-2:] == size
    assert (batch["input_ids"] == processor.image_token_id).sum() == tokens


def test_an_image_processor_that_cuts_pictures_itself_is_refused():
    from transformers import Siglip2ImageProcessorPil

    images = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=64)
    processor = SAILViTProcessor.from_parts(images, DemoWorld().tokenizer(), patch_size=8)
    with pytest.raises(ValueError, match="Siglip2ImageProcessorPil gives an array of shape .64, 192. for a picture"):
        processor(text=["<IMG_CONTEXT>"], images=[np.zeros((30, 40, 3), np.uint8)])


def test_a_template_that_does_not_write_each_picture_is_refused(
    processor: SAILViTProcessor, picture: Image.Image
) -> None:
    """Wrong labels would be silent; this is not."""
    chat = [{"role": "user", "content": [IMAGE, text("read")]}, {"role": "assistant", "content": "a b"}]
    assert (processor.encode_conversations([chat], [[picture]])["labels"] != -100).sum() == 3
    for writes, found in (("", 0), ("<IMG_CONTEXT><IMG_CONTEXT>", 2)):
        processor.chat_template = CHAT_TEMPLATE.replace("<img><IMG_CONTEXT></img>", writes)
        with pytest.raises(ValueError, match=f"batch has 1 pictures, and its text {found} placeholders <IMG_CONTEXT>"):
            processor.encode_conversations([chat], [[picture]])
