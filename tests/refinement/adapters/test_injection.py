# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Which layers get adapters, what is refused, and that what is saved is whole and means the same."""

import json
import subprocess
import sys

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    Aimv2VisionConfig,
    Aimv2VisionModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from sailvit_hf import SAILViTForConditionalGeneration
from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import DIRECT, STAGES, RefinementArguments
from sailvit_hf.refinement.adapters.injection import (
    ADAPTERS,
    adapted_stage,
    adapter_configs,
    adapter_targets,
    add_adapters,
    describe_all,
    has_adapters,
    load_adapters,
    lora_config,
    merge_adapters,
    refuse_conflicts,
    refuse_prepared,
)
from sailvit_hf.refinement.adapters.plan import AdapterPlan
from sailvit_hf.refinement.assembly import causal_language_model

from ..adapted import both, drawn, outputs
from ..tiny import IMAGE_TOKEN, VOCABULARY, collate, tiny_model, tiny_samples

SIZES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
ATTENTION = {f"self_attn.{name}_proj" for name in "qkv"}
TOWERS = {
    "aimv2": (Aimv2VisionModel, Aimv2VisionConfig, "encoder.layers", {
        "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj", "ffn.gate_proj",
        "ffn.up_proj", "ffn.down_proj"}),
    "clip": (CLIPVisionModel, CLIPVisionConfig, "encoder.layers", {
        *ATTENTION, "self_attn.out_proj", "mlp.fc1", "mlp.fc2"}),
    "siglip": (SiglipVisionModel, SiglipVisionConfig, "encoder.layers", {
        *ATTENTION, "self_attn.out_proj", "mlp.fc1", "mlp.fc2"}),
    "dinov2": (Dinov2Model, Dinov2Config, None, None),
    "dinov2 with registers": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig, None, None),
    "dinov3": (DINOv3ViTModel, DINOv3ViTConfig, None, None),
}  # fmt: skip


def with_tower(cls, config, **options):
    torch.manual_seed(0)
    return SAILViTForConditionalGeneration.from_parts(
        cls(config(**SIZES)), causal_language_model(tiny_model()), image_token_id=IMAGE_TOKEN, **options
    )


def with_language_model(language_model, **options):
    return SAILViTForConditionalGeneration.from_parts(
        tiny_model().model.vision_tower, language_model, image_token_id=IMAGE_TOKEN, **options
    )


def linear_within(model, part, names):
    return {name for name, module in getattr(model.model, part).named_modules() if isinstance(module, nn.Linear)}


# --- targets ------------------------------------------------------------------------------------------------------


def test_all_of_sailvit_and_llama():
    model = tiny_model(tied=False)
    DIRECT.apply(model)
    block = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "mlp.fc3"}
    expected = {f"trunk.blocks.{i}.{name}" for i in range(2) for name in block}
    assert set(adapter_targets(model, "vision_tower")) == expected
    layer = {*(f"self_attn.{name}_proj" for name in "qkvo"), *(f"mlp.{name}_proj" for name in ("gate", "up", "down"))}
    assert set(adapter_targets(model, "language_model")) == {f"layers.0.{name}" for name in layer}


@pytest.mark.parametrize("tower", TOWERS)
def test_linear_layers_of_a_towers_layers(tower):
    cls, config, stack, names = TOWERS[tower]
    model = with_tower(cls, config)
    DIRECT.apply(model)
    found = adapter_targets(model, "vision_tower")
    if names is not None:
        assert {name.split(f"{stack}.")[1].split(".", 1)[1] for name in found} == names
        assert len(found) == 3 * len(names)
    # All of the layers', none of what lies around them: patch embeddings, poolers, heads.
    layers = linear_within(model, "vision_tower", found)
    assert {name for name in layers if ".0." in name or ".1." in name or ".2." in name} == set(found) and found
    assert not [name for name in found if "head" in name or "embed" in name]


