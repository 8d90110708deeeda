# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""How pictures are prepared, read from whatever library wrote it and written for another: nothing changes unsaid."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    PILImageResampling,
)

from ..errors import SailvitError
from .sources import Source
from .weights import read_json

_BICUBIC = int(PILImageResampling.BICUBIC)
_INTERPOLATIONS = {
    "bicubic": _BICUBIC,
    "bilinear": int(PILImageResampling.BILINEAR),
    "lanczos": int(PILImageResampling.LANCZOS),
    "nearest": int(PILImageResampling.NEAREST),
}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, perhaps crop, scale to [0, 1], normalise.

    Attributes:
        height, width: Pixels that the model gets.
        shortest_edge: Resize to this shortest side, then cut out the centre; `None` to resize both sides at once,
            without keeping the aspect ratio.
        max_tiles, use_msac: Into how many tiles a whole model's pictures are cut at most, and whether by a second
            grid, too; `None` if the source does not say. A vision tower alone gets pictures whole.
        padded: Whether the aspect ratio is kept, and the rest shows the mean colour (our `do_pad`).
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shortest_edge: int | None = None
    resample: int = _BICUBIC
    rescale_factor: float = 1 / 255
    max_tiles: int | None = None
    use_msac: bool = False
    padded: bool = False

    def refuse_padding(self, target: str) -> None:
        """Raise a `SailvitError` if pictures are padded, which only our own image processor does so."""
        if self.padded:
            raise SailvitError(
                f"The image processor pads pictures in the middle (do_pad), and {target} cannot: train with the whole "
                "picture resized, or keep the format"
            )

    def as_transformers(self) -> dict[str, Any]:
        """Arguments of an image processor of transformers."""
        area = {"height": self.height, "width": self.width}
        return {
            "size": area if self.shortest_edge is None else {"shortest_edge": self.shortest_edge},
            "do_center_crop": self.shortest_edge is not None,
            "crop_size": area,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "resample": self.resample,
            "rescale_factor": self.rescale_factor,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "do_convert_rgb": True,
        }

    def as_timm(self) -> dict[str, Any]:
        """Fields of timm's `pretrained_cfg`; "squash" is its word for resizing without the aspect ratio."""
        self.refuse_padding("timm")
        names = {number: name for name, number in _INTERPOLATIONS.items()}
        return {
            "interpolation": names.get(self.resample, "bicubic"),
            "crop_pct": 1.0 if self.shortest_edge is None else self.height / self.shortest_edge,
            "crop_mode": "squash" if self.shortest_edge is None else "center",
            "mean": list(self.mean),
            "std": list(self.std),
        }


def published(image_size: int) -> Preprocessing:
    """SAILViT's own, as published with SAIL-VL2."""
    return Preprocessing(image_size, image_size, tuple(IMAGENET_DEFAULT_MEAN), tuple(IMAGENET_DEFAULT_STD))


def apple(image_size: int) -> Preprocessing:
    """AIMv2's own: CLIP's statistics, shortest edge and centre crop."""
    return Preprocessing(image_size, image_size, tuple(OPENAI_CLIP_MEAN), tuple(OPENAI_CLIP_STD), image_size)


def read_preprocessing(source: Source) -> tuple[Preprocessing, bool]:
    """The source's preparation of pictures, and whether a file of the source says so.

    A source that says nothing gets the one that its model was published with: AIMv2's for a configuration or tensor
    names of AIMv2, SAILViT's for the others.
    """
    size = source.vision_config.image_size
    for name, part in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        path = source.file(name)
        values = read_json(path) if path is not None else {}
        values = values.get(part) if part is not None else values  # type: ignore[assignment]
        if values and "image_mean" in values:
            return _from_transformers(values, size, name), True
    timm = source.config.get("pretrained_cfg") or source.config  # older configurations of timm are flat
    if "architecture" in source.config and "mean" in timm:
        return _from_timm(timm, size), True
    its_own = source.layout == "sailvit" and source.config.get("model_type") != "aimv2"
    return (published(size) if its_own else apple(size)), False


def _from_transformers(values: Mapping[str, Any], image_size: int, name: str) -> Preprocessing:
    size = values.get("size") or values.get("image_size") or image_size
    square = {"height": image_size, "width": image_size}
    crop = values.get("crop_size") or square
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    cropped = bool(values.get("do_center_crop", False))
    if isinstance(size, int):
        size = {"shortest_edge": size} if cropped else {"height": size, "width": size}
    if "shortest_edge" in size and not cropped:
        raise SailvitError(
            f"{name} resizes the shortest edge without a crop, so pictures have no common size: add do_center_crop"
        )
    area = crop if cropped else size
    try:
        return Preprocessing(
            height=area["height"],
            width=area["width"],
            mean=tuple(values["image_mean"]),
            std=tuple(values["image_std"]),
            shortest_edge=size.get("shortest_edge") if cropped else None,
            resample=int(values.get("resample", _BICUBIC)),
            rescale_factor=values.get("rescale_factor", 1 / 255),
            # In our words, and in those of SAIL-VL2's processor.
            max_tiles=values.get("max_tiles", values.get("max_dynamic_patch")),
            use_msac=bool(values.get("use_msac", False)),
            padded=values.get("image_processor_type") == "SAILViTImageProcessor" and bool(values.get("do_pad")),
        )
    except (KeyError, TypeError) as error:
        raise SailvitError(f"{name} does not say how pictures are prepared ({error!r}): mend it") from error


def _from_timm(values: Mapping[str, Any], image_size: int) -> Preprocessing:
    _, height, width = values.get("input_size") or (3, image_size, image_size)
    squashed = values.get("crop_mode") == "squash"
    return Preprocessing(
        height=height,
        width=width,
        mean=tuple(values.get("mean", OPENAI_CLIP_MEAN)),
        std=tuple(values.get("std", OPENAI_CLIP_STD)),
        shortest_edge=None if squashed else int(height / values.get("crop_pct", 1.0)),
        resample=_INTERPOLATIONS.get(values.get("interpolation", "bicubic"), _BICUBIC),
    )


def write_sailvit(folder: Path, preprocessing: Preprocessing) -> None:
    """Write SAILViT's image processor, with its code."""
    image_processor(preprocessing).save_pretrained(folder)


def image_processor(preprocessing: Preprocessing, **more: Any) -> Any:
    """SAILViT's image processor; `more`: further settings."""
    from ..processing.image_processing_pil_sailvit import SAILViTImageProcessorPil

    return SAILViTImageProcessorPil(**preprocessing.as_transformers(), do_pad=preprocessing.padded, **more)


def tiles(preprocessing: Preprocessing, config: Any) -> dict[str, Any]:
    """How a whole model's image processor cuts pictures, as settings of ours.

    SAIL-VL2 says it twice: 10 tiles at most in its processor, 12 in its configuration. It is the processor that cuts
    pictures there, so its number is taken, and the configuration's where there is none.
    """
    theirs = getattr(config, "sail_vl2", None) or {}
    most = preprocessing.max_tiles or (theirs.get("max_dynamic_patch") if theirs.get("dynamic_image_size") else None)
    return {"max_tiles": most or 1, "use_msac": preprocessing.use_msac and (most or 1) > 1}


def write_aimv2(folder: Path, preprocessing: Preprocessing) -> None:
    """Write what transformers' AIMv2 reads: CLIP's image processor, in whichever backend is there."""
    preprocessing.refuse_padding("AIMv2's (CLIP's)")
    values = {"image_processor_type": "CLIPImageProcessor", **preprocessing.as_transformers()}
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
