# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The demo's pre-trained parts: a ViT that never met a language model, and language models that never saw a picture.

Refinement presumes pre-trained parts, and the demo downloads none. So it makes them: the ViT by image-text contrast
(as AIMv2's and CLIP's cousins are), the language models by answering questions on the demo world told in words. All
sizes and rates here are ours, chosen for two CPU cores.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Qwen3Config,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from ..data.demo_world import DemoWorld
from ..data.demo_world.samples import FORMAT as SAMPLES_FORMAT
from ..modeling.configuration_sailvit import SAILViTConfig
from ..modeling.modeling_sailvit import SAILViTModel
from ..processing.image_processing_pil_sailvit import SAILViTImageProcessorPil
from ..processing.processing_sailvit import CHAT_TEMPLATE
from .callbacks import StageProgress

logger = logging.get_logger(__name__)

# Raise it when the way the foundations are made changes: it is part of the cache's key.
FORMAT = 1


@dataclass(frozen=True)
class FoundationSettings:
    """How long and how fast each part is pre-trained (ours).

    Attributes:
        vision_steps, vision_learning_rate: contrastive steps of the ViT and their peak rate.
        language_steps, language_learning_rate: next-token steps of each language model and their peak rate.
        vision_batch_size, language_batch_size: samples per step.
        samples: pictures, or conversations, that are made; further epochs show them again.
        vision_hidden_size, vision_intermediate_size, vision_layers, vision_heads: the ViT's size, the preset `tiny`'s
            when None; so are vision_image_size and vision_patch_size, in pixels.
    """

    vision_steps: int = 200
    vision_learning_rate: float = 2e-3
    vision_batch_size: int = 128
    language_steps: int = 600
    language_learning_rate: float = 3e-3
    language_batch_size: int = 64
    samples: int = 25_600
    vision_hidden_size: int | None = None
    vision_intermediate_size: int | None = None
    vision_layers: int | None = None
    vision_heads: int | None = None
    vision_image_size: int | None = None
    vision_patch_size: int | None = None

    def vision_config(self) -> SAILViTConfig:
        """The configuration of the ViT."""
        sizes = {
            "hidden_size": self.vision_hidden_size,
            "intermediate_size": self.vision_intermediate_size,
            "num_hidden_layers": self.vision_layers,
            "num_attention_heads": self.vision_heads,
            "image_size": self.vision_image_size,
            "patch_size": self.vision_patch_size,
        }
        return SAILViTConfig.preset("tiny", **{name: size for name, size in sizes.items() if size is not None})


@dataclass(frozen=True)
class Foundations:
    """Folders of the pre-trained parts; a language model's holds its tokenizer too, the ViT's its image processor."""

    vision_tower: Path
    language_model: Path
    second_language_model: Path


def cache_folder() -> Path:
    """Where foundations are kept: `$SAILVIT_CACHE`, or `~/.cache/sailvit_hf`."""
    return Path(os.environ.get("SAILVIT_CACHE", "~/.cache/sailvit_hf")).expanduser()


def make_foundations(
    world: DemoWorld,
    cache_dir: str | os.PathLike | None = None,
    seed: int = 0,
    settings: FoundationSettings | None = None,
    parts: tuple[str, ...] = ("vision_tower", "language_model", "second_language_model"),
) -> Foundations:
    """Pre-train the demo's parts, or find them in the cache.

    Args:
        world ([`DemoWorld`]): Source of pictures and texts.
        cache_dir: Where to keep them; [`cache_folder`] when not given.
        seed (`int`): Seed of initialisation and data order; the second language model uses `seed + 1000`.
        settings ([`FoundationSettings`], *optional*): Steps and rates.
        parts: Which of them are needed now; the others are neither made nor looked for.

    Returns:
        [`Foundations`]: the folders, readable with `AutoModel`, `AutoModelForCausalLM`, `AutoTokenizer` and
        `AutoImageProcessor`. A folder appears only when its part is complete.
    """
    settings = settings or FoundationSettings()
    root = Path(cache_dir) if cache_dir is not None else cache_folder() / "foundations"
    makers: dict[str, Callable[[Path], None]] = {
        "vision_tower": lambda folder: _pretrain_vision(world, folder, seed, settings),
        "language_model": lambda folder: _pretrain_language(world, folder, seed, settings, _first_language_config),
        "second_language_model": lambda folder: _pretrain_language(
            world, folder, seed + 1000, settings, _second_language_config
        ),
    }
    given = {name: value for name, value in asdict(settings).items() if value is not None}
    folders = {}
    for part, make in makers.items():
        key = json.dumps([FORMAT, SAMPLES_FORMAT, part, world.seed, list(world.seen), seed, given])
        folder = root / f"{part}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        folders[part] = folder
        if part in parts and not folder.is_dir():
            logger.info(f"Pre-training the demo's {part.replace('_', ' ')} into {folder}")
            _make_whole(folder, make)
    return Foundations(**folders)