def test_layers_that_are_not_used_or_stay_frozen_get_none():
    model = with_tower(*TOWERS["siglip"][:2], vision_feature_layer=-2)
    DIRECT.apply(model, freeze_vision_layers=2)  # the embeddings and the first layer
    assert {name.split("layers.")[1][0] for name in adapter_targets(model, "vision_tower")} == {"1"}


@pytest.mark.parametrize("language_model, names", [
    (lambda: GPT2LMHeadModel(GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2)),
     {"h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc", "h.0.mlp.c_proj"}),
    (lambda: GPTNeoXForCausalLM(GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32)),
     {"layers.0.attention.query_key_value", "layers.0.attention.dense", "layers.0.mlp.dense_h_to_4h",
      "layers.0.mlp.dense_4h_to_h"}),
], ids=["gpt2", "gpt_neox"])  # fmt: skip
def test_any_language_model(language_model, names, tmp_path):
    """Also layers that are not torch's Linear (GPT-2's Conv1D), and fused ones."""
    torch.manual_seed(0)
    model = with_language_model(language_model())
    DIRECT.apply(model)
    assert set(adapter_targets(model, "language_model")) == names
    model = drawn(model, **both())
    expected = outputs(model)
    torch.testing.assert_close(outputs(merge_adapters(model)), expected, rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    load_adapters(drawn(with_language_model(language_model()), **both()), tmp_path)
    with pytest.raises(SailvitError, match="were not trained on this model"):
        load_adapters(drawn(with_language_model(language_model()), **both()), tmp_path)


def test_targets_of_ones_own():
    model = tiny_model()
    DIRECT.apply(model)
    assert adapter_targets(model, "language_model", ["q_proj", "mlp.up_proj"]) == [
        "layers.0.self_attn.q_proj", "layers.0.mlp.up_proj"
    ]  # fmt: skip
    assert adapter_targets(model, "vision_tower", r"trunk\.blocks\.1\.attn\..*") == [
        "trunk.blocks.1.attn.qkv", "trunk.blocks.1.attn.proj"
    ]  # fmt: skip
    with pytest.raises(SailvitError, match="is called q_proj: they are called fc1, fc2, fc3, proj, qkv"):
        adapter_targets(model, "vision_tower", ["qkv", "q_proj"])
    with pytest.raises(SailvitError, match="called lm_head"):
        adapter_targets(model, "language_model", ["lm_head"])


# --- what trains --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("modules", [("language_model",), ("vision_tower",), ("vision_tower", "language_model")])
def test_adapters_and_connector_train_and_nothing_below(modules, tied):
    model = tiny_model(tied=tied)
    connector = {name for name, _ in model.named_parameters() if "multi_modal_projector" in name}
    stage = adapted_stage(STAGES["coarse"], modules)  # in a stage that would train the connector only
    assert stage.trains == tuple(n for n in ("vision_tower", "multi_modal_projector", "language_model")
                                 if n in {*modules, "multi_modal_projector"})  # fmt: skip
    stage.apply(model)
    add_adapters(model, adapter_configs({name: lora_config(AdapterPlan(rank=2)) for name in modules}, stage), 0)
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert connector <= trains
    assert {name.split(".")[1] for name in trains} == {"multi_modal_projector", *modules}
    assert all("lora_" in name for name in trains - connector)
    assert not [name for name in trains if name.startswith("lm_head")]
    assert type(model) is SAILViTForConditionalGeneration


def test_the_other_module_trains_as_a_whole():
    model = tiny_model(tied=False)
    STAGES["world"].apply(model)
    add_adapters(model, adapter_configs({"vision_tower": lora_config(AdapterPlan())}, STAGES["world"]), 0)
    assert model.lm_head.weight.requires_grad
    assert all(parameter.requires_grad for parameter in model.model.language_model.parameters())


def test_adapters_hang_on_the_seed_alone():
    drawn_apart = []
    for before in (1, 2):
        model = tiny_model()
        torch.manual_seed(before)
        DIRECT.apply(model)
        add_adapters(model, adapter_configs(lora_config(AdapterPlan()), DIRECT), seed=5)
        drawn_apart.append((model.state_dict(), torch.initial_seed()))
    (first, seed), (second, other) = drawn_apart
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert (seed, other) == (1, 2)


# --- saving -------------------------------------------------------------------------------------------------------

# Loads a checkpoint where neither the package nor peft can be imported.
STRANGER = """
import sys
sys.modules["sailvit_hf"] = sys.modules["peft"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True)
with torch.no_grad():
    save_file({"logits": model(**load_file(sys.argv[2])).logits}, sys.argv[3])
"""


@pytest.mark.parametrize("method", ["lora", "dora", "rslora"])
@pytest.mark.parametrize("tower", ["sailvit", "clip"])
def test_merged_means_the_same(method, tower, tmp_path):
    model = drawn(tiny_model(tower=tower), **both(rank=3, method=method, dropout=0.5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = outputs(model)
    assert (expected - outputs(tiny_model(tower=tower))).abs().max() > 0.1
    merged = merge_adapters(model)
    torch.testing.assert_close(outputs(merged), expected, rtol=0, atol=1e-5)
    assert not has_adapters(merged) and not merged.training
    model.save_pretrained(tmp_path)
    loaded = SAILViTForConditionalGeneration.from_pretrained(tmp_path)
    torch.testing.assert_close(outputs(loaded), expected, rtol=0, atol=1e-5)
    assert set(loaded.state_dict()) == set(tiny_model(tower=tower).state_dict())
    after = model.state_dict()  # saving changes no bit of what trains
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_loads_without_the_package_and_without_peft(tmp_path):
    model = drawn(tiny_model(), **both(method="dora"))
    model.save_pretrained(tmp_path / "whole")
    inputs = {name: tensor for name, tensor in collate(tiny_samples(4)).items() if name != "labels"}
    save_file(inputs, tmp_path / "inputs")
    command = [sys.executable, "-I", "-c", STRANGER, *(str(tmp_path / n) for n in ("whole", "inputs", "outputs"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.no_grad():
        expected = model(**inputs).logits
    torch.testing.assert_close(load_file(tmp_path / "outputs")["logits"], expected, rtol=0, atol=1e-5)


def test_half_precision_below_is_merged_in_full():
    model = drawn(tiny_model().bfloat16(), **both())
    weight = model.model.language_model.layers[0].self_attn.q_proj
    delta = weight.lora_B.default.weight.float() @ weight.lora_A.default.weight.float() * 2
    merged = merge_adapters(model).model.language_model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(merged, weight.base_layer.weight.float() + delta, rtol=0, atol=1e-6)


def test_a_gathered_state_is_merged_as_well(tmp_path):
    """What FSDP and ZeRO-3 hand over: all tensors, apart from a model that holds none of its own."""
    model = drawn(tiny_model(tied=False), **both(method="dora"))
    expected, state = outputs(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(tmp_path, state_dict=state)
    torch.testing.assert_close(
        outputs(SAILViTForConditionalGeneration.from_pretrained(tmp_path)), expected, rtol=0, atol=1e-5
    )
    assert load_file(tmp_path / ADAPTERS / "vision_tower" / "adapter_model.safetensors")[
        "base_model.model.trunk.blocks.0.attn.qkv.lora_B.weight"
    ].abs().max() > 0  # fmt: skip
    model.save_pretrained(tmp_path / "other", state_dict={}, is_main_process=False)
    assert not (tmp_path / "other").exists()


def test_the_adapters_alone_are_pefts(tmp_path):
    model = drawn(tiny_model(), **both())
    expected = outputs(model)
    model.save_pretrained(tmp_path)
    fresh = tiny_model()
    fresh.model.multi_modal_projector.load_state_dict(model.model.multi_modal_projector.state_dict())
    for name in ("vision_tower", "language_model"):
        adapted = PeftModel.from_pretrained(getattr(fresh.model, name), tmp_path / ADAPTERS / name)
        setattr(fresh.model, name, adapted.merge_and_unload())
    torch.testing.assert_close(outputs(fresh), expected, rtol=0, atol=1e-5)


def test_other_methods_of_peft():
    model = drawn(
        tiny_model(), language_model=LoHaConfig(r=2, target_modules=["q_proj"]), vision_tower=LoraConfig(r=2)
    )
    torch.testing.assert_close(outputs(merge_adapters(model)), outputs(model), rtol=0, atol=1e-5)


# --- loading ------------------------------------------------------------------------------------------------------


def test_adapters_of_a_checkpoint(tmp_path):
    model = drawn(tiny_model(), **both(method="dora"))
    model.save_pretrained(tmp_path)
    again = drawn(tiny_model(), **both(method="dora", dropout=0.5))
    load_adapters(again, tmp_path)
    found, expected = again.state_dict(), model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items() if "lora_" in name)
    # As the Trainer does it: a whole checkpoint brings the connector, and leaves what is below the adapters.
    result = again.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert result.missing_keys == ["lm_head.weight"] and not result.unexpected_keys  # tied
    again.tie_weights()
    found = again.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("changed, message", [
    (both(rank=3), "rank 2 there, 3 here"),
    (both(alpha=1.0), "alpha 4 there, 1.0 here"),
    (both(method="dora"), "method lora there, dora here"),
    (both(targets=["qkv", "q_proj"]), "no linear layer"),
    ({"language_model": AdapterPlan(rank=2, targets=["q_proj"]), "vision_tower": AdapterPlan(rank=2)}, "targets"),
    ({"language_model": AdapterPlan(rank=2)}, "adapters in language_model, vision_tower, this run has them in la"),
])  # fmt: skip
def test_other_adapters_than_the_checkpoints(changed, message, tmp_path):
    drawn(tiny_model(), **both()).save_pretrained(tmp_path)
    with pytest.raises(SailvitError, match=message):
        load_adapters(drawn(tiny_model(), **changed), tmp_path)


def halved(model, dtype=torch.bfloat16):
    """What an engine in half precision keeps: everything rounded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()
    return model


@pytest.mark.parametrize("adapters", [
    both(), both(method="dora"), both(method="rslora"),
    {"language_model": LoraConfig(r=2, target_modules=["q_proj", "o_proj"], rank_pattern={"layers.0.*q_proj": 4})},
    {"language_model": LoHaConfig(r=2, target_modules=["up_proj"], init_weights=False)},
], ids=["lora", "dora", "rslora", "pattern", "loha"])  # fmt: skip
def test_the_model_below_must_be_that_of_the_start(adapters, tmp_path):
    drawn(tiny_model(), **adapters).save_pretrained(tmp_path, max_shard_size="8KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    again, start = drawn(tiny_model(), **adapters), tiny_model().state_dict()
    load_adapters(again, tmp_path)
    below = {name.replace(".base_layer", ""): tensor for name, tensor in again.state_dict().items() if "base" in name}
    assert below and all(torch.equal(tensor, start[name]) for name, tensor in below.items())  # looked at, not touched
    merged = SAILViTForConditionalGeneration.from_pretrained(tmp_path)
    for other in (merged, tiny_model(seed=1), tiny_model().bfloat16()):
        with pytest.raises(SailvitError, match="were not trained on this model .*: give the model that the stage be"):
            load_adapters(drawn(other, **adapters), tmp_path)


def test_an_engine_may_have_kept_half_precision(tmp_path):
    halved(drawn(tiny_model(), **both())).save_pretrained(tmp_path)
    load_adapters(drawn(tiny_model(), **both()), tmp_path)


def test_what_is_not_in_one_piece_is_not_looked_at(tmp_path):
    drawn(tiny_model(), **both()).save_pretrained(tmp_path)
    other = drawn(tiny_model(seed=1), **both())
    for parameter in other.parameters():
        parameter.ds_id = 0
    load_adapters(other, tmp_path)


def test_a_checkpoint_with_adapters_wants_them(tmp_path):
    drawn(tiny_model(), **both()).save_pretrained(tmp_path)
    with pytest.raises(SailvitError, match="this run has them in no module"):
        load_adapters(tiny_model(), tmp_path)


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given, message", [
    ({"lm_head": LoraConfig()}, "lm_head cannot have adapters.*the connector is always trained"),
    ({"multi_modal_projector": LoraConfig()}, "multi_modal_projector cannot have adapters"),
    ({"language_model": LoraConfig(modules_to_save=["embed_tokens"])}, "modules_to_save of the adapters of language"),
    ({"language_model": LoraConfig(bias="all")}, "bias of the adapters"),
    ({"language_model": LoraConfig(init_lora_weights="pissa")}, "'pissa' changes the weights below"),
    ({"language_model": PromptTuningConfig(task_type="CAUSAL_LM")}, "no adapters of linear layers"),
    ({"language_model": {"r": 3}}, "give a peft.LoraConfig"),
])  # fmt: skip
def test_what_cannot_be_adapted(given, message):
    with pytest.raises(SailvitError, match=message):
        adapter_configs(given, STAGES["world"])


def test_one_config_is_for_what_the_stage_trains():
    config = LoraConfig(r=2, modules_to_save=["multi_modal_projector"])
    assert list(adapter_configs(config, STAGES["world"])) == ["vision_tower", "language_model"]
    assert list(adapter_configs(config, STAGES["fine"])) == ["vision_tower"]
    assert config.modules_to_save == ["multi_modal_projector"]  # the caller's stays as it was
    with pytest.raises(SailvitError, match="stage 'coarse' trains neither"):
        adapter_configs(config, STAGES["coarse"])
    assert adapter_configs(None, STAGES["coarse"]) == {} == adapter_configs({"vision_tower": None}, STAGES["world"])


def test_a_model_with_adapters_is_refused():
    for model in (
        get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"])),
        get_peft_model(tiny_model(), IA3Config(target_modules=["q_proj"], feedforward_modules=[])),
        drawn(tiny_model(), **both()),
    ):
        with pytest.raises(SailvitError, match="carries adapters already"):
            refuse_prepared(model)
    refuse_prepared(tiny_model())


def test_weights_of_eight_bits_are_refused():
    model = tiny_model()
    DIRECT.apply(model)
    layer = model.model.language_model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(SailvitError, match="weights of language_model are quantised: it can only train through"):
        add_adapters(model, {}, 0)
    with pytest.raises(SailvitError, match="up_proj.weight is quantised so that nothing can be merged"):
        add_adapters(model, adapter_configs({"language_model": LoraConfig()}, DIRECT), 0)


@pytest.mark.parametrize("arguments, message", [
    ({"vision_tower_ema": 0.9}, "vision_tower_ema averages whole weights"),
    ({"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}, "load_best_model_at_end"),
])  # fmt: skip
def test_arguments_that_do_not_go_with_adapters(arguments, message, tmp_path):
    args = RefinementArguments(output_dir=str(tmp_path), use_cpu=True, **arguments)
    with pytest.raises(SailvitError, match=message):
        refuse_conflicts(args, {"vision_tower": LoraConfig()})
    refuse_conflicts(args, {})


def test_description_is_the_same_of_an_object_and_of_its_file(tmp_path):
    plan = AdapterPlan(method="dora", rank=2, alpha=5.0, targets=["v_proj", "q_proj"])
    model = drawn(tiny_model(), language_model=plan)
    model.save_pretrained(tmp_path)
    described = describe_all({"language_model": model.model.language_model.peft_config["default"]})
    assert described == {"language_model": {
        "method": "dora", "rank": 2, "alpha": 5.0, "dropout": 0.0,
        "targets": ["layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj"],
    }}  # fmt: skip
    file = json.loads((tmp_path / ADAPTERS / "language_model" / "adapter_config.json").read_text())
    assert describe_all({"language_model": file}) == described
