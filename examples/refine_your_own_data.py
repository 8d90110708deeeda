# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Go on refining a vision-language checkpoint with your own conversations about pictures.

    python examples/refine_your_own_data.py runs/demo/world my.jsonl runs/mine --stage world --max-steps 50

Each line of the file is one conversation; paths of pictures are relative to the file:

    {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "A cat."}],
     "images": ["cat.png"]}

The command `sailvit refine` does the same from a recipe, with all stages, resume, evaluation and report.
"""

import argparse
from collections.abc import Sequence

import torch

from sailvit_hf import RefinementArguments, RefinementTrainer, SAILViTForConditionalGeneration, SAILViTProcessor
from sailvit_hf.data.conversations import load_messages
from sailvit_hf.refinement import Lineage


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Refine a checkpoint with your own conversations about pictures.")
    parser.add_argument("model", help="the folder of a stage of a run, or a Hub id")
    parser.add_argument("messages", help="a JSONL file")
    parser.add_argument("output", help="the folder of the new checkpoint")
    parser.add_argument("--stage", default="world", help="coarse: connector; fine: + vision tower; world: everything")
    parser.add_argument("--max-steps", type=int, default=-1, help="default: one pass over the data")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, help="default: the published one of the stage")
    options = parser.parse_args(argv)

    trainer = RefinementTrainer(
        model=SAILViTForConditionalGeneration.from_pretrained(options.model, dtype=torch.float32),
        args=RefinementArguments(
            output_dir=f"{options.output}/checkpoints",
            max_steps=options.max_steps,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
        ),
        train_dataset=load_messages(options.messages),
        processing_class=SAILViTProcessor.from_pretrained(options.model),
        stage=options.stage,
        lineage=Lineage.load(options.model),
        data_source=options.messages,
    )
    trainer.train()
    trainer.save_model(options.output)
    print(f"Refined checkpoint: {options.output}")


if __name__ == "__main__":
    main()
