# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The memory that loading and converting a checkpoint take at their peak, as multiples of its weights' size.

    python benchmarks/loading_memory.py --output benchmarks/results/loading_memory.txt

Random weights are written to a temporary folder (Huge in float32 takes 8 GB of disk in all), then each task runs in
a fresh process. "peak RSS" is the kernel's own mark (VmHWM) less what the process held when its imports were done. It
counts everything that lay in memory at once, also pages of the weight files that are mapped, which the kernel can drop
at any time. "peak anonymous" (RssAnon, sampled) is what only swapping could make room for. The limits hold for both.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

LIMITS = {"load": 1.2, "convert": 1.3}
# Name -> kind, folders. A cast reads one set of weights and makes another: no limit, it is there to be known.
TASKS = {
    "load, read every weight": ("load", "sailvit"),
    "load as float32": ("cast", "sailvit"),
    "convert sailvit to aimv2": ("convert", "sailvit", "aimv2"),
    "convert aimv2 to sailvit": ("convert", "aimv2", "sailvit-again"),
}


def memory(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"error: /proc/self/status has no {field}; this benchmark needs Linux")


def write_random(folder: str, preset: str, dtype: str) -> None:
    import torch

    from sailvit_hf import SAILViTConfig, SAILViTModel

    torch.set_default_dtype(getattr(torch, dtype))
    SAILViTModel(SAILViTConfig.preset(preset)).save_pretrained(folder)


def load(source: str, dtype: str = "auto") -> None:
    from sailvit_hf import SAILViTModel

    model = SAILViTModel.from_pretrained(source, dtype=dtype)
    # Weights that are mapped from the file come into memory when they are used: use all of them.
    for parameter in model.parameters():
        parameter.detach().view(-1)[::16].sum()


def convert(source: str, target: str) -> None:
    from sailvit_hf.hub import convert_checkpoint

    convert_checkpoint(source, target, "aimv2" if target.endswith("aimv2") else "sailvit")


def measure(kind: str, *folders: str) -> None:
    """Run one task in this process and print what it took, as JSON."""
    from transformers.utils import logging

    from sailvit_hf import SAILViTModel, hub  # noqa: F401

    logging.disable_progress_bar()
    baseline, anonymous = memory("VmRSS"), memory("RssAnon")
    peak, done = [anonymous], threading.Event()

    def sample() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], memory("RssAnon"))

    Path("/proc/self/clear_refs").write_text("5")  # the imports' own peak is not the question
    watcher = threading.Thread(target=sample)
    watcher.start()
    start = time.perf_counter()
    {"load": load, "cast": partial(load, dtype="float32"), "convert": convert}[kind](*folders)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    print(json.dumps({"rss": memory("VmHWM") - baseline, "anonymous": peak[0] - anonymous, "seconds": seconds}))


def fresh(*words: str) -> str:
    command = [sys.executable, __file__, *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def run(preset: str, dtypes: list[str], folder: str) -> list[str]:
    lines = [
        f"$ python benchmarks/loading_memory.py --preset {preset} --dtype {' '.join(dtypes)}",
        f"{platform.machine()}, Python {platform.python_version()}, each task in a fresh process, above its imports",
        f"{'dtype':9} {'task':26} {'weights':>9} {'peak RSS':>9} {'ratio':>6} {'peak anon':>9} {'ratio':>6} "
        f"{'limit':>6} {'seconds':>8}",
    ]
    for dtype in dtypes:
        with tempfile.TemporaryDirectory(dir=folder, prefix="loading-memory-") as place:
            fresh("--write", f"{place}/sailvit", preset, dtype)
            size = sum(path.stat().st_size for path in Path(place, "sailvit").glob("*.safetensors"))
            for name, (kind, *names) in TASKS.items():
                if kind == "cast" and dtype == "float32":
                    continue
                found = json.loads(fresh("--measure", kind, *(f"{place}/{part}" for part in names)).splitlines()[-1])
                made = 2 * size if kind == "cast" else size
                ratios = found["rss"] / made, found["anonymous"] / made
                limit = LIMITS.get(kind)
                verdict = "  OVER" if limit is not None and max(ratios) >= limit else ""
                lines.append(
                    f"{dtype:9} {name:26} {made / 1e6:6.0f} MB {found['rss'] / 1e6:6.0f} MB {ratios[0]:6.3f} "
                    f"{found['anonymous'] / 1e6:6.0f} MB {ratios[1]:6.3f} {limit or '-':>6} "
                    f"{found['seconds']:8.1f}{verdict}"
                )
                print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of loading and converting.")
    parser.add_argument("--preset", default="huge", help="tiny, large or huge")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--folder", help="where to put the temporary files")
    parser.add_argument("--output", type=Path, help="write the table to this file too")
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_random(*options.write)
    elif options.measure:
        measure(*options.measure)
    else:
        lines = run(options.preset, options.dtype, options.folder)
        if options.output:
            options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
