"""Handles requests to stop a run: signals and preemption notices.

If a run has several processes, all of them stop at the same step.
"""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

from jax.experimental import multihost_utils

from recu_jax.training import distributed
from recu_jax.training.progress import say

# `sbatch --signal=USR1@120` sends SIGUSR1 120 s before the time limit of a job. Windows has no such signal.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
_NOTICE = "a preemption notice"


class Stopped(BaseException):  # not an error, so `except Exception` must not catch it
    """Raised when a run was asked to stop.

    Attributes:
      by: name of the signal, or "a preemption notice".
      together: whether all processes stopped at the same step.
    """

    def __init__(self, by: str):
        super().__init__(f"stopped by {by}")
        self.by = by

    @property
    def together(self) -> bool:
        return self.by == _NOTICE


class StopRequests:
    """Handles SIGINT, SIGTERM and, where it exists, SIGUSR1 within a `with` block.

    A signal is stored, and `due` then returns True. Before `protect` is called, the run has nothing to save, and a
    signal raises `Stopped` at once. A second SIGINT always raises `Stopped` at once. Outside the main thread no signal
    is handled, because Python allows signal handlers in the main thread only.

    With several processes, JAX's preemption service passes a notice from any process to all others. The processes then
    agree on the step at which they stop.
    """

    def __init__(self):
        self._by = None
        self._anything_to_save = False
        self._asked_until = 0
        self._before: Mapping[int, Any] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            # With several processes, JAX's preemption service handles SIGTERM itself.
            own = [s for s in SIGNALS if not (distributed.several() and s == signal.SIGTERM)]
            self._before = {s: signal.signal(s, self._note) for s in own}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def protect(self) -> None:
        """Makes later signals wait for `due` instead of raising `Stopped`. Call it when the run has a state to save."""
        self._anything_to_save = True

    def due(self, step: int) -> bool:
        """Returns whether to save and stop after `step` steps. Every process must call it after every dispatch."""
        if not distributed.several():
            return self._by is not None
        # The preemption service chooses a step that all processes can still reach. It must be asked about every step,
        # even those inside one dispatch. Orbax also asks the service, with the same step numbers.
        first, self._asked_until = self._asked_until or step - 1, step
        return any([multihost_utils.reached_preemption_sync_point(i) for i in range(first + 1, step + 1)])

    def due_between_steps(self) -> bool:
        """Returns whether to end an evaluation early.

        With several processes the result is always False, because they can agree on a training step only.
        """
        return self._by is not None and not distributed.several()

    @property
    def stopped(self) -> Stopped:
        """The exception to raise after `due` returned True and the state is saved."""
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
        if name == "SIGINT" and sys.stderr.isatty():
            # The terminal has printed ^C after the bar, or on the next line if the bar is as wide as the terminal.
            print(file=sys.stderr)
        say(f"{name}: stopping after this step", sys.stderr)
