# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Conversions of the whole vision-language model, by value."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from sailvit_hf import SAILViTConfig
from sailvit_hf.errors import SailvitError
from sailvit_hf.hub import convert_checkpoint
from sailvit_hf.hub.chat import our_template, their_template
from tests.hub import tiny

QUESTION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]


@pytest.fixture
def sail_vl2(tmp_path):
    tiny.save_sail_vl2(tmp_path / "sail-vl2", shards=2)
    return tmp_path / "sail-vl2"


def logits(model) -> torch.Tensor:
    ids = torch.tensor([[70, 261, 261, 261, 261, 71, 72]])
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=tiny.pixels(1)).logits


def test_sail_vl2_becomes_ours(sail_vl2, tmp_path):
    expected, _ = tiny.vlm()
    result = convert_checkpoint(sail_vl2, tmp_path / "ours")
    assert (result.source_layout, result.target_layout) == ("sail-vl2", "sailvit-vlm")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    weights = model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.state_dict().items())
    assert torch.equal(logits(model), logits(expected.eval()))
    assert model.lm_head.weight is model.get_input_embeddings().weight and model.config.tie_word_embeddings
    assert "lm_head.weight" not in tiny.read_weights(tmp_path / "ours")
    assert model.config.image_token_id == 261 and model.config.text_config.rope_parameters["rope_theta"] == 5000
    assert model.generation_config.eos_token_id == 256 and not hasattr(model.config.text_config, "top_k")
    files = {*result.files}
    assert {"modeling_sailvit_vlm.py", "processing_sailvit.py", "tokenizer.json", "chat_template.jinja"} < files
    # Of its two numbers of tiles that of its processor, which is what cuts its pictures.
    pictures = AutoProcessor.from_pretrained(tmp_path / "ours").image_processor
    assert (pictures.max_tiles, pictures.min_tiles, pictures.use_msac, pictures.use_thumbnail) == (5, 1, True, True)


def test_the_number_of_tiles_is_the_configurations_if_the_processor_has_none(sail_vl2, tmp_path):
    path = sail_vl2 / "preprocessor_config.json"
    values = json.loads(path.read_text())
    del values["max_dynamic_patch"]
    path.write_text(json.dumps(values))
    convert_checkpoint(sail_vl2, tmp_path / "ours")
    assert AutoProcessor.from_pretrained(tmp_path / "ours").image_processor.max_tiles == 7


def test_and_back_bit_exact(sail_vl2, tmp_path):
    convert_checkpoint(sail_vl2, tmp_path / "ours")
    result = convert_checkpoint(tmp_path / "ours", tmp_path / "back", "sail-vl2", max_shard_size=100_000)
    assert result.source_layout == "sailvit-vlm" and "model.safetensors.index.json" in result.files
    assert tiny.same(tiny.read_weights(sail_vl2), tiny.read_weights(tmp_path / "back"))
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (sail_vl2, tmp_path / "back"))
    for key in ("model_type", "downsample_ratio", "select_layer", "template", "max_dynamic_patch", "use_thumbnail"):
        assert after[key] == before[key], key
    assert after["auto_map"]["AutoModel"].endswith("--modeling_sailvl.SAILVLModel")
    for key in tiny.SIZES:
        assert after["vision_config"][key] == before["vision_config"][key]
    for key in ("vocab_size", "hidden_size", "rope_theta", "rope_scaling", "tie_word_embeddings", "torch_dtype"):
        assert after["llm_config"][key] == before["llm_config"][key]
    assert after["llm_config"]["architectures"] == ["Qwen3ForCausalLM"]
    pictures = json.loads((sail_vl2 / "preprocessor_config.json").read_text())
    assert pictures.items() <= json.loads((tmp_path / "back/preprocessor_config.json").read_text()).items()
    assert (tmp_path / "back/chat_template.jinja").read_text() == tiny.SAIL_VL2_TEMPLATE
    text = "<|im_start|>a <IMG_CONTEXT> and é"
    folders = (sail_vl2, tmp_path / "back")
    before, after = (AutoTokenizer.from_pretrained(folder, config=SAILViTConfig()) for folder in folders)
    assert before.encode(text) == after.encode(text) and before.all_special_ids == after.all_special_ids
    # And once more, from there.
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    assert tiny.same(tiny.read_weights(tmp_path / "ours"), tiny.read_weights(tmp_path / "again"))
    assert (tmp_path / "ours/config.json").read_text() == (tmp_path / "again/config.json").read_text()


