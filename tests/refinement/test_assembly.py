# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A processor for a tower and a language model: special tokens, embeddings, prompt format, and generation with it."""

import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sailvit_hf import (
    SAILViTConfig,
    SAILViTForConditionalGeneration,
    SAILViTImageProcessorPil,
    SAILViTModel,
    SAILViTProcessor,
)
from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement.assembly import load_vision_tower, make_processor, picture_processor
from sailvit_hf.refinement.recipes.recipe import PicturesPlan

from ..processing import chat_tokenizers as tokenizers

TOWER = SAILViTConfig(
    hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=4
)
IMAGES = {"size": {"height": 16, "width": 16}}


def language_model(tokenizer, tied: bool = True, spare: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer) + spare, tie_word_embeddings=tied, initializer_range=0.5,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **sizes,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_grow_once_and_stay_tied(tied: bool) -> None:
    tokenizer = tokenizers.llama3()
    model = language_model(tokenizer, tied)
    size, old = len(tokenizer), model.get_input_embeddings().weight.detach().clone()
    old_head = model.lm_head.weight.detach().clone()
    state = torch.get_rng_state()
    processor = make_processor(SAILViTImageProcessorPil(**IMAGES), tokenizer, model, TOWER)
    assert torch.equal(torch.get_rng_state(), state)  # a run's seed decides what comes after, whatever came before
    embeddings, head = model.get_input_embeddings().weight, model.lm_head.weight
    assert len(tokenizer) == size + 3 == len(embeddings) == len(head) == model.config.vocab_size
    assert (embeddings is head) == tied == model.config.tie_word_embeddings
    assert torch.equal(embeddings[:size], old) and torch.equal(head[:size], old_head)
    # New rows lie near the mean of the old ones, not at it and not far.
    mean, spread = old.mean(0), old.std(0).mean()
    assert 0 < (embeddings[size:] - mean).abs().max() < spread
    grown = embeddings.detach().clone()
    again = make_processor(SAILViTImageProcessorPil(**IMAGES), tokenizer, model, TOWER)
    assert len(again.tokenizer) == size + 3 and torch.equal(model.get_input_embeddings().weight, grown)
    assert again.chat_template == processor.chat_template
    other = language_model(tokenizers.llama3(), tied)
    torch.manual_seed(7)
    make_processor(SAILViTImageProcessorPil(**IMAGES), tokenizers.llama3(), other, TOWER)
    assert torch.equal(other.get_input_embeddings().weight, grown)


def test_spare_rows_are_used_before_new_ones() -> None:
    tokenizer = tokenizers.qwen(tokenizers.chatml())
    model = language_model(tokenizer, spare=10)
    old = model.get_input_embeddings().weight.detach().clone()
    processor = make_processor(SAILViTImageProcessorPil(**IMAGES), tokenizer, model, TOWER)
    assert torch.equal(model.get_input_embeddings().weight, old)
    assert processor.image_token_id < len(old)


def test_generation_stops_where_answers_end() -> None:
    tokenizer = tokenizers.internlm2(tokenizers.chatml(bos=True))  # its last token is </s>, its answers end elsewhere
    model = language_model(tokenizer)
    for _ in range(2):
        processor = make_processor(SAILViTImageProcessorPil(**IMAGES), tokenizer, model, TOWER)
        assert processor.stop_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, processor.stop_token_id]
    tokenizer = tokenizers.llama3()
    model = language_model(tokenizer)
    make_processor(SAILViTImageProcessorPil(**IMAGES), tokenizer, model, TOWER)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|eot_id|>")


def test_a_template_that_takes_no_pictures_is_one_sentence() -> None:
    own = " \n{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer = tokenizers.smollm(own)
    with pytest.raises(SailvitError, match="tokenizer does not fit: The tokenizer's chat template cannot be given"):
        make_processor(SAILViTImageProcessorPil(**IMAGES), tokenizer, language_model(tokenizer), TOWER)


