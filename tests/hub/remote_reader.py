# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Run as a script, in a process that cannot import the package: load checkpoints as remote code, write what they say.

    python remote_reader.py JOBS.json

JOBS.json: `asked` (a safetensors file with what every model is asked), `picture` (an image file), `answers` (the file
to write), and `jobs`: each with `name`, `source` (a folder or a Hub id in the cache), `doors` (names of Auto classes)
and optionally `pipelines` (tasks), `suppressed` (a token that is not to be generated), `save` (doors whose things are
saved a second time) and `save_to` (the folder).
"""

import importlib.abc
import json
import sys
from types import SimpleNamespace


class NotInstalled(importlib.abc.MetaPathFinder):
    """The package is not there, wherever it may be installed."""

    def find_spec(self, fullname, path, target=None):
        if fullname.partition(".")[0] == "sailvit_hf":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


MODELS = ("AutoModel", "AutoBackbone", "AutoModelForImageClassification", "AutoModelForImageTextToText")


def ask(model, asked):
    """The outputs of a model, by name, for the pictures and the tokens that every model of the tests is asked."""
    import torch

    kind = type(model).__name__
    if "VLM" in kind or "ConditionalGeneration" in kind:
        given = {name: asked[name] for name in ("input_ids", "attention_mask", "vlm_pixel_values")}
        given["pixel_values"] = given.pop("vlm_pixel_values")
    else:
        given = {"pixel_values": asked["pixel_values"]}
    with torch.inference_mode():
        outputs = model.eval()(**given)
    tensors = {}
    for name in ("last_hidden_state", "pooler_output", "logits"):
        if outputs.get(name) is not None:
            tensors[name] = outputs[name].contiguous()
    for index, feature_map in enumerate(outputs.get("feature_maps") or ()):
        tensors[f"feature_map_{index}"] = feature_map.contiguous()
    return tensors


def chat_about(picture):
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is this?"}]
    return [{"role": "user", "content": content}]


def run_pipeline(task, picture, suppressed=None, **parts):
    """What a pipeline made of these parts answers about the picture: numbers, scores by label, or a text."""
    from transformers import pipeline

    made = pipeline(task, device="cpu", **parts)
    if task == "image-text-to-text":
        settings = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [suppressed]}
        (answer,) = made(text=chat_about(picture), return_full_text=False, generate_kwargs=settings)
        return answer["generated_text"]
    answer = made(picture)
    return answer if task == "image-feature-extraction" else {entry["label"]: entry["score"] for entry in answer}


def ask_door(door, thing, asked, picture):
    """What came out of an Auto class says: tensors by name."""
    if door in MODELS:
        return ask(thing, asked)
    if door == "AutoImageProcessor":
        return {"pixel_values": thing(picture, return_tensors="pt")["pixel_values"]}
    if door == "AutoProcessor":
        chat = chat_about(picture)
        inputs = thing.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
        return {name: inputs[name] for name in ("input_ids", "pixel_values")}
    return {}


def auto_class(door):
    """The Auto class of that name."""
    import transformers

    found = getattr(transformers, door)
    if getattr(found, "is_dummy", False):  # transformers 5.17 asks for torchvision here, and not there
        from transformers.models.auto.image_processing_auto import AutoImageProcessor as found
    return found


def read(job, asked, picture, tensors, facts):
    """Load one source through all its doors, ask what came, and save again what the job says."""
    source, name = job["source"], job["name"]
    for door in job["doors"]:
        thing = auto_class(door).from_pretrained(source, trust_remote_code=True)
        facts[f"{name}/{door}"] = f"{type(thing).__module__}.{type(thing).__name__}"
        found = ask_door(door, thing, asked, picture)
        tensors.update({f"{name}/{door}/{key}": value for key, value in found.items()})
        if door in job.get("save", ()):
            thing.save_pretrained(job["save_to"])
    for task in job.get("pipelines", ()):
        facts[f"{name}/{task}"] = run_pipeline(
            task, picture, job.get("suppressed"), model=source, trust_remote_code=True
        )


def refusal(source):
    """What is said when nobody agreed to remote code."""
    from transformers import AutoModel

    try:
        AutoModel.from_pretrained(source, trust_remote_code=False)
    except ValueError as error:
        return str(error)
    return None


def main(path):
    """Do the jobs of a file."""
    sys.meta_path.insert(0, NotInstalled())
    import torch
    from PIL import Image
    from safetensors.torch import load_file, save_file
    from transformers.models.auto import auto_factory

    torch.set_num_threads(1)
    # AutoBackbone asks the Hub whether a folder of this machine is there; here the answer is yes.
    auto_factory.hf_api = lambda: SimpleNamespace(repo_exists=lambda name: True)
    with open(path, encoding="utf-8") as file:
        plan = json.load(file)
    asked, picture = load_file(plan["asked"]), Image.open(plan["picture"])
    tensors: dict = {}
    facts: dict = {}
    for job in plan["jobs"]:
        read(job, asked, picture, tensors, facts)
    facts["refusal"] = refusal(plan["jobs"][0]["source"])
    facts["packages"] = sorted({name.partition(".")[0] for name in sys.modules})
    apart = {key: value.clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    save_file(apart, plan["answers"])
    with open(f"{plan['answers']}.json", "w", encoding="utf-8") as file:
        json.dump(facts, file)


if __name__ == "__main__":
    main(sys.argv[1])
