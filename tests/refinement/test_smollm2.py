# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The recipe with a real language model: the same path, with a tiny GGUF file in the place of SmolLM2's."""

import hashlib
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement.foundations import FORMAT, SAMPLES_FORMAT, FoundationSettings, make_foundations
from sailvit_hf.refinement.recipes.recipe import load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = ("recipes/smollm2.yaml", "recipes/smollm2_gpu.yaml")
# The template that SmolLM2's file has.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def script(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def byte_tokens():
    """A vocabulary of the special tokens and one token a byte, as GPT-2 writes bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    return [*SPECIAL, *sorted(ByteLevel.alphabet()), "in"]


def write_gguf(path):
    """Write a tiny Llama with tied embeddings as GGUF (norms fp32, the rest fp16), and return it."""
    gguf = pytest.importorskip("gguf", reason="reading GGUF needs the package gguf")
    tokens = byte_tokens()
    torch.manual_seed(0)
    config = LlamaConfig(
        **SIZES, num_key_value_heads=2, vocab_size=len(tokens), max_position_embeddings=256, tie_word_embeddings=True
    )
    model = LlamaForCausalLM(config).half().float()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["i n"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        for part, heads in (("q_proj", 4), ("k_proj", 2)):
            if part in name:  # llama.cpp keeps the halves of a head's dimensions by turns
                rows = tensor.shape[0] // heads // 2
                tensor = tensor.reshape(heads, 2, rows, -1).swapaxes(1, 2).reshape(tensor.shape)
        array = tensor.numpy() if tensor.ndim == 1 else tensor.half().numpy()
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """The folder that the script makes of the tiny file, and the model that was in it."""
    folder = tmp_path_factory.mktemp("smollm2")
    model = write_gguf(folder / "tiny.gguf")
    script("examples/prepare_smollm2.py").main(["--gguf", str(folder / "tiny.gguf"), "--output", str(folder / "lm")])
    return folder / "lm", model


@pytest.mark.parametrize("path", RECIPES)
def test_the_recipes_are_read(path):
    recipe = load_recipe(ROOT / path)
    assert tuple(recipe.stages) == ("coarse", "fine", "world") and recipe.demo_sentences
    assert recipe.demo_parts() == ("vision_tower",)
    assert recipe.start.language_model == str(script("examples/prepare_smollm2.py").FOLDER)
    assert all(plan.arguments["bf16"] for plan in recipe.stages.values()) and recipe.evaluation.encoder_swap.bf16
    settings = FoundationSettings(**recipe.foundations.settings()).vision_config()
    assert (settings.hidden_size, settings.num_hidden_layers) == ((192, 6) if "gpu" not in path else (384, 12))


def test_a_larger_vit_has_a_place_of_its_own_and_the_usual_one_keeps_its(tmp_path):
    class World:
        seed, seen = 0, ("cat", "dog")

    def folder(**sizes):
        return make_foundations(World(), tmp_path, settings=FoundationSettings(**sizes), parts=()).vision_tower

    usual = {name: value for name, value in asdict(FoundationSettings()).items() if value is not None}
    assert not any(name.startswith("vision_h") for name in usual)
    key = json.dumps([FORMAT, SAMPLES_FORMAT, "vision_tower", 0, ["cat", "dog"], 0, usual])
    assert folder().name == f"vision_tower-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    assert folder(vision_hidden_size=192) != folder() != folder(vision_layers=6)
    assert FoundationSettings().vision_config().to_dict()["hidden_size"] == 96


def test_the_demo_s_language_models_know_no_sentences():
    with pytest.raises(SailvitError, match="demo_sentences"):
        load_recipe(ROOT / RECIPES[0], ["start.language_model=demo"])


def test_the_script_keeps_the_weights_the_tokenizer_and_the_template(language_model):
    folder, model = language_model
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert loaded.dtype == torch.float32 and getattr(loaded.config, "quantization_config", None) is None
    weights = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0)
    assert tokenizer.chat_template == TEMPLATE
    chat = [{"role": "user", "content": "in it"}]
    written = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == written and ids[0] == 1 and ids.count(2) == 2
    assert tokenizer.convert_tokens_to_ids("in") in ids


def test_the_script_says_what_is_wrong(language_model, tmp_path):
    with pytest.raises(SystemExit, match="there already"):
        script("examples/prepare_smollm2.py").main(["--gguf", "x.gguf", "--output", str(language_model[0])])


def test_a_tiny_run_and_its_page(language_model, tmp_path, monkeypatch):
    from sailvit_hf.refinement.pipeline import run_recipe

    monkeypatch.chdir(ROOT)
    tiny = {
        "start.language_model": language_model[0],
        "output_dir": tmp_path / "run",
        "foundations.cache_dir": tmp_path / "foundations",
        "foundations.vision_steps": 2,
        "foundations.vision_batch_size": 4,
        "foundations.samples": 16,
        "foundations.vision_hidden_size": 48,
        "foundations.vision_intermediate_size": 64,
        "foundations.vision_layers": 2,
        "evaluation.samples": 4,
        "evaluation.probes": "false",
        "evaluation.encoder_swap.steps": 2,
        "evaluation.encoder_swap.batch_size": 4,
        "report": "false",
    }
    for stage in ("coarse", "fine", "world"):
        prefix = f"stages.{stage}.arguments"
        tiny |= {f"stages.{stage}.data.demo.samples": 8, f"{prefix}.max_steps": 2}
        tiny |= {f"{prefix}.per_device_train_batch_size": 4, f"{prefix}.bf16": "false"}
    recipe = load_recipe(RECIPES[0], [f"{key}={value}" for key, value in tiny.items()])
    metrics = run_recipe(recipe).metrics
    assert metrics["parts"]["vision_tower"]["parameters"] == 49_488
    start, world = metrics["vlm"]["start"], metrics["vlm"]["world"]
    assert metrics["vlm"]["fine"]["held_out_loss"] == start["held_out_loss"] != world["held_out_loss"]
    swap = metrics["encoder_swap"]["original"]
    assert swap["refined"]["caption_loss"] != swap["unrefined"]["caption_loss"]

    script("docs/make_smollm2.py").main([str(tmp_path / "run"), "--output", str(tmp_path), "--note", "Tiny."])
    result, page = json.loads((tmp_path / "smollm2.json").read_text()), (tmp_path / "smollm2.md").read_text()
    assert result["vlm"] == metrics["vlm"] and result["encoder_swap"] == metrics["encoder_swap"]
    unrefined, refined = (f"{swap[which]['caption_loss']:.3f}" for which in ("unrefined", "refined"))
    assert f"| detailed captions, loss | {unrefined} | {refined} |" in page and " GB at the peak.\nTiny.\n" in page
