"""Starts training runs in the background. After each test, `conftest.py` ends the runs that the test started."""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence

from experiments import runs

# How long a test waits for the end of a run: long enough on a busy machine, too.
PATIENCE_SECONDS = 300

_OWN_GROUP = ["setsid"] if shutil.which("setsid") else []
_started: list[subprocess.Popen] = []


def start(*arguments, prefix: Sequence[str] = (), **options) -> subprocess.Popen:
    """Calls `experiments.runs.start`. The process leads its own group, so that `end_all` also kills its children."""
    process = runs.start(*arguments, prefix=[*_OWN_GROUP, *prefix], **options)
    _started.append(process)
    return process


@atexit.register
def end_all() -> None:
    """Kills all started processes that still run."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
