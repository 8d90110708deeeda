# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Tiles: the published choice of a grid, the pixels of each tile, and as many placeholders as features."""

import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from sailvit_hf import (
    SAILViTConfig,
    SAILViTForConditionalGeneration,
    SAILViTImageProcessorPil,
    SAILViTModel,
    SAILViTProcessor,
)
from sailvit_hf.data.demo_world import DemoWorld
from sailvit_hf.processing.tiling_sailvit import choose_grid, number_of_tiles, tile_grids

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def image_processor() -> SAILViTImageProcessorPil:
    return SAILViTImageProcessorPil(size={"height": 16, "width": 16}, max_tiles=6)


@pytest.fixture(scope="module")
def processor(image_processor: SAILViTImageProcessorPil) -> SAILViTProcessor:
    return SAILViTProcessor.from_parts(image_processor, DemoWorld().tokenizer(), patch_size=8)


def test_the_grids_of_up_to_four_tiles() -> None:
    assert tile_grids(1, 4) == ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 4), (2, 2), (4, 1))
    assert tile_grids(3, 4) == ((1, 3), (3, 1), (1, 4), (2, 2), (4, 1))


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((448, 448), (1, 1)),  # a square, half of the 2x2 grid's area not reached
        ((640, 640), (2, 2)),  # more than half of 896x896
        ((896, 448), (2, 1)),
        ((448, 1400), (1, 3)),
        ((1950, 1500), (4, 3)),
        ((10_000, 10), (12, 1)),
        ((1, 1), (1, 1)),
    ],
)
def test_the_published_choice(size: tuple[int, int], grid: tuple[int, int]) -> None:
    width, height = size
    assert choose_grid(height, width, 1, 12, 448, 448) == grid


def test_no_grid_is_closer_in_shape_than_the_chosen_one() -> None:
    """By exact fractions, for 5,000 sizes."""
    draw = random.Random(0)
    for _ in range(5_000):
        height, width, most = draw.randint(1, 3000), draw.randint(1, 3000), draw.randint(1, 12)
        columns, rows = choose_grid(height, width, 1, most, 448, 448)
        differences = {grid: abs(Fraction(width, height) - Fraction(*grid)) for grid in tile_grids(1, most)}
        least = min(differences.values())
        assert differences[columns, rows] <= least + Fraction(1, 10**12)
        larger = [grid for grid, found in differences.items() if found == least and grid[0] * grid[1] > columns * rows]
        assert all(width * height <= Fraction(448 * 448 * grid[0] * grid[1], 2) for grid in larger)


@pytest.mark.parametrize(("least", "most"), [(0, 4), (3, 2), (2, 0)])
def test_numbers_of_tiles_that_make_no_sense_are_refused(least: int, most: int) -> None:
    with pytest.raises(ValueError, match=f"min_tiles is {least} and max_tiles {most}"):
        choose_grid(10, 10, least, most, 448, 448)


def test_tiles_are_the_resized_picture_row_by_row_and_then_the_whole(image_processor) -> None:
    whole = SAILViTImageProcessorPil(size={"height": 32, "width": 48})
    single = SAILViTImageProcessorPil(size={"height": 16, "width": 16})
    image = picture(150, 100)
    outputs = image_processor(image, return_tensors="pt")
    assert outputs["num_tiles"].tolist() == [7]
    resized = whole(image, return_tensors="pt")["pixel_values"][0]
    expected = [resized[:, 16 * r : 16 * r + 16, 16 * c : 16 * c + 16] for r in range(2) for c in range(3)]
    expected.append(single(image, return_tensors="pt")["pixel_values"][0])
    assert torch.equal(outputs["pixel_values"], torch.stack(expected))


def test_a_single_tile_has_no_thumbnail_and_a_thumbnail_can_be_left_out(image_processor) -> None:
    assert image_processor(picture(16, 16))["num_tiles"] == [1]
    assert image_processor(picture(150, 100), use_thumbnail=False)["num_tiles"] == [6]
    assert number_of_tiles((1, 1), True) == 1


def test_predicted_and_produced_tiles_agree(image_processor) -> None:
    draw = random.Random(1)
    for _ in range(300):
        least = draw.randint(1, 3)
        most, thumbnail = draw.randint(max(least, 2), 12), draw.random() < 0.5
        settings = {"min_tiles": least, "max_tiles": most, "use_thumbnail": thumbnail}
        sizes = [(draw.randint(1, 90), draw.randint(1, 90)) for _ in range(draw.randint(1, 3))]
        outputs = image_processor([picture(w, h) for h, w in sizes], **settings)
        predicted = [image_processor.get_number_of_tiles(h, w, settings) for h, w in sizes]
        assert outputs["num_tiles"] == predicted
        assert len(outputs["pixel_values"]) == sum(predicted)


