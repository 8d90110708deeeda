# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Ask a refined vision-language model about a picture.

    python examples/chat_with_refined_vlm.py runs/demo/world picture.png "how many drawings ?"

The demo's language model knows only the words of its own little world; the report of a run shows questions that fit.
"""

import argparse
from collections.abc import Sequence

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import sailvit_hf  # noqa: F401  (registers the Auto classes)
from sailvit_hf.data.images import load_image


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Ask a refined vision-language model about a picture.")
    parser.add_argument("model", help="the folder of a stage of a run, such as runs/demo/world, or a Hub id")
    parser.add_argument("picture", help="an image file")
    parser.add_argument("questions", nargs="+", help="asked one after the other, each with the answers before it")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    options = parser.parse_args(argv)

    processor = AutoProcessor.from_pretrained(options.model)
    model = AutoModelForImageTextToText.from_pretrained(options.model)
    picture, chat = load_image(options.picture), []
    for number, question in enumerate(options.questions):
        parts = [{"type": "image"}] if number == 0 else []
        chat.append({"role": "user", "content": [*parts, {"type": "text", "text": question}]})
        text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        inputs = processor(images=[picture], text=[text], return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=options.max_new_tokens, do_sample=False)
        answer = processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        chat.append({"role": "assistant", "content": answer})
        print(f"> {question}\n{answer}")


if __name__ == "__main__":
    main()
