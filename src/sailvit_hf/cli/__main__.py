# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""`python -m sailvit_hf.cli`, which launchers such as torchrun need."""

import os
import sys

from . import main


def leave(status: int) -> None:
    """End this process, in a run of several over gloo at once.

    torch aborts now and then when the interpreter ends after gloo was used ("terminate called without an active
    exception"), and the launcher would take a run that is done for one that failed.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        if distributed.get_backend() == "gloo":
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        if not status:  # else another process may be gone, which this would wait for
            distributed.destroy_process_group()
    sys.exit(status)


if __name__ == "__main__":
    leave(main())
