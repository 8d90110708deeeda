# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Recipes that start from a tower that is not SAILViT: everything a run does, and what it refuses."""

import json
import logging

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    ResNetConfig,
    ResNetModel,
    Siglip2ImageProcessorPil,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)
from transformers.utils import logging as transformers_logging

from sailvit_hf import cli
from sailvit_hf.errors import SailvitError
from sailvit_hf.modeling.vision_towers import patch_features
from sailvit_hf.refinement import Lineage
from sailvit_hf.refinement.assembly import build_start, load_vlm, save_backbone, save_checkpoint
from sailvit_hf.refinement.foundations import FoundationSettings, make_foundations
from sailvit_hf.refinement.lineage import weight_digests
from sailvit_hf.refinement.pipeline import demo_world
from sailvit_hf.refinement.recipes.recipe import parse_recipe

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
SQUARE = {"height": 60, "width": 60}


def command(*arguments):
    """The command's exit status; it sets up the package's logger, which other tests want as it was."""
    logger = logging.getLogger("sailvit_hf")
    state = (logger.level, logger.propagate, list(logger.handlers))
    try:
        return cli.main(list(arguments))
    finally:
        logger.level, logger.propagate, logger.handlers = state
        transformers_logging.enable_progress_bar()


def save(folder, model, image_processor):
    model.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return str(folder)


def siglip(folder):
    """60 pixels by 8: a grid of 7x7 that sees 56 of them and is odd, as 384 pixels by 14 in a published SigLIP."""
    torch.manual_seed(0)
    config = SiglipVisionConfig(**SIZES, image_size=60, patch_size=8)
    return save(folder, SiglipVisionModel(config), SiglipImageProcessorPil(size=SQUARE))