def test_a_left_padded_batch_generates_what_its_chats_do_alone() -> None:
    """Several pictures, one, and none, cut into tiles; all doors give the same tokens."""
    tokenizer = tokenizers.qwen(tokenizers.chatml())
    decoder = language_model(tokenizer)
    processor = make_processor(SAILViTImageProcessorPil(max_tiles=4, **IMAGES), tokenizer, decoder, TOWER)
    torch.manual_seed(1)
    model = SAILViTForConditionalGeneration.from_parts(SAILViTModel(TOWER), decoder, processor.image_token_id).eval()
    draw = np.random.default_rng(0)

    def picture(height: int, width: int) -> dict:
        return {"type": "image", "image": draw.integers(0, 256, (height, width, 3), dtype=np.uint8)}

    contents: list[list[dict]] = [
        [picture(16, 40), {"type": "text", "text": "a cat?"}, picture(40, 16)],
        [{"type": "text", "text": "cat's"}],
        [picture(16, 16)],
    ]
    chats = [[{"role": "user", "content": content}] for content in contents]
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True, "return_tensors": "pt"}
    padded = {"padding": True, "padding_side": "left"}
    batch = processor.apply_chat_template(chats, processor_kwargs=padded, **options)
    assert batch["attention_mask"][:, -1].all() and not batch["attention_mask"][1:, 0].any()
    written = model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]
    for row, chat in enumerate(chats):
        alone = processor.apply_chat_template(chat, **options)
        assert torch.equal(alone["input_ids"][0], batch["input_ids"][row][batch["attention_mask"][row].bool()])
        assert ("pixel_values" in alone) == (row != 1)
        tokens = model.generate(**alone, **settings)[0, alone["input_ids"].shape[1] :]
        assert len(tokens) == 12 and torch.equal(tokens, written[row])
    assert len({tuple(row.tolist()) for row in written}) == 3
    # The same through text and pictures, nested by text or all in one list.
    prompts = processor.apply_chat_template(chats, add_generation_prompt=True)
    nested = [[part["image"] for part in content if part["type"] == "image"] for content in contents]
    for images in (nested, [image for row in nested for image in row]):
        inputs = processor(text=prompts, images=images, return_tensors="pt", **padded)
        for key in ("input_ids", "attention_mask", "pixel_values"):
            assert torch.equal(inputs[key], batch[key]), key


def test_the_processor_of_a_saved_model_is_the_same(tmp_path) -> None:
    tokenizer = tokenizers.llama3()
    decoder = language_model(tokenizer)
    processor = make_processor(SAILViTImageProcessorPil(max_tiles=4, **IMAGES), tokenizer, decoder, TOWER)
    model = SAILViTForConditionalGeneration.from_parts(SAILViTModel(TOWER), decoder, processor.image_token_id).eval()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = SAILViTForConditionalGeneration.from_pretrained(tmp_path)
    again = SAILViTProcessor.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    chat = [
        {"role": "user", "content": [{"type": "image", "image": np.full((40, 20, 3), 9, np.uint8)}]},
        {"role": "assistant", "content": "a cat"},
    ]
    first, second = (each.pad_conversations([each.encode_conversation(chat)]) for each in (processor, again))
    for key in first:
        assert torch.equal(first[key], second[key])
    with torch.no_grad():
        assert torch.equal(model(**first).loss, loaded(**second).loss)


def test_apples_own_checkpoint_is_read_as_it_is_published(tmp_path) -> None:
    """Its names are SAILViT's, its configuration says `aimv2`, which transformers would read as another model."""
    torch.manual_seed(3)
    # 128 channels to a head, as in all of the family.
    sizes = {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1}
    config = SAILViTConfig(image_size=28, patch_size=14, **sizes)
    model = SAILViTModel(config).eval()
    model.save_pretrained(tmp_path)
    for file in tmp_path.iterdir():
        if file.name != "model.safetensors":
            file.unlink()
    remote = {"AutoModel": "modeling_aimv2.AIMv2Model"}
    apple = {"architectures": ["AIMv2Model"], "model_type": "aimv2", "auto_map": remote}
    apple |= {**sizes, "image_size": 28, "patch_size": 14, "num_channels": 3, "rms_norm_eps": 1e-5, "qkv_bias": False}
    (tmp_path / "config.json").write_text(json.dumps(apple))
    tower, image_processor = load_vision_tower(str(tmp_path))
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(tower.eval()(pixels).last_hidden_state, model(pixels).last_hidden_state)
    assert image_processor.image_mean[0] == pytest.approx(0.48145466), "Apple's statistics, unless a recipe says other"


def test_pictures_as_a_recipe_says() -> None:
    made = picture_processor(PicturesPlan(max_tiles=4), TOWER)
    assert (made.size["height"], made.size["width"], made.max_tiles) == (16, 16, 4)
    assert made.image_mean == pytest.approx([0.485, 0.456, 0.406]) and not made.do_center_crop
    assert made.get_number_of_tiles(32, 32) == 5  # a grid of 2 x 2 and the thumbnail
    clip = picture_processor(PicturesPlan(statistics="clip"), TOWER)
    assert clip.image_std == pytest.approx([0.26862954, 0.26130258, 0.27577711]) and clip.max_tiles == 1
