"""Runs each side of a benchmark in its own process, one side at a time, and measures the load by other processes.

Needs the standard library alone, and Linux: /proc tells whether other processes disturbed a comparison.
"""

import datetime
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def cpu_model():
    """Returns the processor's name, or the architecture if /proc/cpuinfo has no name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def when_and_where():
    """Returns the date and the machine, for a record."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.platform()},
    }


def spread(values):
    """Returns the median, the least and the largest of some numbers, for a record."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine_busy_seconds():
    """Returns the processor seconds since boot that all processes, and other virtual machines of the host, took."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def others_busy(function):
    """Returns `function()`, its seconds, and the share of the processors that other processes took meanwhile."""
    busy, began = machine_busy_seconds() - time.process_time(), time.perf_counter()
    result = function()
    seconds = time.perf_counter() - began
    busy = machine_busy_seconds() - time.process_time() - busy
    return result, seconds, max(0.0, busy / (seconds * os.cpu_count()))


def environment(**more):
    """Returns this process's environment with `more`, and with the checkout ahead of an installed recu_jax."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.getenv("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path} | more


def answers():
    """Returns a function that writes a line of JSON to the parent process.

    Also sends stdout to stderr, so that what libraries print does not mix with these lines.
    """
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return lambda **answer: print(json.dumps(answer), file=channel)


class Worker:
    """A process for one side, which answers each line with a JSON line.

    It starts at once. `turn` asks it for one turn; `ask` and `answer` are the two halves of `turn`, with which several
    workers can prepare at the same time.
    """

    def __init__(self, side, python, script, *arguments, platform="cpu"):
        self.side = side
        self._process = subprocess.Popen(
            [python, script, f"--worker={side}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Several workers share the memory of one GPU.
            env=environment(JAX_PLATFORMS=platform, XLA_PYTHON_CLIENT_PREALLOCATE="false"),
        )

    @functools.cached_property
    def versions(self):
        """The worker's first answer, which it sends unasked when it is ready."""
        return self._line()

    def turn(self, request):
        """Sends `request` to the worker. Returns its answer, the costs that it measured."""
        self.ask(request)
        return self.answer()

    def ask(self, request):
        self._process.stdin.write(f"{request}\n")
        self._process.stdin.flush()

    def answer(self):
        _ = self.versions  # comes before the first answer
        return self._line()

    def close(self):
        self._process.stdin.close()
        self._process.wait()

    def _line(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(
                f"the {self.side} worker stopped (exit code {self._process.wait()}); its error is above, and --help "
                "says what chooses its interpreter"
            )
        return json.loads(line)
