# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What all our models share: loading that lets nothing be missing, saving that names every Auto class."""

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel


class IncompleteCheckpointError(RuntimeError):
    """A checkpoint lacks tensors of the model, or has them in other shapes."""


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

        Raises:
            IncompleteCheckpointError: tensors are missing or have another shape; they are named.
        """
        lenient = kwargs.get("output_loading_info") or kwargs.get("ignore_mismatched_sizes")
        if lenient or kwargs.get("state_dict") is not None:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        # Misshapen tensors are let through so that they can be named below.
        kwargs = {**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        if getattr(model, "_hf_peft_config_loaded", False):
            # What came back tells of the adapter; the model below it is looked at once more, without its values.
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


def _named(names: Iterable[str], most: int = 4) -> str:
    """The first of the names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more


__all__ = ["IncompleteCheckpointError", "StrictPreTrainedModel"]
