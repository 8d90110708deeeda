# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The encoder as ONNX: equal by value at any size, and near to it in int8."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from sailvit_hf import SAILViTConfig, SAILViTForImageClassification, SAILViTModel
from sailvit_hf.errors import SailvitError
from sailvit_hf.export import export_onnx, feature_cosine, quantize_int8, run_onnx

from .modeling.twins import randomised

SIZES = {"native": (2, 64, 64), "wide": (1, 48, 104), "one column": (3, 128, 8), "large": (1, 136, 144)}


@pytest.fixture(scope="module")
def model() -> SAILViTModel:
    return randomised(SAILViTConfig.preset("tiny", num_hidden_layers=2))


@pytest.fixture(scope="module")
def graph(model: SAILViTModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(model, tmp_path_factory.mktemp("onnx") / "folder" / "model.onnx")


@pytest.fixture(scope="module")
def int8(graph: Path) -> Path:
    return quantize_int8(graph, graph.with_name("model_int8.onnx"))


def pictures(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.manual_seed(0))


@pytest.mark.parametrize("size", SIZES)
def test_the_graph_computes_what_the_model_computes(model: SAILViTModel, graph: Path, size: str) -> None:
    pixel_values = pictures(*SIZES[size])
    features, pooled = run_onnx(graph, pixel_values.numpy(), threads=1)
    with torch.no_grad():
        expected = model(pixel_values)
    assert expected.last_hidden_state.std() > 0.1
    np.testing.assert_allclose(features, expected.last_hidden_state, atol=1e-5)
    np.testing.assert_allclose(pooled, expected.pooler_output, atol=1e-5)


def test_the_graph_is_one_that_a_person_can_read(graph: Path) -> None:
    proto = onnx.load(graph)
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {
        "pixel_values": ["batch", 3, "8*rows", "8*columns"],
        "last_hidden_state": ["batch", "rows*columns", 96],
        "pooler_output": ["batch", 96],
    }
    names = {node.name for node in proto.graph.node if node.op_type == "MatMul"}
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "mlp.fc3")
    assert {f"trunk.blocks.{block}.{layer}" for block in range(2) for layer in layers} <= names
    # Nothing of the machine that it was made on.
    assert str(Path(__file__).parents[1]).encode() not in graph.read_bytes()
    onnx.checker.check_model(proto, full_check=True)
    assert list(graph.parent.glob("*.data")) == []


def test_exporting_leaves_the_model_as_it_was(model: SAILViTModel, tmp_path: Path) -> None:
    one = randomised(SAILViTConfig.preset("tiny", num_hidden_layers=1)).train()
    one.set_attn_implementation("eager")
    one.config.output_hidden_states = True
    path = export_onnx(one, tmp_path / "model.onnx")
    assert one.training and one.config._attn_implementation == "eager"
    assert [output.name for output in onnx.load(path).graph.output] == ["last_hidden_state", "pooler_output"]


