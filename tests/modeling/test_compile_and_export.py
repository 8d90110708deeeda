# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""torch.compile without graph breaks, and torch.export with free sizes, both equal to eager."""

import pytest
import torch
from torch.export import Dim

from sailvit_hf import SAILViTBackbone, SAILViTConfig, SAILViTForImageClassification, SAILViTModel

from .twins import randomised

SIZES = [(2, 64, 64), (1, 48, 104), (3, 64, 40), (2, 128, 16)]
PATCH = 8


@pytest.fixture
def model() -> SAILViTModel:
    torch._dynamo.reset()
    return randomised(SAILViTConfig.preset("tiny", num_hidden_layers=1))


def pictures(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.manual_seed(0))


@pytest.mark.parametrize(("attention", "backend"), [("sdpa", "aot_eager"), ("eager", "eager")])
def test_compiled_forward_equals_eager_at_every_size(model: SAILViTModel, attention: str, backend: str) -> None:
    model.set_attn_implementation(attention)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        for size in SIZES[:2]:
            pixel_values = pictures(*size)
            found, expected = compiled(pixel_values), model(pixel_values)
            assert (found.last_hidden_state - expected.last_hidden_state).abs().max() <= 1e-6
            assert (found.pooler_output - expected.pooler_output).abs().max() <= 1e-6


@pytest.mark.parametrize("size", SIZES[:2])
@pytest.mark.parametrize("options", [{}, {"output_hidden_states": True}], ids=["plain", "all states"])
def test_there_are_no_graph_breaks(model: SAILViTModel, size: tuple[int, int, int], options: dict) -> None:
    explanation = torch._dynamo.explain(model)(pictures(*size), **options)
    assert explanation.graph_count == 1 and explanation.graph_break_count == 0


def test_compiled_training_gives_the_same_gradients(model: SAILViTModel) -> None:
    model.train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")

    def gradients(network: torch.nn.Module) -> list[torch.Tensor]:
        model.zero_grad()
        network(pictures(2, 48, 64)).last_hidden_state.square().mean().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    for one, other in zip(gradients(compiled), gradients(model), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_padded_pictures_compile_in_one_graph(model: SAILViTModel) -> None:
    mask = torch.ones(2, 8, 8, dtype=torch.bool)
    mask[1, 5:] = False
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        found = compiled(pictures(2, 64, 64), patch_attention_mask=mask)
        expected = model(pictures(2, 64, 64), patch_attention_mask=mask)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output)


@pytest.mark.parametrize("kind", [SAILViTBackbone, SAILViTForImageClassification])
def test_the_other_classes_compile_in_one_graph(kind: type) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = kind(SAILViTConfig.preset("tiny", num_hidden_layers=1)).eval()
    pixel_values = pictures(2, 48, 64)
    with torch.no_grad():
        found = torch.compile(model, fullgraph=True, backend="aot_eager")(pixel_values)
        expected = model(pixel_values)
    for one, other in zip(found.to_tuple(), expected.to_tuple(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("example", "strict"),
    [((2, 48, 104), False), ((2, 64, 64), False), ((2, 48, 104), True)],
    ids=["from another size", "from the native size", "by bytecode"],
)
def test_one_exported_program_serves_every_size(
    model: SAILViTModel, example: tuple[int, int, int], strict: bool
) -> None:
    rows, columns = Dim("rows", min=1, max=512), Dim("columns", min=1, max=512)
    sizes = {0: Dim("batch", min=1, max=512), 2: PATCH * rows, 3: PATCH * columns}
    program = torch.export.export(
        model, (pictures(*example),), dynamic_shapes={"pixel_values": sizes}, strict=strict
    ).module()
    with torch.no_grad():
        for size in SIZES:
            pixel_values = pictures(*size)
            found, expected = program(pixel_values), model(pixel_values)
            assert (found.last_hidden_state - expected.last_hidden_state).abs().max() <= 1e-6
            assert (found.pooler_output - expected.pooler_output).abs().max() <= 1e-6


def test_a_program_of_one_size_holds_the_table_itself(model: SAILViTModel) -> None:
    program = torch.export.export(model, (pictures(1, 64, 64),))
    assert not any("einsum" in str(node.target) or "arange" in str(node.target) for node in program.graph.nodes)
    with torch.no_grad():
        found = program.module()(pictures(1, 64, 64)).last_hidden_state
        torch.testing.assert_close(found, model(pictures(1, 64, 64)).last_hidden_state)


def test_an_exported_program_can_be_saved(model: SAILViTModel, tmp_path) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(model, (pictures(1, 64, 64),)), path)
    found = torch.export.load(path).module()(pictures(1, 64, 64))
    with torch.no_grad():
        torch.testing.assert_close(found.last_hidden_state, model(pictures(1, 64, 64)).last_hidden_state)
