# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Time until a backbone is there, beside transformers' Aimv2VisionModel with the same weights.

    python benchmarks/loading_time.py --preset large --rounds 5 --write

Each round starts a fresh process for each way, by turns. "import" is until the class is there, with what it needs of
torch and transformers; "load" is the first `from_pretrained` after it, "both" their sum; "again" is a second one in
the same process, when nothing is left to import. Random weights are written to a temporary folder first (2.5 GB).
A way of ours that imports what is for training or data ends the benchmark with an error.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from measuring import Report

# Run in the fresh process: the way's import, then its call; the modules that came along are told, too.
CODE = """
import sys, time, json
clocks = lambda: (time.perf_counter(), time.process_time())
start = clocks()
{imports}
imported = clocks()
model = {call}
loaded = clocks()
model = {call}
again = clocks()
assert not model.training
pairs = {{"import": (start, imported), "load": (imported, loaded), "both": (start, loaded), "again": (loaded, again)}}
times = {{part: [after - before for before, after in zip(*pair)] for part, pair in pairs.items()}}
print(json.dumps({{**times, "modules": sorted(sys.modules)}}))
"""
OURS, THEIRS = "SAILViTModel", "Aimv2VisionModel"
WAYS = {
    OURS: ("from sailvit_hf import SAILViTModel", "SAILViTModel.from_pretrained(sys.argv[1])", "sailvit"),
    THEIRS: ("from transformers import Aimv2VisionModel", "Aimv2VisionModel.from_pretrained(sys.argv[1])", "aimv2"),
    "AutoModel, package": (
        "import sailvit_hf; from transformers import AutoModel", "AutoModel.from_pretrained(sys.argv[1])", "sailvit"
    ),
    "AutoModel, remote code": (
        "from transformers import AutoModel",
        "AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)",
        "sailvit",
    ),
    "AutoModel of theirs": ("from transformers import AutoModel", "AutoModel.from_pretrained(sys.argv[1])", "aimv2"),
}  # fmt: skip
PARTS = ("import", "load", "both", "again")
CLOCKS = ("wall", "CPU")  # the second is steadier where others compute, too
# What loading a backbone has no use for: training and data.
FORBIDDEN = ("datasets", "trl", "peft", "sailvit_hf.refinement", "sailvit_hf.data", "sailvit_hf.evaluation",
             "sailvit_hf.hub", "sailvit_hf.cli", "sailvit_hf.processing", "transformers.trainer")  # fmt: skip


def write_weights(place: Path, preset: str, dtype: str) -> None:
    """The same random weights in our layout and in transformers' own."""
    import torch
    from measuring import aimv2_twin

    from sailvit_hf import SAILViTConfig, SAILViTModel

    torch.set_default_dtype(getattr(torch, dtype))
    model = SAILViTModel(SAILViTConfig.preset(preset))
    model.save_pretrained(place / "sailvit")
    aimv2_twin(model).save_pretrained(place / "aimv2")


def fresh(way: str, place: Path) -> dict:
    """Times in seconds of one way in a process of its own, and the modules that it imported."""
    imports, call, layout = WAYS[way]
    command = [sys.executable, "-c", CODE.format(imports=imports, call=call), str(place / layout)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def needless(modules: Sequence[str]) -> list[str]:
    """Those of the modules that are for training or data."""
    return [name for name in modules if name in FORBIDDEN or name.startswith(tuple(f"{one}." for one in FORBIDDEN))]


def compare(options: argparse.Namespace, place: Path, report: "Report") -> None:
    """All ways by turns, their medians, and the ratios of ours to theirs."""
    for layout in ("sailvit", "aimv2"):
        for path in (place / layout).glob("*.safetensors"):
            path.read_bytes()  # from now on it is in the system's cache, for both alike
    times: dict[str, dict[str, list[list[float]]]] = {way: {part: [] for part in PARTS} for way in WAYS}
    for number in range(options.rounds):
        for way in list(WAYS)[:: 1 if number % 2 else -1]:
            found = fresh(way, place)
            extra = needless(found["modules"])
            if extra and "sailvit" in WAYS[way]:
                raise SystemExit(f"error: {way} imports {', '.join(extra[:5])}")
            for part in PARTS:
                times[way][part].append(found[part])
    for clock, name in enumerate(CLOCKS):
        report.add(f"{f'{name} seconds, medians':24} " + " ".join(f"{part:>8}" for part in PARTS))
        for way, parts in times.items():
            medians = [statistics.median(pair[clock] for pair in parts[part]) for part in PARTS]
            report.add(f"{way:24} " + " ".join(f"{value:8.3f}" for value in medians))
        ratios = []
        for part in PARTS:
            ours, theirs = ([pair[clock] for pair in times[way][part]] for way in (OURS, THEIRS))
            ratios.append(f"{statistics.median(ours) / statistics.median(theirs):8.3f}")
        report.add(f"{'ratio of the first two':24} " + " ".join(ratios))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time until a backbone is loaded, beside Aimv2VisionModel.")
    parser.add_argument("--preset", default="large", help="tiny, large, huge")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes of each way")
    parser.add_argument("--folder", help="where to put the temporary files")
    parser.add_argument("--write", action="store_true", help="keep the lines in benchmarks/results/")
    options = parser.parse_args(argv)
    from measuring import Report, command_of, machine, torch, versions

    report = Report(f"loading_time_{options.preset}.txt" if options.write else None, command_of(__file__, argv))
    report.add(machine(torch.device("cpu")))
    report.add(versions())
    report.add(f"{options.preset}, {options.dtype}, {options.rounds} fresh processes of each way by turns")
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="loading-time-") as place:
        write_weights(Path(place), options.preset, options.dtype)
        compare(options, Path(place), report)


if __name__ == "__main__":
    main()
