# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Memory and time of the head and its loss, forward and backward: all logits at once, in our chunks, in torch's.

    python benchmarks/chunked_loss.py --write

Random hidden states and a random head of a language model's size. "plain" is what transformers' models do: logits of
all positions, then their loss. "chunked" is `skip_logits=True` of ours. "torch" is `linear_cross_entropy` with its
default options (torch 2.13 and later), on the same positions as "chunked". The peak of memory is taken in a process of
its own for each way, less what it held before the first step (the head and the hidden states); times are taken by
turns in one process. Losses and gradients are compared with the plain ones: the largest difference over the largest
number of the tensor.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from measuring import Report, by_turns, command_of, machine, peak_mib, reset_peak, spread, versions
from torch import nn
from transformers.loss.loss_utils import ForCausalLMLoss

from sailvit_hf.modeling.loss_sailvit import (
    LanguageModelingHead,
    LogitTransform,
    chunked_loss,
    learnt_positions,
    mean_loss,
    shifted,
)

# What must hold: at most this share of the plain peak, and of the plain time; losses to 1e-6.
LIMITS = {"memory": 0.7, "time": 1.0, "loss": 1e-6}
NAMES = ("plain", "chunked", "torch")
HAS_TORCH = hasattr(nn, "LinearCrossEntropyOptions")


class Problem:
    """A head, hidden states (1, L, d) and labels of which a share is learnt."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.device, self.options = torch.device(options.device), options
        dtype = getattr(torch, options.dtype)
        with self.device:
            self.head = LanguageModelingHead(options.width, options.vocabulary, bias=False).to(dtype)
            self.head.requires_grad_(not options.frozen_head)
            self.hidden = torch.randn(1, options.positions, options.width).to(dtype).requires_grad_()
            self.labels = torch.randint(options.vocabulary, (1, options.positions))
            self.labels[torch.rand(1, options.positions) >= options.learnt] = -100

    def loss(self, way: str) -> torch.Tensor:
        if way == "plain":
            return ForCausalLMLoss(self.head(self.hidden), self.labels, self.options.vocabulary)
        positions = learnt_positions(*shifted(self.labels))
        if way == "chunked":
            total = chunked_loss(self.head, self.hidden, positions, LogitTransform())
            return mean_loss(total, positions, None)
        chosen = self.hidden.flatten(0, 1).index_select(0, positions.index)
        options = nn.LinearCrossEntropyOptions()
        return nn.functional.linear_cross_entropy(chosen, self.head.weight, positions.targets, options=options)

    def step(self, way: str) -> tuple[torch.Tensor, ...]:
        """Loss and gradients."""
        self.hidden.grad = self.head.weight.grad = None
        loss = self.loss(way)
        loss.backward()
        return loss.detach(), *(t.grad for t in (self.hidden, self.head.weight) if t.grad is not None)


def peak(problem: Problem, way: str) -> float:
    """MiB that a step takes at its peak beside what was there before."""
    if problem.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
        problem.step(way)
        return torch.cuda.max_memory_allocated() / 2**20 - before
    reset_peak()
    before = peak_mib()
    problem.step(way)
    return peak_mib() - before


def peak_in_its_own_process(argv: list[str], way: str) -> float:
    done = subprocess.run([sys.executable, __file__, *argv, "--only", way], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def verdict(name: str, ratio: float) -> str:
    return f"{'holds' if ratio <= LIMITS[name] else 'MISSED'} (limit {LIMITS[name]:g})"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--learnt", type=float, default=1.0, help="share of the positions that have a label")
    parser.add_argument("--frozen-head", action="store_true", help="as in the first two stages")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=NAMES, default=list(NAMES), help="torch's takes long on a CPU")
    parser.add_argument("--write", metavar="FILE", nargs="?", const="chunked_loss.txt", default=None,
                        help="keep the lines in benchmarks/results/FILE")  # fmt: skip
    parser.add_argument("--only", choices=NAMES, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    problem = Problem(options)
    if options.only:
        print(json.dumps(peak(problem, options.only)))
        return
    words = list(sys.argv[1:] if argv is None else argv)
    if "--write" in words:  # the children measure only
        at = words.index("--write")
        del words[at : at + (2 if at + 1 < len(words) and not words[at + 1].startswith("-") else 1)]
    report = Report(options.write, command_of(__file__, argv))
    report.add(f"{machine(problem.device)}; {versions()}")
    head = "frozen" if options.frozen_head else "trained"
    report.add(
        f"vocabulary {options.vocabulary:,}, width {options.width}, {options.positions:,} positions, "
        f"{options.learnt:.0%} learnt, head {head}, {options.dtype}"
    )
    ways = [way for way in NAMES if way in {"plain", "chunked", *options.ways} and (way != "torch" or HAS_TORCH)]
    peaks = {way: peak_in_its_own_process(words, way) for way in ways}
    works: dict[str, Callable[[], object]] = {way: partial(problem.step, way) for way in ways}
    times = by_turns(works, options.rounds)
    expected = problem.step("plain")
    medians = {way: statistics.median(taken) for way, taken in times.items()}
    for way in ways:
        found = expected if way == "plain" else problem.step(way)
        apart = [difference(one, other) for one, other in zip(found, expected, strict=True)]
        report.add(
            f"{way:<8} peak {peaks[way]:8.0f} MiB  x{peaks[way] / peaks['plain']:.2f}   {spread(times[way])}  "
            f"x{medians[way] / medians['plain']:.2f}   off: loss {apart[0]:.0e}, gradients {max(apart[1:]):.0e}"
        )
        if way == "chunked":
            ours = {"memory": peaks[way] / peaks["plain"], "time": medians[way] / medians["plain"], "loss": apart[0]}
    report.add("chunked: " + ", ".join(f"{name} {verdict(name, ratio)}" for name, ratio in ours.items()))


if __name__ == "__main__":
    main()