@pytest.fixture(scope="module")
def siglip_run(tmp_path_factory, tiny_recipe):
    """A run from the command line whose tower is a SigLIP, used and refined up to its last layer but one."""
    folder = tmp_path_factory.mktemp("siglip")
    recipe = tiny_recipe(folder / "run", start={
        "vision_tower": siglip(folder / "tower"), "language_model": "demo", "vision_feature_layer": -2,
    })  # fmt: skip
    del recipe["stages"]["world"]
    recipe["stages"]["fine"]["arguments"] |= {"freeze_vision_layers": 1, "vision_tower_layer_decay": 0.5}
    recipe["evaluation"] = {"samples": 8, "probes": False, "encoder_swap": recipe["evaluation"]["encoder_swap"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert command("refine", str(folder / "recipe.yaml")) in (0, None)
    return folder


def test_the_extracted_tower_is_of_its_own_class_and_whole(siglip_run):
    backbone = siglip_run / "run" / "backbone"
    tower = AutoModel.from_pretrained(backbone)
    assert type(tower) is SiglipVisionModel
    assert json.loads((backbone / "config.json").read_text())["architectures"] == ["SiglipVisionModel"]
    trained = load_vlm(siglip_run / "run" / "fine")
    assert trained.config.vision_feature_layer == -2
    for name, tensor in trained.model.vision_tower.state_dict().items():
        assert torch.equal(tensor, tower.state_dict()[name]), name
    picture = torch.randn(1, 3, 60, 60)
    features, grid = patch_features(tower.eval(), picture, layer=-2)
    assert grid == (7, 7)
    torch.testing.assert_close(features, trained.get_image_features(picture).last_hidden_state, rtol=1e-5, atol=1e-5)
    assert type(AutoImageProcessor.from_pretrained(backbone)) is SiglipImageProcessorPil


def test_only_what_the_recipe_trains_has_changed(siglip_run):
    before = load_file(siglip_run / "tower" / "model.safetensors")
    after = load_file(siglip_run / "run" / "backbone" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {".".join(name.split(".")[:3]) for name in before if not torch.equal(before[name], after[name])}
    # Not the embeddings, which were frozen; nor the last layer, the final norm and the head, which were not used.
    assert changed == {"encoder.layers.0", "encoder.layers.1"}


def test_lineage_card_and_report_tell_what_was_done(siglip_run):
    run = siglip_run / "run"
    lineage = Lineage.load(run / "backbone")
    tower = lineage.parents["vision_tower"]
    assert (tower["source"], tower["revision"]) == ("tower (a local folder)", None)
    assert tower["weights"] == weight_digests(siglip_run / "tower")
    assert lineage.parents["language_model"]["source"] == "demo foundation"
    arguments = lineage.stages[-1].arguments
    assert (arguments["freeze_vision_layers"], arguments["vision_tower_layer_decay"]) == (1, 0.5)
    card = (run / "backbone" / "README.md").read_text()
    assert "`SiglipVisionModel`" in card and "layer=-2" in card and "trust_remote_code" not in card
    with Image.open(run / "features" / "fine-00.png") as picture:
        assert picture.size == (7, 7)
    metrics = json.loads((run / "metrics.json").read_text())
    assert {which for by in metrics["encoder_swap"].values() for which in by} == {"unrefined", "refined"}
    assert (run / "report.html").exists()


def test_the_code_on_the_card_gives_the_refined_features(siglip_run, monkeypatch):
    backbone = siglip_run / "run" / "backbone"
    code = (backbone / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(backbone)
    names = {"image": Image.new("RGB", (80, 40), "red")}
    exec(compile(code, "README.md", "exec"), names)
    assert names["features"].shape == (1, 49, 32) and (names["rows"], names["columns"]) == (7, 7)


@pytest.fixture
def start(tiny_recipe, foundations_cache, tmp_path):
    """A function that puts a start together from the folder of a tower."""

    def make(tower: str, **options):
        recipe = parse_recipe(tiny_recipe(tmp_path / "run", start={
            "vision_tower": tower, "language_model": "demo", **options,
        }))  # fmt: skip
        settings = FoundationSettings(**recipe.foundations.settings())
        parts = ("language_model",)
        return build_start(recipe, make_foundations(demo_world(), foundations_cache, 0, settings, parts))

    return make


def test_a_folder_of_a_contrastive_pair_gives_its_vision_half(start, tmp_path):
    vision = {**SIZES, "image_size": 64, "patch_size": 16}
    pair = CLIPModel(CLIPConfig(vision_config=vision, text_config={**SIZES, "vocab_size": 64}))
    images = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    model, processor, lineage = start(save(tmp_path / "clip", pair, images))
    assert model.config.vision_config.model_type == "clip_vision_model" and processor.patch_size == 16
    save_checkpoint(tmp_path / "checkpoint", model, processor, lineage)
    save_backbone(tmp_path / "backbone", tmp_path / "checkpoint")
    tower = AutoModel.from_pretrained(tmp_path / "backbone")
    assert type(tower).__name__ == "CLIPVisionModel"
    for name, tensor in pair.vision_model.state_dict().items():
        assert torch.equal(tensor, tower.state_dict()[name])
    card = (tmp_path / "backbone" / "README.md").read_text()
    assert "`CLIPVisionModel`" in card and "Without class tokens" in card


def test_siglip_2_with_any_aspect_ratio_gets_pictures_of_one_size(start, tmp_path):
    config = Siglip2VisionConfig(**SIZES, patch_size=8, num_patches=64)
    images = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=64, image_mean=[0.4, 0.5, 0.6])
    model, processor, _ = start(save(tmp_path / "siglip2", Siglip2VisionModel(config), images))
    picture = Image.new("RGB", (80, 40), "red")
    chat = [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "red"}]
    batch = processor.encode_conversations([chat], [[picture]])
    assert batch["pixel_values"].shape == (1, 3, 64, 64)
    # Red is 1, then its mean is taken off and it is divided by the deviation, as the tower's own processor does.
    torch.testing.assert_close(batch["pixel_values"][0, :, 5, 5], torch.tensor([1.2, -1.0, -1.2]))
    assert model(**batch).loss.isfinite()


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        (ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])), "'resnet' has no patch"),
        (ViTModel(ViTConfig(**SIZES, image_size=[64, 64], patch_size=[8, 16])), "patches of 8x16 pixels: choose"),
    ],
)
def test_a_tower_that_cannot_serve_is_refused_at_the_start(tower, message, start, tmp_path):
    with pytest.raises(SailvitError, match=message):
        start(save(tmp_path / "tower", tower, ViTImageProcessorPil(size=SQUARE)))


def test_a_layer_that_is_not_there_is_refused_at_the_start(start, tmp_path):
    with pytest.raises(SailvitError, match="vision_feature_layer is 9, but a tower of 3 layers has the hidden states"):
        start(siglip(tmp_path / "tower"), vision_feature_layer=9)


def test_more_frozen_layers_than_the_tower_has_are_found_before_the_first_step(tiny_recipe, tmp_path, capsys):
    recipe = tiny_recipe(
        tmp_path / "run", start={"vision_tower": siglip(tmp_path / "tower"), "language_model": "demo"}
    )
    recipe["stages"]["fine"]["arguments"]["freeze_vision_layers"] = 9
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert command("refine", str(tmp_path / "recipe.yaml")) == 2
    assert "freeze_vision_layers 9 leaves nothing of the vision tower to train" in capsys.readouterr().err
    assert not (tmp_path / "run" / "coarse").exists()
