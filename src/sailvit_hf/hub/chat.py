# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Tokenizer, chat template and processor of a whole model, from SAIL-VL2's files to ours and back."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ..errors import SailvitError
from ..processing.chat_templates_sailvit import (
    IMAGE_END_TOKEN,
    IMAGE_START_TOKEN,
    IMAGE_TOKEN,
    chatml_template,
)
from ..processing.processing_sailvit import SAILViTProcessor
from .mllm import HUB_ID
from .preprocessing import Preprocessing, image_processor, tiles
from .sources import Source
from .weights import read_json

# How SAIL-VL2 writes a picture in a prompt before its processor puts the tokens there, and how ours does.
_THEIR_PICTURE, _OUR_PICTURE = "<image>\\n", f"{IMAGE_START_TOKEN}{IMAGE_TOKEN}{IMAGE_END_TOKEN}\\n"
_PROCESSOR_FIELDS = {"max_dynamic_patch": 10, "use_msac": False, "pad_input": True}  # as published with SAIL-VL2-2B
_PROBES: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": "a"}],
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}],
    [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "a"}]}],
)


def sail_vl2_template(system: str) -> str:
    """A chat template that writes the prompts of SAIL-VL2's, and tells which tokens are the assistant's answers.

    Args:
        system: The turn that comes first when a chat has no system message of its own.
    """
    return chatml_template(default=system, separator="")


def our_template(tokenizer: Any, theirs: str) -> str:
    """The template for our processor: the source's own, with our picture tokens.

    The published one marks the turns of assistant and system in earlier messages with tokens that its tokenizer does
    not have, and cannot say which tokens are answers. A template that writes the same prompts otherwise takes its
    place; one that is not known keeps its text.
    """

    def written(template: str) -> list[str]:
        return [
            tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True, chat_template=template
            )
            for chat in _PROBES
        ]

    replaced = theirs.replace(_THEIR_PICTURE, _OUR_PICTURE)
    prompts = written(replaced)
    system, turn, _ = prompts[0].partition("<|im_start|>user\n")
    if turn and written(sail_vl2_template(system)) == prompts:
        return sail_vl2_template(system)
    return replaced


def their_template(ours: str) -> str:
    """A template of ours in SAIL-VL2's words."""
    plain = ours.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
    return plain.replace(_OUR_PICTURE, _THEIR_PICTURE)


def read_tokenizer(source: Source, text_config: Any) -> Any:
    """The tokenizer of a whole model.

    Raises:
        SailvitError: the folder holds none, or it does not know the picture's token.
    """
    if source.file("tokenizer_config.json") is None:
        raise SailvitError(
            f"{source.name} holds no tokenizer, and a whole model needs one: add it, or convert the vision tower alone"
        )
    try:
        # With the configuration given, no code of the source is looked for.
        tokenizer = AutoTokenizer.from_pretrained(source.folder, config=text_config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SailvitError(f"The tokenizer of {source.name} cannot be loaded ({reason}): fetch it again") from error
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        raise SailvitError(
            f"The tokenizer of {source.name} does not know the picture's token {IMAGE_TOKEN}: fetch it again, or "
            "convert the vision tower alone"
        )
    return tokenizer


def read_template(source: Source, tokenizer: Any) -> str | None:
    """The chat template of a whole model, wherever its library keeps it."""
    path = source.file("chat_template.jinja")
    if path is not None:
        return path.read_text(encoding="utf-8")
    return tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None


def write_processor(
    folder: Path, tokenizer: Any, prepared: Preprocessing, config: Any, template: str | None
) -> None:
    """Write our processor: image processor, tokenizer, chat template, code."""
    processor = SAILViTProcessor(
        image_processor(prepared, **tiles(prepared, config)),
        tokenizer,
        patch_size=config.vision_config.patch_size,
        downsample_ratio=config.downsample_ratio,
        chat_template=template,
    )
    processor.save_pretrained(folder)


def copy_processor(folder: Path, source: Source) -> None:
    """Write the source's processor, which is ours already, as this version stores it."""
    try:
        processor = SAILViTProcessor.from_pretrained(source.folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SailvitError(f"The processor of {source.name} cannot be loaded ({reason}): fetch it again") from error
    processor.save_pretrained(folder)


def copy_generation_config(folder: Path, source: Source) -> None:
    """Take over how the source generates, unless it only repeats its configuration."""
    path = source.file("generation_config.json")
    if path is not None and "_from_model_config" not in read_json(path):
        shutil.copyfile(path, folder / path.name)


def write_sail_vl2_processor(
    folder: Path, tokenizer: Any, prepared: Preprocessing, config: Any, template: str | None
) -> None:
    """Write SAIL-VL2's `preprocessor_config.json`, its tokenizer as transformers 4 reads it, and its chat template.

    Raises:
        SailvitError: the pictures are cropped, which SAIL-VL2's processor cannot do.
    """
    if prepared.shortest_edge is not None:
        raise SailvitError(
            "The image processor cuts out the centre of pictures, and SAIL-VL2's cannot: train with the whole picture "
            "resized, or keep the format"
        )
    prepared.refuse_padding("SAIL-VL2's")
    theirs = dict(getattr(config, "sail_vl2", None) or {})
    values = {
        "auto_map": {
            "AutoImageProcessor": f"{HUB_ID}--image_processing_sailvl.SAILVLImageProcessor",
            "AutoProcessor": f"{HUB_ID}--processing_sailvl.SAILVLProcessor",
        },
        **{name: default for name, default in _PROCESSOR_FIELDS.items()},
        **theirs.get("preprocessor", {}),
        **({} if prepared.max_tiles is None else {"max_dynamic_patch": prepared.max_tiles}),
        "use_msac": prepared.use_msac,
        "patch_size": config.vision_config.patch_size,
        "image_size": prepared.height,
        "image_mean": list(prepared.mean),
        "image_std": list(prepared.std),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values, indent=4) + "\n", encoding="utf-8")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = read_json(path)
    extra = settings.pop("extra_special_tokens", None)
    if isinstance(extra, list):
        settings["additional_special_tokens"] = extra  # its name in transformers 4
    # What only this version writes, and the code of our processor.
    for name in ("auto_map", "backend", "chat_template", "is_local", "local_files_only", "processor_class"):
        settings.pop(name, None)
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    published = theirs.get("chat_template") or (their_template(template) if template else None)
    if published:
        (folder / "chat_template.jinja").write_text(published, encoding="utf-8")


def remember(source: Source, theirs: str | None) -> dict[str, Any]:
    """What SAIL-VL2's processor files say that ours have no use for; goes into our configuration's `sail_vl2`."""
    path = source.file("preprocessor_config.json")
    values = read_json(path) if path is not None else {}
    kept: dict[str, Any] = {name: values[name] for name in _PROCESSOR_FIELDS if name in values}
    return {"preprocessor": kept, **({"chat_template": theirs} if theirs else {})}