def test_weights_too_large_for_one_file_go_to_a_second(
    graph: Path, int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sailvit_hf.export._LARGEST_FILE", 1000)
    path = quantize_int8(graph, tmp_path / "model.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    pixel_values = pictures(1, 64, 64).numpy()
    np.testing.assert_array_equal(run_onnx(path, pixel_values)[0], run_onnx(int8, pixel_values)[0])
    monkeypatch.undo()
    quantize_int8(graph, path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("size", SIZES)
def test_int8_stays_near(graph: Path, int8: Path, size: str) -> None:
    pixel_values = pictures(*SIZES[size]).numpy()
    mean, least = feature_cosine(run_onnx(int8, pixel_values)[0], run_onnx(graph, pixel_values)[0])
    assert 0.999 < mean < 1.0 and 0.998 < least <= mean


def test_int8_with_biases_stays_near(tmp_path: Path) -> None:
    """onnxruntime's own fusions must not scale a bias as if it were a product."""
    model = randomised(SAILViTConfig.preset("tiny", num_hidden_layers=1, qkv_bias=True, use_bias=True))
    path = quantize_int8(export_onnx(model, tmp_path / "model.onnx"), tmp_path / "model_int8.onnx")
    pixel_values = pictures(1, 64, 64)
    with torch.no_grad():
        expected = model(pixel_values).last_hidden_state.numpy()
    assert feature_cosine(run_onnx(path, pixel_values.numpy())[0], expected)[1] > 0.998


def test_int8_computes_all_layers_in_integers(int8: Path) -> None:
    proto = onnx.load(int8)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("MatMulInteger") == 2 * 5 and kinds.count("MatMul") == 2 * 2  # attention's own two products
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    largest = max(np.prod(tensor.dims) for tensor in weights.values() if tensor.data_type == onnx.TensorProto.FLOAT)
    assert largest < 96 * 256  # no fp32 copy of a layer is left
    onnx.checker.check_model(proto, full_check=True)


def test_int8_is_the_product_of_rounded_factors(model: SAILViTModel, graph: Path, int8: Path) -> None:
    """The first layer by hand: each patch and each output channel on a grid of its own."""
    weight = model.trunk.blocks[0].mlp.fc1.weight.detach().double().numpy()
    proto = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(int8).graph.initializer}
    scales = np.abs(weight).max(axis=1) / 127
    np.testing.assert_array_equal(proto["trunk.blocks.0.mlp.fc1.weight.int8"], np.rint(weight / scales[:, None]).T)
    np.testing.assert_allclose(proto["trunk.blocks.0.mlp.fc1.weight.scale"] * 127, scales, rtol=1e-6)


def test_a_picture_has_the_same_int8_features_in_any_company(int8: Path) -> None:
    pixel_values = pictures(2, 64, 64).numpy()
    pixel_values[1] *= 50.0
    together, alone = run_onnx(int8, pixel_values)[0][0], run_onnx(int8, pixel_values[:1])[0][0]
    assert feature_cosine(together[None], alone[None])[1] > 0.99999


def test_layers_can_be_kept_in_fp32(graph: Path, int8: Path, tmp_path: Path) -> None:
    kept = quantize_int8(graph, tmp_path / "kept.onnx", keep=["mlp.fc2", "blocks.0."])
    assert [node.op_type for node in onnx.load(kept).graph.node].count("MatMulInteger") == 4
    coarse = quantize_int8(graph, tmp_path / "coarse.onnx", reduce_range=True)
    pixel_values = pictures(1, 64, 64).numpy()
    fp32 = run_onnx(graph, pixel_values)[0]
    means = [feature_cosine(run_onnx(path, pixel_values)[0], fp32)[0] for path in (coarse, int8, kept)]
    assert 0.99 < means[0] < means[1] < means[2] < 1.0
    with pytest.raises(SailvitError, match="no layer to quantise"):
        quantize_int8(graph, tmp_path / "none.onnx", keep=["trunk"])
    with pytest.raises(SailvitError, match="quantised already"):
        quantize_int8(int8, tmp_path / "twice.onnx")


def test_a_patch_of_zeros_stays_zero(tmp_path: Path) -> None:
    model = SAILViTModel(SAILViTConfig.preset("tiny", num_hidden_layers=1)).eval()
    with torch.no_grad():
        model.preprocessor.pos_embed.zero_()
    path = quantize_int8(export_onnx(model, tmp_path / "model.onnx"), tmp_path / "model_int8.onnx")
    assert not run_onnx(path, np.zeros((1, 3, 64, 64), np.float32))[0].any()


def test_cosine_of_patches() -> None:
    one = np.array([[[1.0, 0.0], [3.0, 4.0]]], np.float32)
    other = np.array([[[2.0, 0.0], [4.0, 3.0]]], np.float32)
    mean, least = feature_cosine(one, other)
    assert mean == pytest.approx((1 + 0.96) / 2) and least == pytest.approx(0.96)


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    config = SAILViTConfig.preset("tiny", num_hidden_layers=1)
    with pytest.raises(SailvitError, match="SAILViTForImageClassification; give its encoder"):
        export_onnx(SAILViTForImageClassification(config), tmp_path / "model.onnx")
    with pytest.raises(SailvitError, match="torch.bfloat16; load it with dtype=torch.float32"):
        export_onnx(SAILViTModel(config).bfloat16(), tmp_path / "model.onnx")


def test_a_missing_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SailvitError, match=r"needs the package onnxruntime.*pip install 'sailvit_hf\[export\]'"):
        quantize_int8(tmp_path / "model.onnx", tmp_path / "model_int8.onnx")
