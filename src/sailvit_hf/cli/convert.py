# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Convert a checkpoint: SAILViT, AIMv2 (Apple's, transformers', timm's), SAIL-VL2, or a refined one of ours."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("source", metavar="SOURCE", help="a folder, a .safetensors file, or a Hub repository")
    parser.add_argument("dest", metavar="DEST", help="the folder to make")
    parser.add_argument(
        "--to",
        choices=["sailvit", "aimv2", "timm", "sail-vl2"],
        default="sailvit",
        help="sailvit (the default; of a whole vision-language model the whole), aimv2 (transformers' "
        "Aimv2VisionModel), timm, or sail-vl2 (the whole model as SAIL-VL2 stores it)",
    )
    parser.add_argument(
        "--part",
        choices=["vision", "all"],
        help="of a vision-language model, its vision tower alone or all of it; by default what the target can hold",
    )
    parser.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    parser.add_argument("--preset", metavar="NAME", help="large, huge or tiny, for weights without config.json")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="store numbers as; by default as in the source"
    )
    parser.add_argument(
        "--max-shard-size", metavar="SIZE", default="5GB", help="largest weight file, as in 500MB (default: 5GB)"
    )
    parser.add_argument("--drop-head", action="store_true", help="leave out a classifier or an attention pooling")
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint that is in DEST")


def run(options: argparse.Namespace) -> int:
    """Convert, with a progress bar on a terminal; the lines on stdout say what was found and made."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from ..hub import convert_checkpoint

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Writing", total=None)
        result = convert_checkpoint(
            options.source,
            options.dest,
            to=options.to,
            part=options.part,
            revision=options.revision,
            preset=options.preset,
            dtype=options.dtype,
            max_shard_size=options.max_shard_size,
            overwrite=options.overwrite,
            drop_head=options.drop_head,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    print(f"From: {result.source} ({result.source_layout})")
    print(f"To:   {result.folder} ({result.target_layout}; {result.tensors} tensors, {result.bytes:,} bytes)")
    if result.left_out:
        more = f" and {len(result.left_out) - 3} more" if len(result.left_out) > 3 else ""
        print(f"Left out: {', '.join(result.left_out[:3])}{more}")
    return 0
