# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Hostile repositories and configurations: none has its code run, and each error says what was refused."""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from sailvit_hf import SAILViTForConditionalGeneration, SAILViTModel, SAILViTProcessor
from sailvit_hf.errors import SailvitError
from sailvit_hf.hub import convert_checkpoint
from sailvit_hf.refinement.lineage import Lineage
from sailvit_hf.refinement.recipes.recipe import load_recipe
from sailvit_hf.refinement.saving.resuming import check_origin

from . import tiny

CANARY = "code-was-run"
INDEX = "model.safetensors.index.json"
CHAT = [{"role": "user", "content": "read"}]
KERNEL = "evil/kernel"


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.canary}'",)


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(path.parent / CANARY)))


def write_code(folder: Path, name: str = "evil.py") -> None:
    (folder / name).write_text(f"open({str(folder / CANARY)!r}, 'w')\nclass Evil: pass\n")


def edit(folder: Path, name: str, change: Callable[[dict], Any]) -> None:
    path = folder / name
    values = json.loads(path.read_text()) if path.exists() else {}
    change(values)
    path.write_text(json.dumps(values))


def sets(*keys: str, to: Any, file: str = "config.json") -> Callable[[Path], None]:
    """A change that sets a nested key of a JSON file, and lays hostile code beside it."""

    def spoil(folder: Path) -> None:
        def change(values: dict) -> None:
            for key in keys[:-1]:
                values = values.setdefault(key, {})
            values[keys[-1]] = to

        edit(folder, file, change)
        write_code(folder)

    return spoil


