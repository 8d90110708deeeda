# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that carry their code: whatever saved them, a process without the package reads them, by value.

All checkpoints are made once, read in one process that cannot import the package, and saved there a second time;
another such process reads what it saved. The package itself then reads the same folders without remote code.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, Trainer, TrainingArguments

import sailvit_hf
from sailvit_hf import (
    SAILViTBackbone,
    SAILViTConfig,
    SAILViTForConditionalGeneration,
    SAILViTForImageClassification,
    SAILViTImageProcessorPil,
    SAILViTModel,
)
from sailvit_hf.hub import convert_checkpoint
from sailvit_hf.refinement import Lineage, RefinementArguments, RefinementTrainer
from sailvit_hf.refinement.assembly import causal_language_model, save_backbone, save_checkpoint

from . import remote_reader, tiny

SOURCE = Path(sailvit_hf.__file__).parent


def with_imports(folder: str, *files: str) -> set[str]:
    """The names of files of the package and of what they import from their folder."""
    names = {f"{file}.py" for file in files}
    while found := {f"{needed}.py" for name in names for needed in needed_by(SOURCE / folder / name)} - names:
        names |= found
    return names


def needed_by(file: Path) -> list[str]:
    return re.findall(r"^\s*from \.(\w+) import", file.read_text(), flags=re.MULTILINE)


VISION = with_imports("modeling", "configuration_sailvit", "modeling_sailvit")
PICTURES = with_imports("processing", "image_processing_pil_sailvit")
CHATS = PICTURES | with_imports("processing", "processing_sailvit")
VLM = VISION | with_imports("modeling", "modeling_sailvit_vlm")
VIT_DOORS = ["AutoConfig", "AutoImageProcessor", "AutoBackbone", "AutoModel"]
CLASSIFIER_DOORS = [*VIT_DOORS, "AutoModelForImageClassification"]
VLM_DOORS = ["AutoConfig", "AutoImageProcessor", "AutoProcessor", "AutoTokenizer", "AutoModel",
             "AutoModelForImageTextToText"]  # fmt: skip
PIPELINES = {
    "encoder": "image-feature-extraction", "classifier": "image-classification", "vlm": "image-text-to-text",
}  # fmt: skip
PUBLISHED = "somebody/refined"  # a repository in the cache, as a download leaves it
STAGES = ("coarse", "fine", "world")


def vlm_with(tower: Any) -> tuple[Any, Any]:
    """The tests' vision-language model with another tower, and its processor."""
    model, processor = tiny.vlm()
    token = processor.image_token_id
    return SAILViTForConditionalGeneration.from_parts(tower, causal_language_model(model), token).eval(), processor


def clip_tower() -> CLIPVisionModel:
    return tiny.shake(CLIPVisionModel(CLIPVisionConfig(**tiny.SIZES)))


def samples(count: int) -> list[dict[str, Any]]:
    pictures = np.random.default_rng(1).integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)
    question = [{"type": "image"}, {"type": "text", "text": "What?"}]
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": "this"}]
    return [{"messages": chat, "images": [Image.fromarray(picture)]} for picture in pictures]


SAVED_ONCE = {"converted": ["AutoConfig", "AutoBackbone", "AutoModel"],
              "converted-vlm": ["AutoConfig", "AutoModel", "AutoModelForImageTextToText"]}  # fmt: skip


