# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Fine-tune a refined backbone as a classifier: mean of its patch features, a linear head, the plain `Trainer`.

    python examples/finetune_classifier.py runs/demo/backbone pictures/ runs/classifier

The folder of pictures has one folder a class: pictures/cat/1.png, pictures/dog/1.png, ...
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

import sailvit_hf  # noqa: F401  (registers the Auto classes)
from sailvit_hf.data.images import load_image


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fine-tune a refined backbone as a classifier.")
    parser.add_argument("backbone", help="the folder `backbone/` of a run, or a Hub id")
    parser.add_argument("pictures", type=Path, help="a folder with one folder of pictures a class")
    parser.add_argument("output", help="the folder of the classifier")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--head-only", action="store_true", help="keep the backbone as it is: a linear probe")
    options = parser.parse_args(argv)

    names = sorted(folder.name for folder in options.pictures.iterdir() if folder.is_dir())
    rows = [(path, i) for i, name in enumerate(names) for path in sorted((options.pictures / name).iterdir())]
    image_processor = AutoImageProcessor.from_pretrained(options.backbone)
    model = AutoModelForImageClassification.from_pretrained(
        options.backbone, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
    )
    model.base_model.requires_grad_(not options.head_only)

    def collate(batch: list[tuple[Path, int]]) -> dict[str, torch.Tensor]:
        inputs = image_processor([load_image(path) for path, _ in batch], return_tensors="pt")
        return {**inputs, "labels": torch.tensor([label for _, label in batch])}

    arguments = TrainingArguments(
        output_dir=f"{options.output}/checkpoints",
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=16,
        warmup_steps=0.1,
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collate,
        processing_class=image_processor,
        compute_metrics=lambda found: {"accuracy": (found[0].argmax(-1) == found[1]).mean()},
    )
    trainer.train()
    accuracy = trainer.evaluate()["eval_accuracy"]
    trainer.save_model(options.output)
    print(f"{options.output}: {len(names)} classes, accuracy {accuracy:.3f} on the pictures it was trained on")


if __name__ == "__main__":
    main()
