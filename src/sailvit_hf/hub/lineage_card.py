# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The model card and the figure of a checkpoint that is published, made from its `refinement.json`."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

FIGURE = "lineage.png"
# What the figure calls the modules that a stage trains.
_SHORT = {"vision_tower": "ViT", "multi_modal_projector": "connector", "language_model": "language model"}
_PAPER = "[SAILViT: Gradual Feature Refinement, arXiv 2507.01643](https://arxiv.org/abs/2507.01643)"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+\Z")
LicenseOf = Callable[[str, str | None], str | None]


def parent_of(value: Any) -> tuple[str, str | None, str | None]:
    """Name, revision and licence of a parent as the lineage notes it: `name@revision`, or a mapping."""
    if isinstance(value, Mapping):
        name = next((str(value[key]) for key in ("source", "id", "name", "path") if value.get(key)), "not recorded")
        return name, value.get("revision"), value.get("license")
    name, _, revision = str(value).partition("@")
    return name, revision or None, None


def is_hub_id(name: str) -> bool:
    """Whether a parent's name is a repository's, not a folder's."""
    return bool(_HUB_ID.match(name)) and not Path(name).exists()


def published_name(name: str) -> str:
    """A parent as strangers may read it: a folder's path becomes its last name."""
    return name if is_hub_id(name) or "/" not in name.replace("\\", "/") else f"`{Path(name).name}` (a local folder)"