class Checkpoints:
    """The folders by name, and what each model said before it was saved."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.folders: dict[str, Path] = {}
        self.doors: dict[str, list[str]] = {}
        self.code: dict[str, set[str]] = {}
        self.expected: dict[str, dict[str, torch.Tensor]] = {}
        self.answers: dict[str, Any] = {}
        self.others: dict[str, Path] = {}  # checkpoints that need no code of ours
        generator = torch.Generator().manual_seed(4)
        picture = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
        self.picture = Image.fromarray(picture)
        self.picture.save(place / "picture.png")
        model, processor = tiny.vlm()
        self.token = processor.image_token_id
        inputs = processor.apply_chat_template(
            remote_reader.chat_about(self.picture), tokenize=True, return_dict=True, return_tensors="pt"
        )
        self.asked = {
            "pixel_values": torch.randn(2, 3, 32, 32, generator=generator),
            "input_ids": inputs["input_ids"],
            "attention_mask": inputs["attention_mask"],
            "vlm_pixel_values": inputs["pixel_values"],
        }
        self.asked = {name: tensor.contiguous() for name, tensor in self.asked.items()}
        save_file(self.asked, place / "asked.safetensors")

    def add(self, name: str, folder: Path, model: Any, doors: list[str], code: set[str]) -> None:
        """Note a checkpoint, and what its model says now."""
        self.folders[name], self.doors[name], self.code[name] = folder, doors, code
        self.expected[name] = remote_reader.ask(model, self.asked)

    def jobs(self, again: Path | None = None) -> list[dict[str, Any]]:
        """What a reader has to do; with `again`, each model and its processor are saved there once more."""
        found: list[dict[str, Any]] = []
        for name, folder in self.folders.items():
            doors = self.doors[name]
            job = {"name": name, "source": str(folder), "doors": doors, "suppressed": self.token}
            if name in PIPELINES:
                job["pipelines"] = [PIPELINES[name]]
            if again is not None and name not in SAVED_ONCE:
                parts = {"AutoProcessor"} & {*doors} or {"AutoImageProcessor"} & {*doors}
                job |= {"save": [*parts, self.main_door(name)], "save_to": str(again / name)}
            found.append(job)
        return found

    def main_door(self, name: str) -> str:
        """The Auto class of the very class that was saved."""
        return "AutoBackbone" if name == "backbone" else self.doors[name][-1]


def save_vision(made: Checkpoints) -> None:
    """The encoder, its backbone and its classifier; in one file and in shards."""
    pictures = SAILViTImageProcessorPil(size={"height": 32, "width": 32})
    encoder = tiny.sailvit_model()
    backbone = SAILViTBackbone(SAILViTConfig(**tiny.SIZES, out_features=["stage1", "stage2"]))
    classifier = SAILViTForImageClassification(SAILViTConfig(**tiny.SIZES, id2label={0: "cat", 1: "dog"}))
    for name, model, options in (
        ("encoder", encoder, {}),
        ("encoder-sharded", encoder, {"max_shard_size": "20KB"}),
        ("backbone", tiny.shake(backbone), {}),
        ("classifier", tiny.shake(classifier), {}),
    ):
        folder = made.place / name
        model.save_pretrained(folder, **options)
        pictures.save_pretrained(folder)
        made.add(name, folder, model, CLASSIFIER_DOORS if name == "classifier" else VIT_DOORS, VISION | PICTURES)
        if name in PIPELINES:
            made.answers[name] = remote_reader.run_pipeline(
                PIPELINES[name], made.picture, model=model, image_processor=pictures
            )
    labels = torch.tensor([0, 1])
    arguments = TrainingArguments(
        output_dir=str(made.place / "plain-trainer"), max_steps=1, save_steps=1, use_cpu=True, report_to="none",
        disable_tqdm=True,
    )  # fmt: skip
    rows = [{"pixel_values": made.asked["pixel_values"][i], "labels": labels[i]} for i in range(2)]
    trainer = Trainer(classifier, arguments, train_dataset=rows, processing_class=pictures)
    trainer.train()
    folder = made.place / "plain-trainer/checkpoint-1"
    made.add("classifier-trainer", folder, classifier, CLASSIFIER_DOORS, VISION | PICTURES)


def save_vlms(made: Checkpoints) -> None:
    """The vision-language model: as it starts, sharded, with a tower of transformers, and after each stage."""
    # As a refinement starts: from parts that were loaded from their folders.
    model, processor = vlm_with(SAILViTModel.from_pretrained(made.folders["encoder"]))
    clip, clip_processor = vlm_with(clip_tower())
    for name, whose, options in (("vlm", model, {}), ("vlm-sharded", model, {"max_shard_size": "60KB"}),
                                 ("vlm-clip", clip, {})):  # fmt: skip
        whose.save_pretrained(made.place / name, **options)
        (clip_processor if whose is clip else processor).save_pretrained(made.place / name)
        made.add(name, made.place / name, whose, VLM_DOORS, VLM | CHATS)
    made.answers["vlm"] = remote_reader.run_pipeline(
        PIPELINES["vlm"], made.picture, made.token, model=model, processor=processor
    )
    lineage, rows = Lineage(name="tiny"), samples(2)
    for stage in STAGES:
        arguments = RefinementArguments(
            output_dir=str(made.place / stage), max_steps=1, save_steps=1, save_strategy="steps", learning_rate=1e-2,
            per_device_train_batch_size=2, warmup_steps=0, use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = RefinementTrainer(
            model, arguments, train_dataset=rows, processing_class=processor, stage=stage, lineage=lineage
        )
        trainer.train()
        folder = made.place / stage / "checkpoint-1"
        made.add(stage, folder, model, VLM_DOORS, VLM | CHATS)
        lineage = Lineage.load(folder)
    save_checkpoint(made.place / "start", model, processor, lineage)
    made.add("start", made.place / "start", model, VLM_DOORS, VLM | CHATS)
    save_backbone(made.place / "tower", made.place / "world/checkpoint-1")
    tower = model.model.vision_tower
    made.add("tower", made.place / "tower", tower, VIT_DOORS, VISION | PICTURES)
    Lineage(name="clip").save(made.place / "vlm-clip")
    save_backbone(made.place / "tower-clip", made.place / "vlm-clip")
    made.others["tower-clip"] = made.place / "tower-clip"


def save_merged(made: Checkpoints) -> None:
    """LoRA adapters, trained (that is, drawn) and merged: of the encoder and of the vision-language model."""
    from peft import LoraConfig, get_peft_model

    for name, model, targets in (
        ("encoder-lora", tiny.sailvit_model(), ["qkv", "fc1"]),
        ("vlm-lora", tiny.vlm()[0], ["qkv", "q_proj", "linear_1"]),
    ):
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets))
        generator = torch.Generator().manual_seed(6)
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_B" in parameter_name:
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        merged = adapted.merge_and_unload()
        merged.save_pretrained(made.place / name)
        if name == "vlm-lora":
            tiny.vlm()[1].save_pretrained(made.place / name)
        doors = ["AutoConfig", "AutoBackbone", "AutoModel"] if name == "encoder-lora" else VLM_DOORS
        made.add(name, made.place / name, merged, doors, VISION if name == "encoder-lora" else VLM | CHATS)


def save_converted(made: Checkpoints) -> None:
    """What `sailvit convert` writes, from transformers' AIMv2 and from SAIL-VL2."""
    theirs = tiny.save_aimv2(made.place / "aimv2")
    convert_checkpoint(made.place / "aimv2", made.place / "converted")
    made.add("converted", made.place / "converted", theirs, SAVED_ONCE["converted"], VISION | PICTURES)
    whole, _ = tiny.save_sail_vl2(made.place / "sail-vl2")
    convert_checkpoint(made.place / "sail-vl2", made.place / "converted-vlm")
    made.add("converted-vlm", made.place / "converted-vlm", whole, SAVED_ONCE["converted-vlm"], VLM | CHATS)


