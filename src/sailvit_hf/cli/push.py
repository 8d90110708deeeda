# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Push a checkpoint to the Hugging Face Hub, after a check that a clean process loads it to the same outputs."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("folder", metavar="FOLDER", help="a checkpoint: a stage, a backbone, a converted model")
    parser.add_argument("repo", metavar="REPO", help="owner/name on the Hub, or a name alone for your own")
    parser.add_argument("--public", action="store_true", help="make it public; without this a public one is refused")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--no-pr", action="store_true", help="commit to main instead of opening a pull request")
    where.add_argument("--branch", metavar="NAME", help="commit to this branch instead; made from main if need be")
    parser.add_argument("--message", metavar="TEXT", help="title of the commit or pull request")
    parser.add_argument("--keep-card", action="store_true", help="push README.md as it is in the folder")


def run(options: argparse.Namespace) -> int:
    """Push; the lines on stdout say what is where. The token is the one of `hf auth login`, or `HF_TOKEN`."""
    import sys

    from ..hub.publish import publish_checkpoint

    result = publish_checkpoint(
        options.folder,
        options.repo,
        private=not options.public,
        pull_request=not options.no_pr,
        branch=options.branch,
        message=options.message,
        keep_card=options.keep_card,
        on_step=lambda step: print(f"{step} ...", file=sys.stderr),
    )
    commit = result.commit
    where = f"pull request {commit.pull_request}" if commit.pull_request else f"branch {commit.revision}"
    print(f"{'Pushed' if commit.new else 'There already'}: {commit.repo}, {where}")
    print(f"Visible to: {'you and your organisation' if result.private else 'everybody'}")
    print(f"Address:    {commit.url}")
    print(f'Load with:  from_pretrained("{commit.repo}", revision="{commit.oid}")')
    if result.left_out:
        print(f"Left out:   {', '.join(result.left_out)}")
    return 0