def test_placeholders_are_as_many_as_features(processor: SAILViTProcessor) -> None:
    torch.manual_seed(0)
    tower = SAILViTModel(SAILViTConfig.preset("tiny", num_hidden_layers=1, image_size=16))
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    language = LlamaForCausalLM(LlamaConfig(vocab_size=len(processor.tokenizer), **sizes))
    model = SAILViTForConditionalGeneration.from_parts(tower, language, processor.image_token_id)
    pictures = [[picture(40, 16), picture(16, 16)], [], [picture(90, 90)]]
    chats = [
        [
            {"role": "user", "content": [{"type": "image"}] * len(each) + [{"type": "text", "text": "read"}]},
            {"role": "assistant", "content": "a b"},
        ]
        for each in pictures
    ]
    batch = processor.encode_conversations(chats, pictures)
    assert "num_tiles" not in batch
    shapes = [[(each.height, each.width) for each in row] for row in pictures]
    tokens = [processor._get_num_multimodal_tokens(row).num_image_tokens for row in shapes]
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [sum(row) for row in tokens]
    assert tokens == [[4, 1], [], [5]]  # three tiles and a thumbnail, one, four and a thumbnail; a token each
    outputs = model(**batch)  # raises if they were not as many
    assert outputs.image_hidden_states.shape == (10, 1, 32)


def test_a_tower_is_probed_and_extracted_without_tiles(processor: SAILViTProcessor, tmp_path: Path) -> None:
    from sailvit_hf.evaluation.probing import picture_features
    from sailvit_hf.refinement.assembly import save_backbone, save_checkpoint
    from sailvit_hf.refinement.lineage import Lineage

    tower = SAILViTModel(SAILViTConfig.preset("tiny", num_hidden_layers=1, image_size=16))
    pictures = np.stack([np.asarray(picture(64, 16, seed)) for seed in range(3)])
    assert picture_features(tower, processor.image_processor, pictures).shape == (3, 2, 2, 96)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    language = LlamaForCausalLM(LlamaConfig(vocab_size=len(processor.tokenizer), **sizes))
    model = SAILViTForConditionalGeneration.from_parts(tower, language, processor.image_token_id)
    save_checkpoint(tmp_path / "whole", model, processor, Lineage(name="tiles", parents={}))
    save_backbone(tmp_path / "backbone", tmp_path / "whole")
    assert AutoImageProcessor.from_pretrained(tmp_path / "whole").max_tiles == 6
    assert AutoImageProcessor.from_pretrained(tmp_path / "backbone").max_tiles == 1


def test_the_published_prompt_of_twelve_tiles(reference_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reference_folder)
    processor = SAILViTProcessor.from_parts(SAILViTImageProcessorPil(max_tiles=12), tokenizer, patch_size=14)
    chat = [{"role": "user", "content": [{"type": "image", "image": picture(1950, 1500)}]}]
    batch = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    assert batch["pixel_values"].shape == (13, 3, 448, 448)
    ids = batch["input_ids"][0].tolist()
    start = ids.index(151669)
    assert ids[start + 1 : start + 1 + 13 * 256] == [151671] * (13 * 256)
    assert ids[start + 1 + 13 * 256] == 151670


def test_settings_of_tiles_come_back_from_disk(image_processor, tmp_path: Path) -> None:
    image_processor.save_pretrained(tmp_path)
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert (again.min_tiles, again.max_tiles, again.use_thumbnail) == (1, 6, True)
    assert again(picture(150, 100))["num_tiles"] == [7]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_center_crop": True}, "do_center_crop=False"),
        ({"do_resize": False}, "do_resize=True"),
        ({"size": {"shortest_edge": 16}}, "Tiles need a size with height and width"),
    ],
)
def test_settings_that_contradict_tiles_are_refused(image_processor, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_processor(picture(30, 20), **settings)


@pytest.mark.parametrize("size", [(390, 300), (1300, 1000), (448, 300)])
def test_torchs_resize_differs_by_two_levels_at_most(size: tuple[int, int]) -> None:
    smooth = picture(40, 30).resize(size, Image.Resampling.BICUBIC)
    for image in (smooth, picture(*size)):
        exact, fast = (
            SAILViTImageProcessorPil(do_normalize=False, fast_resize=fast)(image)["pixel_values"][0] * 255
            for fast in (False, True)
        )
        difference = np.abs(exact - fast)
        assert 0 < difference.max() <= 2.001
        assert difference.mean() <= 0.02


def test_the_exact_resize_equals_transformers_own() -> None:
    settings = {"size": {"height": 448, "width": 448}, "image_mean": MEAN, "image_std": STD}
    theirs = CLIPImageProcessorPil(do_center_crop=False, **settings)
    for size in ((390, 300), (1300, 1000), (100, 700), (1, 9)):
        image = picture(*size)
        ours = SAILViTImageProcessorPil()(image, return_tensors="np")["pixel_values"]
        assert np.abs(ours - theirs(image, return_tensors="np")["pixel_values"]).max() <= 1e-6
