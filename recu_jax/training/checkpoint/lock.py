"""Locks a workdir for one training run. The system frees the lock when the process ends, even after a crash."""

import os
import pathlib
import socket

import filelock

from recu_jax.errors import UserError

FILE = "lock"


class WorkdirLock:
    """Locks `workdir` from `acquire` to `release`, or to the end of the process.

    The lock is a file lock of the operating system on `<workdir>/lock`. `<workdir>/lock.holder` names the process that
    holds the lock.
    """

    def __init__(self, workdir: str | pathlib.Path):
        self._workdir = pathlib.Path(workdir)
        self._lock = filelock.FileLock(self._workdir / FILE)
        self._holder = self._workdir / f"{FILE}.holder"

    def acquire(self) -> None:
        """Creates the folder if it is missing, and locks it.

        Raises:
          UserError: another process holds the lock, or the folder cannot be created or written to.
        """
        try:
            self._workdir.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        except filelock.Timeout as error:
            holder = self._holder.read_text() if self._holder.exists() else "another process"
            raise UserError(
                f"{self._workdir} is in use by {holder}; wait for it to end, or give another --workdir"
            ) from error
        except OSError as error:
            raise UserError(
                f"{self._workdir} cannot be made or written to: {error.strerror}; give another --workdir"
            ) from error

    def release(self) -> None:
        if self._lock.is_locked:
            self._holder.unlink(missing_ok=True)
            self._lock.release()