def _make_whole(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a folder in a temporary place and move it when complete, so that a killed run leaves no half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / "made"
        make(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker, and made the same
                raise


# --- the vision transformer -------------------------------------------------------------------------------------


class _ContrastivePair(nn.Module):
    """A ViT and a bag-of-words text tower, trained to agree on which text belongs to which picture (CLIP's loss)."""

    def __init__(self, vision: PreTrainedModel, vocabulary_size: int, pad_token_id: int) -> None:
        super().__init__()
        width = vision.config.hidden_size
        self.vision = vision
        self.text = nn.EmbeddingBag(vocabulary_size, width, mode="mean", padding_idx=pad_token_id)
        self.vision_head = nn.Linear(width, width, bias=False)
        self.text_head = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.log_scale = nn.Parameter(torch.tensor(2.66))  # exp: 1 / 0.07, CLIP's start

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        pictures = F.normalize(self.vision_head(self.vision(pixel_values).pooler_output), dim=-1)
        texts = F.normalize(self.text_head(self.text(input_ids)), dim=-1)
        logits = self.log_scale.clamp(max=4.6).exp() * pictures @ texts.T
        # The world is small: several pictures of a batch may have the same text, and all of them are right.
        same = (input_ids[:, None] == input_ids[None]).all(-1).float()
        target = same / same.sum(-1, keepdim=True)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return {"loss": loss}


class _Columns(Dataset):
    """Rows of equally long tensors."""

    def __init__(self, **columns: torch.Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def demo_image_processor(config: SAILViTConfig) -> SAILViTImageProcessorPil:
    """The image processor of the demo's ViT: published preprocessing at the ViT's own size."""
    return SAILViTImageProcessorPil(size={"height": config.image_size, "width": config.image_size})


def _pretrain_vision(world: DemoWorld, folder: Path, seed: int, settings: FoundationSettings) -> None:
    set_seed(seed)
    config = settings.vision_config()
    processor = demo_image_processor(config)
    model = SAILViTModel(config)
    train_by_contrast(world, model, processor, seed, settings)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def train_by_contrast(
    world: DemoWorld, model: PreTrainedModel, processor: Any, seed: int = 0, settings: FoundationSettings | None = None
) -> None:
    """Pre-train a vision tower by image-text contrast on the demo world, as the demo's own is.

    Args:
        world ([`DemoWorld`]): Source of pictures and texts.
        model ([`~transformers.PreTrainedModel`]): Any vision tower with a `pooler_output`; trained in place.
        processor: Its image processor.
        seed (`int`): Seed of the samples and of their order; the text tower's weights come from torch's generator.
        settings ([`FoundationSettings`], *optional*): Those of its fields that concern the vision tower.
    """
    settings, tokenizer = settings or FoundationSettings(), world.tokenizer()
    pictures, texts = world.contrastive(settings.samples, seed=seed)
    input_ids = tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
    pair = _ContrastivePair(model, len(tokenizer), tokenizer.pad_token_id)

    def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        images = [row["pictures"].numpy() for row in rows]
        batch = processor(images, input_data_format="channels_last", return_tensors="pt")
        return {"pixel_values": batch["pixel_values"], "input_ids": torch.stack([row["input_ids"] for row in rows])}

    data = _Columns(pictures=torch.from_numpy(pictures), input_ids=input_ids)
    _train(
        "Vision tower, by contrast",
        pair,
        data,
        collate,
        settings.vision_steps,
        settings.vision_learning_rate,
        settings.vision_batch_size,
        seed,
    )


# --- the language models ----------------------------------------------------------------------------------------


def _shared_language_config(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        # The usual 0.02 suits widths of a thousand; at a hundred, attention that looks things up never forms.
        "initializer_range": 0.1,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }


def _first_language_config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    sizes = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3}
    return LlamaConfig(**_shared_language_config(tokenizer), **sizes)


def demo_configs(
    world: DemoWorld, settings: FoundationSettings | None = None
) -> tuple[SAILViTConfig, LlamaConfig]:
    """The configurations of the demo's ViT and of its first language model, without making either."""
    return (settings or FoundationSettings()).vision_config(), _first_language_config(world.tokenizer())


def _second_language_config(tokenizer: PreTrainedTokenizerBase) -> Qwen3Config:
    # Another family, width and depth: a backbone should serve language models that it was not refined with.
    sizes = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 2, "head_dim": 32}
    return Qwen3Config(**_shared_language_config(tokenizer), **sizes)


def _pretrain_language(
    world: DemoWorld,
    folder: Path,
    seed: int,
    settings: FoundationSettings,
    make_config: Callable[[PreTrainedTokenizerBase], Any],
) -> None:
    set_seed(seed)
    tokenizer = world.tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    model: PreTrainedModel = AutoModelForCausalLM.from_config(make_config(tokenizer))
    corpus = world.text_corpus(settings.samples, seed=seed)
    # Only the answers are learnt: what a scene looks like cannot be foretold, and that noise would drown the rest.
    chats = tokenizer.apply_chat_template(
        list(corpus["messages"]), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    rows = [
        {"input_ids": ids, "labels": [token if learnt else -100 for token, learnt in zip(ids, mask, strict=True)]}
        for ids, mask in zip(chats["input_ids"], chats["assistant_masks"], strict=True)
    ]

    _train(
        f"Language model ({model.config.model_type}), on text",
        model,
        rows,
        DataCollatorForSeq2Seq(tokenizer),
        settings.language_steps,
        settings.language_learning_rate,
        settings.language_batch_size,
        seed,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _train(
    title: str,
    model: nn.Module,
    data: Any,
    collate: Callable,
    steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> None:
    """Plain `Trainer`, without evaluation or checkpoints: a part takes a minute or two."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=0.05,
            adam_beta2=0.98,
            warmup_steps=0.1,
            lr_scheduler_type="cosine",
            logging_steps=20,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            seed=seed,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate)
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(StageProgress(title))
        trainer.train()
