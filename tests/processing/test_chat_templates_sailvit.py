# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Chat templates: texts as the language model's own template writes them, token for token; answers marked."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sailvit_hf import SAILViTImageProcessorPil, SAILViTProcessor
from sailvit_hf.processing.chat_templates_sailvit import (
    CHAT_TEMPLATE,
    chatml_template,
    choose_template,
    llama3_template,
    with_pictures,
)

from . import chat_tokenizers as tokenizers
from .published_templates import all_published, published

# Each family: how its tokenizer is made, the template that it states, and the end of an answer.
FAMILIES = {
    "ours": (tokenizers.smollm, lambda: None, "<|im_end|>"),
    "smollm": (tokenizers.smollm, tokenizers.chatml, "<|im_end|>"),
    "smollm2": (tokenizers.smollm, lambda: tokenizers.chatml(tokenizers.SMOLLM2), "<|im_end|>"),
    "internlm2": (tokenizers.internlm2, lambda: tokenizers.chatml(bos=True), "<|im_end|>"),
    "qwen2.5": (tokenizers.qwen, lambda: published("qwen2_5"), "<|im_end|>"),
    "qwen3": (tokenizers.qwen, lambda: published("qwen3"), "<|im_end|>"),
    "qwen3-2507": (tokenizers.qwen, lambda: published("qwen3_instruct_2507"), "<|im_end|>"),
    "llama3": (tokenizers.llama3, lambda: published("llama3"), "<|eot_id|>"),
    "llama3.1": (tokenizers.llama3, lambda: published("llama3_1"), "<|eot_id|>"),
    "llama3.2": (tokenizers.llama3, lambda: published("llama3_2"), "<|eot_id|>"),
}
CHATS = [
    [{"role": "user", "content": "a cat's"}],
    [{"role": "user", "content": " a\n"}, {"role": "assistant", "content": "\n\n cat "}],
    [
        {"role": "system", "content": "short."},
        {"role": "user", "content": "what?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\na cat"},
        {"role": "user", "content": "cat's\n\n"},
        {"role": "assistant", "content": ""},
    ],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\n\nhm\n\n</think>\n\n\ncat"},
        {"role": "assistant", "content": "and <|im_end|> more"},
    ],
]


def made(family: str) -> tuple[SAILViTProcessor, str | None, str]:
    make, template, stop = FAMILIES[family]
    own = template()
    images = SAILViTImageProcessorPil(size={"height": 16, "width": 16})
    return SAILViTProcessor.from_parts(images, make(own), patch_size=8), own, stop


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "ours"])
def test_texts_are_the_language_models_own_token_for_token(family: str) -> None:
    processor, own, _ = made(family)
    tokenizer = processor.tokenizer
    assert processor.chat_template != own and "{%- generation -%}" in processor.chat_template
    for chat in CHATS:
        for asks in (False, True):
            for variables in ({}, {"enable_thinking": False}) if family == "qwen3" else ({},):
                options = {"add_generation_prompt": asks, **variables}
                theirs = tokenizer.apply_chat_template(chat, chat_template=own, tokenize=False, **options)
                assert processor.apply_chat_template(chat, **options) == theirs
                ids = tokenizer.apply_chat_template(chat, chat_template=own, return_dict=False, **options)
                given_ids = processor.apply_chat_template(chat, tokenize=True, return_dict=True, **options)
                assert given_ids["input_ids"] == [ids]
        ids = tokenizer.apply_chat_template(chat, chat_template=own, return_dict=False)
        assert processor.encode_conversation(chat)["input_ids"].tolist() == ids


WORDS = st.text(alphabet=st.sampled_from(list("a cat\n'é?")), max_size=6)
TURNS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3)


