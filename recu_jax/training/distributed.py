"""Coordinates the processes of a run. JAX's distributed runtime connects them.

In a run of one process these functions do not communicate.
"""

import faulthandler
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from recu_jax.errors import RunFailed, UserError, one_line

# If a process sends no heartbeat for this long, the other processes end.
HEARTBEAT_TIMEOUT_SECONDS = 60
_MOMENT_SECONDS = 5
_COORDINATOR, _PROCESSES, _PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def asked_for() -> bool:
    """Returns whether JAX_COORDINATOR_ADDRESS is set: it asks for several processes, even without `--distributed`."""
    return _COORDINATOR in os.environ


def initialize() -> None:
    """Connects this process to the other processes of the run. Call it before JAX uses any device.

    The environment variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID give the address of
    process 0, the number of processes and the index of this process. If the address is set, the others must be set
    too. JAX detects what is not set. It can do so on a TPU pod slice and under Slurm, Open MPI and Kubernetes.

    Raises:
      UserError: the address is set and another variable is not, a number is malformed, JAX cannot detect the values, or
        the processes do not connect.
    """
    given = {name: os.environ.get(name) for name in (_COORDINATOR, _PROCESSES, _PROCESS)}
    numbers = {name: _number(name, given[name]) for name in (_PROCESSES, _PROCESS)}
    missing = [name for name, value in given.items() if value is None]
    if given[_COORDINATOR] is not None and missing:
        raise UserError(f"{_COORDINATOR} is set and {' and '.join(missing)} not; set all three, or none of them")
    # When another process is gone, JAX aborts this process. absl's faulthandler would then read the stack of a thread
    # that still runs, which now and then ends in a segmentation fault.
    faulthandler.disable()
    try:
        jax.distributed.initialize(
            given[_COORDINATOR],
            numbers[_PROCESSES],
            numbers[_PROCESS],
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes of this run do not find each other: {one_line(error, 200)}; set "
            f"{_COORDINATOR} (host:port of process 0), {_PROCESSES} and {_PROCESS}, the first two the same everywhere"
        ) from error


def _number(name, value):
    if value is None:
        return None
    if not value.isdecimal():
        raise UserError(f"{name} is {value!r}; it must be a whole number")
    return int(value)


def several() -> bool:
    """Returns whether the run has more than one process."""
    return jax.process_count() > 1


def is_main() -> bool:
    """Returns whether this is process 0, the only process that prints and writes records."""
    return jax.process_index() == 0


def all_devices() -> list[jax.Device]:
    """Returns the devices of all processes, ordered by process, then by device id. A batch is split in this order."""
    return sorted(jax.devices(), key=lambda d: (d.process_index, d.id))


def local(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """Returns the devices among `devices` that belong to this process."""
    return [d for d in devices if d.process_index == jax.process_index()]


def from_main(function: Callable[[], Any]) -> Any:
    """Runs `function` in process 0 alone, and returns its result in every process.

    Args:
      function: returns a value that JSON can hold.

    Raises:
      UserError: in every process, if `function` raises it in process 0.
    """
    if not several():
        return function()
    answer = {}
    if is_main():
        try:
            answer = {"value": function()}
        except UserError as error:
            answer = {"error": str(error)}
    answer = json.loads(_from_main(json.dumps(answer).encode()))
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def _from_main(data: bytes) -> bytes:
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(length, np.uint8)
    if is_main():
        padded[:] = np.frombuffer(data, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes()


def agree(what: str, value: int) -> None:
    """Checks that `value` is the same in all processes.

    Args:
      what: names the value in the message.
      value: an integer in the range of int32.

    Raises:
      UserError: the processes have different values. Every process raises it.
    """
    values = np.atleast_1d(multihost_utils.process_allgather(np.int32(value))) if several() else np.array([value])
    if (values != values[0]).any():
        raise UserError(
            f"{what} differs between the processes: {', '.join(map(str, values.tolist()))}; all of them must be given "
            "the same command, and a --workdir and data that all machines share"
        )


def barrier(name: str) -> None:
    """Waits until every process has made this call with the same `name`."""
    if several():
        multihost_utils.sync_global_devices(name)


def leave(together: bool) -> None:
    """Shuts down JAX's distributed runtime if all processes stopped at the same step. Call it before the process ends.

    The shutdown waits for all processes, so no process ends before the others have saved.

    Args:
      together: whether all processes stopped at the same step.
    """
    if together and several():
        jax.distributed.shutdown()


def leave_last() -> None:
    """Delays the end of process 0. Call it before a process ends because of a UserError.

    Usually every process finds the same error, but not at the same time. When process 0 ends, JAX aborts the other
    processes. The delay of 5 s lets them print their own message first.
    """
    if several() and is_main():
        time.sleep(_MOMENT_SECONDS)


def others_gone(error: Exception) -> RunFailed:
    """Makes the error for an operation of JAX that failed, probably because another process of the run is gone."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return RunFailed(
        f"process {jax.process_index()} of {jax.process_count()} cannot go on, probably because another is gone: "
        f"{reason[:160]}; start all of them again with the same command, and they continue"
    )
