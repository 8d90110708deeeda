# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' pipelines with our classes; its own tests of pipelines need models from the Hub."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline, set_seed

from sailvit_hf import (
    SAILViTConfig,
    SAILViTForConditionalGeneration,
    SAILViTForImageClassification,
    SAILViTImageProcessorPil,
    SAILViTModel,
    SAILViTProcessor,
    SAILViTVLMConfig,
)

from .testers import TINY_TEXT, byte_tokenizer

TINY = {"image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def image_processor():
    return SAILViTImageProcessorPil(size={"height": 16, "width": 16})


def test_image_classification(picture, image_processor):
    set_seed(0)
    model = SAILViTForImageClassification(SAILViTConfig(**TINY, id2label={0: "cat", 1: "dog"})).eval()
    answers = pipeline("image-classification", model=model, image_processor=image_processor, device="cpu")(picture)
    with torch.no_grad():
        expected = model(**image_processor(picture, return_tensors="pt")).logits[0].softmax(-1)
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(
        {"cat": expected[0].item(), "dog": expected[1].item()}
    )


def test_image_feature_extraction(picture, image_processor):
    set_seed(0)
    model = SAILViTModel(SAILViTConfig(**TINY)).eval()
    extract = pipeline("image-feature-extraction", model=model, image_processor=image_processor, device="cpu")
    with torch.no_grad():
        expected = model(**image_processor(picture, return_tensors="pt"))
    torch.testing.assert_close(torch.tensor(extract(picture)), expected.last_hidden_state)
    torch.testing.assert_close(torch.tensor(extract(picture, pool=True)), expected.pooler_output)


def test_image_text_to_text(picture, image_processor):
    tokenizer = byte_tokenizer(["<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>"])
    processor = SAILViTProcessor(image_processor, tokenizer, patch_size=4)
    config = SAILViTVLMConfig(
        vision_config={"model_type": "sailvit", **TINY},
        text_config=TINY_TEXT | {"vocab_size": len(tokenizer)},
        image_token_id=processor.image_token_id,
    )
    set_seed(0)
    model = SAILViTForConditionalGeneration(config).eval()
    settings = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [processor.image_token_id]}
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is this?"}]
    chat = [{"role": "user", "content": content}]
    talk = pipeline("image-text-to-text", model=model, processor=processor, device="cpu")
    [answer] = talk(text=chat, return_full_text=False, generate_kwargs=settings)

    inputs = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    generated = model.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :]
    assert answer["generated_text"] == tokenizer.decode(generated, skip_special_tokens=True) != ""
