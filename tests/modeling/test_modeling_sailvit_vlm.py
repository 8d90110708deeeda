# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The vision-language model: any tower, any causal language model, and the connector between them."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from sailvit_hf import SAILViTConfig, SAILViTForConditionalGeneration, SAILViTModel
from sailvit_hf.modeling import vision_towers
from sailvit_hf.modeling.modeling_sailvit_vlm import pixel_shuffle
from sailvit_hf.modeling.vision_towers import find_layers

from .towers import LANGUAGE_MODELS, LAYERS, TOWERS, calls, language_model, tower

IMAGE_TOKEN = 5
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def sailvit() -> SAILViTModel:
    return SAILViTModel(SAILViTConfig.preset("tiny", num_hidden_layers=1))


def llama(**config: object) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **SMALL, **config))


def vlm(
    tower: PreTrainedModel | None = None, language: PreTrainedModel | None = None, seed: int = 0, **config: object
) -> SAILViTForConditionalGeneration:
    torch.manual_seed(seed)
    parts = (tower or sailvit(), language or llama())
    return SAILViTForConditionalGeneration.from_parts(*parts, IMAGE_TOKEN, **config).eval()


def inputs(
    pictures: int = 1, text: int = 6, tokens: int = 16, size: tuple[int, int] = (64, 64)
) -> dict[str, torch.Tensor]:
    generator = torch.manual_seed(1)
    words = torch.randint(6, 64, (1, text), generator=generator)
    placeholders = torch.full((1, tokens * pictures), IMAGE_TOKEN)
    return {
        "input_ids": torch.cat([words[:, :2], placeholders, words[:, 2:]], dim=1),
        "pixel_values": torch.randn(pictures, 3, *size, generator=generator),
    }


def internvl_pixel_shuffle(features: torch.Tensor, side: int, scale: float = 0.5) -> torch.Tensor:
    """The order of operations that InternVL publishes as "v2", step by step."""
    batch, _, width = features.shape
    x = features.reshape(batch, side, side, width)
    x = x.view(batch, side, int(side * scale), int(width / scale)).permute(0, 2, 1, 3).contiguous()
    x = x.view(batch, int(side * scale), int(side * scale), int(width / (scale * scale)))
    return x.permute(0, 2, 1, 3).contiguous().flatten(1, 2)


def test_pixel_shuffle_has_the_published_order() -> None:
    features = torch.randn(2, 64, 6)
    assert torch.equal(pixel_shuffle(features, 8, 8, 2), internvl_pixel_shuffle(features, 8))


