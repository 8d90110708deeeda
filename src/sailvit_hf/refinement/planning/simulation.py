# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A training step without arithmetic: the model's own code runs on tensors that have shapes and no content.

So the memory of a step is counted, not estimated from a formula: every tensor that forward and backward pass make is
seen when it comes and when it goes, whatever the tower, the language model and the options are (ours; the tensors are
torch's `FakeTensorMode`).
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...modeling.loss_sailvit import LearntPositions, LogitTransform, chunked_loss, mean_loss
from ...modeling.modeling_sailvit_vlm import SAILViTForConditionalGeneration
from ...modeling.vision_towers import patch_grid
from ..engine.engine_trainer import checkpoint_only
from ..stages import MODULES

PARTS = ("batch", *MODULES, "loss")
"""Who made an activation: the batch itself, each module, and the head with the loss."""

# On an accelerator the chunked loss keeps 2**28 fp32 logits at once; see `loss_sailvit`.
ACCELERATOR_CHUNK = 2**28


@dataclass(frozen=True)
class MicroBatch:
    """What one device works on between two calls of its data loader.

    Attributes:
        rows, length: the shape of its tokens, padding included.
        pictures: tiles of all its pictures.
        size: height and width of a tile, in pixels.
        learnt: tokens with a label.
        visual: tokens that come from pictures.
    """

    rows: int
    length: int
    pictures: int
    size: tuple[int, int]
    learnt: int
    visual: int


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a forward and backward pass need beside weights and the optimiser's state.

    Attributes:
        activations: by part, what lives between forward and backward pass.
        front: for each number of bytes of gradients that are there, the most bytes of everything else.
    """

    activations: dict[str, int]
    front: tuple[tuple[int, int], ...]

    @property
    def working(self) -> int:
        """The most bytes at any time, gradients left out."""
        return max(other for _, other in self.front)

    @property
    def gradients(self) -> int:
        """Bytes of all gradients."""
        return max(gradients for gradients, _ in self.front)

    def peak(self, share: float = 1.0, accumulated: bool = False) -> float:
        """The most bytes at any time.

        Args:
            share: how much of the gradients one device keeps, in bytes per byte of the simulation; of those that are
                divided in the last micro-batch only, all.
            accumulated: whether gradients of earlier micro-batches lie there from the beginning.
        """
        if accumulated:
            return self.working + share * self.gradients
        return max(other + share * gradients for gradients, other in self.front)


class _Allocations(TorchDispatchMode):
    """Counts the bytes of all tensors that are made, until nobody holds them any more."""

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.part = "batch"
        self.live: Counter[str] = Counter()
        self.gradients, self.front = 0, {0: 0}
        self._sizes: dict[int, tuple[str, int]] = {}  # by the storage's identity, while it lives
        self._given = {id(tensor.untyped_storage()): tensor.untyped_storage() for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # two calls of three, and they make nothing
            return args[0].device
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return made

    def _add(self, storage: Any) -> None:
        key = id(storage)
        if key in self._sizes or key in self._given:
            return
        self._sizes[key] = self.part, storage.nbytes()
        self.live[self.part] += storage.nbytes()
        weakref.finalize(storage, self._drop, key)
        self.note()

    def _drop(self, key: int) -> None:
        part, size = self._sizes.pop(key)
        if part == "gradients":
            self.gradients -= size
        else:
            self.live[part] -= size

    def note(self) -> None:
        self.front[self.gradients] = max(self.front.get(self.gradients, 0), sum(self.live.values()))

    def has_gradient(self, parameter: torch.Tensor) -> None:
        """What backward left for a parameter is from now on no activation."""
        if parameter.grad is None:
            return
        key = id(parameter.grad.untyped_storage())
        part, size = self._sizes[key]
        if part != "gradients":
            self.live[part] -= size
            self._sizes[key] = "gradients", size
            self.gradients += size
            self.note()


def build_model(
    config: Any, dtype: torch.dtype = torch.float32, change: Callable[[Any], None] | None = None
) -> tuple[Any, FakeTensorMode]:
    """A vision-language model of a configuration, without content, and the mode in which it can run.

    Args:
        config: a `SAILViTVLMConfig`.
        dtype: of all weights.
        change: adds to the model what a configuration does not say, such as adapters.
    """
    with torch.device("meta"):
        model = SAILViTForConditionalGeneration(config)
    if change is not None:
        change(model)
    model.to(dtype)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        model.to_empty(device="cpu")
        model.tie_weights()
    model.set_attn_implementation("sdpa")  # which keeps what flash attention keeps: nothing of the size of pairs
    return model, mode


@contextmanager
def _named(model: Any, allocations: _Allocations) -> Iterator[None]:
    """Have the modules tell whose the tensors are that forward passes make, and parameters of their gradients."""
    handles = []
    for part in MODULES:
        module = getattr(model.model, part)

        def enter(*_: Any, name: str = part) -> None:
            allocations.part = name

        handles.append(module.register_forward_pre_hook(enter))
    for parameter in model.parameters():
        if parameter.requires_grad:
            handles.append(parameter.register_post_accumulate_grad_hook(allocations.has_gradient))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def simulate_step(
    model: Any,
    mode: FakeTensorMode,
    batch: MicroBatch,
    *,
    autocast: bool = True,
    chunked: bool = True,
    chunk_elements: int = ACCELERATOR_CHUNK,
    checkpointing: Sequence[str] = (),
    tower_runs: bool = True,
) -> StepMemory:
    """Run one forward and backward pass of a stage without arithmetic.

    Args:
        model, mode: from `build_model`; `requires_grad` set by the stage.
        batch: what the device works on.
        autocast: whether products are made in bf16.
        chunked: whether the loss is made in chunks, without all logits; `chunk_elements` fp32 logits at once.
        checkpointing: the modules that compute their activations again.
        tower_runs: whether the tower's features are computed, not read from where they are kept.
    """
    model.train()
    _set_checkpointing(model, checkpointing)
    known = [*model.parameters(), *model.buffers()]
    allocations = _Allocations(known)
    low = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
    with mode, allocations, _named(model, allocations):
        inputs = _inputs(model, batch)  # held to the end, as the Trainer does
        with low:
            loss = _loss(model, batch, inputs, chunked, chunk_elements, tower_runs, allocations)
        activations = {part: allocations.live[part] for part in PARTS}
        allocations.part = "backward"
        loss.backward()
        model.zero_grad(set_to_none=True)
    return StepMemory(activations, tuple(sorted(allocations.front.items())))


def _set_checkpointing(model: Any, modules: Sequence[str]) -> None:
    for part in model.modules():
        if hasattr(part, "gradient_checkpointing"):
            part.gradient_checkpointing = False
    if modules:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        # Random states are no tensors of the simulation, and take no memory.
        enable({"use_reentrant": False, "preserve_rng_state": False})
        checkpoint_only(model, list(modules))


def _inputs(model: Any, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, labels and mask or position ids (rows, length), and pixels (pictures, C, H, W)."""
    ids = torch.empty(batch.rows, batch.length, dtype=torch.long)
    pixels = torch.empty(batch.pictures, model.config.vision_config.num_channels, *batch.size)
    return ids, torch.empty_like(ids), torch.empty_like(ids), pixels


def _loss(
    model: Any,
    batch: MicroBatch,
    inputs: tuple[torch.Tensor, ...],
    chunked: bool,
    chunk_elements: int,
    tower_runs: bool,
    allocations: _Allocations,
) -> torch.Tensor:
    """The model's own forward pass, part by part: its checks read values, and there are none."""
    ids, labels, _, pixels = inputs
    allocations.part = "language_model"
    embeddings = model.get_input_embeddings()(ids)
    if batch.pictures:
        known = None
        if not tower_runs:
            rows, columns = patch_grid(model.config.vision_config, pixels)
            known = pixels.new_empty(batch.pictures, rows * columns, model.config.vision_config.hidden_size)
        features = model.model.get_image_features(pixels, return_dict=True, vision_features=known).pooler_output
        allocations.part = "language_model"
        mask = (ids == 0).unsqueeze(-1).expand_as(embeddings)
        embeddings = embeddings.masked_scatter(mask, features.to(embeddings))
    hidden = model.model.language_model(inputs_embeds=embeddings, use_cache=False, return_dict=True).last_hidden_state
    del embeddings
    allocations.part = "loss"
    if not chunked:
        return model.loss_function(
            logits=model._logits(hidden).float(), labels=labels, vocab_size=model.config.text_config.vocab_size
        )
    index = torch.empty(batch.learnt, dtype=torch.long)
    positions = LearntPositions(index, torch.empty_like(index), None)
    head = _InChunks(model.lm_head, max(64, chunk_elements // model.config.text_config.vocab_size // 64 * 64))
    return mean_loss(
        chunked_loss(head, hidden, positions, LogitTransform.of(model.config.text_config)), positions, batch.learnt
    )


class _InChunks(nn.Module):
    """A head that is told how many positions fit: as many as on the device that is planned for, not as on this one."""

    def __init__(self, head: Any, chunk: int) -> None:
        super().__init__()
        self._orig_mod, self.chunk = head, chunk  # the name by which the loss knows that it is plain

    def forward(self, *arguments: Any) -> torch.Tensor:
        return self._orig_mod(*arguments, chunk=self.chunk)
