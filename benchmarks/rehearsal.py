# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""A rehearsal of stage III's data side: real order, sizes, packer, dealing and checkpoint state; no arithmetic.

    python benchmarks/rehearsal.py --write

36.5 million samples in a mixture of five sources by weight, 512 ranks, packs of 8192 tokens. Their sizes lie in a
table as `sailvit data sizes` writes it, mapped into memory. Each part below runs in its own process, whose memory is
told: without what is mapped, for all processes of a machine share that. Sizes are drawn, not measured: "even" has 10
to 800 text tokens and 0 to 6 tiles, evenly; "long texts" is a guess at stage III with texts of up to 4000 tokens,
which leave no room for the tiles that the other packs hold.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Report, command_of, machine, versions

from sailvit_hf.data.mixture import LaneRows, Mixture, Part, StreamMixture
from sailvit_hf.data.packing.packer import Packer, SampleSize
from sailvit_hf.data.packing.plan import PackBatches, PackPlan, RememberedSizes, dealt, planned_steps
from sailvit_hf.data.packing.rows import PackingRows
from sailvit_hf.data.packing.streams import IndexStream, RowStream
from sailvit_hf.data.streams import ConversationStream

LENGTH, TILE = 8192, 256
# Shares of captions, OCR, open questions, short questions and text alone; all are ours.
SHARES = (0.25, 0.28, 0.2, 0.15, 0.12)
TILES = np.array([1, 3, 4, 5, 7, 9, 10, 11, 13])
TILE_SHARES = (
    (0.25, 0.15, 0.05, 0.2, 0.25, 0.04, 0.01, 0.02, 0.03),
    (0.02, 0.03, 0.02, 0.1, 0.28, 0.1, 0.05, 0.1, 0.3),
    (0.2, 0.2, 0.1, 0.2, 0.2, 0.05, 0.02, 0.01, 0.02),
    (0.3, 0.15, 0.05, 0.2, 0.2, 0.04, 0.01, 0.02, 0.03),
)
TEXTS = ((5.3, 0.5), (6.0, 0.9), (5.5, 0.6), (4.0, 0.4), (6.0, 0.8))


class Numbers:
    """A data set of which only the length is asked."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise NotImplementedError


def write_sizes(file: Path, kind: str, samples: int) -> None:
    """Draw the sizes of all samples, source after source."""
    table = np.lib.format.open_memmap(file, "w+", np.int32, (samples, 2))
    draw, at = np.random.default_rng(0), 0
    for number, count in enumerate(counts_of(samples)):
        for start in range(at, at + count, 1 << 20):
            rows = min(1 << 20, at + count - start)
            if kind == "even":
                tiles, texts = draw.integers(0, 7, rows), draw.integers(10, 801, rows)
            else:
                tiles = np.zeros(rows, int) if number == 4 else draw.choice(TILES, rows, p=TILE_SHARES[number])
                texts = draw.lognormal(*TEXTS[number], rows).astype(int).clip(10, 4000)
            table[start : start + rows] = np.stack([texts + TILE * tiles, tiles], axis=1)
        at += count
    table.flush()


def counts_of(samples: int) -> list[int]:
    """Samples of each source."""
    ends = np.rint(np.cumsum([0, *SHARES]) * samples).astype(int)
    return np.diff(ends).tolist()


def measure_nothing(index: int) -> SampleSize:
    raise RuntimeError("every size is in the table")


class Stage:
    """The plan of a stage, as `packed_loader` makes it."""

    def __init__(self, folder: str, kind: str, samples: int, ranks: int, packs: int, buffer: int) -> None:
        counts = counts_of(samples)
        parts = [Part(Numbers(count), weight=share) for count, share in zip(counts, SHARES, strict=True)]
        self.rows = PackingRows(Mixture(parts, seed=0))
        table = np.load(f"{folder}/{kind}-{samples}.npy", mmap_mode="c")
        self.sizes = RememberedSizes(measure_nothing, samples, [(samples, table)])
        self.order = self.rows.order("random", 0)
        self.reads = self.rows.length or 0
        self.packer = Packer(LENGTH, None, buffer)
        self.ranks, self.packs = ranks, packs
        stream = IndexStream(self.order, self.reads)
        self.plan = PackPlan(stream, self.sizes, self.packer, ranks * packs)

    def batches(self, steps: int) -> PackBatches:
        """Those of the first rank."""
        return PackBatches(self.plan, steps, self.packs, 1, self.ranks, 0)


def own_mib() -> float:
    """Resident memory of this process without what is mapped from files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def part_start(stage: Stage, options: dict[str, Any]) -> dict[str, Any]:
    """What a first start costs: the number of steps, and the first step's packs."""
    start = time.perf_counter()
    steps = planned_steps(stage.order, stage.reads, stage.sizes, stage.packer, stage.ranks * stage.packs)
    counted = time.perf_counter() - start
    next(iter(stage.batches(steps)))
    return {"steps": steps, "counting": counted, "first": time.perf_counter() - start, "mib": own_mib()}


