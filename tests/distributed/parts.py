# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Ragged samples, the launcher and the comparison that the tests of several processes share."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.refinement.tiny import IMAGE_TOKEN, VOCABULARY

ROOT = Path(__file__).parents[2]
# A hang is a failure: gloo gives up first, so that the error names the collective; the launcher ends what is left.
COLLECTIVE_SECONDS, LAUNCH_SECONDS = 90, 280


def sample(index, pictures, sizes=((16, 16),)):
    """One encoded sample of 3 to 13 text tokens, of which 1 to 5 are learnt, and `pictures` pictures of `sizes`."""
    draw = torch.Generator().manual_seed(100 + index)
    text = torch.randint(4, VOCABULARY, (3 + index * 7 % 11,), generator=draw)
    shapes = [sizes[place % len(sizes)] for place in range(pictures)]
    tokens = sum((height // 8) * (width // 8) for height, width in shapes)
    ids = torch.cat([text[:1], torch.full((tokens,), IMAGE_TOKEN), text[1:]])
    labels = ids.clone()
    labels[: -min(1 + index % 5, len(text) - 1)] = -100
    made = {"input_ids": ids, "labels": labels}
    if pictures:
        pixels = [torch.randn(3, *shape, generator=draw) for shape in shapes]
        made["pixel_values"] = torch.stack(pixels) if len(set(shapes)) == 1 else pixels
        made["num_tiles"] = torch.ones(pictures, dtype=torch.long)
    return made


def samples(pictures, sizes=((16, 16),)):
    """A sample for each number of pictures."""
    return [sample(index, count, sizes) for index, count in enumerate(pictures)]


def collate(chosen):
    """Padded on the right; pictures of different sizes become a list."""

    def padded(name, value):
        return torch.nn.utils.rnn.pad_sequence([one[name] for one in chosen], batch_first=True, padding_value=value)

    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one["input_ids"]) for one in chosen], batch_first=True)
    batch = {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": mask}
    pixels = [picture for one in chosen for picture in one.get("pixel_values", ())]
    if pixels:
        batch["pixel_values"] = torch.stack(pixels) if len({each.shape for each in pixels}) == 1 else pixels
    return batch


def launch(module, folder, *arguments):
    """Run a module of the tests in two processes under torchrun: its exit status, None for a hang, and its output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", module]
    with subprocess.Popen(
        [*command, str(folder), *arguments],
        env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as started:  # fmt: skip
        try:
            output = started.communicate(timeout=LAUNCH_SECONDS)[0]
            return started.returncode, output[-8000:]
        except subprocess.TimeoutExpired:
            started.terminate()  # torchrun then ends the processes that it started
            return None, f"no end after {LAUNCH_SECONDS} seconds\n{started.communicate()[0][-8000:]}"


def chosen_cases(request):
    """The names of the cases that a session is to test, for one launch of all of them."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    return [item.callspec.params["name"] for item in items]


def relative_difference(found, expected):
    """The largest difference of each tensor as a share of its largest value, by name."""
    assert found.keys() == expected.keys()
    return {
        name: float((found[name] - tensor).abs().max() / tensor.abs().max().clamp(min=1e-30))
        for name, tensor in expected.items()
        if not name.endswith("k_proj.bias")  # attention does not depend on it: its gradient is rounding noise
    }


def assert_close(found, expected, tolerance=1e-5):
    differences = relative_difference(found, expected)
    zero = {name for name, tensor in expected.items() if not tensor.any()}
    assert all(not found[name].any() for name in zero)
    worst = {name: value for name, value in differences.items() if value > tolerance and name not in zero}
    assert not worst, worst
