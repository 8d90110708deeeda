# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The one error that a person can mend: the command line prints its sentence and exits with status 2."""


class SailvitError(ValueError):
    """A mistake in what was given to sailvit_hf: a recipe, a file, a folder. The message says cause and mend."""
