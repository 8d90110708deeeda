# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Two image processors, one checkpoint: whichever saved it, AutoImageProcessor takes the one that can be used."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # as there, it asks for no torchvision

from sailvit_hf import SAILViTImageProcessor, SAILViTImageProcessorPil, SAILViTProcessor
from sailvit_hf.data.demo_world import DemoWorld
from sailvit_hf.processing.picture_settings_sailvit import PictureSettings, SAILViTImageProcessorKwargs

from .. import torchvision_beside
from .backends import BACKENDS, noise

backend = pytest.mark.parametrize("backend", sorted(BACKENDS))
CHANGED = {"size": {"height": 16, "width": 24}, "max_tiles": 5, "use_msac": True, "background": (1, 2, 3)}
CODE = {
    "torchvision": "image_processing_sailvit.SAILViTImageProcessor",
    "pil": "image_processing_pil_sailvit.SAILViTImageProcessorPil",
}
# Reads a folder as remote code, in a process without the package; the second argument says which torchvision it sees.
READER = """
import json, sys
folder, torchvision, door, path = sys.argv[1:5]
sys.modules["sailvit_hf"] = None
if torchvision == "none":
    sys.modules["torchvision"] = None
else:
    sys.path.insert(0, torchvision)
    import torchvision_beside
    torchvision_beside.make_importable()
import numpy as np
from PIL import Image
if door == "AutoImageProcessor":
    from transformers.models.auto.image_processing_auto import AutoImageProcessor as Auto
else:
    from transformers import AutoProcessor as Auto
found = Auto.from_pretrained(folder, trust_remote_code=True)
found = getattr(found, "image_processor", found)
picture = Image.fromarray(np.load(path))
np.save(path, found(picture, return_tensors="np")["pixel_values"])
found.save_pretrained(folder + "-again")
print(json.dumps([type(found).__name__, type(found).__module__, found.to_dict()]))
"""


def read_as_remote_code(folder: Path, torchvision: str, door: str) -> tuple[list, np.ndarray]:
    """What such a process says of the image processor, and the pixels that it made of `noise(70, 50)`."""
    path = folder.parent / f"{torchvision}.npy"
    np.save(path, np.asarray(noise(70, 50)))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(folder.parent / "home"), "HF_HUB_OFFLINE": "1"}
    beside = "none" if torchvision == "none" else str(Path(torchvision_beside.__file__).parent)
    run = subprocess.run(
        [sys.executable, "-c", READER, str(folder), beside, door, str(path)],
        capture_output=True, text=True, env=environment, cwd=folder.parent,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1]), np.load(path)


def test_both_have_the_same_settings_and_defaults() -> None:
    for name in SAILViTImageProcessorKwargs.__annotations__:
        assert getattr(SAILViTImageProcessor, name, None) == getattr(SAILViTImageProcessorPil, name, None)
    # Each is told of in the words that the settings' users read.
    text = inspect.getdoc(SAILViTImageProcessorKwargs) or ""
    for line in re.findall(r"^(\w+) \(.*defaults to `?(.*?)`?\):", text, flags=re.MULTILINE):
        assert str(getattr(PictureSettings, line[0])) == line[1].strip('"`'), line


def test_without_torchvision_its_processor_says_so() -> None:
    if "torchvision" in BACKENDS:
        assert SAILViTImageProcessor().backend == "torchvision"
        return
    with pytest.raises(ImportError, match="SAILViTImageProcessor requires the Torchvision library"):
        SAILViTImageProcessor()


@backend
def test_the_installed_package_chooses_what_can_be_used(backend: str, tmp_path: Path) -> None:
    saved = BACKENDS[backend](**CHANGED)
    saved.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert values["image_processor_type"] == "SAILViTImageProcessor"
    assert values["auto_map"] == {"AutoImageProcessor": CODE}
    image = noise(70, 50)
    for asked, expected in ((None, max(BACKENDS)), ("pil", "pil"), ("torchvision", max(BACKENDS))):
        found = AutoImageProcessor.from_pretrained(tmp_path, **({} if asked is None else {"backend": asked}))
        assert type(found) is BACKENDS[expected]
        own = BACKENDS[expected](**CHANGED)(image, return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(found(image, return_tensors="np")["pixel_values"], own)


# Each takes a process; tests/hub/test_remote_code.py has more doors, without torchvision.
@pytest.mark.parametrize(
    ("backend", "door"),
    [pair for pair in (("pil", "AutoProcessor"), ("torchvision", "AutoImageProcessor")) if pair[0] in BACKENDS],
)
def test_remote_code_chooses_what_can_be_used(backend: str, door: str, tmp_path: Path) -> None:
    saved = BACKENDS[backend](**CHANGED)
    folder = tmp_path / "saved"
    if door == "AutoProcessor":
        SAILViTProcessor.from_parts(saved, DemoWorld().tokenizer(), patch_size=8).save_pretrained(folder)
        assert json.loads((folder / "processor_config.json").read_text())["image_processor"]["auto_map"] == {
            "AutoImageProcessor": CODE
        }
    else:
        saved.save_pretrained(folder)
    files = {each.name for each in folder.iterdir()}
    assert {"image_processing_sailvit.py", "image_processing_pil_sailvit.py"} <= files
    # Where there are both, the other one than has saved it.
    chosen = max(set(BACKENDS) - {backend}, default="pil")
    (name, module, values), pixels = read_as_remote_code(folder, "none" if chosen == "pil" else chosen, door)
    assert name == BACKENDS[chosen].__name__ and module.startswith("transformers_modules.")
    expected = BACKENDS[chosen](**CHANGED)(noise(70, 50), return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(pixels, expected)
    assert values["auto_map"]["AutoImageProcessor"] == CODE
    # What it saved is as whole as what it read.
    again = {each.name for each in (tmp_path / "saved-again").iterdir()}
    assert {"image_processing_sailvit.py", "image_processing_pil_sailvit.py", "tiling_sailvit.py"} <= again


def test_transformers_own_door_is_there(tmp_path: Path) -> None:
    if getattr(transformers.AutoImageProcessor, "is_dummy", False):
        pytest.skip(f"AutoImageProcessor of transformers {transformers.__version__} asks for torchvision")
    SAILViTImageProcessorPil().save_pretrained(tmp_path)
    assert type(transformers.AutoImageProcessor.from_pretrained(tmp_path)) is BACKENDS[max(BACKENDS)]