def unknown_model(*keys: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        references = {auto: "evil.Evil" for auto in ("AutoConfig", "AutoModel", "AutoModelForImageTextToText")}
        sets(*keys, "model_type", to="evil")(folder)
        sets(*keys, "auto_map", to=references)(folder)

    return spoil


def index_names(*names: str) -> Callable[[Path], None]:
    """An index whose files are these; what they name is there, outside the folder, and is a whole checkpoint."""

    def spoil(folder: Path) -> None:
        weights = folder / "model.safetensors"
        tensors = list(load_file(weights))
        outside = folder.parent / "outside.safetensors"
        shutil.move(weights, outside)
        files = [name.format(outside=outside) for name in names]
        if files == ["weights.bin"]:
            write_pickle(folder / "weights.bin")
        edit(folder, INDEX, lambda values: values.update(
            metadata={"total_size": 1}, weight_map=dict.fromkeys(tensors, files[0])))  # fmt: skip

    return spoil


def index_is(values: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / INDEX).write_text(json.dumps(values))

    return spoil


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_pickle(folder / "pytorch_model.bin")


def only_sharded_pickles(folder: Path) -> None:
    only_pickles(folder)
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00001.bin")
    weight_map = {"trunk.post_trunk_norm.weight": "pytorch_model-00001-of-00001.bin"}
    edit(folder, "pytorch_model.bin.index.json", lambda values: values.update(metadata={}, weight_map=weight_map))


def pickle_in_disguise(folder: Path) -> None:
    write_pickle(folder / "model.safetensors")


def offsets_outside(folder: Path) -> None:
    header = json.dumps({"trunk.x": {"dtype": "F32", "shape": [1 << 20], "data_offsets": [0, 4 << 20]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)


def adapter_pickle(folder: Path) -> None:
    base = folder / "base"
    base.mkdir()
    for path in [*folder.iterdir()]:
        if path != base:
            shutil.move(path, base)
    settings = {"peft_type": "LORA", "target_modules": ["qkv"], "r": 2, "base_model_name_or_path": str(base)}
    edit(folder, "adapter_config.json", lambda values: values.update(settings))
    write_pickle(folder / "adapter_model.bin")


def template(text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(text.replace("CANARY", str(folder / CANARY)))

    return spoil


def lineage_of(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "refinement.json").write_text(text)  # type: ignore[return-value]


def write_recipe(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(f"name: !!python/object/apply:os.system ['touch {folder / CANARY}']\n")


def load(auto: Any, **kwargs: Any) -> Callable[[Path], Any]:
    return lambda folder: auto.from_pretrained(folder, **kwargs)


def chat(folder: Path) -> Any:
    return SAILViTProcessor.from_pretrained(folder).apply_chat_template(CHAT, tokenize=False)


def convert(folder: Path) -> Any:
    return convert_checkpoint(folder, folder.parent / "converted")


@dataclass(frozen=True)
class Case:
    """What is done to a good checkpoint, who then opens it, and what the error must say."""

    name: str
    spoil: Callable[[Path], Any]
    opens: Callable[[Path], Any]
    says: str
    error: type[Exception] | tuple[type[Exception], ...] = ValueError
    of: str = "vlm"


VLM, VIT = load(AutoModelForImageTextToText), load(AutoModel)
REFUSED_CODE = "only the reader may switch on code from elsewhere"
REFUSED_KERNEL = "a file may not have code fetched and run"
CASES = [
    # Configurations
    Case("remote code for the language model", sets("text_config", "trust_remote_code", to=True), VLM,
         rf"text_config\.trust_remote_code: {REFUSED_CODE}"),
    Case("remote code for the vision tower", sets("vision_config", "trust_remote_code", to="yes"), VLM,
         rf"vision_config\.trust_remote_code: {REFUSED_CODE}"),
    Case("remote code for the whole", sets("trust_remote_code", to=True), VIT,
         f"sets trust_remote_code: {REFUSED_CODE}", of="vit"),
    Case("remote code two levels down", sets("text_config", "decoder", "trust_remote_code", to=1), VLM,
         rf"text_config\.decoder\.trust_remote_code: {REFUSED_CODE}"),
    Case("remote code in a list", sets("text_config", "parts", to=[{"trust_remote_code": True}]), load(AutoConfig),
         rf"text_config\.parts\.trust_remote_code: {REFUSED_CODE}"),
    Case("a kernel as the language model's attention", sets("text_config", "attn_implementation", to=KERNEL), VLM,
         rf"text_config\.attn_implementation to '{KERNEL}': {REFUSED_KERNEL}"),
    Case("the same by the private name", sets("text_config", "_attn_implementation", to=f"{KERNEL}@main"), VLM,
         rf"text_config\._attn_implementation to '{KERNEL}@main': {REFUSED_KERNEL}"),
    Case("the same by the internal name", sets("vision_config", "_attn_implementation_internal", to=KERNEL), VLM,
         rf"vision_config\._attn_implementation_internal to '{KERNEL}': {REFUSED_KERNEL}"),
    Case("a kernel from the top downwards", sets("attn_implementation", to={"text_config": KERNEL}), VLM,
         rf"sets attn_implementation to .*{KERNEL}.*{REFUSED_KERNEL}"),
    Case("a kernel for the experts", sets("text_config", "_experts_implementation", to=KERNEL), VLM,
         rf"text_config\._experts_implementation to '{KERNEL}': {REFUSED_KERNEL}"),
    Case("a kernel for the encoder alone", sets("_attn_implementation", to=f"flash|{KERNEL}:f"), VIT,
         rf"_attn_implementation to 'flash|{KERNEL}:f': {REFUSED_KERNEL}", of="vit"),
    Case("a nested model with code of its own", unknown_model("text_config"), VLM,
         "language model's model_type is 'evil'.*code for it from elsewhere is not run"),
    Case("a vision tower with code of its own", unknown_model("vision_config"), VLM,
         "vision tower's model_type is 'evil'.*code for it from elsewhere is not run"),
    Case("a model with code of its own", unknown_model(), VLM, "trust_remote_code"),
    # Names of files
    Case("an index that leads out", index_names("../outside.safetensors"), VIT,
         r"names '../outside.safetensors'; only safetensors files beside it", OSError, "vit"),
    Case("an index with an absolute name", index_names("{outside}"), load(SAILViTModel),
         r"names '/.*/outside.safetensors'; only safetensors files beside it", OSError, "vit"),
    Case("an index that leads out on Windows", index_names("..\\outside.safetensors"), VLM,
         "outside.safetensors'; only safetensors files beside it", OSError),
    Case("an index that names a pickle", index_names("weights.bin"), VLM,
         r"names 'weights\.bin'; only safetensors files beside it", OSError),
    Case("an index that is none", index_is({"metadata": {}, "weight_map": ["/etc/passwd"]}), VIT,
         "names 'no weight_map'", OSError, "vit"),
    Case("converting what leads out", index_names("../outside.safetensors"), convert,
         r"names '../outside.safetensors', which is not in its folder", SailvitError, "vit"),
    Case("converting an absolute name", index_names("{outside}"), convert,
         r"outside.safetensors', which is not in its folder", SailvitError),
    Case("converting an index that names a pickle", index_names("weights.bin"), convert,
         r"'weights\.bin', which is not a safetensors file: only safetensors", SailvitError, "vit"),
    # Pickles
    Case("pickles only", only_pickles, VIT, "no weights as safetensors, and others .pickles. are not", OSError, "vit"),
    Case("pickles only, in shards", only_sharded_pickles, VLM, "no weights as safetensors, and others", OSError),
    Case("pickles asked for", only_pickles, load(SAILViTModel, use_safetensors=False),
         "use_safetensors=False asks for pickles, which are not read", OSError, "vit"),
    Case("a pickle called safetensors", pickle_in_disguise, VIT, "weights of .* are no safetensors, whatever",
         OSError, "vit"),
    Case("tensors that lie outside of their file", offsets_outside, VIT, "weights of .* are no safetensors, whatever",
         OSError, "vit"),
    Case("an adapter as a pickle", adapter_pickle, VIT, "adapter.*safetensors", OSError, "vit"),
    Case("converting pickles", only_pickles, convert, "only safetensors files are read", SailvitError, "vit"),
    Case("converting a pickle called safetensors", pickle_in_disguise, convert, "is not a whole safetensors file",
         SailvitError, "vit"),
    Case("resuming from pickled weights", only_pickles, lambda folder: check_origin(folder, folder / "elsewhere"),
         "only safetensors files are read", SailvitError),
    # Processors
    Case("an image processor with code of its own", lambda folder: (
            sets("image_processor_type", to="Evil", file="preprocessor_config.json")(folder),
            sets("auto_map", to={"AutoImageProcessor": "evil.Evil"}, file="preprocessor_config.json")(folder),
         ), load(AutoImageProcessor), "trust_remote_code", of="vit"),
    Case("a processor with code of its own", lambda folder: (
            sets("processor_class", to="Evil", file="processor_config.json")(folder),
            sets("auto_map", to={"AutoProcessor": "evil.Evil"}, file="processor_config.json")(folder),
            sets("model_type", to="evil")(folder),
            sets("auto_map", to={})(folder),
         ), load(AutoProcessor), "trust_remote_code"),
    Case("a tokenizer with code of its own", lambda folder: (
            sets("tokenizer_class", to="Evil", file="tokenizer_config.json")(folder),
            sets("auto_map", to={"AutoTokenizer": ["evil.Evil", None]}, file="tokenizer_config.json")(folder),
            sets("model_type", to="evil")(folder),
            sets("auto_map", to={})(folder),
         ), load(AutoTokenizer), "trust_remote_code"),
    Case("a chat template that leaves its box",
         template("{{ cycler.__init__.__globals__.os.system('touch CANARY') }}"), chat,
         "access to attribute '__init__' of 'type' object is unsafe", jinja2.exceptions.SecurityError),
    Case("a chat template that reads a file", template("{% include '/etc/passwd' %}"), chat,
         "no loader for this environment", TypeError),
    # Records and recipes
    Case("a lineage without end", lineage_of('{"a":' * 100_000), Lineage.load, "cannot be read", SailvitError),
    Case("a lineage of another make", lineage_of('{"format": 2, "name": ["x"]}'), Lineage.load, "is not a lineage",
         SailvitError),
    Case("a recipe that calls", write_recipe, lambda folder: load_recipe(folder / "recipe.yaml"), "recipe.yaml",
         SailvitError),
]  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each kind, whole and harmless."""
    place = tmp_path_factory.mktemp("good")
    tiny.save_sailvit(place / "vit")
    model, processor = tiny.vlm()
    model.save_pretrained(place / "vlm")
    processor.save_pretrained(place / "vlm")
    for name in ("vit", "vlm"):
        for path in (place / name).glob("*.py"):
            path.unlink()  # nothing but data, so that any code found later is hostile
    return {name: place / name for name in ("vit", "vlm")}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile(case: Case, good: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    folder = tmp_path / "repository"
    shutil.copytree(good[case.of], folder)
    case.spoil(folder)
    with pytest.raises(case.error, match=f"(?s){case.says}"):
        case.opens(folder)
    assert not [*tmp_path.rglob(CANARY)]
    assert not (tmp_path / "converted").exists()


def test_there_are_enough() -> None:
    assert len(CASES) >= 25 and len({case.name for case in CASES}) == len(CASES)


def test_the_canary_sings(tmp_path: Path) -> None:
    """The payload does run where pickles are opened, so that the tests above would see it."""
    write_pickle(tmp_path / "x.bin")
    with (tmp_path / "x.bin").open("rb") as file:
        pickle.load(file)
    assert (tmp_path / CANARY).exists()


def test_what_a_file_merely_prefers_is_left_to_the_reader(good: dict[str, Path], tmp_path: Path) -> None:
    """A published configuration may ask for flash attention everywhere; one reads it without."""
    folder = tmp_path / "repository"
    shutil.copytree(good["vlm"], folder)
    sets("attn_implementation", to="flash_attention_2")(folder)
    sets("text_config", "attn_implementation", to="flash_attention_2")(folder)
    sets("vision_config", "_attn_implementation", to="flash_attention_2")(folder)
    sets("text_config", "auto_map", to={"AutoModel": "evil.Evil"})(folder)
    sets("text_config", "trust_remote_code", to=False)(folder)
    model = SAILViTForConditionalGeneration.from_pretrained(folder)
    expected = SAILViTForConditionalGeneration.from_pretrained(good["vlm"])
    for config in (model.config, model.config.text_config, model.config.vision_config):
        assert config._attn_implementation == "sdpa"
    assert not hasattr(model.config.text_config, "auto_map")
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    eager = SAILViTForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    assert eager.config.text_config._attn_implementation == "eager"  # the reader's word counts
    assert not (folder / CANARY).exists()