def card(lineage: Mapping[str, Any], config: Mapping[str, Any], repo: str, license_of: LicenseOf) -> str:
    """The `README.md` of a published checkpoint.

    Args:
        lineage: content of its `refinement.json`.
        config: content of its `config.json`.
        repo: where it is published.
        license_of: gives the licence of a repository at a revision, if it can be found.
    """
    parents = {part: parent_of(value) for part, value in (lineage.get("parents") or {}).items()}
    licenses = {
        part: known or (license_of(name, revision) if is_hub_id(name) else None)
        for part, (name, revision, known) in parents.items()
    }
    stages = lineage.get("stages") or []
    whole = "text_config" in config
    parts = [
        _front_matter(parents, licenses, whole),
        f"# {lineage.get('name') or repo.split('/')[-1]}",
        _summary(stages, whole),
        f"![What it was made of and the stages it went through]({FIGURE})",
        "## Made of\n\n" + _parents(parents, licenses),
    ]
    if stages:
        parts += ["## Stages and data\n\n" + _stages(stages), "## Metrics\n\n" + _metrics(lineage, stages)]
    parts += ["## Use\n\n" + _use(config, repo, whole), _small_print(lineage)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(parents: Mapping[str, tuple], licenses: Mapping[str, str | None], whole: bool) -> str:
    lines = ["---", "library_name: transformers"]
    lines.append(f"pipeline_tag: {'image-text-to-text' if whole else 'image-feature-extraction'}")
    known = set(licenses.values())
    if licenses and None not in known:
        lines.append(f"license: {known.pop() if len(known) == 1 else 'other'}")
    bases = dict.fromkeys(name for name, _, _ in parents.values() if is_hub_id(name))
    if bases:
        lines += ["base_model:", *(f"- {name}" for name in bases)]
    return "\n".join([*lines, "tags: [sailvit, vision-encoder, gradual-feature-refinement]", "---"])


def _summary(stages: Sequence[Mapping], whole: bool) -> str:
    done = ", ".join(str(stage.get("stage")) for stage in stages)
    what = "A vision-language model whose vision tower was" if whole else "A vision transformer that was"
    how = f"refined step by step (stages: {done})" if done else "put together for gradual refinement, not trained yet"
    return f"{what} {how} with `sailvit_hf`; {_PAPER}."


def _parents(parents: Mapping[str, tuple], licenses: Mapping[str, str | None]) -> str:
    if not parents:
        return "Not recorded."
    lines = ["| part | from | revision | licence |", "|---|---|---|---|"]
    for part, (name, revision, _) in parents.items():
        shown = f"[{name}](https://huggingface.co/{name})" if is_hub_id(name) else published_name(name)
        lines.append(f"| {part} | {shown} | {revision or ''} | {licenses[part] or 'not recorded'} |")
    return "\n".join(lines) + "\n\nWeights and their licences are the parents'; what was trained builds on them."


def _stages(stages: Sequence[Mapping]) -> str:
    lines = [
        "| stage | trains | peak learning rate | data | samples | fingerprint | steps | seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stage in stages:
        data = stage.get("data") or {}
        rates = ", ".join(dict.fromkeys(f"{rate:g}" for rate in (stage.get("learning_rates") or {}).values()))
        cells = [
            stage.get("stage"),
            ", ".join(stage.get("trains") or ()),
            rates,
            published_name(str(data.get("source") or "not recorded")),
            stage.get("samples_seen", data.get("samples")),
            f"`{str(data.get('fingerprint'))[:12]}`" if data.get("fingerprint") else "none",
            stage.get("steps"),
            stage.get("seed"),
        ]
        lines.append("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _metrics(lineage: Mapping[str, Any], stages: Sequence[Mapping]) -> str:
    rows = []
    for stage in stages:
        for key, name in (("train_loss", "mean training loss"), ("final_loss", "last training loss")):
            if stage.get(key) is not None:
                rows.append((str(stage.get("stage")), name, stage[key]))
        rows += [(str(stage.get("stage")), name, value) for name, value in _flat(stage.get("metrics"))]
    rows += [("now", name, value) for name, value in _flat(lineage.get("metrics"))]
    if not rows:
        return "None recorded."
    lines = [f"| {state} | {name} | {value:.4f} |" for state, name, value in rows]
    return "\n".join(["| after | metric | value |", "|---|---|---|", *lines])


def _flat(metrics: Any, prefix: str = "") -> list[tuple[str, float]]:
    if isinstance(metrics, Mapping):
        return [entry for key, value in metrics.items() for entry in _flat(value, f"{prefix} {key}".strip())]
    return [(prefix, float(metrics))] if isinstance(metrics, (int, float)) and not isinstance(metrics, bool) else []


def _use(config: Mapping[str, Any], repo: str, whole: bool) -> str:
    needs_code = bool(config.get("auto_map"))
    arguments = "repo, revision=revision" + (", trust_remote_code=True" if needs_code else "")
    why = "  # runs the code in this repository; not needed with sailvit_hf installed" if needs_code else ""
    kind = next(iter(config.get("architectures") or ()), "")
    if whole:
        model, processor = "AutoModelForImageTextToText", "AutoProcessor"
        last = "vision_tower = model.model.vision_tower  # the refined backbone"
    else:
        classifies = kind.endswith("ForImageClassification")
        model = "AutoModelForImageClassification" if classifies else "AutoModel"
        processor = "AutoImageProcessor"
        output = "logits" if classifies else "last_hidden_state  # (1, patches, width), row by row"
        last = f'outputs = model(**processor(image, return_tensors="pt")).{output}'
    return f"""```python
from transformers import {model}, {processor}

repo, revision = "{repo}", "<commit>"  # the commit that you have looked at: code and weights stay what they are
processor = {processor}.from_pretrained({arguments})
model = {model}.from_pretrained({arguments}){why}
{last}
```"""


def _small_print(lineage: Mapping[str, Any]) -> str:
    digests = [f"| `{name}` | `{digest}` |" for name, digest in (lineage.get("weights") or {}).items()]
    table = "\n".join(["| file | SHA-256 |", "|---|---|", *digests]) + "\n\n" if digests else ""
    return f"## Files\n\n{table}`refinement.json` holds all arguments, data fingerprints, versions and hardware."


def figure(lineage: Mapping[str, Any]) -> Image.Image:
    """The lineage as a picture: parents, then each stage with what it trained and its loss."""
    parents = [
        [part.replace("_", " "), published_name(parent_of(value)[0]).replace("`", "")]
        for part, value in (lineage.get("parents") or {}).items()
    ]
    columns = [parents or [["parents", "not recorded"]]]
    for stage in lineage.get("stages") or []:
        loss = stage.get("train_loss")
        trains = ", ".join(_SHORT.get(name, str(name).replace("_", " ")) for name in stage.get("trains") or ())
        columns.append([[f"stage {stage.get('stage')}", trains, "" if loss is None else f"mean loss {loss:.4f}"]])
    return _draw(columns)


def _draw(columns: list[list[list[str]]]) -> Image.Image:
    font, margin, gap, line = ImageFont.load_default(16), 16, 40, 22
    texts = [[[_short(text) for text in box if text] for box in column] for column in columns]
    widths = [max(int(font.getlength(text)) for box in column for text in box) + 2 * margin for column in texts]
    heights = [[len(box) * line + margin for box in column] for column in texts]
    height = max(sum(column) + margin * (len(column) + 1) for column in heights)
    picture = Image.new("RGB", (sum(widths) + gap * (len(widths) - 1) + 2 * margin, height), "white")
    draw, left, middle = ImageDraw.Draw(picture), margin, height // 2
    for index, (column, width) in enumerate(zip(texts, widths, strict=True)):
        top = middle - (sum(heights[index]) + margin * (len(column) - 1)) // 2
        for box, tall in zip(column, heights[index], strict=True):
            fill = "#eef2f7" if index == 0 else "#dcebdd"
            draw.rounded_rectangle((left, top, left + width, top + tall), 8, fill, "#5b6b7b")
            for row, text in enumerate(box):
                where = (left + margin, top + margin // 2 + row * line)
                draw.text(where, text, "#10202f" if row == 0 else "#44546a", font)
            top += tall + margin
        left += width
        if index + 1 < len(texts):
            draw.line((left + 6, middle, left + gap - 8, middle), "#5b6b7b", 2)
            draw.polygon([(left + gap - 8, middle - 6), (left + gap - 8, middle + 6), (left + gap, middle)], "#5b6b7b")
        left += gap
    return picture


def _short(text: str, most: int = 44) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
