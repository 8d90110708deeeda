# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint of the trainer is a whole model: nothing but the folder is needed to go on or to answer a question."""

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from sailvit_hf import SAILViTConfig, SAILViTForConditionalGeneration, SAILViTImageProcessorPil, SAILViTProcessor
from sailvit_hf.data.collator import VisionLanguageCollator
from sailvit_hf.data.demo_world import DemoWorld
from sailvit_hf.refinement import RefinementArguments, WorldKnowledgeTrainer

from .tiny import tiny_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trainer with the real data, processor and collator after two steps, a checkpoint after each."""
    folder = tmp_path_factory.mktemp("trained")
    world = DemoWorld()
    tokenizer = world.tokenizer()
    images = SAILViTImageProcessorPil(size={"height": 16, "width": 16})
    processor = SAILViTProcessor.from_parts(images, tokenizer, patch_size=4)
    decoder = tiny_model().config.text_config
    decoder.vocab_size, decoder.max_position_embeddings = len(tokenizer), 128
    decoder.pad_token_id, decoder.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    config = SAILViTForConditionalGeneration.config_class(
        vision_config=SAILViTConfig(**tiny_model().config.vision_config.to_dict()),
        text_config=decoder,
        image_token_id=processor.image_token_id,
    )
    torch.manual_seed(0)
    args = RefinementArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        max_steps=2,
        save_steps=1,
        learning_rate=1e-3,
        logging_steps=1,
        max_length=128,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = WorldKnowledgeTrainer(
        SAILViTForConditionalGeneration(config),
        args,
        train_dataset=world.dataset("world", "train", 16),
        processing_class=processor,
    )
    trainer.train()
    return trainer, folder


def test_default_collator(trained):
    trainer, _ = trained
    assert isinstance(trainer.data_collator, VisionLanguageCollator)
    assert (trainer.data_collator.processor, trainer.data_collator.max_length) == (trainer.processing_class, 128)


@pytest.mark.parametrize("step", [1, 2])
def test_files(trained, step):
    folder = trained[1] / f"checkpoint-{step}"
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "configuration_sailvit.py",
        "model.safetensors",
        "modeling_sailvit.py",
        "modeling_sailvit_vlm.py",
        "processing_sailvit.py",
        "processor_config.json",
        "refinement.json",
        "tokenizer.json",
        "trainer_state.json",
    }
    assert all("--" not in value for value in json.loads((folder / "config.json").read_text())["auto_map"].values())
    assert not [name for name in names if name.startswith(".")]


def test_checkpoint_works_on_its_own(trained):
    trainer, folder = trained
    model = AutoModelForImageTextToText.from_pretrained(folder / "checkpoint-2", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder / "checkpoint-2")
    rows = [trainer.train_dataset[index] for index in range(4)]
    batch = trainer.data_collator(rows)
    again = VisionLanguageCollator(processor)(rows)
    assert batch.keys() == again.keys() and all(torch.equal(batch[key], again[key]) for key in batch)
    trainer.model.eval()
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch).logits, trainer.model(**batch).logits)
