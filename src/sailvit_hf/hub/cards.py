# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The `README.md` of a converted checkpoint: what it is, what it was, how to load it."""

import shutil
from pathlib import Path

from .sources import Source

_VISION = "image-feature-extraction"
_USE = {
    "sailvit": (
        "transformers",
        _VISION,
        """from transformers import AutoImageProcessor, AutoModel

folder = "."  # or the Hub id, then with revision="<commit>"; without sailvit_hf installed also trust_remote_code=True
image_processor = AutoImageProcessor.from_pretrained(folder)
model = AutoModel.from_pretrained(folder)
features = model(**image_processor(image, return_tensors="pt")).last_hidden_state  # (1, patches, width), by rows""",
    ),
    "aimv2": (
        "transformers",
        _VISION,
        """from transformers import AutoImageProcessor, Aimv2VisionModel

folder = "."  # or the Hub id, then with revision="<commit>"
image_processor = AutoImageProcessor.from_pretrained(folder)
model = Aimv2VisionModel.from_pretrained(folder)
features = model(**image_processor(image, return_tensors="pt")).last_hidden_state  # (1, patches, width), by rows""",
    ),
    "timm": (
        "timm",
        _VISION,
        """import timm

model = timm.create_model("local-dir:.", pretrained=True).eval()  # or "hf-hub:<id>@<commit>"
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
features = model.forward_features(transform(image)[None])  # (1, patches, width), by rows""",
    ),
    "sailvit-vlm": (
        "transformers",
        "image-text-to-text",
        """import sailvit_hf  # registers the Auto classes
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "."  # or the Hub id, then with revision="<commit>"
processor = AutoProcessor.from_pretrained(folder)
model = AutoModelForImageTextToText.from_pretrained(folder)
vision_tower = model.model.vision_tower""",
    ),
    "sail-vl2": (
        "transformers",
        "image-text-to-text",
        """from transformers import AutoModel, AutoProcessor  # transformers 4.51

folder = "."  # or the Hub id, then with revision="<commit>"
# Runs the code of the published SAIL-VL2 repository, which config.json names: read it first.
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True, code_revision="<commit>")
model = AutoModel.from_pretrained(folder, trust_remote_code=True, code_revision="<commit>")""",
    ),
}
TITLES = {
    "sailvit": "SAILViT vision transformer",
    "aimv2": "SAILViT vision transformer, as Aimv2VisionModel",
    "timm": "SAILViT vision transformer, for timm",
    "sailvit-vlm": "SAIL-VL2 as SAILViTForConditionalGeneration",
    "sail-vl2": "SAILViTForConditionalGeneration as SAIL-VL2",
}


def write_card(folder: Path, target: str, source: Source, source_layout: str, prepared_by_source: bool) -> None:
    """Write `README.md`, and copy the source's licence files."""
    from .. import __version__

    library, task, code = _USE[target]
    license_line = f"license: {source.license}\n" if source.license else ""
    pictures = "" if prepared_by_source else (
        "\nThe source does not say how pictures are prepared; what stands here is as its model was published.\n"
    )
    text = f"""---
library_name: {library}
pipeline_tag: {task}
{license_line}tags: [sailvit, vision-encoder]
---

# {TITLES[target]}

Converted by `sailvit_hf` {__version__} from {source.described} (layout: {source_layout}). Only names and the way
tensors are stacked changed; the weights themselves, their licence and their authors are the source's.
{pictures}
```python
{code}
```
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
    for path in sorted(source.folder.iterdir()):
        if path.is_file() and path.name.upper().startswith(("LICENSE", "NOTICE")):
            shutil.copyfile(path, folder / path.name)