@pytest.mark.parametrize("family", ["smollm2", "internlm2", "qwen2.5", "qwen3", "llama3", "llama3.1"])
def test_any_text_is_the_language_models_own(family: str) -> None:
    processor, own, _ = made(family)

    @settings(max_examples=60, derandomize=True, deadline=None)
    @given(system=st.none() | WORDS, turns=TURNS)
    def check(system: str | None, turns: list[tuple[str, str]]) -> None:
        chat = [] if system is None else [{"role": "system", "content": system}]
        for question, answer in turns:
            chat += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        ids = processor.tokenizer.apply_chat_template(chat, chat_template=own, return_dict=False)
        assert processor.encode_conversation(chat)["input_ids"].tolist() == ids

    check()


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_and_their_stop_tokens_are_learnt(family: str) -> None:
    processor, _, stop = made(family)
    chat = [
        {"role": "system", "content": "short."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a cat?"}]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": [{"type": "text", "text": "no"}]},
    ]
    sample = processor.encode_conversation(chat, [np.zeros((20, 30, 3), np.uint8)])
    learnt = processor.tokenizer.decode(sample["input_ids"][sample["labels"] != -100])
    # Qwen 3 gives the last answer some reasoning, even if it is empty.
    thought = "<think>\n\n</think>\n\n" if family == "qwen3" else ""
    assert learnt.replace(" ", "") == f"acat{stop}{thought}no{stop}"
    text = processor.tokenizer.decode(sample["input_ids"])
    assert text.count("<img><IMG_CONTEXT></img>") == 1 and text.index("<img>") < text.index("a cat?")
    # What is learnt is what a model is asked for: the prompt for the answer, then the answer.
    prompt = processor.apply_chat_template(chat[:2], add_generation_prompt=True)
    whole = processor.apply_chat_template(chat[:3])
    assert whole[len(prompt) :].startswith((f"a cat{stop}", f"<think>\n\n</think>\n\na cat{stop}"))


def test_all_published_templates_take_pictures() -> None:
    """With the pictures' tokens taken out, the text is what the language model's own template writes."""
    ours, others = set(), set()
    for name in all_published():
        own = published(name)
        tokenizer = tokenizers.byte_level([], own, **tokenizers.LLAMA)
        template = choose_template(tokenizer)
        (others if template == with_pictures(own) else ours).add(name)
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a cat?"}]}]
        plain = [{"role": "user", "content": "a cat?"}]
        with_picture, without = (
            tokenizer.apply_chat_template(each, chat_template=wanted, tokenize=False, add_generation_prompt=True)
            for each, wanted in ((chat, template), (plain, own))
        )
        if name not in ("idefics3", "idefics3_training", "smolvlm", "smolvlm_training") and "llava" not in name:
            assert with_picture.replace("<img><IMG_CONTEXT></img>\n", "") == without, name
    assert {"qwen2_5", "qwen3", "qwen3_instruct_2507", "llama3", "llama3_1", "llama3_2"} <= ours
    assert {"gemma", "phi3", "deepseekv3", "glm4moe"} <= others


def test_answers_are_found_in_templates_without_marks() -> None:
    own = published("gemma")
    tokenizer = tokenizers.byte_level(["<bos>", "<start_of_turn>", "<end_of_turn>"], own, bos_token="<bos>")
    processor = SAILViTProcessor.from_parts(
        SAILViTImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, patch_size=8
    )
    assert processor.chat_template == with_pictures(own)
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": ""},
    ]
    sample = processor.encode_conversation(chat, [np.zeros((20, 30, 3), np.uint8)])
    assert tokenizer.decode(sample["input_ids"]) == (
        "<bos><start_of_turn>user\n<img><IMG_CONTEXT></img>\nwhat?<end_of_turn>\n<start_of_turn>model\na cat"
        "<end_of_turn>\n<start_of_turn>user\nand?<end_of_turn>\n<start_of_turn>model\n<end_of_turn>\n"
    )
    assert tokenizer.decode(sample["input_ids"][sample["labels"] != -100]) == "a cat<end_of_turn><end_of_turn>"


