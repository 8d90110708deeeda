# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Chats to tokens: labels, masks, pictures inside messages, videos, budgets, padding, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sailvit_hf import SAILViTImageProcessorPil, SAILViTProcessor
from sailvit_hf.processing.conversations_sailvit import ImageBudgetError, sampled_frames, size_of

from . import chat_tokenizers as tokenizers

IMAGE = {"type": "image"}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def picture(height: int = 16, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def made(make=tokenizers.qwen, template: str | None = None, **options) -> SAILViTProcessor:
    names = ("image_token_budget", "max_frames")
    own = {name: options.pop(name) for name in names if name in options}
    images = SAILViTImageProcessorPil(**{"size": {"height": 16, "width": 16}, **options})
    return SAILViTProcessor.from_parts(images, make(template), patch_size=8, **own)


# Labels


PIECES = ["<|im_end|>", "<|im_start|>assistant\n", "{% generation %}", "{{ x }}", "<img>", "</img>", "\n", " ",
          "a cat", "é", "e\u0301", "🐈", "<think>", "</think>"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
PARTS = st.lists(TEXTS.map(text) | st.just(IMAGE), min_size=1, max_size=3)
TURNS = st.lists(st.tuples(PARTS, TEXTS), min_size=1, max_size=3)


@pytest.mark.parametrize("make", [tokenizers.qwen, tokenizers.smollm, tokenizers.internlm2])
def test_labels_of_any_text(make) -> None:
    """Against a text that is written here: a token is learnt if it has a character of an answer or its stop token."""
    processor = made(make, tokenizers.chatml(bos=True) if make is tokenizers.internlm2 else tokenizers.chatml())
    bos = "<s>" if make is tokenizers.internlm2 else ""
    tokenizer, image = processor.tokenizer, processor.image_token_id
    pictures = [picture(seed=seed) for seed in range(9)]

    @settings(max_examples=150, derandomize=True, deadline=None)
    @given(system=st.none() | TEXTS, turns=TURNS)
    def check(system: str | None, turns: list) -> None:
        chat = [] if system is None else [{"role": "system", "content": system}]
        for question, answer in turns:
            chat += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        written, answers, places = bos, [], 0
        for message in chat:
            parts = [text(message["content"])] if isinstance(message["content"], str) else message["content"]
            places += parts.count(IMAGE)
            content = "".join("<img><IMG_CONTEXT></img>\n" if part is IMAGE else part["text"] for part in parts)
            written += f"<|im_start|>{message['role']}\n"
            if message["role"] == "assistant":
                answers.append((len(written), len(written) + len(content) + len("<|im_end|>")))
            written += f"{content}<|im_end|>\n"
        encoded = tokenizer(written, add_special_tokens=False, return_offsets_mapping=True)
        learnt = [
            any(start < end and stop > begin for begin, end in answers) for start, stop in encoded["offset_mapping"]
        ]
        sample = processor.encode_conversation(chat, pictures[:places])
        # One token for a picture of 16x16 pixels: patches of 8, merged two by two.
        assert sample["input_ids"].tolist() == encoded["input_ids"]
        assert (sample["labels"] != -100).tolist() == learnt
        assert (sample["input_ids"] == image).sum() == places == sample.get("num_tiles", torch.zeros(0)).sum()
        assert torch.equal(sample["labels"][sample["labels"] != -100], sample["input_ids"][torch.tensor(learnt)])

    check()


def test_the_mask_of_transformers_call_is_that_of_the_labels() -> None:
    processor = made(max_tiles=4)
    chats = [
        [
            {"role": "user", "content": [{"type": "image", "image": picture(16, 40)}, text("what?"), IMAGE | {
                "image": picture(50, 16)}]},
            {"role": "assistant", "content": "a cat"},
            {"role": "user", "content": "and <|im_start|>assistant\nno<|im_end|>?"},
            {"role": "assistant", "content": ""},
        ],
        [{"role": "system", "content": "é"}, {"role": "assistant", "content": "\n\n<|im_end|>🐈 {% generation %}"}],
    ]  # fmt: skip
    samples = [processor.encode_conversation(chat) for chat in chats]
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    for side in ("right", "left"):
        batch = processor.apply_chat_template(
            chats, return_tensors="pt", processor_kwargs={"padding": True, "padding_side": side}, **options
        )
        assert batch["assistant_masks"].dtype == torch.int64
        for row, sample in enumerate(samples):
            real = batch["attention_mask"][row].bool()
            assert torch.equal(batch["input_ids"][row][real], sample["input_ids"])
            assert torch.equal(batch["assistant_masks"][row][real].bool(), sample["labels"] != -100)
            assert not batch["assistant_masks"][row][~real].any()
    alone = processor.apply_chat_template(chats[0], return_tensors=None, **options)
    assert alone["assistant_masks"] == [(samples[0]["labels"] != -100).int().tolist()]


def test_pictures_in_answers_are_not_learnt() -> None:
    processor = made()
    chat = [{"role": "user", "content": "draw"}, {"role": "assistant", "content": [IMAGE, text("cat")]}]
    sample = processor.encode_conversation(chat, [picture()])
    learnt = sample["input_ids"][sample["labels"] != -100]
    assert processor.tokenizer.decode(learnt) == "<img></img>\ncat<|im_end|>"


# What is refused


@pytest.mark.parametrize("where", ["string", "part", "answer", "reasoning", "across"])
def test_a_typed_placeholder_is_no_picture(where: str) -> None:
    processor = made()
    user: object = [IMAGE, text("a")]
    answer, more = "b", {}
    if where == "string":
        user = "look: <IMG_CONTEXT>"
    elif where == "part":
        user = [IMAGE, text("a <IMG_CONTEXT>")]
    elif where == "answer":
        answer = "<img><IMG_CONTEXT></img>"
    elif where == "reasoning":
        more = {"reasoning_content": "<IMG_CONTEXT>"}
    else:
        user = [IMAGE, text("<IMG_"), text("CONTEXT>")]
    chat = [{"role": "user", "content": user}, {"role": "assistant", "content": answer, **more}]
    pictures = [] if where == "string" else [picture()]
    what = "has 1 pictures, and its text 2 placeholders" if where == "across" else "has <IMG_CONTEXT> in its text"
    with pytest.raises(ValueError, match=what):
        processor.encode_conversation(chat, pictures)
    with pytest.raises(ValueError, match=what):
        processor.count_tokens(chat, [(16, 16)] * len(pictures))
    if where != "across":
        with pytest.raises(ValueError, match="Message . of the conversation has <IMG_CONTEXT> in its text"):
            processor.apply_chat_template(chat)
    else:
        chat[0]["content"][0] = {"type": "image", "image": picture()}
        with pytest.raises(ValueError, match="should be the same as the number of images"):
            processor.apply_chat_template(chat, tokenize=True, return_dict=True)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([{"type": "audio"}], "Message 1 of the conversation has a part of type 'audio'; give 'text', 'image' or"),
        ([{"type": "video", "video": "a.mp4"}], "has a video that is not a list of pictures .str.; decode it"),
        ([{"type": "video"}], "has a video without frames; give them as 'video'"),
        ([{"type": "video", "video": [1, 2], "timestamps": [0.0]}], "a video of 2 frames with 1 timestamps"),
        (None, "has the content None; give a text, or a list of parts"),
        ([IMAGE], "has 1 image parts but 0 pictures; give one picture for each part of type 'image'"),
    ],
)
def test_what_cannot_be_read_is_named(content: object, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        made().encode_conversation([{"role": "user", "content": content}])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_placeholder_is_never_cut(side: str) -> None:
    processor = made(size={"height": 64, "width": 64})
    processor.tokenizer.truncation_side = side
    chat = [{"role": "user", "content": [text("a cat"), {"type": "image", "image": picture(64, 64)}, text("a cat")]}]
    whole = processor.encode_conversation(chat)["input_ids"].tolist()
    first, last = (whole.index(processor.image_token_id), len(whole) - whole[::-1].index(processor.image_token_id))
    assert last - first == 16
    options = {"tokenize": True, "return_dict": True}
    for length in range(1, len(whole) + 1):
        cut = {"truncation": True, "max_length": length}
        if length >= (last if side == "right" else len(whole) - first):
            ids = processor.apply_chat_template(chat, processor_kwargs=cut, **options)["input_ids"]
            assert ids == [whole[:length] if side == "right" else whole[-length:]]
        else:
            with pytest.raises(ValueError, match="Mismatch in `image` token count"):
                processor.apply_chat_template(chat, processor_kwargs=cut, **options)
    with pytest.raises(ValueError, match=f"has {len(whole)} tokens, more than max_length={len(whole) - 1}"):
        processor.encode_conversations([chat], max_length=len(whole) - 1)


# Pictures


def test_pictures_inside_the_messages() -> None:
    processor = made()
    inside = [{"role": "user", "content": [{"type": "image", "image": picture(seed=1)}, text("a")]}]
    beside = [{"role": "user", "content": [IMAGE, text("a")]}]
    first, second = processor.encode_conversation(inside), processor.encode_conversation(beside, [picture(seed=1)])
    for key in ("input_ids", "labels", "pixel_values", "num_tiles"):
        assert torch.equal(first[key], second[key])
    assert first["pixel_values"].shape == (1, 3, 16, 16) and first["pixel_values"].dtype == torch.float32
    assert first["num_tiles"].tolist() == [1]


def test_a_batch_is_its_padded_samples() -> None:
    processor = made(max_tiles=4)
    chats = [
        [{"role": "user", "content": [IMAGE, text("a"), IMAGE]}, {"role": "assistant", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    ]
    pictures = [[picture(16, 40), picture(40, 16)], []]
    samples = [processor.encode_conversation(*pair) for pair in zip(chats, pictures, strict=True)]
    assert samples[0]["num_tiles"].tolist() == [4, 4] and "num_tiles" not in samples[1]
    batch, whole = processor.pad_conversations(samples), processor.encode_conversations(chats, pictures)
    assert list(batch) == list(whole) == ["input_ids", "attention_mask", "labels", "pixel_values"]
    for key, value in batch.items():
        assert torch.equal(value, whole[key])
    assert batch["pixel_values"].shape == (8, 3, 16, 16)
    length = len(samples[1]["input_ids"])
    assert batch["attention_mask"].sum(1).tolist() == [len(samples[0]["input_ids"]), length]
    assert (batch["input_ids"][1, length:] == processor.tokenizer.pad_token_id).all()
    assert (batch["labels"][1, length:] == -100).all()


def test_pictures_of_their_own_sizes() -> None:
    sizes = {"min_pixels": 256, "max_pixels": 4096}
    processor = made(size=sizes, size_divisor=16)
    chat = [{"role": "user", "content": [IMAGE, IMAGE, text("a")]}]
    sample = processor.encode_conversation(chat, [picture(32, 48), picture(64, 16)])
    assert [tuple(each.shape) for each in sample["pixel_values"]] == [(3, 32, 48), (3, 64, 16)]
    assert sample["num_tiles"].tolist() == [1, 1]
    assert (sample["input_ids"] == processor.image_token_id).sum() == 6 + 4
    assert processor.count_tokens(chat, [(32, 48), (64, 16)])[1:] == (10, 2)
    batch = processor.pad_conversations([sample, processor.encode_conversation(chat, [picture(16, 16)] * 2)])
    assert [tuple(each.shape[1:]) for each in batch["pixel_values"]] == [(32, 48), (64, 16), (16, 16), (16, 16)]


def test_the_budget_lowers_the_largest_first() -> None:
    processor = made(max_tiles=6)
    chat = [{"role": "user", "content": [IMAGE, IMAGE, IMAGE]}, {"role": "assistant", "content": "a"}]
    pictures = [picture(16, 16), picture(48, 32), picture(32, 48)]  # 1, 6 and 6 tiles, and a thumbnail for each cut
    sizes = [each.shape[:2] for each in pictures]

    def tiles(budget: int | None) -> list[int]:
        sample = processor.encode_conversation(chat, pictures, max_image_tokens=budget)
        counted = processor.count_tokens(chat, sizes, max_image_tokens=budget)
        assert counted.tiles == sample["num_tiles"].sum() == len(sample["pixel_values"])
        assert counted.image == (sample["input_ids"] == processor.image_token_id).sum()
        assert counted.total == len(sample["input_ids"])
        assert budget is None or counted.image <= budget
        return sample["num_tiles"].tolist()

    assert tiles(None) == tiles(100) == tiles(15) == [1, 7, 7]
    assert tiles(14) == [1, 3, 7]  # on a tie the first: at most 5 tiles, of which 1 x 2 suits its shape
    assert tiles(11) == [1, 3, 7] and tiles(10) == [1, 3, 5] and tiles(8) == [1, 3, 3]
    assert tiles(6) == [1, 1, 3] and tiles(3) == [1, 1, 1]
    with pytest.raises(ImageBudgetError, match="3 pictures need 3 tokens even with one tile each, more than max_"):
        tiles(2)


def test_the_budget_at_native_resolution() -> None:
    """The largest picture is lowered first, down to the next; a token is 16x16 pixels."""
    processor = made(size={"min_pixels": 512, "max_pixels": 256 * 100}, size_divisor=16)
    chat = [{"role": "user", "content": [IMAGE, IMAGE, IMAGE]}]
    pictures = [picture(32, 32), picture(160, 160), picture(64, 64)]

    def tokens(budget: int | None) -> list[int]:
        sample = processor.encode_conversation(chat, pictures, max_image_tokens=budget)
        sizes = [each.shape[:2] for each in pictures]
        size = processor.count_tokens(chat, sizes, max_image_tokens=budget)
        assert size.total == len(sample["input_ids"]) and (budget is None or size.image <= budget)
        return [each.shape[1] * each.shape[2] // 256 for each in sample["pixel_values"]]

    assert tokens(None) == tokens(120) == [4, 100, 16]
    assert tokens(119) == [4, 81, 16] and tokens(100) == [4, 64, 16] and tokens(36) == [4, 16, 16]
    assert tokens(35) == [4, 9, 9] and tokens(12) == [4, 4, 4] and tokens(3) == [1, 1, 1]
    with pytest.raises(ImageBudgetError, match="The pictures need 3 tokens even at their smallest, more than max_"):
        tokens(2)


def test_the_budget_of_each_text_in_a_call() -> None:
    processor = made(max_tiles=6, image_token_budget=8)
    image = "<img><IMG_CONTEXT></img>\n"
    pictures = [picture(48, 32, 1), picture(48, 32, 2), picture(32, 48, 3)]
    inputs = processor(text=[2 * image, "a", image], images=pictures, padding=True, return_tensors="pt")
    counts = (inputs["input_ids"] == processor.image_token_id).sum(1)
    assert counts.tolist() == [3 + 3, 0, 7] and inputs["pixel_values"].shape == (13, 3, 16, 16)
    freely = processor(text=[2 * image, "a", image], images=pictures, max_image_tokens=99)
    assert len(freely["pixel_values"]) == 21
    chats = [[{"role": "user", "content": [{"type": "image", "image": each} for each in row]}]
             for row in (pictures[:2], pictures[2:])]  # fmt: skip
    batch = processor.apply_chat_template(chats, tokenize=True, return_dict=True)
    assert [row.count(processor.image_token_id) for row in batch["input_ids"]] == [6, 7]
    assert np.array_equal(np.asarray(batch["pixel_values"]), inputs["pixel_values"].numpy())
    found = processor._get_num_multimodal_tokens([(48, 32), (48, 32)])
    assert (found.num_image_tokens, found.num_image_patches) == ([3, 3], [3, 3])
    found = processor._get_num_multimodal_tokens([(48, 32), (48, 32)], max_image_tokens=20)
    assert found.num_image_tokens == [7, 7]


def test_sizes_are_those_that_are_seen() -> None:
    turned = Image.new("RGB", (40, 20))
    turned.getexif()[0x0112] = 6
    assert size_of(turned) == (40, 20) and size_of(Image.new("L", (40, 20))) == (20, 40)
    shapes = [((3, 8, 9), (8, 9)), ((8, 9, 3), (8, 9)), ((8, 9), (8, 9)), ((1, 8, 9), (8, 9)), ((3, 9, 3), (9, 3))]
    for shape, size in shapes:
        assert size_of(np.zeros(shape)) == size_of(torch.zeros(shape)) == size, shape


# Videos


def test_a_video_is_written_as_its_frames() -> None:
    processor = made()
    frames = [picture(seed=seed) for seed in range(5)]
    video = {"type": "video", "video": frames, "timestamps": [0, 0.5, 1, 1.5, 2.04]}
    chat = [{"role": "user", "content": [video, text("what?")]}, {"role": "assistant", "content": "a"}]
    picture_text = "<img><IMG_CONTEXT></img>\n"
    times = ["0.0 s: ", "0.5 s: ", "1.0 s: ", "1.5 s: ", "2.0 s: "]
    wanted = "<|im_start|>user\n" + "".join(time + picture_text for time in times) + "what?<|im_end|>\n"
    assert processor.apply_chat_template(chat[:1]) == wanted
    sample = processor.encode_conversation(chat)
    assert processor.tokenizer.decode(sample["input_ids"]).startswith(wanted)
    inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True)
    assert inputs["input_ids"][0] == sample["input_ids"].tolist()
    assert np.array_equal(np.asarray(inputs["pixel_values"]), sample["pixel_values"].numpy())
    # The frames among the pictures, as rows of data sets have them.
    beside = {"type": "video", "timestamps": video["timestamps"]}
    rows = [{"role": "user", "content": [beside, text("what?")]}, chat[1]]
    again = processor.encode_conversation(rows, frames)
    for key in sample:
        assert torch.equal(sample[key], again[key])
    assert processor.count_tokens(rows, [(16, 16)] * 5).total == len(sample["input_ids"])
    with pytest.raises(ValueError, match="has 5 image parts but 4 pictures"):
        processor.encode_conversation(rows, frames[:4])


def test_frames_are_sampled_evenly() -> None:
    assert sampled_frames(10, 4) == [0, 2, 5, 7] == list(map(int, torch.arange(0, 10, 10 / 4)))
    assert sampled_frames(3, 4) == [0, 1, 2] and sampled_frames(0, 4) == []
    frames = [picture(seed=seed) for seed in range(6)]
    video = {"type": "video", "video": frames, "fps": 2}
    processor = made(max_frames=3)
    sample = processor.encode_conversation([{"role": "user", "content": [video, IMAGE]}], [*frames, picture(seed=9)])
    shown = [processor.image_processor(each)["pixel_values"][0] for each in (*frames[::2], picture(seed=9))]
    assert np.array_equal(sample["pixel_values"].numpy(), np.stack(shown))
    assert "0.0 s: " in processor.apply_chat_template([{"role": "user", "content": [video]}])
    labels = processor.apply_chat_template([{"role": "user", "content": [video | {"fps": None, "num_frames": 2}]}])
    assert labels.count("<img>") == 2 and "Frame 1: <img>" in labels and "Frame 2: <img>" in labels


# Parts of the processor


def test_settings_are_saved(tmp_path) -> None:
    processor = made(tokenizers.llama3, max_tiles=4, image_token_budget=9, max_frames=3)
    processor.save_pretrained(tmp_path)
    again = SAILViTProcessor.from_pretrained(tmp_path)
    assert (again.image_token_budget, again.max_frames) == (9, 3)
    assert again.tokenizer.pad_token == "<|finetune_right_pad_id|>"
    frames = [picture(32, 32, seed) for seed in range(6)]
    chat = [{"role": "user", "content": [{"type": "video", "video": frames}]}, {"role": "assistant", "content": "a"}]
    first, second = (each.encode_conversation(chat) for each in (processor, again))
    for key in first:
        assert torch.equal(first[key], second[key])
    assert first["num_tiles"].tolist() == [1, 1, 5]


@pytest.mark.parametrize("make", [tokenizers.qwen, tokenizers.smollm, tokenizers.llama3, tokenizers.internlm2])
def test_special_tokens_are_single_and_added_once(make) -> None:
    tokenizer = make(tokenizers.chatml())
    size = len(tokenizer)
    for _ in range(3):
        processor = SAILViTProcessor.from_parts(SAILViTImageProcessorPil(), tokenizer, patch_size=14)
    # Not those of a template that wrote them as ordinary text, too: the language model would not know them.
    assert len(tokenizer) == size + 3
    names = ["<img>", "<IMG_CONTEXT>", "<IMG_CONTEXT>", "</img>"]
    ids = tokenizer.convert_tokens_to_ids(names)
    assert tokenizer.encode("".join(names), add_special_tokens=False) == ids and ids[1] == processor.image_token_id
    assert tokenizer.pad_token is not None


def test_turn_tokens_are_added_where_no_template_is() -> None:
    bare = tokenizers.byte_level(["<|endoftext|>"], eos_token="<|endoftext|>")
    size = len(bare)
    for _ in range(2):
        processor = SAILViTProcessor.from_parts(SAILViTImageProcessorPil(), bare, patch_size=14)
    assert len(bare) == size + 5 and bare.pad_token == "<|endoftext|>"
    sample = processor.encode_conversation([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    names = bare.convert_ids_to_tokens(sample["input_ids"])
    assert names.count("<|im_start|>") == 2 and names[-2:] == ["<|im_end|>", "Ċ"]
