# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""How long a resumed run waits for its first batch, after few and after many samples: it should not matter.

    python benchmarks/resume_time.py --write

Streams are read again from the cursors of their lanes; beside it, by turns, with the cursors thrown away, so that the
rows before are passed over unopened. Of Parquet also `datasets`' own `state_dict` of a stream, which keeps no shuffle
buffer. By index: our batches of a pass, and accelerate's, which makes an index for every sample that was seen.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import SeedableRandomSampler
from measuring import Report, by_turns, command_of, machine, versions
from torch.utils.data import BatchSampler, DataLoader

from sailvit_hf.data.encoding import EncodedStream, LaneSamples
from sailvit_hf.data.mixture import Part, StreamMixture
from sailvit_hf.data.streams import ConversationStream
from sailvit_hf.refinement.processes import PassBatches, StreamTurns

BATCH, LANES, FEW, MANY = 8, 4, 0.05, 0.9
Work = Callable[[], object]


class Processor:
    """Encodes the number of a row alone: only the reading is timed."""

    def encode_conversation(self, messages: Any, images: Any, **options: Any) -> dict[str, torch.Tensor]:
        ids = torch.tensor([int(messages[0]["content"][0]["text"].split()[1].rstrip("?"))])
        return {"input_ids": ids, "labels": ids}


def row(number: int) -> dict[str, Any]:
    """A conversation of a few hundred bytes."""
    messages = [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": "word " * 60}]
    return {"messages": messages}


def write(folder: Path, kind: str, rows: int) -> Path:
    """A data set of one file."""
    if kind == "JSONL":
        path = folder / "rows.jsonl"
        with path.open("w") as stream:
            stream.writelines(json.dumps(row(number)) + "\n" for number in range(rows))
        return path
    path = folder / "rows.parquet"
    datasets.Dataset.from_generator(lambda: map(row, range(rows)), cache_dir=str(folder)).to_parquet(path, 1000)
    return path


def samples_of(path: Path, cursors: dict[int, Any]) -> LaneSamples:
    """The stream of a file."""
    mixture = StreamMixture([Part(ConversationStream(path, shuffle_buffer=256))])
    return LaneSamples(EncodedStream(mixture, Processor()), LANES, BATCH, cursors)


def first_batch(path: Path, seen: int, cursors: dict[int, Any]) -> Any:
    """What a resumed run does until it has its first batch."""
    turns = StreamTurns(seen, BATCH)
    turns.pass_over(0, seen // BATCH)
    loader = DataLoader(samples_of(path, cursors), batch_sampler=turns, collate_fn=list)
    return next(iter(skip_first_batches(loader, seen // BATCH)))


def stream_works(folder: Path, kind: str, rows: int) -> tuple[dict[str, Work], int]:
    """Works by name, and the largest state in bytes."""
    path, works, size = write(folder, kind, rows), {}, 0
    for name, share in (("few", FEW), ("many", MANY)):
        seen = int(share * rows) // (BATCH * LANES) * BATCH * LANES
        read = samples_of(path, {})
        read.stream.faults.limit = 1.0
        for number in range(seen - BATCH * LANES, seen):
            read[number]
        cursors = read.cursors_of_touched()
        size = max(size, len(json.dumps(cursors)))
        works[f"{name}, cursors"] = lambda seen=seen, cursors=cursors: first_batch(path, seen, cursors)
        works[f"{name}, passed over"] = lambda seen=seen: first_batch(path, seen, {})
    if kind == "Parquet":
        for name, share in (("few", FEW), ("many", MANY)):
            stream = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
            taken = islice(stream, int(share * rows))
            for _ in taken:
                pass
            state = stream.state_dict()
            works[f"{name}, datasets' state"] = lambda state=state: by_datasets(path, state)
    return works, size


def by_datasets(path: Path, state: dict[str, Any]) -> Any:
    """The first row after the state of a `datasets` stream."""
    stream = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    stream.load_state_dict(state)
    return next(iter(stream))


def index_works(samples: int) -> dict[str, Work]:
    """The first batch by index, after few and many."""
    works: dict[str, Work] = {}

    def ours(done: int) -> Any:
        batches = PassBatches(samples, 0, BATCH, False)
        batches.pass_over(0, done)
        return next(iter(skip_first_batches(DataLoader(range(samples), batch_sampler=batches), done)))

    def theirs(done: int) -> Any:
        batches = BatchSampler(SeedableRandomSampler(range(samples), data_seed=0), BATCH, False)
        return next(iter(skip_first_batches(DataLoader(range(samples), batch_sampler=batches), done)))

    for name, share in (("few", FEW), ("many", MANY)):
        done = int(share * samples / BATCH)
        works[f"{name}, ours"] = lambda done=done: ours(done)
        works[f"{name}, accelerate's"] = lambda done=done: theirs(done)
    return works


def add(report: Report, title: str, works: dict[str, Work], rounds: int) -> None:
    """A row for each way: after few samples, after many, their ratio."""
    times = {name: statistics.median(found) for name, found in by_turns(works, rounds).items()}
    for way in dict.fromkeys(name.partition(", ")[2] for name in works):
        few, many = times[f"few, {way}"], times[f"many, {way}"]
        report.add(f"{title + ', ' + way:42} {1000 * few:10.1f} {1000 * many:10.1f} {many / few:8.2f}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="of a stream")
    parser.add_argument("--samples", type=int, default=2_000_000, help="of a data set with indices")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/resume_time.txt")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    report = Report("resume_time.txt" if arguments.write else None, command_of(__file__, argv))
    report.add(machine(torch.device("cpu")))
    report.add(versions("accelerate", "datasets"))
    report.add(f"Milliseconds to the first batch, after {FEW:.0%} and {MANY:.0%} of the samples; medians of turns")
    report.add(f"{'':42} {'few':>10} {'many':>10} {'ratio':>8}")
    for kind in ("JSONL", "Parquet"):
        with tempfile.TemporaryDirectory() as folder:
            works, size = stream_works(Path(folder), kind, arguments.rows)
            add(report, f"{kind}, {arguments.rows:,} rows", works, arguments.rounds)
        report.add(f"{kind}: the state of {LANES} lanes has at most {size} bytes")
    add(report, f"{arguments.samples:,} by index", index_works(arguments.samples), arguments.rounds)


if __name__ == "__main__":
    main()