@pytest.mark.parametrize(("rows", "columns"), [(7, 8), (8, 5), (3, 3), (1, 1)])
def test_an_odd_grid_is_filled_up_with_zeros_at_the_right_and_the_bottom(rows: int, columns: int) -> None:
    features = torch.randn(2, rows * columns, 6)
    more_rows, more_columns = rows + rows % 2, columns + columns % 2
    grid = torch.zeros(2, more_rows, more_columns, 6)
    grid[:, :rows, :columns] = features.unflatten(1, (rows, columns))
    merged = pixel_shuffle(features, rows, columns, 2)
    assert merged.shape == (2, -(-rows // 2) * -(-columns // 2), 24)
    assert torch.equal(merged, pixel_shuffle(grid.flatten(1, 2), more_rows, more_columns, 2))
    # The last token holds the last patch, and zeros where the grid has ended.
    corner = merged[:, -1].unflatten(-1, (4, 6))
    assert torch.equal(corner[:, (rows % 2 == 0) * 2 + (columns % 2 == 0)], features[:, -1])
    assert (corner[:, -1] == 0).all()


def test_the_connector_is_layernorm_linear_gelu_linear() -> None:
    projector = vlm().model.multi_modal_projector
    features = torch.randn(3, 4 * 96)
    plain = nn.functional.layer_norm(features, (384,), projector.norm.weight, projector.norm.bias)
    plain = nn.functional.gelu(plain @ projector.linear_1.weight.T + projector.linear_1.bias)
    plain = plain @ projector.linear_2.weight.T + projector.linear_2.bias
    torch.testing.assert_close(projector(features), plain)


def test_pictures_replace_their_placeholders() -> None:
    model, batch = vlm(), inputs(pictures=2)
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    features = model.get_image_features(batch["pixel_values"]).pooler_output
    assert features.shape == (2, 16, 32)
    embeddings[0, 2:34] = features.flatten(0, 1)
    expected = model.model.language_model(inputs_embeds=embeddings).last_hidden_state
    torch.testing.assert_close(model(**batch).logits, model.lm_head(expected))


def test_features_and_placeholders_must_be_as_many() -> None:
    batch = inputs()
    with pytest.raises(ValueError, match="Image features and image tokens do not match, tokens: 16, features: 32"):
        vlm()(input_ids=batch["input_ids"], pixel_values=torch.zeros(2, 3, 64, 64))


def test_text_alone_equals_the_language_model_alone() -> None:
    language = llama()
    model = vlm(language=language)
    input_ids = torch.randint(6, 64, (2, 9))
    torch.testing.assert_close(model(input_ids=input_ids).logits, language(input_ids=input_ids).logits)


def test_training_on_text_alone_gives_every_parameter_a_gradient_and_changes_none_of_the_others() -> None:
    """Data-parallel training waits for the gradient of each parameter; the pictures' must be there, and zero."""
    model = vlm().train()
    input_ids = torch.randint(6, 64, (1, 9))
    model(input_ids=input_ids, labels=input_ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if "language_model" not in name and "lm_head" not in name:
            assert not parameter.grad.any(), name
    with_pictures = model.model.language_model.get_input_embeddings().weight.grad.clone()
    model.zero_grad()
    hidden = model.model.language_model(input_ids=input_ids).last_hidden_state
    model.loss_function(logits=model.lm_head(hidden), labels=input_ids, vocab_size=64).backward()
    torch.testing.assert_close(model.model.language_model.get_input_embeddings().weight.grad, with_pictures)


def test_a_frozen_tower_keeps_no_graph_and_passes_none() -> None:
    model = vlm().train()
    model.model.vision_tower.requires_grad_(False)
    outputs = model.get_image_features(torch.randn(1, 3, 64, 64))
    assert not outputs.last_hidden_state.requires_grad
    assert outputs.pooler_output.requires_grad


def test_the_loss_is_that_of_shifted_labels_and_counts_global_items() -> None:
    model, batch = vlm(), inputs()
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, -3:] = batch["input_ids"][0, -3:]
    outputs = model(**batch, labels=labels)
    expected = nn.functional.cross_entropy(outputs.logits[0, -4:-1], labels[0, -3:])
    torch.testing.assert_close(outputs.loss, expected)
    torch.testing.assert_close(model(**batch, labels=labels, num_items_in_batch=12).loss, expected * 3 / 12)


def test_generate_equals_greedy_decoding_by_hand() -> None:
    model, batch = vlm(), inputs()
    generated = model.generate(**batch, max_new_tokens=5, do_sample=False, eos_token_id=-1, pad_token_id=0)
    input_ids = batch["input_ids"]
    for _ in range(5):
        logits = model(input_ids=input_ids, pixel_values=batch["pixel_values"]).logits[:, -1]
        input_ids = torch.cat([input_ids, logits.argmax(-1, keepdim=True)], dim=1)
    assert generated[0, -5:].tolist() == input_ids[0, -5:].tolist()


@pytest.mark.parametrize("name", TOWERS)
def test_any_tower_learns_and_comes_back_from_disk(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_learning_and_coming_back(tower(name), language_model("qwen2"), tmp_path, monkeypatch)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_any_language_model_learns_and_comes_back_from_disk(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_learning_and_coming_back(tower("clip_vision_model"), language_model(name), tmp_path, monkeypatch)


def check_learning_and_coming_back(
    tower: PreTrainedModel, language: PreTrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss, gradients, generation, and the same logits after saving and loading as if in another process."""
    expected = language(input_ids=(words := torch.randint(6, 64, (2, 9)))).logits
    model, batch = vlm(tower, language), inputs()
    torch.testing.assert_close(model(input_ids=words).logits, expected)
    loss = model.train()(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    assert loss.isfinite() and all(p.grad.any() for p in model.model.multi_modal_projector.parameters())
    unused = vision_towers.unused_parameters(tower)
    for part, spared in ((tower, unused), (model.model.language_model, ())):
        for name, parameter in part.named_parameters():
            assert (parameter.grad is None) == (name in spared), name
    logits = model.eval()(**batch).logits
    generated = model.generate(**batch, max_new_tokens=3, do_sample=False, eos_token_id=-1, pad_token_id=0)
    assert generated[0, -3] == logits[0, -1].argmax()
    model.save_pretrained(folder)
    monkeypatch.setattr(vision_towers, "_FACTS", {})
    again = AutoModelForImageTextToText.from_pretrained(folder).eval()
    assert isinstance(again, SAILViTForConditionalGeneration) and type(again.model.vision_tower) is type(tower)
    assert again.model.vision_facts == model.model.vision_facts
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(again(**batch).logits, logits, rtol=1e-5, atol=1e-5)
    assert (again.lm_head.weight is again.get_input_embeddings().weight) == model.config.tie_word_embeddings


@pytest.mark.parametrize("name", ["clip_vision_model", "dinov2_with_registers", "siglip2_vision_model"])
def test_the_connector_gets_the_towers_patches_and_nothing_else(name: str) -> None:
    model = vlm(tower(name))
    outputs = model.get_image_features(pixel_values := torch.randn(2, 3, 64, 64))
    leading = TOWERS[name][1]
    assert outputs.last_hidden_state.shape == (2, 64 + leading, 32)
    if name != "siglip2_vision_model":
        own = model.model.vision_tower(pixel_values).last_hidden_state
        torch.testing.assert_close(outputs.last_hidden_state, own, rtol=1e-5, atol=1e-5)
    patches = pixel_shuffle(outputs.last_hidden_state[:, leading:], 8, 8, 2)
    torch.testing.assert_close(outputs.pooler_output, model.model.multi_modal_projector(patches))


@pytest.mark.parametrize("name", ["sailvit", "clip_vision_model", "dinov3_vit", "siglip2_vision_model"])
@pytest.mark.parametrize(("layer", "depth"), [(-2, LAYERS - 1), (1, 1), (LAYERS, LAYERS), (0, 0)])
def test_layers_after_the_chosen_one_neither_run_nor_learn(name: str, layer: int, depth: int, tmp_path: Path) -> None:
    model, batch = vlm(tower(name), vision_feature_layer=layer).train(), inputs()
    _, layers = find_layers(model.model.vision_tower)
    counts, stop = calls({str(index): module for index, module in enumerate(layers)})
    model(**batch, labels=batch["input_ids"]).loss.backward()
    stop()
    assert list(counts.values()) == [int(index < depth) for index in range(LAYERS)]
    for index, module in enumerate(layers):
        assert {parameter.grad is None for parameter in module.parameters()} == {index >= depth}
    reference = model.eval().model.vision_tower
    if name != "siglip2_vision_model":
        state = reference(batch["pixel_values"], output_hidden_states=True).hidden_states[layer]
        merged = pixel_shuffle(state[:, TOWERS[name][1] :], 8, 8, 2)
        features = model.get_image_features(batch["pixel_values"])
        torch.testing.assert_close(features.pooler_output, model.model.multi_modal_projector(merged))
        torch.testing.assert_close(features.last_hidden_state, state, rtol=1e-5, atol=1e-5)
    # The weights of the idle layers stay in the checkpoint: the tower that comes out of it is whole.
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert again.config.vision_feature_layer == layer
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-5)
    assert again.model.vision_tower.state_dict().keys() == reference.state_dict().keys()


def test_the_last_layer_is_the_default_and_goes_through_the_norm() -> None:
    model = vlm(tower("siglip_vision_model"))
    assert model.config.vision_feature_layer == -1
    features = model.get_image_features(inputs()["pixel_values"], output_hidden_states=True)
    assert len(features.hidden_states) == LAYERS + 1
    normed = model.model.vision_tower.post_layernorm(features.hidden_states[-1])
    torch.testing.assert_close(features.last_hidden_state, normed)


def test_a_layer_that_is_not_there_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="vision_feature_layer is 7, but a tower of 3 layers has the hidden"):
        vlm(tower("siglip_vision_model"), vision_feature_layer=7)


def test_a_tower_without_a_patch_grid_is_refused_before_anything_runs() -> None:
    from transformers import ResNetConfig, ResNetModel

    convolutional = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    with pytest.raises(ValueError, match="'resnet' has no patch grid .*; choose a plain vision transformer"):
        vlm(convolutional)


@pytest.mark.parametrize("name", ["siglip_vision_model", "clip_vision_model", "internvl_vision"])
@pytest.mark.parametrize(("size", "tokens"), [((56, 56), 16), ((60, 41), 12), ((72, 24), 10)])
def test_odd_grids_and_pictures_of_broken_patches(name: str, size: tuple[int, int], tokens: int) -> None:
    """As SigLIP's 384 pixels by 14: what is left over at the edge is not seen, and an odd row is merged with zeros."""
    rows, columns = size[0] // 8, size[1] // 8
    batch = inputs(pictures=2, tokens=tokens, size=size)
    model = vlm(tower(name, image_size=56))
    assert model(**batch).logits.isfinite().all()
    features = model.get_image_features(batch["pixel_values"])
    assert features.pooler_output.shape == (2, tokens, 32) and -(-rows // 2) * -(-columns // 2) == tokens
    patches = features.last_hidden_state[:, TOWERS[name][1] :].unflatten(1, (rows, columns))
    # The first token by hand: its four patches one after the other.
    first = torch.cat([patches[:, 0, 0], patches[:, 0, 1], patches[:, 1, 0], patches[:, 1, 1]], dim=-1)
    expected = model.model.multi_modal_projector(first)
    torch.testing.assert_close(features.pooler_output[:, 0], expected)


def test_the_processor_counts_the_tokens_of_odd_grids() -> None:
    """Tower, connector and processor agree at SigLIP's 27x27 grid: 384 pixels, patches of 14."""
    import numpy as np
    from transformers import SiglipImageProcessorPil

    from sailvit_hf import SAILViTProcessor
    from sailvit_hf.data.demo_world import DemoWorld

    images = SiglipImageProcessorPil(size={"height": 384, "width": 384})
    processor = SAILViTProcessor.from_parts(images, DemoWorld().tokenizer(), patch_size=14)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this ?"}]},
            {"role": "assistant", "content": "a dog"}]  # fmt: skip
    batch = processor.encode_conversations([chat], [[np.zeros((50, 70, 3), np.uint8)]])
    assert (batch["input_ids"] == processor.image_token_id).sum() == 14 * 14
    language = LlamaForCausalLM(LlamaConfig(vocab_size=len(processor.tokenizer), **SMALL))
    model = SAILViTForConditionalGeneration.from_parts(
        tower("siglip_vision_model", image_size=384, patch_size=14), language, processor.image_token_id
    )
    features = model.get_image_features(batch["pixel_values"])
    assert features.last_hidden_state.shape[1] == 27 * 27 and features.pooler_output.shape[1] == 14 * 14
    assert model(**batch).loss.isfinite()


def test_parts_are_shared_not_copied() -> None:
    tower, language = sailvit(), llama()
    model = vlm(tower, language)
    assert model.model.vision_tower is tower
    assert model.lm_head.weight is language.lm_head.weight


def test_a_token_without_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match="image_token_id is 64, but the language model has 64 embeddings"):
        SAILViTForConditionalGeneration.from_parts(sailvit(), llama(), image_token_id=64)


def test_a_model_without_head_is_refused() -> None:
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        SAILViTForConditionalGeneration.from_parts(sailvit(), llama().model, IMAGE_TOKEN)


def test_the_whole_model_compiles_without_a_graph_break() -> None:
    model, batch = vlm(), inputs(pictures=2)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits)
    model.train()
    compiled(**batch, labels=batch["input_ids"]).loss.backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    for one, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)


def test_pictures_of_different_sizes_are_a_list() -> None:
    """By value as one by one, in order, with the tower run once for each size."""
    model = vlm()
    sizes = [(64, 64), (32, 96), (64, 64), (24, 40), (32, 96)]
    pictures = [torch.randn(3, *size) for size in sizes]
    runs: list[tuple[int, ...]] = []
    model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: runs.append(tuple((args[0] if args else kwargs["pixel_values"]).shape)),
        with_kwargs=True,
    )
    features = model.get_image_features(pictures, return_dict=True).pooler_output
    assert runs == [(2, 3, 64, 64), (2, 3, 32, 96), (1, 3, 24, 40)]
    alone = [model.get_image_features(picture[None], return_dict=True).pooler_output[0] for picture in pictures]
    assert [len(each) for each in alone] == [16, 12, 16, 6, 12]
    torch.testing.assert_close(features, torch.cat(alone))
    (only,) = model.get_image_features(pictures, return_dict=False)
    torch.testing.assert_close(only, features)
    # And in their places.
    assert len(features) == 62
    ids = torch.full((1, 64), IMAGE_TOKEN)
    ids[0, 0], ids[0, 63] = 6, 7
    embeddings = model.get_input_embeddings()(ids)
    embeddings[0, 1:63] = features
    expected = model.model.language_model(inputs_embeds=embeddings).last_hidden_state
    found = model(input_ids=ids, pixel_values=pictures)
    torch.testing.assert_close(found.logits, model.lm_head(expected))


def test_a_tower_learns_from_a_list_as_from_one_by_one() -> None:
    model = vlm()
    pictures = [torch.randn(3, 64, 64), torch.randn(3, 32, 64)]
    weight = model.model.vision_tower.preprocessor.patchifier.proj.weight

    def gradient(features: torch.Tensor) -> torch.Tensor:
        (found,) = torch.autograd.grad(features.square().sum(), weight)
        return found

    together = gradient(model.get_image_features(pictures, return_dict=True).pooler_output)
    alone = [model.get_image_features(picture[None], return_dict=True).pooler_output[0] for picture in pictures]
    torch.testing.assert_close(together, gradient(torch.cat(alone)))
