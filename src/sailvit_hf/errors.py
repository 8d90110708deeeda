# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a person can mend, and what only needs to be started again; the command line prints the sentence."""

RESUME_STATUS = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same again


class SailvitError(ValueError):
    """A mistake in what was given to sailvit_hf: a recipe, a file, a folder. The message says cause and mend."""


class NotAnswered(SailvitError):
    """The Hub did not answer, however often it was asked; what was asked for can be asked for later."""


class Unpublished(SailvitError):
    """The run is done, but for pushes to a Hub that did not answer: resuming the run pushes them.

    The command line exits with `RESUME_STATUS`.
    """


class Preempted(SailvitError):
    """The machine was asked for back (SIGTERM, SIGUSR1): what was done is saved, and the run can be resumed.

    The command line exits with `RESUME_STATUS`.
    """
