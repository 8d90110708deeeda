# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Whether a checkpoint does the same in a process that knows nothing of this package.

The same function runs twice: here, and as a script in a process that is offline, has no token and cannot import the
package. It imports nothing of the package itself, so that the script needs only transformers.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TOLERANCE = 1e-6  # of the largest output, in fp32


def outputs(folder: str, trust_remote_code: bool, revision: str | None = None) -> dict[str, Any]:
    """What a checkpoint makes of a picture: the prepared inputs and the model's output.

    Args:
        folder: the checkpoint, or a Hub repository.
        trust_remote_code: let the code that lies in it run.
        revision: of the repository.
    """
    import torch
    import transformers
    from PIL import Image

    options: dict[str, Any] = {"trust_remote_code": True} if trust_remote_code else {}
    if revision is not None:
        options["revision"] = revision
    config = transformers.AutoConfig.from_pretrained(folder, **options)
    kind = (config.architectures or [""])[0]
    picture = Image.linear_gradient("L").resize((96, 64))
    picture = Image.merge("RGB", [picture, picture.transpose(Image.Transpose.ROTATE_180), picture.point(_wave)])
    if hasattr(config, "text_config"):
        whole = kind.endswith("ForConditionalGeneration")
        door = transformers.AutoModelForImageTextToText if whole else transformers.AutoModel
        processor = transformers.AutoProcessor.from_pretrained(folder, **options)
        question = [{"type": "image"}, {"type": "text", "text": "What is in the picture?"}]
        text = processor.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
        inputs = processor(images=[picture], text=[text], return_tensors="pt")
    else:
        classifies = kind.endswith("ForImageClassification")
        door = transformers.AutoModelForImageClassification if classifies else transformers.AutoModel
        # transformers.AutoImageProcessor of older versions wants torchvision.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        image_processor = AutoImageProcessor.from_pretrained(folder, **options)
        inputs = image_processor(images=picture, return_tensors="pt")
    model = door.from_pretrained(folder, dtype=torch.float32, **options).eval()
    with torch.no_grad():
        result = model(**inputs)
    found = {f"input {name}": value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    for name in ("logits", "last_hidden_state"):
        if getattr(result, name, None) is not None:
            return {**found, name: result[name].contiguous()}
    raise ValueError(f"{type(result).__name__} has neither logits nor last_hidden_state")


def _wave(value: int) -> int:
    return value * 7 % 256


def outputs_elsewhere(folder: Path, trust_remote_code: bool, timeout: float = 1800) -> dict[str, Any] | str:
    """`outputs` in a clean process; if it fails, the last line of what it said."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "outputs.safetensors")
        hidden = ("HF_", "HUGGING_FACE_", "HUGGINGFACE_", "PYTHON", "TRANSFORMERS_", "SAILVIT_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
        environment = {**kept, "HF_HOME": scratch, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-I", __file__, str(folder.resolve()), str(out), str(int(trust_remote_code))]
        try:
            run = subprocess.run(
                command, env=environment, cwd=scratch, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return f"it did not end within {timeout:g} seconds"
        if run.returncode or not out.is_file():
            lines = run.stderr.strip().splitlines()
            errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
            return (errors or lines or [f"it ended with status {run.returncode}"])[-1]
        return load_file(out)


def difference(here: dict[str, Any], there: dict[str, Any]) -> str | None:
    """What differs between two runs, in words; None if nothing does."""
    for name in {**here, **there}:
        if name not in here or name not in there:
            return f"{name} is missing {'here' if name not in here else 'there'}"
        one, other = here[name].double(), there[name].double()
        if one.shape != other.shape:
            return f"{name} has shape {tuple(one.shape)} here and {tuple(other.shape)} there"
        largest = max(1.0, one.abs().max().item())
        gap = (one - other).abs().max().item()
        if not gap <= TOLERANCE * largest:  # also true of NaN
            return f"{name} differs by {gap:g}"
    return None


if __name__ == "__main__":
    sys.modules["sailvit_hf"] = None  # type: ignore[assignment]  # importing it fails, as where it is not installed
    from safetensors.torch import save_file

    tensors = outputs(sys.argv[1], trust_remote_code=sys.argv[3] == "1")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, sys.argv[2])
