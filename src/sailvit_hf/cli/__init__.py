# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The command `sailvit`. A mistake of the caller is one line on stderr and exit status 2."""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from ..errors import RESUME_STATUS, Preempted, SailvitError, Unpublished

# Each command is a module of this package with `add_arguments(parser)` and `run(options) -> int`.
COMMANDS = {
    "refine": "refine a vision backbone as a recipe says: stages, evaluation, report",
    "plan": "say what a recipe will cost: parameters, memory of a GPU, FLOPs, time, which layout fits",
    "foundations": "make (or find) the demo's pre-trained parts that a recipe needs, and print their folders",
    "convert": "convert a checkpoint of the family: SAILViT, AIMv2 (Apple, transformers, timm), SAIL-VL2",
    "push": "publish a checkpoint on the Hugging Face Hub, after checking that it loads anywhere",
    "export": "write an encoder as an ONNX graph, and as an int8 one for CPUs",
    "info": "show what a checkpoint is and where it comes from, as a tree",
    "data": "look at data before training: what is in it and what is broken (check); sizes for packing (sizes)",
    "evidence": "compare gradual refinement with direct co-training over several seeds",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line; the commands' modules import nothing slow before they run."""
    parser = argparse.ArgumentParser(prog="sailvit", description="Gradual feature refinement of vision backbones.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        module = importlib.import_module(f".{name}", __name__)
        module.add_arguments(commands.add_parser(name, help=text, description=module.__doc__))
    return parser


def set_up_logging() -> None:
    """Show the package's announcements on stderr, and keep the loading bars of small files away from them."""
    import datasets
    from transformers.utils import logging as transformers_logging

    logger = logging.getLogger("sailvit_hf")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    first = os.environ.get("RANK", "0") == "0"  # of the processes that a launcher started
    logger.setLevel(logging.INFO if first else logging.WARNING)
    logger.propagate = False
    # Only bars of loading and mapping; the Trainer's own stay.
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()


def _nobody_reads() -> bool:
    """Whether stdout is a pipe that was closed at its other end; what is left to be written then goes nowhere."""
    try:
        os.write(sys.stdout.fileno(), b"\n")  # print's own failure empties the buffer: flushing again tells nothing
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 checked and found wanting, 2 a mistake in what was
    given, 75 (`RESUME_STATUS`) to be resumed, 130 interrupted, 141 nobody reads on (`| head`)."""
    options = build_parser().parse_args(argv)
    module = importlib.import_module(f".{options.command}", __name__)
    try:
        set_up_logging()
        status: int = module.run(options)
        sys.stdout.flush()  # else what is left in the buffer would fail after the last chance to say how
        return status
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return 141  # as of a program that SIGPIPE ended
    except (Preempted, Unpublished) as stop:
        print(f"to be resumed: {' '.join(str(stop).split())}", file=sys.stderr)
        return RESUME_STATUS
    except SailvitError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        after = {
            "refine": "the same command with --resume goes on from here",
            "convert": "nothing was written",
            "data": "nothing was written",
            "push": "the same command finds out whether it was pushed",
        }
        print(f"\ninterrupted; {after.get(options.command, 'run the same command again')}", file=sys.stderr)
        return 130