def test_prompts_stay_and_answers_are_marked(sail_vl2, tmp_path):
    convert_checkpoint(sail_vl2, tmp_path / "ours")
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    prompt = processor.apply_chat_template(QUESTION, add_generation_prompt=True)
    assert prompt == (
        '<|im_start|>system\nYou answer "briefly".<|im_end|>'
        "<|im_start|>user\n<img><IMG_CONTEXT></img>\nwhat?<|im_end|><|im_start|>assistant\n"
    )
    tokenizer = tiny.tokenizer()
    theirs = tokenizer.apply_chat_template(
        QUESTION, tokenize=False, add_generation_prompt=True, chat_template=tiny.SAIL_VL2_TEMPLATE
    )
    assert theirs.replace("<image>", "<img><IMG_CONTEXT></img>") == prompt
    inputs = processor(text=[prompt], images=[Image.new("RGB", (50, 40))], return_tensors="pt")
    # Four tiles, for the source cuts pictures by two grids, and the whole.
    assert (inputs["input_ids"] == 261).sum() == 5 * 4 and inputs["pixel_values"].shape == (5, 3, 32, 32)
    answer = {"role": "assistant", "content": "cats"}
    batch = processor.encode_conversations([[*QUESTION, answer]], [[Image.new("RGB", (50, 40))]])
    learnt = batch["input_ids"][batch["labels"] != -100]
    assert processor.tokenizer.decode(learnt) == "cats<|im_end|>"


def test_the_published_template_and_tokenizer(reference_folder, tmp_path):
    """The real ones: the prompts are the published ones, the answers can be learnt, the way back restores the text."""
    theirs = (reference_folder / "chat_template.jinja").read_text()
    # Beside the configuration transformers would ask whether to run the model's code.
    for name in ("tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"):
        shutil.copy(reference_folder / name, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, config=SAILViTConfig())
    assert len(tokenizer) == 151_678 and tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>") == 151_671
    ours = our_template(tokenizer, theirs)
    assert "generation" in ours and "<|im_assistant|>" not in ours

    def prompt(template):
        return tokenizer.apply_chat_template(
            QUESTION, tokenize=False, add_generation_prompt=True, chat_template=template
        )

    assert prompt(theirs).replace("<image>", "<img><IMG_CONTEXT></img>") == prompt(ours)
    assert prompt(their_template(ours)) == prompt(theirs)
    # A template that is not known keeps its text, but for the picture.
    other = "{%- for message in messages -%}{{ '<image>\\n' }}{{ message['role'] }}{%- endfor -%}"
    assert our_template(tokenizer, other) == other.replace("<image>", "<img><IMG_CONTEXT></img>")


def test_a_head_that_differs_is_kept(tmp_path):
    """Though the configuration ties it: what is in the file is what was trained."""
    head = torch.randn(300, 32)
    tiny.save_sail_vl2(tmp_path / "sail-vl2", head=head)
    convert_checkpoint(tmp_path / "sail-vl2", tmp_path / "ours")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    assert torch.equal(model.lm_head.weight, head) and not model.config.tie_word_embeddings
    assert not torch.equal(model.get_input_embeddings().weight, head)
    convert_checkpoint(tmp_path / "ours", tmp_path / "back", "sail-vl2")
    assert tiny.same(tiny.read_weights(tmp_path / "sail-vl2"), tiny.read_weights(tmp_path / "back"))
    assert json.loads((tmp_path / "back/config.json").read_text())["llm_config"]["tie_word_embeddings"] is False


def test_a_head_that_is_not_stored(sail_vl2, tmp_path):
    weights = tiny.read_weights(sail_vl2)
    del weights["language_model.lm_head.weight"]
    one = tmp_path / "one"
    shutil.copytree(sail_vl2, one, ignore=shutil.ignore_patterns("model*"))
    save_file(weights, one / "model.safetensors")
    convert_checkpoint(one, tmp_path / "ours")
    convert_checkpoint(sail_vl2, tmp_path / "expected")
    assert tiny.same(tiny.read_weights(tmp_path / "ours"), tiny.read_weights(tmp_path / "expected"))
    values = json.loads((one / "config.json").read_text())
    values["llm_config"]["tie_word_embeddings"] = False
    (one / "config.json").write_text(json.dumps(values))
    with pytest.raises(SailvitError, match="missing: language_model.lm_head.weight;"):
        convert_checkpoint(one, tmp_path / "untied")


