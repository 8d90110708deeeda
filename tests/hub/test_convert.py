# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Conversions of a vision tower, by value."""

import json
import os
import tracemalloc
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    Aimv2Config,
    Aimv2Model,
    Aimv2VisionModel,
    AutoImageProcessor,
    AutoModel,
)

from sailvit_hf import SAILViTBackbone, SAILViTConfig, SAILViTForImageClassification, SAILViTModel
from sailvit_hf.errors import SailvitError
from sailvit_hf.hub import convert_checkpoint
from tests.hub import tiny

SAVERS = {"sailvit": tiny.save_sailvit, "aimv2": tiny.save_aimv2, "timm": tiny.save_timm}


@pytest.fixture(params=list(SAVERS))
def source(request, tmp_path):
    """A checkpoint of each layout, as its library writes it."""
    SAVERS[request.param](tmp_path / request.param)
    return tmp_path / request.param


@pytest.fixture
def sailvit(tmp_path):
    tiny.save_sailvit(tmp_path / "sailvit")
    return tmp_path / "sailvit"


def features(folder) -> torch.Tensor:
    with torch.no_grad():
        return AutoModel.from_pretrained(folder)(tiny.pixels()).last_hidden_state


@pytest.mark.parametrize("to", ["sailvit", "aimv2", "timm"])
def test_there_and_back_is_bit_exact(source, to, tmp_path):
    there = convert_checkpoint(source, tmp_path / "there", to)
    back = convert_checkpoint(tmp_path / "there", tmp_path / "back", source.name)
    assert (there.source_layout, there.target_layout, back.source_layout) == (source.name, to, to)
    assert there.folder == tmp_path / "there" and there.left_out == ()
    weights = tiny.read_weights(tmp_path / "there")
    assert there.tensors == len(weights)
    assert there.bytes == sum(tensor.nbytes for tensor in weights.values())
    assert {*there.files} == {*os.listdir(tmp_path / "there")}
    assert tiny.same(tiny.read_weights(source), tiny.read_weights(tmp_path / "back"))


def test_the_outputs_stay(sailvit, tmp_path):
    """In each layout the model computes the same; timm's own is asked in test_timm.py."""
    expected = features(sailvit)
    convert_checkpoint(sailvit, tmp_path / "aimv2", "aimv2")
    assert type(AutoModel.from_pretrained(tmp_path / "aimv2")) is Aimv2VisionModel
    torch.testing.assert_close(features(tmp_path / "aimv2"), expected, rtol=0, atol=1e-5)
    for to in ("aimv2", "timm"):
        convert_checkpoint(sailvit, tmp_path / f"as-{to}", to)
        convert_checkpoint(tmp_path / f"as-{to}", tmp_path / f"from-{to}")
        assert torch.equal(features(tmp_path / f"from-{to}"), expected)