def publish(folder: Path, home: Path) -> None:
    """Put a checkpoint into a cache of the Hub, as a download of it would."""
    repository = home / "hub" / f"models--{PUBLISHED.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot.parent.mkdir()
    snapshot.symlink_to(folder)


def read_without_the_package(made: Checkpoints, home: Path, jobs: list[dict[str, Any]]) -> tuple[dict, dict]:
    """Answers and facts of a reader in a process of its own."""
    plan = {
        "asked": str(made.place / "asked.safetensors"),
        "picture": str(made.place / "picture.png"),
        "answers": str(home / "answers.safetensors"),
        "jobs": jobs,
    }
    home.mkdir(exist_ok=True)
    (home / "jobs.json").write_text(json.dumps(plan))
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, remote_reader.__file__, str(home / "jobs.json")],
        capture_output=True, text=True, env=environment, cwd=home,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    return load_file(plan["answers"]), json.loads((home / "answers.safetensors.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    made = Checkpoints(tmp_path_factory.mktemp("checkpoints"))
    save_vision(made)
    save_vlms(made)
    save_merged(made)
    save_converted(made)
    return made


@pytest.fixture(scope="module")
def read(made: Checkpoints) -> tuple[dict, dict]:
    """What a process without the package says; it saves all models again, that of the cached repository included."""
    home = made.place / "home"
    publish(made.folders["world"], home)
    jobs = made.jobs(again=made.place / "again")
    world = next(job for job in jobs if job["name"] == "world")
    jobs.append({**world, "name": "published", "source": PUBLISHED, "save_to": str(made.place / "again/published")})
    return read_without_the_package(made, home, jobs)


@pytest.fixture(scope="module")
def read_again(made: Checkpoints, read: tuple) -> tuple[dict, dict]:
    """What another such process says of the models that the first one saved."""
    jobs = [{**job, "source": str(made.place / "again" / job["name"])} for job in made.jobs()
            if job["name"] not in SAVED_ONCE]  # fmt: skip
    world = next(job for job in jobs if job["name"] == "world")
    jobs.append({**world, "name": "published", "source": str(made.place / "again/published")})
    return read_without_the_package(made, made.place / "home-again", jobs)


def check_code(name: str, folder: Path, code: set[str]) -> None:
    """All files of code that are needed, no other; every `auto_map` names a class of a file of the folder."""
    assert {path.name for path in folder.glob("*.py")} == code, name
    for file in folder.glob("*.py"):
        assert {f"{needed}.py" for needed in needed_by(file)} <= code, (name, file.name)
    maps = list(auto_maps(folder))
    assert maps or not code, name
    for where, auto_class, reference in maps:
        module, class_name = reference.split(".")
        assert "--" not in reference, (name, where)
        assert f"class {class_name}(" in (folder / f"{module}.py").read_text(), (name, where, auto_class)


def auto_maps(folder: Path) -> Any:
    """(where, Auto class, file.class) of all entries of all `auto_map`s in the JSON files of a folder."""

    def walk(where: str, value: Any) -> Any:
        if isinstance(value, dict):
            for auto_class, reference in (value.get("auto_map") or {}).items():
                # An image processor is named once for each backend.
                for one in reference.values() if isinstance(reference, dict) else [reference]:
                    yield where, auto_class, one
            for key, part in value.items():
                if key != "auto_map":
                    yield from walk(f"{where}/{key}", part)

    for path in sorted(folder.glob("*.json")):
        if path.name != "tokenizer.json":
            yield from walk(path.name, json.loads(path.read_text()))


def check_maps(name: str, folder: Path, doors: list[str]) -> None:
    """The configuration names all Auto classes of models, the image processor's only its own."""
    config = json.loads((folder / "config.json").read_text())
    wanted = {"AutoConfig", "AutoModel"}
    wanted |= {"AutoModelForImageTextToText"} if "vision_config" in config else {*CLASSIFIER_DOORS[2:]}
    assert {*config["auto_map"]} == wanted, name
    for part in ("vision_config", "text_config"):
        assert "auto_map" not in config.get(part, {}) and not config.get(part, {}).get("_name_or_path"), name
    for where, auto_class, _ in auto_maps(folder):
        if "image_processor" in where or "preprocessor_config" in where:
            assert auto_class == "AutoImageProcessor", (name, where)
    if "AutoProcessor" in doors:
        assert (folder / "chat_template.jinja").read_text() == tiny.vlm()[1].chat_template, name


def test_all_code_travels(made: Checkpoints) -> None:
    for name, folder in made.folders.items():
        check_code(name, folder, made.code[name])
        check_maps(name, folder, made.doors[name])


def test_no_file_tells_where_it_was_made(made: Checkpoints) -> None:
    for folder in (*made.folders.values(), *made.others.values()):
        for file in (*folder.glob("*.json"), *folder.glob("*.md")):
            if file.name != "trainer_state.json":
                assert str(made.place) not in file.read_text(), file


def test_a_tower_of_transformers_needs_no_code(made: Checkpoints) -> None:
    check_code("tower-clip", made.others["tower-clip"], PICTURES)


def test_vision_travels_light() -> None:
    """A backbone brings none of the vision-language model's files."""
    assert not {"modeling_sailvit_vlm.py", "processing_sailvit.py"} & (VISION | PICTURES)


def test_the_files_agree_with_the_package(made: Checkpoints) -> None:
    for folder in made.folders.values():
        for file in folder.glob("*.py"):
            originals = [path.read_bytes() for path in SOURCE.glob(f"*ing/{file.name}")]
            assert {*originals} == {file.read_bytes()}, file  # in both folders the same, where both have it


def check_answers(made: Checkpoints, tensors: dict, facts: dict) -> None:
    """Every door of every checkpoint says what the model said before it was saved."""
    for name in {job.split("/")[0] for job in facts} & {*made.folders}:
        door, expected = made.main_door(name), made.expected[name]
        for key, value in expected.items():
            within = 1e-5 if name == "converted" else 1e-6  # that one's model is transformers', which sums otherwise
            torch.testing.assert_close(tensors[f"{name}/{door}/{key}"], value, atol=within, rtol=0, msg=name)
        if "AutoBackbone" in made.doors[name] and name != "backbone":
            features = tensors[f"{name}/AutoModel/last_hidden_state"]
            maps = tensors[f"{name}/AutoBackbone/feature_map_0"].flatten(2).transpose(1, 2)
            torch.testing.assert_close(maps, features, atol=1e-6, rtol=0)
        if "AutoImageProcessor" in made.doors[name]:
            pixels = tensors[f"{name}/AutoImageProcessor/pixel_values"]
            assert torch.equal(pixels, made.asked["vlm_pixel_values"]), name
        if "AutoProcessor" in made.doors[name]:
            assert torch.equal(tensors[f"{name}/AutoProcessor/input_ids"], made.asked["input_ids"]), name
            assert torch.equal(tensors[f"{name}/AutoProcessor/pixel_values"], made.asked["vlm_pixel_values"]), name
        for one in made.doors[name]:
            assert facts[f"{name}/{one}"].startswith("transformers_modules.") or one == "AutoTokenizer"
    for name, task in PIPELINES.items():
        found, wanted = facts[f"{name}/{task}"], made.answers[name]
        if name == "encoder":
            torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), atol=1e-6, rtol=0)
        else:
            assert found == (pytest.approx(wanted, abs=1e-6) if name == "classifier" else wanted) and wanted


