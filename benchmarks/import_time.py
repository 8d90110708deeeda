# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What `import sailvit_hf` adds to `import transformers`, each in fresh processes by turns.

    python benchmarks/import_time.py --repeats 5
"""

import argparse
import platform
import statistics
import subprocess
import sys

CODE = "import time; import transformers; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds(statement: str) -> float:
    command = [sys.executable, "-c", CODE.format(statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the import of sailvit_hf after transformers.")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    ours, nothing = [], []
    for _ in range(options.repeats):
        ours.append(seconds("import sailvit_hf"))
        nothing.append(seconds("pass"))
    print(f"{platform.machine()}, Python {platform.python_version()}, {options.repeats} fresh processes each")
    for name, times in (("import sailvit_hf", ours), ("pass", nothing)):
        print(f"{name:>18}: median {statistics.median(times):.4f} s, worst {max(times):.4f} s")


if __name__ == "__main__":
    main()