def part_run(stage: Stage, options: dict[str, Any]) -> dict[str, Any]:
    """The plan over many steps: speed, balance between ranks, memory and state on the way."""
    table, memory, states = stage.sizes.look_up, [], []
    loads, spent, batches = [], 0.0, stage.batches(1 << 30)
    steps = iter(range(options["steps"]))
    for step in steps:
        start = time.process_time()
        packs = batches.plan.next_step()
        state = batches.plan.state_dict()
        own = dealt(packs or [], stage.ranks, 0, 1)
        spent += time.process_time() - start
        assert packs is not None and len(own) == stage.packs
        sums = {id(pack): table(np.array(pack)).sum(0) for pack in packs}
        shares = [dealt(packs, stage.ranks, rank, 1) for rank in range(stage.ranks)]
        loads.append([np.sum([sums[id(pack)] for batch in share for pack in batch], axis=0) for share in shares])
        if step % max(1, options["steps"] // 8) == 0 or step + 1 == options["steps"]:
            memory.append(own_mib())
            states.append(len(json.dumps(state)))
    totals = np.array(loads, dtype=float)
    most = totals.max(1) / totals.mean(1)
    return {
        "samples": stage.plan.counts["samples"], "speed": stage.plan.counts["samples"] / spent,
        "step": spent / options["steps"], "full": stage.plan.efficiency, "memory": memory, "states": states,
        "tokens": [most[:, 0].mean(), np.percentile(most[:, 0], 99), most[:, 0].max()],
        "tiles": [most[:, 1].mean(), np.percentile(most[:, 1], 99), most[:, 1].max()],
        "mean": totals[..., 1].mean() / stage.packs,
        "least": (totals.min(1) / totals.mean(1)).mean(0).tolist(),
    }  # fmt: skip


def part_resume(stage: Stage, options: dict[str, Any]) -> dict[str, Any]:
    """Going on in the middle of the stage: from the state to the first batch."""
    plan = stage.plan
    plan.stream._position = plan.stream._count = int(stage.reads * options["at"])  # as if so many were read
    plan.counts["read"] = plan.stream._count
    plan.next_step()
    state = json.loads(json.dumps(plan.state_dict()))
    expected = plan.next_step()
    start = time.perf_counter()
    fresh = Stage(*options["stage"])
    batches = fresh.batches(1 << 30)
    batches.load_state_dict({"step": 1, "plan": state})
    batches.shows_done = False
    first = next(iter(batches))
    took = time.perf_counter() - start
    assert expected is not None and first == dealt(expected, stage.ranks, 0, 1)[0]
    return {"at": options["at"], "took": took, "state": len(json.dumps(state)), "mib": own_mib()}


def part_stream(stage: Stage, options: dict[str, Any]) -> dict[str, Any]:
    """The same of a stream of JSONL rows without an index, packed on the way."""
    rows = StreamMixture([Part(ConversationStream(options["rows"], seed=0))])

    def plan() -> PackPlan:
        size = SampleSize(1000, 2)
        return PackPlan(RowStream(LaneRows(rows)), lambda row: size, Packer(LENGTH, None, 128), 512)

    whole, start = plan(), time.perf_counter()
    for _ in range(int(options["count"] * options["at"] / 8 / 512)):
        whole.next_step()
    reading = time.perf_counter() - start
    state = json.loads(json.dumps(whole.state_dict()))
    expected = whole.next_step()
    resumed, start = plan(), time.perf_counter()
    resumed.load_state_dict(state)
    assert [[row["id"] for row in pack] for pack in resumed.next_step() or []] == [
        [row["id"] for row in pack] for pack in expected or []
    ]
    took = time.perf_counter() - start
    return {"at": whole.counts["read"], "reading": reading, "took": took, "state": len(json.dumps(state))}


PARTS = {"start": part_start, "run": part_run, "resume": part_resume, "stream": part_stream}


def apart(name: str, stage: Sequence[Any], **options: Any) -> dict[str, Any]:
    """A part in a process of its own."""
    asked = json.dumps({"stage": list(stage), **options})
    done = subprocess.run(
        [sys.executable, __file__, "--part", name, asked], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def report_runs(folder: str, arguments: argparse.Namespace, report: Report) -> None:
    """Speed and balance for one and several packs a rank."""
    report.add(f"{arguments.steps} steps; of each step the fullest rank over the mean of all: mean, p99, most")
    report.add(f"{'':24} {'tokens':^21} {'tiles':^21}  tiles a pack  full  samples/s a core  s a step")
    for kind in ("even", "long texts"):
        for packs in arguments.packs:
            stage = (folder, kind, arguments.samples, arguments.ranks, packs, arguments.buffer)
            found = apart("run", stage, steps=max(4, arguments.steps // packs))
            tokens, tiles = ("  ".join(f"{value:.3f}" for value in found[name]) for name in ("tokens", "tiles"))
            report.add(
                f"{kind + f', {packs} a rank':24} {tokens:21} {tiles:21}  {found['mean']:12.2f} {found['full']:6.1%}"
                f"  {found['speed']:16,.0f}  {found['step']:8.3f}"
            )
            memory = " ".join(f"{value:.0f}" for value in found["memory"])
            sizes = " ".join(f"{value / 1000:.1f}" for value in found["states"])
            report.add(f"    own memory on the way, MiB: {memory}; state, kB: {sizes}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=36_500_000)
    parser.add_argument("--ranks", type=int, default=512)
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 4], help="packs of a rank and step")
    parser.add_argument("--buffer", type=int, default=128)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows of the stream; 0: none")
    parser.add_argument("--folder", help="where the tables are made (default: a temporary folder)")
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/rehearsal.txt")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    if arguments.part:
        options = json.loads(arguments.part[1])
        print(json.dumps(PARTS[arguments.part[0]](Stage(*options["stage"]), options)))
        return
    report = Report("rehearsal.txt" if arguments.write else None, command_of(__file__, argv))
    report.add(machine(torch.device("cpu")))
    report.add(versions())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rehearse(folder, arguments, report)


def rehearse(folder: str, arguments: argparse.Namespace, report: Report) -> None:
    """All parts."""
    samples = arguments.samples
    report.add(f"{samples:,} samples, {arguments.ranks} ranks, packs of {LENGTH} tokens, buffer of {arguments.buffer}")
    for kind in ("even", "long texts"):
        write_sizes(Path(folder) / f"{kind}-{samples}.npy", kind, samples)
    report_runs(folder, arguments, report)
    stage = (folder, "even", samples, arguments.ranks, 1, arguments.buffer)
    found = apart("start", stage)
    report.add(f"first start: {found['steps']:,} steps foreseen in {found['counting']:.1f} s, first batch after "
               f"{found['first']:.1f} s, {found['mib']:.0f} MiB of its own")  # fmt: skip
    for at in (0.01, 0.5, 0.95):
        found = apart("resume", stage, at=at)
        state = found["state"] / 1000
        report.add(f"resume at {at:4.0%}: {found['took']:.2f} s to the first batch, state {state:.1f} kB")
    if arguments.rows:
        file = Path(folder) / "rows.jsonl"
        chat = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "this"}]
        with file.open("w", encoding="utf-8") as stream:
            stream.writelines(
                json.dumps({"id": str(number), "messages": chat}) + "\n" for number in range(arguments.rows)
            )
        for at in (0.1, 0.9):
            found = apart("stream", stage, rows=str(file), count=arguments.rows, at=at)
            state = found["state"] / 1000
            report.add(f"stream of {arguments.rows:,} rows without an index, at row {found['at']:,} (reached in "
                       f"{found['reading']:.1f} s): resume {found['took']:.2f} s, state {state:.1f} kB")  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    report.add(f"most resident memory of any part, mapped files and libraries among it: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
