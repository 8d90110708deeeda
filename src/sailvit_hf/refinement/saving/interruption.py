# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""SIGTERM, and SIGUSR1 with which SLURM warns: the step is finished and saved, and the run ends as one to resume.

transformers has `enable_jit_checkpoint` for this. It is not used: every process decides alone (the others would wait
for it in the next collective), it saves between the micro-batches of a step, whose place in the data no checkpoint
knows, waits for three seconds first, and its run ends with the status of one that is done.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import Preempted

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class _StopNow(BaseException):
    """Raised out of the handler where no training looks for the signal; no `except Exception` takes it for its own."""


class Watch:
    """What is known of a signal to stop.

    Attributes:
        asked: name of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        self._training = 0
        self._process = os.getpid()

    def handle(self, number: int, frame: Any) -> None:
        """The handler: keeps the signal for the end of the step, or stops at once where there is no step."""
        if os.getpid() != self._process:  # a worker that was forked: it has nothing to save
            if number == signal.SIGTERM:  # which a pool ends its workers with, and then waits for them
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.asked = signal.Signals(number).name
        if not self._training:
            raise _StopNow

    @contextmanager
    def until_the_step_ends(self) -> Iterator[None]:
        """A training that looks at `asked` after each step."""
        self._training += 1
        try:
            yield
        finally:
            self._training -= 1

    def check(self, where: str = "between two steps of the run") -> None:
        """Stop here if a signal came.

        Raises:
            Preempted: it did.
        """
        if self.asked is not None:
            raise Preempted(f"{self.asked} came {where}: what is done is saved, resume the run")


_watches: list[Watch] = []


@contextmanager
def watched() -> Iterator[Watch]:
    """Take note of the signals to stop; inside of another `watched` that one's `Watch` is given.

    Outside of the main thread, where Python sets no handlers, nothing is ever noted.

    Raises:
        Preempted: a signal came while no training ran.
    """
    if _watches:
        yield _watches[-1]
        return
    watch, before = Watch(), {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, watch.handle) for number in SIGNALS}
    _watches.append(watch)
    try:
        yield watch
    except _StopNow:
        watch.check()
    finally:
        _watches.remove(watch)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
