# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Steps whose loss or gradients are no numbers: left out in all processes, counted, and at a limit the end."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from .checkpoints import could_not_write, reason_of

logger = logging.get_logger(__name__)

FOLDER = "nonfinite"
WINDOW = 100  # steps


class NonFiniteSteps(TrainerCallback, ExportableState):
    """Watches the losses and gradients of each optimiser step; its counts are in `trainer_state.json`.

    Args:
        limit: how many of any `WINDOW` steps may be left out.

    Attributes:
        total: how many were left out so far.
        recent: the numbers of those of them that lie in the window.
        norm: of all gradients before they were clipped, where the Trainer told it for this step.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self.recent: list[int] = []
        self.norm: Any = None
        self._batches: list[tuple[Any, torch.Tensor]] = []
        self._in_log = [0, 0]  # micro-batches since the last log entry, and those of them that were no numbers

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        name = type(self).__name__
        saved = state.stateful_callbacks.get(name, {}).get("attributes", {}) if state.global_step else {}
        self.total, self.recent = saved.get("total", 0), list(saved.get("recent", []))
        state.stateful_callbacks.setdefault(name, self.state())  # an earlier version's checkpoint has none
        self._batches, self._in_log, self.norm = [], [0, 0], None

    def state(self) -> dict[str, Any]:
        """What the Trainer writes."""
        return {"args": {"limit": self.limit}, "attributes": {"total": self.total, "recent": list(self.recent)}}

    # A step

    def seen(self, inputs: Any, loss: torch.Tensor) -> torch.Tensor:
        """Note a micro-batch; its loss comes back as zero if it is no number, for the mean that is logged."""
        self._batches.append((inputs, loss))
        return torch.where(torch.isfinite(loss), loss, torch.zeros_like(loss))

    def counts(self, optimizer: Any, with_gradients: bool) -> torch.Tensor:
        """(micro-batches, those without a finite loss, 1 if the gradients are not finite) of this process, int64.

        Finite gradients may have a norm that is none. Clipping makes zeros of them, so the norm from before it counts.
        """
        if not self._batches:  # a subclass has a training step of its own
            return torch.zeros(3, dtype=torch.long, device=optimizer.param_groups[0]["params"][0].device)
        losses = torch.stack([loss.detach() for _, loss in self._batches])
        bad = (~torch.isfinite(losses)).sum()
        infinite = torch.zeros_like(bad)
        for norm in self._norms(optimizer) if with_gradients else ():
            infinite = torch.maximum(infinite, (~torch.isfinite(norm)).to(bad))
        return torch.stack([torch.full_like(bad, len(self._batches)), bad, infinite])

    def _norms(self, optimizer: Any) -> list[torch.Tensor]:
        """The norms of what this process holds of the gradients, and of all of them before they were clipped."""
        norms = [torch.nn.utils.get_total_norm(gradients)] if (gradients := _local_gradients(optimizer)) else []
        if self.norm is not None:
            whole: Any = getattr(self.norm, "full_tensor", None)
            norms.append(torch.as_tensor(self.norm if whole is None else whole()))
        return norms

    def end(self) -> None:
        """Forget the batches of this step."""
        self._batches.clear()
        self.norm = None

    def count(self, micro_batches: int, bad: int) -> None:
        """Note what all processes counted, for the log."""
        self._in_log[0] += micro_batches
        self._in_log[1] += bad

    def skip(self, step: int) -> bool:
        """Count a step that is left out; false if it is one too many."""
        self.total += 1
        self.recent = [number for number in self.recent if number > step - WINDOW] + [step]
        return len(self.recent) <= self.limit

    def corrected(self, logs: dict[str, float]) -> dict[str, float]:
        """A log entry without what is no number: the mean loss is that of the finite micro-batches."""
        (batches, bad), self._in_log = self._in_log, [0, 0]
        if bad:
            if bad == batches:
                logs.pop("loss", None)
            else:
                logs["loss"] *= batches / (batches - bad)
        if self.total:
            logs["nonfinite_steps"] = self.total
            logs = {k: value for k, value in logs.items() if not isinstance(value, float) or math.isfinite(value)}
        return logs

    # Looking into it

    def what(self, bad: int) -> str:
        """The first loss that is no number, or what else is not; `bad`: micro-batches of all processes without one."""
        losses = [loss.item() for _, loss in self._batches]
        elsewhere = "no number in another process" if bad else "finite, but its gradients are not"
        return next((str(loss) for loss in losses if not math.isfinite(loss)), elsewhere)

    def save(self, folder: Path, name: str, model: torch.nn.Module, facts: dict[str, Any]) -> Path | None:
        """Write the step's micro-batches without a finite loss (or all of them) as safetensors and JSON.

        Returns:
            The safetensors file; None if it could not be written.
        """
        bad = [inputs for inputs, loss in self._batches if not torch.isfinite(loss)]
        tensors: dict[str, torch.Tensor] = {}
        others: dict[str, str] = {}
        for number, inputs in enumerate(bad or [inputs for inputs, _ in self._batches]):
            for key, value in inputs.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{number}.{key}"] = value.detach().to("cpu", copy=True).contiguous()
                else:
                    others[f"{number}.{key}"] = repr(value)
        broken = [key for key, value in model.named_parameters() if not torch.isfinite(local_part(value)).all()]
        facts = {
            **facts,
            "losses": [repr(loss.item()) for _, loss in self._batches],
            "parameters_not_finite": broken[:20],
            "tensors": {key: [str(value.dtype), list(value.shape)] for key, value in tensors.items()},
            "others": others,
        }
        path = folder / FOLDER / f"{name}.safetensors"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, path)
            path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        except Exception as error:
            if not could_not_write(error):
                raise
            logger.warning(f"{path} could not be written ({reason_of(error)}).")
            return None
        return path


def weights_are_finite(model: torch.nn.Module) -> bool:
    """Whether all numbers are some in what this process holds of the weights that train."""
    trained = (local_part(weight) for weight in model.parameters() if weight.requires_grad)
    found = [torch.isfinite(weight).all() for weight in trained]
    return not found or bool(torch.stack(found).all())


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor that is spread over processes."""
    to_local: Any = getattr(tensor, "to_local", None)
    return tensor.detach() if to_local is None else to_local().detach()


def _local_gradients(optimizer: Any) -> list[torch.Tensor]:
    """The gradients that this process holds."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [local_part(parameter.grad) for parameter in parameters if parameter.grad is not None]
