"""Handles requests to stop a run: signals and preemption notices.

If a run has several processes, all of them stop at the same step.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from jax.experimental import multihost_utils

from recu_jax.training import distributed
from recu_jax.training.progress import close_bars, say

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

    Before `protect` is called, the run has nothing to save. A signal then calls `end_process`, or raises `Stopped` if
    there is no `end_process`. After `protect`, a signal is stored, and `due` returns True. A second SIGINT then raises
    `Stopped`. Outside the main thread no signal is handled, because Python allows signal handlers in the main thread
    only.

    Commands pass `end_process`, because a handler that raises `Stopped` is not enough. Python runs a signal handler
    only between two bytecode instructions. So while XLA compiles, which may take minutes, no handler can raise
    `Stopped`. And if the handler runs within a callback of XLA, Python prints the exception and ignores it.

    With several processes, JAX's preemption service handles SIGTERM. It passes a notice from any process to all others.
    The processes then agree on the step at which they stop. A process that gets SIGINT or SIGUSR1 sends itself SIGTERM.
    """

    def __init__(self, end_process: Callable[[str], None] | None = None):
        """Stores what ends the process.

        Args:
          end_process: ends the process at once. It takes the name of the signal, and is called in another thread. With
            None, a signal before `protect` raises `Stopped`.
        """
        self._end_process = end_process
        self._by: str | None = None
        self._anything_to_save = False
        self._asked_until = 0
        self._before: Mapping[int, Any] = {}
        # Python writes the number of each signal into this socket as soon as the signal comes.
        self._wake: socket.socket | None = None

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            # With several processes, JAX's preemption service handles SIGTERM itself.
            own = [s for s in SIGNALS if not (distributed.several() and s == signal.SIGTERM)]
            self._before = {s: signal.signal(s, self._note) for s in own}
            if self._end_process is not None:
                self._watch()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._wake is not None:
            signal.set_wakeup_fd(self._wakes_before)
            self._wake.close()  # ends the thread
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def protect(self) -> None:
        """Makes later signals wait for `due` instead of ending the run at once.

        Call it when the run has a state to save.
        """
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
        if not self._anything_to_save and self._wake is not None:
            return  # the thread that `_watch` started ends the process
        if again or not self._anything_to_save:
            _end_line(name)
            raise Stopped(name)
        if distributed.several():
            # The preemption service handles SIGTERM, and tells the other processes.
            os.kill(os.getpid(), signal.SIGTERM)
        _end_line(name)
        say(f"{name}: stopping after this step", sys.stderr)

    def _watch(self) -> None:
        """Starts a thread that ends the process at a signal that comes before `protect`."""
        read, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._wakes_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._end_at_signal, args=[read], daemon=True).start()

    def _end_at_signal(self, read: socket.socket) -> None:
        assert self._end_process is not None
        with read:
            while number := read.recv(1):
                if number[0] in self._before and not self._anything_to_save:
                    name = signal.Signals(number[0]).name
                    _end_line(name)
                    close_bars()
                    self._end_process(name)


def _end_line(name: str) -> None:
    """Ends the line after the ^C that a terminal prints behind the bar at Control-C."""
    if name == "SIGINT" and sys.stderr.isatty():
        print(file=sys.stderr)
