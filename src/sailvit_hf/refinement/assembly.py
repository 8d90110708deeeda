# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Put models together for a run: the start of a refinement from its parts, and the parts of a checkpoint."""

import copy
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedConfig, set_seed
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # as there, it asks for no torchvision
from transformers.utils import is_bitsandbytes_available

from ..errors import SailvitError
from ..modeling.modeling_sailvit_vlm import SAILViTForConditionalGeneration
from ..modeling.vision_towers import native_size, patch_sides, tower_facts, vision_half
from ..processing.image_processing_pil_sailvit import SAILViTImageProcessorPil
from ..processing.processing_sailvit import SAILViTProcessor
from .lineage import FILE_NAME, Lineage, model_card
from .parents import describe_parent, find_lineage
from .recipes.recipe import PicturesPlan, Recipe
from .run_folder import write_text

T = TypeVar("T")


def _load(key: str, source: str, load: Callable[[], T]) -> T:
    """Call a `from_pretrained`; what it says about a missing or foreign folder becomes one sentence."""
    try:
        return load()
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if "use_safetensors" in reason or "no file named model.safetensors" in reason:
            reason = "it has no weights as safetensors, and pickles are not read, since they can run code; convert it"
        raise SailvitError(f"{key}: {source} cannot be loaded: {reason}") from error


def load_vlm(
    folder: str | Path, revision: str | None = None, key: str = "model", attention: str | None = None
) -> Any:
    """A vision-language model in fp32, in evaluation mode as `from_pretrained` leaves it.

    `attention` is transformers' `attn_implementation`, the default one if None.
    """
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    options |= {"revision": revision, "dtype": torch.float32}
    return _load(key, str(folder), lambda: SAILViTForConditionalGeneration.from_pretrained(folder, **options))


def load_vlm_in_4bit(folder: str | Path, args: Any, attention: str | None = None) -> Any:
    """A vision-language model whose language model's linear layers are kept in four bits, the rest in fp32.

    NF4 with doubly quantised constants, as in QLoRA (arXiv 2305.14314); the head and the embeddings stay as they are.

    Args:
        folder: a whole checkpoint.
        args: the stage's arguments, which say the device, and whether products are bf16.
        attention: as of `load_vlm`.

    Raises:
        SailvitError: bitsandbytes is not installed, or the checkpoint cannot be loaded.
    """
    if not is_bitsandbytes_available():
        raise SailvitError("load_in_4bit needs the package bitsandbytes: pip install bitsandbytes, or remove it")
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if args.bf16 else torch.float32,
        llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    )
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    options |= {"quantization_config": settings, "device_map": {"": args.device}, "dtype": torch.float32}
    return _load("model", str(folder), lambda: SAILViTForConditionalGeneration.from_pretrained(folder, **options))


def load_processor(folder: str | Path, revision: str | None = None, key: str = "model") -> Any:
    """The processor saved beside a vision-language model."""
    return _load(key, str(folder), lambda: SAILViTProcessor.from_pretrained(folder, revision=revision))


def load_vision_tower(source: str, revision: str | None = None) -> tuple[Any, Any]:
    """A vision model in fp32 and its image processor; Apple's AIMv2, whose names transformers does not know, too."""
    values, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
    if values.get("model_type") == "aimv2" and "vision_config" not in values:
        from ..hub.convert import convert_checkpoint

        with TemporaryDirectory() as folder:
            converted = str(convert_checkpoint(source, f"{folder}/tower", revision=revision).folder)
            return load_vision_tower(converted)
    model = AutoModel.from_pretrained(source, revision=revision, dtype=torch.float32, use_safetensors=True)
    return model, AutoImageProcessor.from_pretrained(source, revision=revision)


def picture_processor(plan: PicturesPlan, vision_config: Any) -> SAILViTImageProcessorPil:
    """SAILViT's image processor with the tower's size and a recipe's settings."""
    height, width = native_size(vision_config)
    clip = plan.statistics == "clip"
    return SAILViTImageProcessorPil(
        size={"height": height, "width": width},
        image_mean=OPENAI_CLIP_MEAN if clip else IMAGENET_DEFAULT_MEAN,
        image_std=OPENAI_CLIP_STD if clip else IMAGENET_DEFAULT_STD,
        max_tiles=plan.max_tiles,
    )


