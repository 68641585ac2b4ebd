"""Training runs in the background, none of which outlives its test; see `conftest.py`."""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence

from experiments import runs

# How long a test waits for a run to end that should, on however busy a machine.
PATIENCE_SECONDS = 300

_OWN_GROUP = ["setsid"] if shutil.which("setsid") else []
_started: list[subprocess.Popen] = []


def start(*arguments, prefix: Sequence[str] = (), **options) -> subprocess.Popen:
    """`experiments.runs.start`; the process leads a group of its own, so that `end_all` reaches its children too."""
    process = runs.start(*arguments, prefix=[*_OWN_GROUP, *prefix], **options)
    _started.append(process)
    return process


@atexit.register
def end_all() -> None:
    """Kills what was started and still runs."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
