# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Tokens predicted = tokens produced = features of the model, for any sizes, settings and shapes of messages.

The fast test tries 1,000 cases on each backend, the slow one 10,000. Pictures of whole patches run through a tower
and its connector one time in three; features of the others are counted with the model's own rule from their shapes.
"""

import functools
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from sailvit_hf import SAILViTConfig, SAILViTForConditionalGeneration, SAILViTModel, SAILViTProcessor
from sailvit_hf.modeling.modeling_sailvit_vlm import pixel_shuffle
from sailvit_hf.modeling.vision_towers import patch_grid
from sailvit_hf.processing.conversations_sailvit import ImageBudgetError

from . import chat_tokenizers as tokenizers
from .backends import BACKENDS

PATCH = 4
SIDES = st.integers(1, 60)
TOKENIZERS = {"qwen": tokenizers.qwen, "llama3": tokenizers.llama3, "internlm2": tokenizers.internlm2}
TEXT = st.text(alphabet="a cat's\n<img>é", max_size=8)


@functools.cache
def words(name: str) -> tuple[Any, str]:
    """A tokenizer that knows the image tokens, and its chat template."""
    made = TOKENIZERS[name](tokenizers.chatml(bos=name == "internlm2") if name != "llama3" else None)
    processor = SAILViTProcessor.from_parts(BACKENDS["pil"](), made, patch_size=PATCH)
    return processor.tokenizer, processor.chat_template


@functools.cache
def model(downsample_ratio: float) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    tower = SAILViTModel(SAILViTConfig(patch_size=PATCH, image_size=16, **sizes))
    language = LlamaForCausalLM(LlamaConfig(vocab_size=400, **sizes))
    return SAILViTForConditionalGeneration.from_parts(
        tower, language, 399, downsample_ratio=downsample_ratio
    ).eval()


@st.composite
def image_settings(draw: Any) -> dict[str, Any]:
    """Settings of an image processor that go together."""
    sides = st.integers(1, 5).map(lambda patches: PATCH * patches) | st.integers(PATCH, 20)
    size = {"height": draw(sides), "width": draw(sides)}
    kind = draw(st.sampled_from(["fixed", "tiles", "tiles", "tiles", "padded", "cropped", "native", "edge"]))
    if kind == "tiles":
        least, more = draw(st.integers(1, 3)), draw(st.integers(0, 6))
        flags = {name: draw(st.booleans()) for name in ("use_thumbnail", "use_msac", "do_pad")}
        return {"size": size, "min_tiles": least, "max_tiles": least + more, **flags}
    if kind == "padded":
        return {"size": size, "do_pad": True}
    if kind == "cropped":
        return {"size": {"shortest_edge": 16}, "do_center_crop": True, "crop_size": size}
    if kind == "native":
        divisor = draw(st.sampled_from([PATCH, 2 * PATCH]))
        most = draw(st.integers(4, 60)) * divisor**2
        return {"size": {"min_pixels": divisor**2, "max_pixels": most}, "size_divisor": divisor}
    return {"size": {"shortest_edge": draw(st.integers(PATCH, 24))} if kind == "edge" else size}


PARTS = st.lists(
    st.one_of(
        TEXT.map(lambda text: {"type": "text", "text": text}),
        st.just({"type": "image"}),
        st.lists(st.floats(0, 99), min_size=0, max_size=4).map(lambda times: {"type": "video", "timestamps": times}),
    ),
    max_size=4,
)
CHATS = st.lists(st.tuples(PARTS | TEXT, TEXT), min_size=1, max_size=3)


@st.composite
def cases(draw: Any) -> dict[str, Any]:
    chat = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    for question, answer in draw(CHATS):
        chat += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    parts = [part for message in chat if isinstance(message["content"], list) for part in message["content"]]
    frames = sum(len(part.get("timestamps", [None] * (part["type"] == "image"))) for part in parts)
    return {
        "settings": draw(image_settings()),
        "chat": chat,
        "sizes": draw(st.lists(st.tuples(SIDES, SIDES), min_size=frames, max_size=frames)),
        "tokenizer": draw(st.sampled_from(sorted(TOKENIZERS))),
        "downsample_ratio": draw(st.sampled_from([0.5, 1.0])),
        "budget": draw(st.none() | st.integers(1, 120)),
        "max_frames": draw(st.none() | st.integers(1, 3)),
        "runs": draw(st.integers(0, 2)) == 0,
    }


def features(pixel_values: Any, downsample_ratio: float, runs: bool) -> int:
    """How many tokens the model makes of these pictures."""
    made = model(downsample_ratio)
    # SAILViT takes whole patches only; other towers leave out what is less than one.
    if runs and not any(side % PATCH for picture in pixel_values for side in picture.shape[-2:]):
        with torch.no_grad():
            return made.get_image_features(pixel_values, return_dict=True).pooler_output.shape[:-1].numel()
    total = 0
    for picture in pixel_values:
        rows, columns = patch_grid(made.config.vision_config, picture[None])
        grid = torch.empty(1, rows * columns, 1, device="meta")
        total += pixel_shuffle(grid, rows, columns, round(1 / downsample_ratio)).shape[1]
    return total


def check(case: dict[str, Any], backend: str) -> None:
    tokenizer, template = words(case["tokenizer"])
    processor = SAILViTProcessor(
        BACKENDS[backend](**case["settings"]),
        tokenizer,
        patch_size=PATCH,
        downsample_ratio=case["downsample_ratio"],
        max_frames=case["max_frames"],
        chat_template=template,
    )
    chat, sizes, budget = case["chat"], case["sizes"], case["budget"]
    pictures = [Image.new("RGB", (width, height)) for height, width in sizes]
    try:
        predicted = processor.count_tokens(chat, sizes, max_image_tokens=budget)
    except ImageBudgetError:
        with pytest.raises(ImageBudgetError):
            processor.encode_conversation(chat, pictures, max_image_tokens=budget)
        return
    sample = processor.encode_conversation(chat, pictures, max_image_tokens=budget)
    pixel_values, counts = sample.get("pixel_values", ()), sample.get("num_tiles", torch.zeros(0, dtype=torch.int64))
    placeholders = sample["input_ids"] == processor.image_token_id
    assert predicted.total == len(sample["input_ids"]) == len(sample["labels"])
    assert predicted.image == int(placeholders.sum()) and (budget is None or predicted.image <= budget)
    assert predicted.tiles == len(pixel_values) == int(counts.sum())
    assert not (placeholders & (sample["labels"] != -100)).any()
    if len(pixel_values):
        assert predicted.image == features(pixel_values, case["downsample_ratio"], case["runs"])
    # Each picture's placeholders stand together: as many runs as pictures, each as long as predicted.
    if case["max_frames"] is None:
        given_budget = {} if budget is None else {"max_image_tokens": budget}
        wanted = processor._get_num_multimodal_tokens(sizes, **given_budget)
        starts = placeholders.diff(prepend=torch.tensor([False])).nonzero()[:, 0].tolist()
        found = [end - start for start, end in zip(starts[::2], starts[1::2], strict=True)]
        assert found == wanted.num_image_tokens and counts.tolist() == wanted.num_image_patches


def many(examples: int) -> Any:
    return settings(
        max_examples=examples, derandomize=True, deadline=None, phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_predicted_is_produced_is_features(backend: str) -> None:
    many(1000)(given(cases())(lambda case: check(case, backend)))()


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_predicted_is_produced_is_features_in_ten_thousand_cases(backend: str) -> None:
    many(10_000)(given(cases())(lambda case: check(case, backend)))()
