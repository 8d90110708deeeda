# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What all our models share: loading that lets nothing be missing, saving that names every Auto class."""

import json
from collections.abc import Iterable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import cached_file


class IncompleteCheckpointError(RuntimeError):
    """A checkpoint lacks tensors of the model, or has them in other shapes."""


class UnsafeCheckpointError(OSError):
    """A checkpoint has weights in a format that can run code, or names files that are not its own."""


class StrictPreTrainedModel(PreTrainedModel):
    """A model whose weights are never drawn at random without being asked for."""

    # The Auto classes that can read a checkpoint, and where their code lies beside it.
    _auto_classes: dict[str, str] = {}
    # Modules that may be wholly absent from a checkpoint: heads that a backbone is given for a new task.
    _heads: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint, as [`~transformers.PreTrainedModel.from_pretrained`] does, but whole or not at all.

        transformers warns about missing tensors and draws them at random. That is what comes too for who asks for it:
        with `output_loading_info=True`, `ignore_mismatched_sizes=True` or a `state_dict`, and for a fresh head.

        Only safetensors are read: other formats can run code when they are opened.

        Raises:
            IncompleteCheckpointError: tensors are missing or have another shape; they are named.
            UnsafeCheckpointError: there are other weights than safetensors only, or the index names other files.
        """
        if kwargs.get("state_dict") is None:
            kwargs = {**kwargs, "use_safetensors": _only_safetensors(kwargs.get("use_safetensors"))}
            _check_index(pretrained_model_name_or_path, kwargs)
        try:
            return cls._load_whole(pretrained_model_name_or_path, *model_args, **kwargs)
        except Exception as error:
            if type(error).__name__ == "SafetensorError":  # of a package that these files do not import
                raise UnsafeCheckpointError(
                    f"The weights of {pretrained_model_name_or_path} are no safetensors, whatever their name says "
                    f"({error}); nothing else is read."
                ) from error
            if not isinstance(error, OSError) or "safetensors" not in str(error):
                raise
            raise UnsafeCheckpointError(
                f"{pretrained_model_name_or_path} has no weights as safetensors, and others (pickles) are not read, "
                "since they can run code when they are opened; ask its author for safetensors."
            ) from error

    @classmethod
    def _load_whole(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        lenient = kwargs.get("output_loading_info") or kwargs.get("ignore_mismatched_sizes")
        if lenient or kwargs.get("state_dict") is not None:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        # Misshapen tensors are let through so that they can be named below.
        kwargs = {**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        if getattr(model, "_hf_peft_config_loaded", False):
            # What came back tells of the adapter: parts of it that were drawn do nothing, and nobody would notice.
            cls._refuse_gaps(model, info, pretrained_model_name_or_path)
            # The model below it is looked at once more, without its values.
            below = next(iter(model.peft_config.values()))
            kwargs = {**kwargs, "revision": below.revision, "device_map": "meta"}
            pretrained_model_name_or_path = below.base_model_name_or_path
            _, info = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        cls._refuse_gaps(model, info, pretrained_model_name_or_path)
        return model

    @classmethod
    def _refuse_gaps(cls, model: PreTrainedModel, info: dict[str, Any], source: Any) -> None:
        missing = set(info["missing_keys"])
        for head in cls._heads:
            tensors = {name for name in model.state_dict() if name.startswith(f"{head}.")}
            if tensors <= missing:
                missing -= tensors
        misshapen = {
            f"{name} {tuple(found)} for {tuple(expected)}" for name, found, expected in info["mismatched_keys"]
        }
        if missing or misshapen:
            found = {"missing": missing, "misshapen": misshapen, "not expected": info["unexpected_keys"]}
            listed = "; ".join(f"{what}: {_named(names)}" for what, names in found.items() if names)
            raise IncompleteCheckpointError(
                f"{source} holds no whole {cls.__name__} ({listed}); bring another layout into this one with "
                "`sailvit convert`, or accept random weights there with ignore_mismatched_sizes=True."
            )

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save the model; whatever class it is, `config.json` names all Auto classes that can read it."""
        self.config.auto_map = dict(self._auto_classes)
        # The file has the model's own names. transformers would write older names for some towers (DINOv2, ViT, ...),
        # which the Trainer, when it resumes, takes for missing tensors, with a warning only.
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, **kwargs)


def _only_safetensors(asked: bool | None) -> bool:
    if asked is False:
        raise UnsafeCheckpointError("use_safetensors=False asks for pickles, which are not read; leave it out.")
    return True


def _check_index(source: Any, kwargs: dict[str, Any]) -> None:
    """Refuse an index of weight files that names something else than safetensors in the checkpoint's own folder."""
    if source is None:
        return
    variant = f".{kwargs['variant']}" if kwargs.get("variant") else ""
    known = ("cache_dir", "revision", "token", "local_files_only", "subfolder")
    place = {name: kwargs[name] for name in known if kwargs.get(name) is not None}
    try:
        path = cached_file(source, f"model.safetensors.index{variant}.json", **place)
    except (OSError, ValueError):
        return  # one file, or none: for transformers to say
    with open(path, encoding="utf-8") as file:
        index = json.load(file)
    files = index.get("weight_map") if isinstance(index, dict) else None
    for name in sorted(map(str, files.values())) if isinstance(files, dict) else ["no weight_map"]:
        outside = PurePosixPath(name).name != name or PureWindowsPath(name).name != name
        if outside or not name.endswith(".safetensors"):
            raise UnsafeCheckpointError(
                f"The index of weight files of {source} names {name!r}; only safetensors files beside it are read."
            )


def _named(names: Iterable[str], most: int = 4) -> str:
    """The first of the names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more


__all__ = ["IncompleteCheckpointError", "StrictPreTrainedModel", "UnsafeCheckpointError"]
