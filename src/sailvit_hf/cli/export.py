# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Write a SAILViT encoder as an ONNX graph for any size of picture, and with --int8 a fast one for CPUs beside it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SailvitError

if TYPE_CHECKING:
    import numpy as np

    from ..modeling.modeling_sailvit import SAILViTModel

FP32_FILE, INT8_FILE = "model.onnx", "model_int8.onnx"
# Of the features' largest value: what fp32 sums in another order may differ by, and a wrong graph never does.
TOLERANCE = 1e-3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("source", help="folder of a SAILViT encoder, such as backbone/ of a run, or a Hub id")
    parser.add_argument("dest", help="the folder that gets the graphs, the image processor and a README")
    parser.add_argument("--revision", help="the commit, for a Hub id")
    parser.add_argument("--int8", action="store_true", help=f"write {INT8_FILE} too")
    parser.add_argument("--keep", nargs="+", default=[], metavar="NAME",
                        help="layers that stay in fp32, by parts of their names, as mlp.fc2 or blocks.0.")  # fmt: skip
    parser.add_argument("--reduce-range", action="store_true",
                        help="weights in 7 bits, for x86 CPUs without VNNI instructions")  # fmt: skip
    parser.add_argument("--pictures", nargs="+", default=[], metavar="FILE",
                        help="pictures to compare int8 with fp32 on; noise if there are none")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Export, and check what was written against the model itself."""
    from ..export import export_onnx, quantize_int8, require_export_packages

    require_export_packages()
    model, image_processor = _load(options.source, options.revision)
    pictures = _pictures(options.pictures, image_processor, model)
    dest = Path(options.dest)
    fp32 = export_onnx(model, dest / FP32_FILE)
    print(f"{fp32}: {_check(model, fp32)}")
    image_processor.save_pretrained(dest)
    model.config.save_pretrained(dest)
    lines = ["`model.onnx` computes in fp32."]
    if options.int8:
        int8 = quantize_int8(fp32, dest / INT8_FILE, keep=options.keep, reduce_range=options.reduce_range)
        found = _compare(fp32, int8, pictures, "noise" if not options.pictures else "pictures")
        print(f"{int8}: {found}")
        lines.append(f"`{INT8_FILE}` computes the layers' products in int8: {found}.")
    (dest / "README.md").write_text(_readme(options, model, image_processor, lines), encoding="utf-8")
    return 0


def _load(source: str, revision: str | None) -> tuple["SAILViTModel", Any]:
    """The encoder in fp32 and its image processor; what is wrong with the checkpoint becomes one sentence."""
    import torch
    from transformers import AutoConfig
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    from ..modeling.loading_sailvit import IncompleteCheckpointError
    from ..modeling.modeling_sailvit import SAILViTModel

    try:
        kind = AutoConfig.from_pretrained(source, revision=revision).model_type
        if kind != "sailvit":
            raise SailvitError(
                f"{source} is a checkpoint of {kind}, not of a SAILViT encoder; give backbone/ of a run, or bring "
                "another layout into this one with `sailvit convert`."
            )
        model = SAILViTModel.from_pretrained(source, revision=revision, dtype=torch.float32)
        return model, AutoImageProcessor.from_pretrained(source, revision=revision)
    except (OSError, KeyError, ValueError, IncompleteCheckpointError) as error:
        if isinstance(error, SailvitError):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SailvitError(f"{source} cannot be loaded: {reason}") from error


def _pictures(paths: list[str], image_processor: Any, model: "SAILViTModel") -> "list[np.ndarray]":
    """The pictures one by one, `(1, C, H, W)`, as the processor makes them; two of noise if there are none."""
    import numpy as np

    from ..data.images import load_image

    if paths:
        return [image_processor([load_image(path)], return_tensors="np")["pixel_values"] for path in paths]
    generator, side = np.random.default_rng(0), model.config.image_size
    shape = (1, model.config.num_channels, side, side)
    return [generator.standard_normal(shape, dtype=np.float32) for _ in range(2)]


def _check(model: "SAILViTModel", path: Path) -> str:
    """Compare a graph with its model at the native size and at another; a sentence with the largest difference."""
    import numpy as np
    import torch

    from ..export import run_onnx

    patch, side = model.config.patch_size, model.config.image_size
    sizes = [(side, side), (max(side // patch // 2, 1) * patch, (side // patch + 3) * patch)]
    worst = 0.0
    for height, width in sizes:
        pixels = torch.randn(1, model.config.num_channels, height, width, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = model(pixels)
        wanted = (expected.last_hidden_state.numpy(), expected.pooler_output.numpy())
        for one, other in zip(run_onnx(path, pixels.numpy()), wanted, strict=True):
            difference = float(np.abs(one - other).max())
            if not difference <= TOLERANCE * float(np.abs(other).max()):
                raise RuntimeError(f"{path} differs from the model by {difference:.2g} at {height}x{width} pixels")
            worst = max(worst, difference)
    named = " and ".join(f"{height}x{width}" for height, width in sizes)
    return f"differs from the model by at most {worst:.1e} (at {named} pixels)"


def _compare(fp32: Path, int8: Path, pictures: "list[np.ndarray]", what: str) -> str:
    """A sentence with the cosine between the features of two graphs."""
    from ..export import feature_cosine, run_onnx

    found = [feature_cosine(run_onnx(int8, picture)[0], run_onnx(fp32, picture)[0]) for picture in pictures]
    mean, least = sum(mean for mean, _ in found) / len(found), min(least for _, least in found)
    count = f"{len(pictures)} picture{'s' if len(pictures) > 1 else ''}"
    of = count if what == "pictures" else "noise; give your own with --pictures"
    return f"cosine with the fp32 features {mean:.4f} on average, {least:.4f} for the worst patch (of {of})"


def _readme(options: argparse.Namespace, model: "SAILViTModel", image_processor: Any, lines: list[str]) -> str:
    """What is in the folder and how to run it."""
    from .. import __version__

    config = model.config
    return f"""# SAILViT encoder as ONNX

Made from `{options.source}`{f" at revision `{options.revision}`" if options.revision else ""} by `sailvit export` \
(sailvit_hf {__version__}).

{" ".join(lines)}

| | name | shape | type |
|---|---|---|---|
| input | `pixel_values` | (B, {config.num_channels}, H, W), H and W multiples of {config.patch_size}; \
native {config.image_size}x{config.image_size} | float32 |
| output | `last_hidden_state` | (B, (H / {config.patch_size}) x (W / {config.patch_size}), {config.hidden_size}), \
patches row by row | float32 |
| output | `pooler_output` | (B, {config.hidden_size}), the mean of the patches | float32 |

```python
import onnxruntime
from PIL import Image
from transformers import AutoImageProcessor

import sailvit_hf  # registers the image processor

folder = "."
image_processor = AutoImageProcessor.from_pretrained(folder)
session = onnxruntime.InferenceSession(f"{{folder}}/{INT8_FILE if options.int8 else FP32_FILE}")
pixel_values = image_processor(Image.open("picture.png"), return_tensors="np")["pixel_values"]
patches, pooled = session.run(["last_hidden_state", "pooler_output"], {{"pixel_values": pixel_values}})
```

Without Python: RGB, resized as `preprocessor_config.json` says, divided by 255, then normalised with the mean \
{_rounded(image_processor.image_mean)} and the standard deviation {_rounded(image_processor.image_std)}, channels \
first.
"""


def _rounded(values: Any) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