def causal_language_model(model: Any) -> Any:
    """The language model of a vision-language model as a causal LM of its own (weights shared)."""
    with torch.device("meta"):
        language_model = AutoModelForCausalLM.from_config(model.config.text_config)
    setattr(language_model, language_model.base_model_prefix, model.model.language_model)
    language_model.set_output_embeddings(model.lm_head)
    language_model.tie_weights()
    return language_model.eval()


def load_language_model(source: str | Path, revision: str | None = None, key: str = "start.language_model") -> Any:
    """A causal language model in fp32 and its tokenizer."""
    return _load(
        key,
        str(source),
        lambda: (
            AutoModelForCausalLM.from_pretrained(
                source, revision=revision, dtype=torch.float32, use_safetensors=True
            ),
            AutoTokenizer.from_pretrained(source, revision=revision),
        ),
    )


def make_processor(image_processor: Any, tokenizer: Any, language_model: Any, vision_config: Any) -> Any:
    """A processor for two parts; the language model keeps its prompt format, and learns the special tokens it lacks.

    Its embeddings grow once, tied ones together: new rows are drawn around the mean of the old ones (transformers'),
    the same in every run. The token that stops an answer becomes one that generation stops at.

    Raises:
        SailvitError: the vision tower's patches are not square, or the chat template cannot be given pictures.
    """
    height, width = patch_sides(vision_config)
    if height != width:
        raise SailvitError(
            f"the vision tower has patches of {height}x{width} pixels: choose a tower with square patches"
        )
    try:
        processor = SAILViTProcessor.from_parts(
            whole_pictures(image_processor, vision_config), tokenizer, patch_size=height
        )
    except ValueError as error:
        raise SailvitError(f"the language model's tokenizer does not fit: {error}") from error
    rows = language_model.get_input_embeddings().num_embeddings
    if len(processor.tokenizer) > rows:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            language_model.resize_token_embeddings(len(processor.tokenizer))
    generation, stop = language_model.generation_config, processor.stop_token_id
    if generation is not None and stop is not None:
        known = generation.eos_token_id
        known = known if isinstance(known, list) else [] if known is None else [known]
        if stop not in known:
            generation.eos_token_id = [*known, stop] if known else stop
    return processor


def whole_pictures(image_processor: Any, vision_config: Any) -> Any:
    """The image processor, or for one that cuts pictures into patches (SigLIP 2 with any aspect ratio) another that
    resizes them to the tower's native size and scales them in the same way."""
    if "spatial_shapes" not in getattr(image_processor, "model_input_names", ()):
        return image_processor
    height, width = native_size(vision_config)
    return SAILViTImageProcessorPil(
        size={"height": height, "width": width},
        resample=image_processor.resample,
        image_mean=image_processor.image_mean,
        image_std=image_processor.image_std,
    )


def build_start(recipe: Recipe, foundations: Any | None) -> tuple[Any, Any, Lineage]:
    """The model that refinement starts from, its processor and its lineage.

    Args:
        recipe: says the parts; the connector's weights are drawn from its seed.
        foundations: the demo foundations, if the recipe uses them.

    Raises:
        SailvitError: a part cannot be loaded, or the parts do not fit.
    """
    start = recipe.start
    if start.model is not None:
        model = load_vlm(start.model, start.model_revision, "start.model")
        processor = load_processor(start.model, start.model_revision, "start.model")
        lineage = find_lineage(start.model, start.model_revision)
        if lineage is None:
            lineage = Lineage(name=recipe.name, parents={"model": describe_parent(start.model, start.model_revision)})
        return model, processor, lineage
    tower_source = _part(start.vision_tower, foundations, "vision_tower")
    language_source = _part(start.language_model, foundations, "language_model")
    tower, image_processor = _load(
        "start.vision_tower", tower_source, lambda: load_vision_tower(tower_source, start.vision_tower_revision)
    )
    tower = vision_half(tower)
    if start.pictures is not None:
        image_processor = picture_processor(start.pictures, tower.config)
    try:
        tower_facts(tower)
    except ValueError as error:
        raise SailvitError(f"start.vision_tower: {error}") from error
    language_model, tokenizer = load_language_model(language_source, start.language_model_revision)
    processor = make_processor(image_processor, tokenizer, language_model, tower.config)
    set_seed(recipe.seed)
    options = {} if start.vision_feature_layer is None else {"vision_feature_layer": start.vision_feature_layer}
    try:
        model = SAILViTForConditionalGeneration.from_parts(
            tower, language_model, processor.image_token_id, **options
        )
    except ValueError as error:
        raise SailvitError(f"start: the two parts do not fit: {error}") from error
    parents = {
        "vision_tower": _parent(start.vision_tower, tower_source, start.vision_tower_revision),
        "language_model": _parent(start.language_model, language_source, start.language_model_revision),
    }
    return model, processor, Lineage(name=recipe.name, parents=parents)