def test_the_values_of_aimv2_and_timm_land_where_they_belong(tmp_path):
    """Gate, up and down, query, key and value: each by hand."""
    aimv2 = tiny.save_aimv2(tmp_path / "aimv2").state_dict()
    convert_checkpoint(tmp_path / "aimv2", tmp_path / "from-aimv2")
    ours = tiny.read_weights(tmp_path / "from-aimv2")
    layer, block = "encoder.layers.1.", "trunk.blocks.1."
    qkv = [aimv2[f"{layer}attention.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(ours[f"{block}attn.qkv.weight"], torch.cat(qkv))
    for theirs, name in (("gate", "fc1"), ("down", "fc2"), ("up", "fc3")):
        assert torch.equal(ours[f"{block}mlp.{name}.weight"], aimv2[f"{layer}ffn.{theirs}_proj.weight"])
    assert torch.equal(ours["preprocessor.pos_embed"][0], aimv2["embeddings.position_embedding.weight"])

    timm = tiny.save_timm(tmp_path / "timm")
    convert_checkpoint(tmp_path / "timm", tmp_path / "from-timm")
    ours = tiny.read_weights(tmp_path / "from-timm")
    for theirs, name in (("fc1_g", "fc1"), ("fc2", "fc2"), ("fc1_x", "fc3")):
        assert torch.equal(ours[f"{block}mlp.{name}.weight"], timm[f"blocks.1.mlp.{theirs}.weight"])
    assert torch.equal(ours["trunk.post_trunk_norm.weight"], timm["norm.weight"])


def test_biases(tmp_path):
    tiny.save_sailvit(tmp_path / "sailvit", qkv_bias=True, use_bias=True)
    for to in ("aimv2", "timm"):
        convert_checkpoint(tmp_path / "sailvit", tmp_path / to, to)
        convert_checkpoint(tmp_path / to, tmp_path / f"from-{to}")
        assert tiny.same(tiny.read_weights(tmp_path / "sailvit"), tiny.read_weights(tmp_path / f"from-{to}"))
        config = SAILViTConfig.from_pretrained(tmp_path / f"from-{to}")
        assert config.qkv_bias and config.use_bias
    torch.testing.assert_close(features(tmp_path / "aimv2"), features(tmp_path / "sailvit"), rtol=0, atol=1e-5)


def test_the_configuration_is_kept(tmp_path):
    changes = {"rms_norm_eps": 1e-3, "attention_dropout": 0.1, "initializer_range": 0.5}
    tiny.save_sailvit(tmp_path / "sailvit", **changes)
    convert_checkpoint(tmp_path / "sailvit", tmp_path / "aimv2", "aimv2")
    theirs = json.loads((tmp_path / "aimv2/config.json").read_text())
    assert (theirs["use_head"], theirs["is_native"], theirs["dtype"]) == (False, False, "float32")
    convert_checkpoint(tmp_path / "aimv2", tmp_path / "back")
    before, after = (SAILViTConfig.from_pretrained(tmp_path / name).to_dict() for name in ("sailvit", "back"))
    assert before == after and {**after, **changes} == after
    with pytest.raises(SailvitError, match="rms_norm_eps is 0.001"):
        convert_checkpoint(tmp_path / "sailvit", tmp_path / "timm", "timm")
    assert not (tmp_path / "timm").exists()


def test_timm_gets_its_registered_architecture():
    from sailvit_hf.hub.preprocessing import apple
    from sailvit_hf.hub.vision_targets import timm_config

    huge = timm_config(SAILViTConfig.preset("huge", image_size=336), apple(336))
    assert huge["architecture"] == "aimv2_huge_patch14_336" and "model_args" not in huge
    assert huge["pretrained_cfg"]["crop_pct"] == 1.0 and huge["pretrained_cfg"]["crop_mode"] == "center"
    odd = timm_config(SAILViTConfig.preset("large", image_size=280, hidden_size=1000), apple(280))
    assert odd["architecture"] == "aimv2_large_patch14_448"
    assert odd["model_args"]["img_size"] == 280 and odd["model_args"]["embed_dim"] == 1000
    assert int(1000 * odd["model_args"]["mlp_ratio"]) == 2816


def test_the_result_is_a_whole_checkpoint(tmp_path):
    """Code, card, licence and Auto classes; also as remote code."""
    tiny.save_aimv2(tmp_path / "aimv2")
    (tmp_path / "aimv2/README.md").write_text("---\nlicense: apple-amlr\n---\n")
    (tmp_path / "aimv2/LICENSE").write_text("terms")
    result = convert_checkpoint(tmp_path / "aimv2", tmp_path / "new")
    card = (tmp_path / "new/README.md").read_text()
    assert "license: apple-amlr" in card and "`aimv2`, a local folder (layout: aimv2)" in card
    assert str(tmp_path) not in card and (tmp_path / "new/LICENSE").read_text() == "terms"
    assert {"configuration_sailvit.py", "modeling_sailvit.py", "preprocessor_config.json"} < {*result.files}
    assert json.loads((tmp_path / "new/config.json").read_text())["dtype"] == "float32"
    backbone = SAILViTBackbone.from_pretrained(tmp_path / "new")
    assert backbone(tiny.pixels()).feature_maps[0].shape == (2, 32, 4, 4)
    own = tmp_path / "own"
    SAILViTModel.from_pretrained(tmp_path / "new").save_pretrained(own)
    assert json.loads((own / "config.json").read_text()) == json.loads((tmp_path / "new/config.json").read_text())
    assert {path.name for path in own.glob("*.py")} < {*result.files}


@pytest.mark.parametrize("layout", ["sailvit", "aimv2", "timm"])
def test_pictures_are_prepared_as_before(layout, tmp_path):
    """Statistics, resizing and cropping are the source's, by the pixels that come out."""
    SAVERS[layout](tmp_path / "source")
    convert_checkpoint(tmp_path / "source", tmp_path / "new")
    image = Image.effect_noise((70, 45), 80).convert("RGB")
    new = AutoImageProcessor.from_pretrained(tmp_path / "new")(image, return_tensors="pt").pixel_values
    if layout == "timm":  # crop_pct 0.5: twice the size, then the middle
        ours = AutoImageProcessor.from_pretrained(tmp_path / "new")
        assert ours.size.shortest_edge == 64 and ours.do_center_crop and [*ours.image_std] == tiny.CLIP["image_std"]
    else:
        old = AutoImageProcessor.from_pretrained(tmp_path / "source")(image, return_tensors="pt").pixel_values
        assert new.shape == (1, 3, 32, 32)
        torch.testing.assert_close(new, torch.as_tensor(old), rtol=0, atol=1e-5)
    convert_checkpoint(tmp_path / "new", tmp_path / "back", layout)
    name = "config.json" if layout == "timm" else "preprocessor_config.json"
    before, after = (json.loads((tmp_path / folder / name).read_text()) for folder in ("source", "back"))
    if layout == "timm":
        before, after = before["pretrained_cfg"], after["pretrained_cfg"]
        assert {**after, **before} == after
    else:
        cropped = ("crop_size",) if before["do_center_crop"] else ()
        for key in ("size", "do_center_crop", "image_mean", "image_std", "resample", *cropped):
            assert after.get(key) == before.get(key, after.get(key)), key


def test_padding_stays_or_is_refused(sailvit, tmp_path):
    path = sailvit / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_pad": True}))
    convert_checkpoint(sailvit, tmp_path / "same", "sailvit")
    assert json.loads((tmp_path / "same/preprocessor_config.json").read_text())["do_pad"] is True
    for target in ("aimv2", "timm"):
        with pytest.raises(SailvitError, match="pads pictures in the middle"):
            convert_checkpoint(sailvit, tmp_path / target, target)
        assert not (tmp_path / target).exists()


def test_a_source_that_says_nothing_of_pictures(tmp_path):
    """It gets what its model was published with, and the card says so."""
    expected = {"sailvit": ("0.485", False), "aimv2": ("0.48145466", True), "timm": ("0.48145466", True)}
    for layout, (mean, cropped) in expected.items():
        SAVERS[layout](tmp_path / layout)
        (tmp_path / layout / "preprocessor_config.json").unlink(missing_ok=True)
        if layout == "timm":
            values = json.loads((tmp_path / "timm/config.json").read_text())
            (tmp_path / "timm/config.json").write_text(json.dumps({**values, "pretrained_cfg": {}}))
        convert_checkpoint(tmp_path / layout, tmp_path / f"from-{layout}")
        values = json.loads((tmp_path / f"from-{layout}/preprocessor_config.json").read_text())
        assert str(values["image_mean"][0]) == mean and values["do_center_crop"] == cropped
        assert "does not say how pictures are prepared" in (tmp_path / f"from-{layout}/README.md").read_text()


def test_shards_out_and_in(sailvit, tmp_path):
    result = convert_checkpoint(sailvit, tmp_path / "shards", "aimv2", max_shard_size=30_000)
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 2 and all(path.stat().st_size < 34_000 for path in shards)
    index = json.loads((tmp_path / "shards/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == result.bytes and len(index["weight_map"]) == result.tensors
    torch.testing.assert_close(features(tmp_path / "shards"), features(sailvit), rtol=0, atol=1e-5)
    convert_checkpoint(tmp_path / "shards", tmp_path / "back", max_shard_size="30KB")
    assert tiny.same(tiny.read_weights(tmp_path / "back"), tiny.read_weights(sailvit))
    assert torch.equal(features(tmp_path / "back"), features(sailvit))
    # timm reads one file only.
    assert "model.safetensors" in convert_checkpoint(sailvit, tmp_path / "timm", "timm", max_shard_size=1).files


def test_types_of_numbers(sailvit, tmp_path):
    weights = tiny.read_weights(sailvit)
    assert convert_checkpoint(sailvit, tmp_path / "half", dtype="bfloat16").bytes * 2 == sum(
        tensor.nbytes for tensor in weights.values()
    )
    expected = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
    assert tiny.same(tiny.read_weights(tmp_path / "half"), expected)
    assert AutoModel.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    convert_checkpoint(tmp_path / "half", tmp_path / "timm", "timm")
    assert {*map(lambda tensor: tensor.dtype, tiny.read_weights(tmp_path / "timm").values())} == {torch.bfloat16}

    tiny.save_aimv2(tmp_path / "mixed")
    mixed = tiny.read_weights(tmp_path / "mixed")
    mixed["encoder.layers.0.attention.k_proj.weight"] = mixed["encoder.layers.0.attention.k_proj.weight"].half()
    save_file(mixed, tmp_path / "mixed/model.safetensors")
    with pytest.raises(SailvitError, match="The parts of trunk.blocks.0.attn.qkv.weight are stored as F16 and F32"):
        convert_checkpoint(tmp_path / "mixed", tmp_path / "new")
    convert_checkpoint(tmp_path / "mixed", tmp_path / "new", dtype="float32")
    assert convert_checkpoint(tmp_path / "mixed", tmp_path / "same", "aimv2").bytes < 97_152
    assert tiny.same(tiny.read_weights(tmp_path / "same"), mixed)


@pytest.mark.parametrize("layout", ["sailvit", "aimv2", "timm"])
def test_one_file_without_configuration(layout, tmp_path):
    """Sizes are read off the shapes, the heads are AIMv2's; otherwise a preset, or an error."""
    model = tiny.sailvit_model(hidden_size=256, num_attention_heads=2)
    model.save_pretrained(tmp_path / "source")
    convert_checkpoint(tmp_path / "source", tmp_path / "as", layout)
    file = (tmp_path / "as/model.safetensors").rename(tmp_path / "weights.safetensors")
    convert_checkpoint(file, tmp_path / "new")
    assert torch.equal(features(tmp_path / "new"), features(tmp_path / "source"))
    with pytest.raises(SailvitError, match="preprocessor.pos_embed is|is 256|instead of 96"):
        convert_checkpoint(file, tmp_path / "tiny", preset="tiny")

    SAILViTModel(SAILViTConfig.preset("tiny")).save_pretrained(tmp_path / "small")
    weights = (tmp_path / "small/model.safetensors").rename(tmp_path / "small.safetensors")
    with pytest.raises(SailvitError, match="its width 96 does not tell the number of attention heads"):
        convert_checkpoint(weights, tmp_path / "other")
    convert_checkpoint(weights, tmp_path / "other", preset="tiny")
    assert SAILViTConfig.from_pretrained(tmp_path / "other").num_attention_heads == 4


def test_towers_inside_other_models(tmp_path):
    vision = {**tiny.SIZES, "use_head": False}
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    clip = tiny.shake(Aimv2Model(Aimv2Config(vision_config=vision, text_config=text, projection_dim=32)))
    clip.save_pretrained(tmp_path / "clip")
    result = convert_checkpoint(tmp_path / "clip", tmp_path / "from-clip")
    assert result.source_layout == "aimv2 under vision_model." and "visual_projection.weight" in result.left_out
    with torch.no_grad():
        expected = clip.vision_model(tiny.pixels()).last_hidden_state
    torch.testing.assert_close(features(tmp_path / "from-clip"), expected, rtol=0, atol=1e-5)

    classifier = tiny.shake(SAILViTForImageClassification(SAILViTConfig(**tiny.SIZES, num_labels=3)))
    classifier.save_pretrained(tmp_path / "classifier")
    with pytest.raises(SailvitError, match=r"has a head \(classifier.\w+, classifier.\w+\)"):
        convert_checkpoint(tmp_path / "classifier", tmp_path / "from-classifier")
    result = convert_checkpoint(tmp_path / "classifier", tmp_path / "from-classifier", drop_head=True)
    assert {*result.left_out} == {"classifier.weight", "classifier.bias"}
    assert tiny.same(tiny.read_weights(tmp_path / "from-classifier"), classifier.sailvit.state_dict())


def test_an_attention_pooling_is_no_part_of_the_tower(tmp_path):
    tiny.aimv2_model(use_head=True).save_pretrained(tmp_path / "aimv2")
    with pytest.raises(SailvitError, match=r"has a head \(head.cls_token, .*--drop-head"):
        convert_checkpoint(tmp_path / "aimv2", tmp_path / "new")
    assert len(convert_checkpoint(tmp_path / "aimv2", tmp_path / "new", drop_head=True).left_out) == 5
    torch.testing.assert_close(features(tmp_path / "new"), features(tmp_path / "aimv2"), rtol=0, atol=1e-5)


def damage(folder, change) -> None:
    weights = tiny.read_weights(folder)
    change(weights)
    save_file(weights, folder / "model.safetensors")


KEYS = {
    "sailvit": ("preprocessor.pos_embed", "trunk.blocks.1.attn.qkv.weight"),
    "aimv2": ("embeddings.position_embedding.weight", "encoder.layers.1.attention.k_proj.weight"),
    "timm": ("pos_embed", "blocks.1.attn.qkv.weight"),
}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("fault", ["missing", "renamed", "misshapen", "extra"])
def test_what_is_wrong_is_named_before_anything_is_written(source, fault, number, tmp_path):
    name = KEYS[source.name][number]
    if fault == "missing":
        damage(source, lambda weights: weights.pop(name))
        expected = f"missing: {name};"
    elif fault == "renamed":
        damage(source, lambda weights: weights.update({f"{name}_2": weights.pop(name)}))
        expected = f"missing: {name}; unexpected: {name}_2;"
    elif fault == "misshapen":
        damage(source, lambda weights: weights.update({name: weights[name][..., :-1].contiguous()}))
        expected = f"misshapen: {name} is .*x31 instead of .*x32;"
    else:
        damage(source, lambda weights: weights.update({f"{name}_scale": torch.ones(1)}))
        expected = f"unexpected: {name}_scale;"
    with pytest.raises(SailvitError, match=expected):
        convert_checkpoint(source, tmp_path / "new")
    assert os.listdir(tmp_path) == [source.name]


def test_an_interpolated_table_does_not_slip_through(sailvit, tmp_path):
    values = json.loads((sailvit / "config.json").read_text())
    (sailvit / "config.json").write_text(json.dumps({**values, "image_size": 64}))
    with pytest.raises(SailvitError, match="misshapen: preprocessor.pos_embed is 1x16x32 instead of 1x64x32"):
        convert_checkpoint(sailvit, tmp_path / "new")


def test_sources_that_are_none(sailvit, tmp_path):
    def refused(name, match, **options):
        with pytest.raises(SailvitError, match=match):
            convert_checkpoint(name, tmp_path / "new", **options)

    refused(tmp_path / "nowhere", "does not exist: name a folder")
    refused("nobody/nothing", "neither on this machine nor in the cache")
    refused(sailvit, "has no revisions", revision="main")
    refused(sailvit, "no target 'onnx'", to="onnx")
    refused(sailvit, "no dtype 'int8'", dtype="int8")
    refused(sailvit, "no preset 'giant'", preset="giant")
    refused(sailvit, "holds a vision tower only", to="sail-vl2")
    refused(sailvit, "holds a vision tower only", part="all")

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    refused(pickled, "holds no safetensors file: name the folder")
    torch.save({}, pickled / "pytorch_model.bin")
    refused(pickled, "only pytorch_model.bin: only safetensors files are read")
    refused(pickled / "pytorch_model.bin", "is not a safetensors file: only safetensors")

    other = tmp_path / "other"
    other.mkdir()
    save_file({"vision_model.encoder.layers.0.mlp.fc1.weight": torch.ones(2)}, other / "model.safetensors")
    refused(other, "no vision tower of the SAILViT family .* it holds vision_model.encoder.layers.0.mlp.fc1.weight")
    whole = (sailvit / "model.safetensors").read_bytes()
    (sailvit / "model.safetensors").write_bytes(whole[:-100])
    refused(sailvit, "is not a whole safetensors file")
    (sailvit / "model.safetensors").write_bytes(whole)
    (sailvit / "config.json").write_text("{")
    refused(sailvit, "cannot be read as JSON")
    assert not (tmp_path / "new").exists()


def test_shards_that_do_not_fit(sailvit, tmp_path):
    convert_checkpoint(sailvit, tmp_path / "shards", max_shard_size=30_000)
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    index = tmp_path / "shards/model.safetensors.index.json"
    text = index.read_text()
    index.unlink()
    with pytest.raises(SailvitError, match="safetensors files but no model.safetensors.index.json"):
        convert_checkpoint(tmp_path / "shards", tmp_path / "new")
    index.write_text(text)
    save_file({**load_file(shards[1]), **load_file(shards[0])}, shards[1])
    with pytest.raises(SailvitError, match=f"is in {shards[0].name} and in {shards[1].name}"):
        convert_checkpoint(tmp_path / "shards", tmp_path / "new")
    shards[1].unlink()
    with pytest.raises(SailvitError, match=f"names {shards[1].name}, which the folder lacks"):
        convert_checkpoint(tmp_path / "shards", tmp_path / "new")


def test_configurations_that_cannot_be(tmp_path):
    def refused(match, **changes):
        path = tmp_path / "aimv2/config.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, **changes}))
        with pytest.raises(SailvitError, match=match):
            convert_checkpoint(tmp_path / "aimv2", tmp_path / "new")
        path.write_text(json.dumps(values))

    tiny.save_aimv2(tmp_path / "aimv2")
    refused("computes its positions", is_native=True)
    refused("hidden_act of .* is gelu", hidden_act="gelu")
    refused("only square ones", image_size=[32, 64])
    refused("describes no SAILViT", num_attention_heads=5)
    convert_checkpoint(tmp_path / "aimv2", tmp_path / "timm", "timm")
    path = tmp_path / "timm/config.json"
    path.write_text(path.read_text().replace("aimv2_large_patch14_448", "eva02_large_patch14_448"))
    with pytest.raises(SailvitError, match="timm's eva02_large_patch14_448, which is no AIMv2"):
        convert_checkpoint(tmp_path / "timm", tmp_path / "new")


def test_the_destination_must_be_free(sailvit, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    convert_checkpoint(sailvit, taken, "aimv2")  # empty: free
    with pytest.raises(SailvitError, match="is not empty"):
        convert_checkpoint(sailvit, taken)
    assert convert_checkpoint(sailvit, taken, overwrite=True).target_layout == "sailvit"
    assert torch.equal(features(taken), features(sailvit))
    with pytest.raises(SailvitError, match="holds the source itself"):
        convert_checkpoint(sailvit, sailvit, overwrite=True)
    (taken / "config.json").unlink()
    with pytest.raises(SailvitError, match="holds no config.json"):
        convert_checkpoint(sailvit, taken, overwrite=True)
    with pytest.raises(SailvitError, match="is a file"):
        convert_checkpoint(sailvit, sailvit / "config.json")
    assert sorted(os.listdir(tmp_path)) == ["sailvit", "taken"]


def test_no_room(sailvit, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(SailvitError, match="needs 0.00 GB, and .* has 0.00 GB left"):
        convert_checkpoint(sailvit, tmp_path / "deep/er/new")
    assert os.listdir(tmp_path) == ["sailvit"]


def test_interrupted_it_leaves_nothing(sailvit, tmp_path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(sailvit, tmp_path / "new", on_progress=interrupt)
    assert os.listdir(tmp_path) == ["sailvit"]
    convert_checkpoint(sailvit, tmp_path / "new")
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(sailvit, tmp_path / "new", "timm", overwrite=True, on_progress=interrupt)
    assert torch.equal(features(tmp_path / "new"), features(sailvit))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_killed_it_leaves_no_half_checkpoint(sailvit, tmp_path):
    child = os.fork()
    if child == 0:
        convert_checkpoint(sailvit, tmp_path / "new", on_progress=lambda done, total: os._exit(9))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / "new").exists()
    (partial,) = tmp_path.glob(".new.*.partial")
    convert_checkpoint(sailvit, tmp_path / "new")
    assert torch.equal(features(tmp_path / "new"), features(sailvit)) and partial.exists()


def test_the_progress_is_told(sailvit, tmp_path):
    told = []
    result = convert_checkpoint(sailvit, tmp_path / "new", on_progress=lambda *given: told.append(given))
    assert told == sorted(told) and told[-1] == (result.bytes, result.bytes) and told[0][0] < result.bytes


def test_a_large_tensor_is_never_in_memory(tmp_path):
    model = tiny.sailvit_model(intermediate_size=200_000)
    model.save_pretrained(tmp_path / "source")
    size = (tmp_path / "source/model.safetensors").stat().st_size
    for dtype in (None, "bfloat16"):
        tracemalloc.start()
        convert_checkpoint(tmp_path / "source", tmp_path / f"new-{dtype}", "aimv2", dtype=dtype)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16e6 < size / 8
    assert tiny.read_weights(tmp_path / "new-None")["encoder.layers.0.ffn.gate_proj.weight"].equal(
        model.trunk.blocks[0].mlp.fc1.weight
    )


def test_a_repository_of_the_hub(sailvit, tmp_path, monkeypatch):
    """Only what a checkpoint needs is fetched, at the revision asked for, and the card names the commit."""
    asked = []

    def fetch(name, revision, allow_patterns):
        asked.append((name, revision))
        assert "*.safetensors" in allow_patterns and not {"*.bin", "*.py", "*"} & {*allow_patterns}
        return str(sailvit.rename(tmp_path / ("0123" * 10)))

    monkeypatch.setattr("sailvit_hf.hub.sources.snapshot_download", fetch)
    result = convert_checkpoint("someone/tower", tmp_path / "new", revision="v1")
    assert asked == [("someone/tower", "v1")] and result.source == "someone/tower"
    card = (tmp_path / "new/README.md").read_text()
    assert f"from someone/tower at revision {'0123' * 10} (layout: sailvit)" in card