@pytest.mark.parametrize("to", ["sailvit", "aimv2", "timm"])
@pytest.mark.parametrize("whole", ["sail-vl2", "sailvit-vlm"])
def test_the_tower_alone(whole, to, sail_vl2, tmp_path):
    model, _ = tiny.vlm()
    if whole == "sailvit-vlm":
        tiny.save_vlm(tmp_path / whole)
    result = convert_checkpoint(tmp_path / whole, tmp_path / "tower", to, part="vision" if to == "sailvit" else None)
    assert result.source_layout == whole and result.target_layout == to
    assert all("language_model" in name or "projector" in name or "mlp1" in name for name in result.left_out)
    assert len(result.left_out) > 20
    convert_checkpoint(tmp_path / "tower", tmp_path / "sailvit")
    assert tiny.same(tiny.read_weights(tmp_path / "sailvit"), model.model.vision_tower.state_dict())
    assert json.loads((tmp_path / "sailvit/preprocessor_config.json").read_text())["image_mean"][0] == 0.485


def test_other_towers_become_ours_on_the_way(tmp_path):
    """A whole model around a tower of transformers' AIMv2."""
    from transformers import Aimv2VisionConfig

    from sailvit_hf import SAILViTVLMConfig

    expected, _ = tiny.save_vlm(tmp_path / "ours")
    aimv2 = tiny.aimv2_model()
    weights = {name: t for name, t in tiny.read_weights(tmp_path / "ours").items() if "vision_tower" not in name}
    weights |= {f"model.vision_tower.{name}": tensor for name, tensor in aimv2.state_dict().items()}
    values = json.loads((tmp_path / "ours/config.json").read_text())
    values["vision_config"] = Aimv2VisionConfig(**tiny.SIZES, use_head=False).to_dict()
    assert SAILViTVLMConfig(**values).vision_config.model_type == "aimv2_vision_model"
    save_file(weights, tmp_path / "ours/model.safetensors")
    (tmp_path / "ours/config.json").write_text(json.dumps(values))
    convert_checkpoint(tmp_path / "ours", tmp_path / "new")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "new")
    with torch.no_grad():
        features = model.model.vision_tower(tiny.pixels()).last_hidden_state
        torch.testing.assert_close(features, aimv2(tiny.pixels()).last_hidden_state, rtol=0, atol=1e-5)
    assert torch.equal(model.lm_head.weight, expected.lm_head.weight)


