"""Requests to stop: a signal, or a preemption notice that all processes of a run heed at the same step."""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

from jax.experimental import multihost_utils

from recu_jax import distributed

# SIGUSR1 is what `sbatch --signal=USR1@120` sends ahead of time.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_NOTICE = "a preemption notice"
EXIT_INTERRUPTED = 130  # a person's Control-C
EXIT_STOPPED = 75  # a scheduler's notice: EX_TEMPFAIL of sysexits.h, "try again later"


class Stopped(BaseException):  # nothing went wrong, and no `except Exception` should take it for that
    """A run that was asked to stop, and did.

    Attributes:
      by: name of the signal.
      exit_status: what a program ends with that was stopped so.
      together: whether all processes stopped at the same step.
    """

    def __init__(self, by: str):
        super().__init__(f"stopped by {by}")
        self.by = by

    @property
    def together(self) -> bool:
        return self.by == _NOTICE

    @property
    def exit_status(self) -> int:
        return EXIT_INTERRUPTED if self.by == "SIGINT" else EXIT_STOPPED


class StopRequests:
    """Within the `with` block, SIGINT, SIGTERM and SIGUSR1 are noted, and `due` says when to heed them.

    While there is nothing to save, a signal raises `Stopped` where the program stands; a second SIGINT does so always.
    Outside the main thread nothing is noted, as Python has signals there alone.

    With several processes JAX's preemption service passes a notice of any of them to all, and they agree on the step.
    """

    def __init__(self):
        self._by = None
        self._anything_to_save = False
        self._asked_until = 0
        self._before: Mapping[int, Any] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            # The service has SIGTERM for itself.
            own = [s for s in SIGNALS if not (distributed.several() and s == signal.SIGTERM)]
            self._before = {s: signal.signal(s, self._note) for s in own}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def protect(self) -> None:
        """From now on there is something to save: signals wait for `due`."""
        self._anything_to_save = True

    def due(self, step: int) -> bool:
        """Whether to save and stop now that `step` steps are done; every process must ask after every dispatch."""
        if not distributed.several():
            return self._by is not None
        # The service counts up to a step that all can still reach; Orbax asks it by the same numbers.
        first, self._asked_until = self._asked_until or step - 1, step
        return any([multihost_utils.reached_preemption_sync_point(i) for i in range(first + 1, step + 1)])

    def due_between_steps(self) -> bool:
        """Whether to leave off an evaluation; several processes cannot agree on that, and go through with it."""
        return self._by is not None and not distributed.several()

    @property
    def stopped(self) -> Stopped:
        """The exception to raise after `due`, when everything is saved."""
        return Stopped(_NOTICE if distributed.several() else self._by or _NOTICE)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        name = signal.Signals(number).name
        again = self._by == "SIGINT" == name
        self._by = name
        if again or not self._anything_to_save:
            raise Stopped(name)
        if distributed.several():
            os.kill(os.getpid(), signal.SIGTERM)
        print(f"{name}: stopping after this step", file=sys.stderr, flush=True)
