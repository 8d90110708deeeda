# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Patch features of a frozen vision tower on disk, so that later epochs, and later runs, do not compute them again.

One safetensors file for each picture, named by what the pixels are, in a folder named by what the tower is: its class,
configuration and weights, the layer that is read and the precision. A tower that changes has another folder.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from ...errors import SailvitError
from ...modeling.vision_towers import patch_features

logger = logging.get_logger(__name__)

DIGESTS = "pixel_digests"
_NOT_THE_FUNCTION = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures", "auto_map"}


def _bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def _describe(digest: Any, tensor: torch.Tensor) -> None:
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(_bytes(tensor))


def pixel_digests(pixel_values: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """What the pictures (C, H, W) are: 128 bits of SHA-256 each, int64 (pictures, 2)."""
    rows = []
    for picture in pixel_values:
        digest = hashlib.sha256()
        _describe(digest, picture)
        bits = digest.digest()
        rows.append([int.from_bytes(bits[start : start + 8], "big", signed=True) for start in (0, 8)])
    return torch.tensor(rows, dtype=torch.int64).view(-1, 2)


def tower_digest(tower: PreTrainedModel, layer: int, precision: str) -> str:
    """What a tower computes: SHA-256 over its class, configuration and weights, the layer and the precision."""
    config = {key: value for key, value in tower.config.to_dict().items() if key not in _NOT_THE_FUNCTION}
    digest = hashlib.sha256()
    what = [type(tower).__name__, config, tower.config._attn_implementation, layer, precision]
    digest.update(json.dumps(what, sort_keys=True, default=str).encode())
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        _describe(digest, tensor)
    return digest.hexdigest()


class WithDigests:
    """A collator whose batches say what their pictures are; in a data loader's workers, beside the training."""

    def __init__(self, collator: Callable[[list[Any]], dict[str, Any]]) -> None:
        self.collator = collator

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        batch = self.collator(samples)
        pictures = batch.get("pixel_values")
        return batch if pictures is None else {**batch, DIGESTS: pixel_digests(pictures)}


class FeatureCache:
    """The patch features of one frozen tower, computed when they are first asked for.

    The tower runs in evaluation mode, whatever mode it is in (so without dropout): what is stored must not hang on a
    random draw. Once the folder is full nothing more is stored, and nothing is thrown away: data that is read in
    turns would throw each entry away just before its turn.

    Args:
        folder: shared by any number of towers, runs and processes.
        tower: a vision tower of which nothing trains.
        layer: its output that is read (`vision_feature_layer`).
        limit: bytes that the folder may hold, as far as this process writes it.
        processes: how many write into it at the same time; each takes its share of what is free.
        autocast: makes the context that the tower runs in, and `precision` its name.

    Raises:
        SailvitError: a part of the tower trains.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        tower: PreTrainedModel,
        layer: int,
        limit: float,
        processes: int = 1,
        autocast: Callable[[], AbstractContextManager] | None = None,
        precision: str = "no",
    ) -> None:
        refuse_a_trained_tower(tower)
        self.root, self.tower, self.layer = Path(folder), tower, layer
        self.autocast, self.precision = autocast or nullcontext, precision
        self.root.mkdir(parents=True, exist_ok=True)
        used = sum(path.stat().st_size for path in self.root.rglob("*.safetensors"))
        self.free = max(0.0, limit - used) / processes
        self.found = self.computed = 0
        self._state: Any = None
        self._folder = self.root
        self._told = False

    def __call__(
        self, pixel_values: torch.Tensor | Sequence[torch.Tensor], digests: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """The patches (rows * columns, h) of each picture (C, H, W), on the pictures' device."""
        self._notice_another_tower()
        digests = pixel_digests(pixel_values) if digests is None else digests.cpu()
        paths = [self._path(row) for row in digests.tolist()]
        features = [self._read(path) for path in paths]
        missing = [place for place, one in enumerate(features) if one is None]
        for places in _of_one_size(pixel_values, missing):
            computed = self._compute(torch.stack([pixel_values[place] for place in places]))
            for place, one in zip(places, computed, strict=True):
                features[place] = one
                self._write(paths[place], one)
        self.computed += len(missing)
        self.found += len(features) - len(missing)
        device = pixel_values[0].device if len(features) else "cpu"
        return [one.to(device, non_blocking=True) for one in features if one is not None]

    def _notice_another_tower(self) -> None:
        # Counters of in-place changes and addresses tell at once whether the weights may be others than before.
        state = [(tensor.data_ptr(), tensor._version) for tensor in self.tower.state_dict(keep_vars=True).values()]
        if state != self._state:
            refuse_a_trained_tower(self.tower)
            self._state = state
            self._folder = self.root / tower_digest(self.tower, self.layer, self.precision)[:32]

    def _path(self, row: Sequence[int]) -> Path:
        name = "".join((half % 2**64).to_bytes(8, "big").hex() for half in row)
        return self._folder / name[:2] / f"{name}.safetensors"

    @staticmethod
    def _read(path: Path) -> torch.Tensor | None:
        try:
            return load_file(path)["features"]
        except (FileNotFoundError, SafetensorError, KeyError):
            return None  # a file cut short by a full disk is made again

    def _compute(self, pictures: torch.Tensor) -> torch.Tensor:
        training = [module for module in self.tower.modules() if module.training]
        self.tower.eval()
        try:
            with torch.no_grad(), self.autocast():
                return patch_features(self.tower, pictures, self.layer)[0]
        finally:
            for module in training:
                module.training = True

    def _write(self, path: Path, features: torch.Tensor) -> None:
        size = features.numel() * features.element_size() + 128
        if size > self.free:
            if not self._told:
                logger.warning(f"{self.root} is full (vision_feature_cache_gb): other pictures are computed each time")
            self._told = True
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        save_file({"features": features.detach().cpu().contiguous()}, part)
        os.replace(part, path)  # whole or not at all, also for other processes
        self.free -= size


def refuse_a_trained_tower(tower: nn.Module) -> None:
    """A `SailvitError` if a part of the tower trains."""
    if any(parameter.requires_grad for parameter in tower.parameters()):
        raise SailvitError(
            "vision_feature_cache keeps the features of a frozen vision tower, and this one trains: remove it, or use "
            "it in the coarse stage"
        )


def _of_one_size(pictures: Sequence[torch.Tensor] | torch.Tensor, places: Sequence[int]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for place in places:
        groups.setdefault(tuple(pictures[place].shape), []).append(place)
    return list(groups.values())