def _part(source: str | None, foundations: Any | None, name: str) -> str:
    return str(getattr(foundations, name)) if source == "demo" else str(source)


def _parent(named: str | None, source: str, revision: str | None) -> dict[str, Any]:
    """What the lineage says of a part; one of the demo is known by the demo's name wherever its cache lies."""
    described = describe_parent(source, revision)
    return {**described, "source": "demo foundation"} if named == "demo" else described


def save_checkpoint(folder: Path, model: Any, processor: Any, lineage: Lineage) -> None:
    """Write a whole checkpoint: weights, configuration, code, processor, lineage and model card."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_text(folder / "README.md", model_card(lineage.save(folder)))


def save_backbone(folder: Path, checkpoint: Path) -> None:
    """Write the vision tower of a checkpoint alone, with its image processor, lineage and a card of its own."""
    model, processor = load_vlm(checkpoint), load_processor(checkpoint)
    model.model.vision_tower.save_pretrained(folder)
    image_processor = copy.copy(processor.image_processor)
    if getattr(image_processor, "max_tiles", 1) > 1:
        # Tiles are the vision-language model's; who takes the tower alone gets one array for one picture.
        image_processor.min_tiles = image_processor.max_tiles = 1
    image_processor.save_pretrained(folder)
    lineage = Lineage.load(checkpoint).save(folder)
    write_text(folder / "README.md", backbone_card(lineage, model))


def backbone_card(lineage: Lineage, model: Any) -> str:
    """The model card of the refined vision tower of a vision-language model."""
    stages = ", ".join(record.stage for record in lineage.stages) or "none yet"
    tower, layer = model.model.vision_tower, model.config.vision_feature_layer
    ours = tower.config.model_type == "sailvit"
    remote = "; without sailvit_hf installed also trust_remote_code=True" if ours else ""
    return f"""---
library_name: transformers
pipeline_tag: image-feature-extraction
tags: [sailvit, vision-encoder, gradual-feature-refinement]
---

# {lineage.name}: the refined vision tower

A vision transformer (`{type(tower).__name__}`) refined with a language model by `sailvit_hf` (stages: {stages});
[SAILViT: Gradual Feature Refinement, arXiv 2507.01643](https://arxiv.org/abs/2507.01643). `{FILE_NAME}` tells the
stages, their data and arguments.

```python
from transformers import AutoImageProcessor, AutoModel

folder = "."  # or the Hub id, then with revision="<commit>"{remote}
image_processor = AutoImageProcessor.from_pretrained(folder)
model = AutoModel.from_pretrained(folder)
{_use(tower, layer)}
```
"""


def _use(tower: Any, layer: int) -> str:
    """The lines of a card that turn a picture into the patch features that were refined."""
    facts = tower_facts(tower)
    only_patches = not facts.leading and not facts.trailing and tower.config.model_type != "siglip2_vision_model"
    if only_patches and layer == -1:
        return (
            'features = model(**image_processor(image, return_tensors="pt")).last_hidden_state'
            "  # (1, patches, width), row by row"
        )
    return f"""
# Without class tokens and registers, from the layer that was refined; `layer` is its index among the hidden states.
from sailvit_hf.modeling.vision_towers import patch_features

pixel_values = image_processor(image, return_tensors="pt")["pixel_values"]
features, (rows, columns) = patch_features(model, pixel_values, layer={layer})  # (1, patches, width), row by row
""".strip()


@contextmanager
def on_device(model: Any, device: Any):  # type: ignore[no-untyped-def]
    """The model on a device inside; back on the CPU afterwards, so that one model at a time fills the accelerator."""
    model.to(device)
    try:
        yield model
    finally:
        model.to("cpu")
