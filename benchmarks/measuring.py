# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What the benchmarks share: times taken by turns, peaks of memory, the same weights in other libraries' models."""

import platform
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch
import transformers
from torch import nn

from sailvit_hf import SAILViTConfig, SAILViTModel
from sailvit_hf.hub.layouts import vision_tensors

RESULTS = Path(__file__).parent / "results"


def forward_flops(config: SAILViTConfig) -> float:
    """FLOPs of one picture's forward pass: the matrix products (a multiply-add is two), attention included."""
    tokens = (config.image_size // config.patch_size) ** 2
    width, inner = config.hidden_size, config.intermediate_size
    block = 2 * tokens * (4 * width * width + 3 * width * inner) + 4 * tokens * tokens * width
    return config.num_hidden_layers * block + 2 * tokens * config.num_channels * config.patch_size**2 * width


def by_turns(works: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Wall times in seconds of each work, one after the other in every round, so that a slow spell hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(warmup + rounds):
        # Every other round backwards: nobody always runs after the same neighbour.
        for name in list(works)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            works[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= warmup:
                times[name].append(time.perf_counter() - start)
    return times


def spread(times: Sequence[float]) -> str:
    """Median and range, in seconds."""
    return f"{statistics.median(times):8.3f} s  ({min(times):.3f} to {max(times):.3f})"


def reset_peak() -> None:
    """Forget this process's peak of memory so far (Linux; elsewhere it stays the peak since the start)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak_mib() -> float:
    """Peak of this process's resident memory in MiB, since `reset_peak`."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def weights_as(model: SAILViTModel, layout: str) -> dict[str, torch.Tensor]:
    """The weights of a model under another library's names (`"aimv2"`, `"timm"`); shared with it where possible."""
    state, pieces = model.state_dict(), {}
    for name, tensor in vision_tensors("sailvit", model.config).items():
        counts = [count for _, count in tensor.pieces]
        for (piece, _), values in zip(tensor.pieces, state[name].flatten().split(counts), strict=True):
            pieces[piece] = values
    found = {}
    for name, tensor in vision_tensors(layout, model.config).items():
        parts = [pieces[piece] for piece, _ in tensor.pieces]
        found[name] = (parts[0] if len(parts) == 1 else torch.cat(parts)).view(tensor.shape)
    return found


def aimv2_model(config: SAILViTConfig) -> nn.Module:
    """transformers' own model of the same architecture, with random weights."""
    fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels",
              "image_size", "patch_size", "rms_norm_eps")  # fmt: skip
    sizes = {name: getattr(config, name) for name in fields}
    return transformers.Aimv2VisionModel(transformers.Aimv2VisionConfig(**sizes, use_head=False, is_native=False))


def aimv2_twin(model: SAILViTModel) -> nn.Module:
    """`Aimv2VisionModel` with the same weights, kernel and mode, on the same device."""
    with torch.device(model.device):
        twin = aimv2_model(model.config)
    twin.load_state_dict(weights_as(model, "aimv2"), strict=True)
    twin.set_attn_implementation(model.config._attn_implementation)
    return twin.to(model.dtype).train(model.training)


def timm_twin(model: SAILViTModel, preset: str) -> nn.Module:
    """timm's model of that size with the same weights, in the same mode, on the same device."""
    import timm

    twin = timm.create_model(f"aimv2_{preset}_patch14_448", pretrained=False, num_classes=0)
    twin.load_state_dict(weights_as(model, "timm"), strict=True)
    return twin.to(device=model.device, dtype=model.dtype).train(model.training)


def machine(device: torch.device) -> str:
    """The machine, in one line."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return f"{_processor()}, {torch.get_num_threads()} threads"


def versions(*packages: str) -> str:
    """The versions of Python, torch, transformers and of further packages where they are installed, in one line."""
    found = [f"Python {platform.python_version()}"]
    for package in ("torch", "transformers", *packages):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _processor() -> str:
    """What the CPU calls itself; its best instructions, where its name says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
        facts = {name.strip(): value.strip() for name, value in facts.items()}
        known = [name for name in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if name in facts["flags"].split()]
        return f"{facts['model name']} ({', '.join(known)})"
    except (OSError, KeyError):
        return f"{platform.machine()} CPU"


class Report:
    """Lines that are printed as they come and, if a name is given, kept in a file with the command on top."""

    def __init__(self, name: str | None, command: Sequence[str]) -> None:
        self.path = None if name is None else RESULTS / name
        self.lines: list[str] = []
        self._add(f"$ python {shlex.join(command)}", shown=False)

    def _add(self, line: str, shown: bool = True) -> None:
        self.lines.append(line)
        if shown:
            print(line, flush=True)

    def add(self, line: str = "") -> None:
        """Print a line, and have the file hold all lines so far."""
        self._add(line)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("\n".join(self.lines) + "\n", encoding="utf-8")


def command_of(script: str, argv: Sequence[str] | None) -> list[str]:
    """The words of the command that was given, for the result's first line."""
    return [f"benchmarks/{Path(script).name}", *(sys.argv[1:] if argv is None else argv)]