def test_a_mixture_of_experts(sail_vl2, tmp_path):
    """As in SAIL-VL2-A3B: the files keep the experts apart, transformers packs them when it loads."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    torch.manual_seed(0)
    text = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(vocab_size=300, num_hidden_layers=2, head_dim=16, tie_word_embeddings=False, **sizes, **experts)
    )
    text.save_pretrained(tmp_path / "text")
    values = json.loads((sail_vl2 / "config.json").read_text())
    values["llm_config"] = json.loads((tmp_path / "text/config.json").read_text())
    weights = {name: t for name, t in tiny.read_weights(sail_vl2).items() if not name.startswith("language_model.")}
    weights |= {f"language_model.{name}": tensor for name, tensor in tiny.read_weights(tmp_path / "text").items()}
    moe = tmp_path / "moe"
    shutil.copytree(sail_vl2, moe, ignore=shutil.ignore_patterns("model*"))
    (moe / "config.json").write_text(json.dumps(values))
    save_file(weights, moe / "model.safetensors")
    convert_checkpoint(moe, tmp_path / "ours")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours").model.language_model.state_dict()
    assert loaded.keys() == text.model.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in text.model.state_dict().items())
    convert_checkpoint(tmp_path / "ours", tmp_path / "back", "sail-vl2")
    assert tiny.same(tiny.read_weights(tmp_path / "back"), weights)


NAMES = ("vision_model.preprocessor.pos_embed", "mlp1.3.bias", "language_model.model.layers.1.self_attn.q_norm.weight")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault", ["missing", "renamed", "misshapen"])
def test_what_is_wrong_is_named(name, fault, tmp_path):
    tiny.save_sail_vl2(tmp_path / "sail-vl2")
    weights = tiny.read_weights(tmp_path / "sail-vl2")
    tensor = weights.pop(name)
    if fault == "renamed":
        weights[f"{name}_"] = tensor
    elif fault == "misshapen":
        weights[name] = tensor[..., 1:].contiguous()
    save_file(weights, tmp_path / "sail-vl2/model.safetensors")
    expected = {"renamed": f"missing: {name}; unexpected: {name}_;"}.get(fault, f"{fault}: {name}")
    with pytest.raises(SailvitError, match=expected):
        convert_checkpoint(tmp_path / "sail-vl2", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["sail-vl2"]


def test_what_else_is_refused(sail_vl2, tmp_path):
    def refused(match, to="sailvit", source=sail_vl2, file="config.json", change=None, **options):
        path = source / file
        text = path.read_text()
        if change is not None:
            values = json.loads(text)
            change(values)
            path.write_text(json.dumps(values))
        with pytest.raises(SailvitError, match=match):
            convert_checkpoint(source, tmp_path / "new", to, **options)
        path.write_text(text)
        assert not (tmp_path / "new").exists()

    refused("timm cannot hold part all", "timm", part="all")
    refused("sail-vl2 cannot hold part vision", "sail-vl2", part="vision")
    refused("in the order 'v1'", change=lambda values: values.update(ps_version="v1"))
    refused("no language model .*'unheard'", change=lambda values: values["llm_config"].update(model_type="unheard"))
    (sail_vl2 / "tokenizer_config.json").rename(tmp_path / "kept")
    refused("holds no tokenizer")
    assert convert_checkpoint(sail_vl2, tmp_path / "tower", part="vision").target_layout == "sailvit"
    (tmp_path / "kept").rename(sail_vl2 / "tokenizer_config.json")

    ours = tmp_path / "ours"
    convert_checkpoint(sail_vl2, ours)
    back = {"to": "sail-vl2", "source": ours}
    refused("0, the embeddings", **back, change=lambda values: values.update(vision_feature_layer=0))
    refused("knows 'gelu' only", **back, change=lambda values: values.update(projector_hidden_act="silu"))
    crop = {"do_center_crop": True, "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    back["file"] = "processor_config.json"
    refused("cuts out the centre", **back, change=lambda values: values["image_processor"].update(crop))


def test_a_layer_is_selected_alike(sail_vl2, tmp_path):
    """The published code counts blocks; ours counts hidden states, which begin with the embeddings."""
    path = sail_vl2 / "config.json"
    for theirs, ours in ((0, 1), (-2, -2)):
        path.write_text(json.dumps({**json.loads(path.read_text()), "select_layer": theirs}))
        convert_checkpoint(sail_vl2, tmp_path / f"ours{theirs}")
        values = json.loads((tmp_path / f"ours{theirs}/config.json").read_text())
        assert values["vision_feature_layer"] == ours
        convert_checkpoint(tmp_path / f"ours{theirs}", tmp_path / f"back{theirs}", "sail-vl2")
        assert json.loads((tmp_path / f"back{theirs}/config.json").read_text())["select_layer"] == theirs


def test_types_and_shards_of_a_whole_model(sail_vl2, tmp_path):
    convert_checkpoint(sail_vl2, tmp_path / "half", dtype="bfloat16", max_shard_size="50KB")
    assert len([*(tmp_path / "half").glob("*.safetensors")]) > 2
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "half")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    expected, _ = tiny.vlm(dtype=torch.bfloat16)
    weights = model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.state_dict().items())


def test_a_refined_checkpoint_keeps_its_lineage(tiny_run, tmp_path):
    """The demo's own: out to SAIL-VL2 and back, and its backbone to timm and back; the record comes along."""
    from sailvit_hf.refinement.lineage import Lineage

    checkpoint = next(path for path in sorted(tiny_run.rglob("refinement.json")) if "world" in str(path)).parent
    convert_checkpoint(checkpoint, tmp_path / "copy")
    lineage = Lineage.load(tmp_path / "copy")
    assert lineage.stages == Lineage.load(checkpoint).stages and lineage.weights
    lineage.verify(tmp_path / "copy")
    assert tiny.same(tiny.read_weights(checkpoint), tiny.read_weights(tmp_path / "copy"))
    convert_checkpoint(checkpoint, tmp_path / "theirs", "sail-vl2")
    convert_checkpoint(tmp_path / "theirs", tmp_path / "back")
    assert tiny.same(tiny.read_weights(checkpoint), tiny.read_weights(tmp_path / "back"))
    convert_checkpoint(checkpoint, tmp_path / "tower", part="vision")
    assert AutoModel.from_pretrained(tmp_path / "tower").config.model_type == "sailvit"
