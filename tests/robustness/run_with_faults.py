"""Starts the run that gets the faults, and waits for its processes."""

import dataclasses
import pathlib
import subprocess

from experiments.runs import log
from tests.support.processes import PATIENCE_SECONDS, start


class Lost(Exception):  # noqa: N818
    """A run has not recovered from a fault. The message says what was lost."""


@dataclasses.dataclass
class Run:
    """A run that gets faults, one after another.

    Attributes:
      arguments: arguments of `recu_jax.main`.
      workdir: folder of the run, whose output goes to WORKDIR.log.
      cache: folder of compiled programs.
      seconds: seconds of the run without faults.
      cpus: cores that the run may use. All its processes use the same, because the number changes the order of sums.
    """

    arguments: list[str]
    workdir: pathlib.Path
    cache: pathlib.Path
    seconds: float
    cpus: set[int]

    def start(self, limit_file_bytes: int | None = None) -> subprocess.Popen:
        prefix = ["taskset", "-c", ",".join(map(str, sorted(self.cpus)))]
        if limit_file_bytes is not None:
            prefix += ["prlimit", f"--fsize={limit_file_bytes}:unlimited"]
        return start(self.arguments, self.workdir, self.cache, prefix=prefix)

    @property
    def checkpoints(self) -> list[pathlib.Path]:
        folder = self.workdir / "checkpoints"
        return sorted((f for f in folder.glob("*") if f.name.isdecimal()), key=lambda f: int(f.name))

    def said_since(self, before: str) -> str:
        return log(self.workdir)[len(before) :]


def end(process: subprocess.Popen, statuses: set[int]) -> None:
    """Waits until the process ends. Raises `Lost` if it does not, or ends with a status not in `statuses`."""
    try:
        status = process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise Lost(f"still running {PATIENCE_SECONDS} s later") from None
    if status not in statuses:
        raise Lost(f"ended with status {status}, not {' or '.join(map(str, sorted(statuses)))}")


def run_for(process: subprocess.Popen, seconds: float) -> bool:
    """Waits for so many seconds, or until the process ends. Returns whether the process is still alive."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False