def test_a_process_without_the_package_reads_all(made: Checkpoints, read: tuple) -> None:
    tensors, facts = read
    check_answers(made, tensors, facts)
    assert {name.split("/")[0] for name in tensors} == {*made.folders, "published"}
    assert not {"sailvit_hf", "flash_attn", "einops", "timm", "datasets"} & {*facts["packages"]}
    logits = [made.expected[name]["logits"] for name in ("vlm", *STAGES)]
    assert all(not torch.equal(one, other) for one, other in zip(logits, logits[1:], strict=False)), "nothing learnt"
    wanted = made.expected["world"]["logits"]
    published = tensors["published/AutoModelForImageTextToText/logits"]
    torch.testing.assert_close(published, wanted, atol=1e-6, rtol=0)


def test_code_runs_only_for_who_agreed(read: tuple) -> None:
    assert "trust_remote_code" in read[1]["refusal"]


def test_a_second_save_is_as_whole_as_the_first(made: Checkpoints, read: tuple, read_again: tuple) -> None:
    assert {name.split("/")[0] for name in read_again[0]} == {*made.folders, "published"} - {*SAVED_ONCE}
    for name in {*made.folders, "published"} - {*SAVED_ONCE}:
        first = "world" if name == "published" else name
        check_code(name, made.place / "again" / name, made.code[first])
        check_maps(name, made.place / "again" / name, made.doors[first])
    tensors, facts = read_again
    check_answers(made, tensors, facts)
    published = tensors["published/AutoModelForImageTextToText/logits"]
    torch.testing.assert_close(published, made.expected["world"]["logits"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("trust", [None, True])
def test_with_the_package_its_own_classes_read_all(
    made: Checkpoints, monkeypatch: pytest.MonkeyPatch, trust: bool | None
) -> None:
    from transformers.models.auto import auto_factory

    monkeypatch.setattr(auto_factory, "hf_api", lambda: SimpleNamespace(repo_exists=lambda name: True))
    for name in ("encoder-sharded", "backbone", "classifier-trainer", "vlm-clip", "world", "tower", "vlm-lora"):
        for door in made.doors[name]:
            thing = remote_reader.auto_class(door).from_pretrained(str(made.folders[name]), trust_remote_code=trust)
            assert type(thing).__module__.startswith("sailvit_hf.") or door == "AutoTokenizer", (name, door)
            found = remote_reader.ask_door(door, thing, made.asked, made.picture)
            for key, value in made.expected[name].items() if door == made.main_door(name) else ():
                torch.testing.assert_close(found[key], value, atol=1e-6, rtol=0)