def test_a_template_whose_answers_cannot_be_found_is_refused() -> None:
    """Without marks, and earlier answers change when more turns follow."""
    own = (
        "{% for message in messages %}{{ message['role'] + ': ' }}"
        "{% if loop.last %}{{ '<last> ' }}{% endif %}{{ message['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    processor = SAILViTProcessor.from_parts(SAILViTImageProcessorPil(), tokenizers.smollm(own), patch_size=14)
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    with pytest.raises(ValueError, match="does not mark the assistant's answers, and writes turns otherwise"):
        processor.encode_conversation(chat)


def test_no_template_means_the_format_of_the_tokens() -> None:
    assert choose_template(tokenizers.llama3()) == llama3_template()
    assert choose_template(tokenizers.qwen()) == CHAT_TEMPLATE
    known = CHAT_TEMPLATE.replace("assistant", "helper")
    assert choose_template(tokenizers.qwen(known)) == known


def test_tools_are_refused_not_left_out() -> None:
    processor, own, _ = made("qwen2.5")
    tool = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {}}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]
    chat = [*asked, call, {"role": "tool", "content": "b"}]
    for refused in (
        lambda: processor.apply_chat_template(asked, tools=[tool]),
        lambda: processor.apply_chat_template(chat),
        lambda: processor.encode_conversation(chat, [np.zeros((16, 16, 3), np.uint8)]),
    ):
        with pytest.raises(ValueError, match="The chat template writes no tools; pass one that does"):
            refused()
    # Qwen's own knows them, and pictures once it is told.
    text = processor.apply_chat_template(chat, with_pictures(own), tools=[tool])
    for part in ("Looks.", '<tool_call>\n{"name": "look"', "<img><IMG_CONTEXT></img>\na<|im_end|>"):
        assert part in text
    processor.chat_template = with_pictures(own)
    sample = processor.encode_conversation(chat, [np.zeros((16, 16, 3), np.uint8)])
    learnt = processor.tokenizer.decode(sample["input_ids"][sample["labels"] != -100])
    assert learnt.strip() == '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call><|im_end|>'
    with pytest.raises(Exception, match="A part of type audio cannot be written"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "audio"}]}])


def test_default_texts_keep_every_character() -> None:
    default = "<|im_start|>system\n\"quoted\" 'too' \\n {% x %} {{ y }} 你 \u2028 \t<|im_end|>\n"
    tokenizer = tokenizers.smollm(tokenizers.chatml(default))
    chat = [{"role": "user", "content": "a"}]
    text = tokenizer.apply_chat_template(chat, chat_template=chatml_template(default), tokenize=False)
    assert text == default + "<|im_start|>user\na<|im_end|>\n"
    assert choose_template(tokenizer) == chatml_template(default)


def test_the_published_tokenizer_keeps_its_prompts(reference_folder: Path, tmp_path: Path) -> None:
    """SAIL-VL2's: its system message comes first, turns follow each other without a line between."""
    for path in reference_folder.iterdir():
        if path.suffix in (".json", ".txt", ".jinja") and path.stem != "config":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    processor = SAILViTProcessor.from_parts(SAILViTImageProcessorPil(), tokenizer, patch_size=14)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi?"}]}]
    theirs = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ours = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert theirs.replace("<image>", "<img><IMG_CONTEXT></img>") == ours
    inputs = processor(text=ours, images=[np.zeros((60, 40, 3), np.uint8)])["input_ids"][0]
    start, context, end = 151669, 151671, 151670
    assert processor.image_token_id == context
    assert inputs == tokenizer.encode(ours.partition("<img>")[0]) + [start, *[context] * 256, end] + tokenizer.encode(
        ours.partition("</img>")[2]
    )
    asked = [*chat, {"role": "assistant", "content": "Hello, world!"}]
    sample = processor.encode_conversation(asked, [np.zeros((60, 40, 3), np.uint8)])
    assert sample["input_ids"][: len(inputs)].tolist() == inputs
    assert tokenizer.decode(sample["input_ids"][sample["labels"] != -100]) == "Hello, world!<|im_end|>"


@pytest.mark.parametrize("family", ["qwen3", "llama3.2", "smollm2"])
def test_the_template_is_saved_beside_the_processor(family: str, tmp_path: Path) -> None:
    processor, _, _ = made(family)
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text(encoding="utf-8") == processor.chat_template
    assert "chat_template" not in json.loads((tmp_path / "processor_config.json").read_text(encoding="utf-8"))
    again = SAILViTProcessor.from_pretrained(tmp_path)
    assert again.chat_template == processor.chat_template
    # And a processor made of the saved tokenizer has the same one, and adds no token.
    third = SAILViTProcessor.from_parts(again.image_processor, again.tokenizer, patch_size=8)
    assert third.chat_template == processor.chat_template and len(third.tokenizer) == len(processor.tokenizer)
