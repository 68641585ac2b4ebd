"""Several processes as one run, on JAX's own distributed runtime. With one process all of this is trivial."""

import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from recu_jax.errors import RunFailed, UserError, one_line

# How long a process may be silent before the others give up.
HEARTBEAT_TIMEOUT_SECONDS = 60
_MOMENT_SECONDS = 5
_COORDINATOR, _PROCESSES, _PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def asked_for() -> bool:
    """Whether the environment says that this is one process of several, without a flag."""
    return _COORDINATOR in os.environ


def initialize() -> None:
    """Joins the other processes; before any device is touched.

    Address, number and index come from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or, where these
    are not set, from what JAX finds out by itself: a TPU pod slice, Slurm, Open MPI, Kubernetes.

    Raises:
      UserError: nothing says where the others are, or only a part is set, or they do not come.
    """
    given = {name: os.environ.get(name) for name in (_COORDINATOR, _PROCESSES, _PROCESS)}
    numbers = {name: _number(name, given[name]) for name in (_PROCESSES, _PROCESS)}
    missing = [name for name, value in given.items() if value is None]
    if given[_COORDINATOR] is not None and missing:
        raise UserError(f"{_COORDINATOR} is set and {' and '.join(missing)} not; set all three, or none of them")
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
    """Whether this is one process of several."""
    return jax.process_count() > 1


def is_main() -> bool:
    """Whether this process writes and prints for all."""
    return jax.process_index() == 0


def all_devices() -> list[jax.Device]:
    """The devices of all processes, those of process 0 first: the order of the parts of a batch."""
    return sorted(jax.devices(), key=lambda d: (d.process_index, d.id))


def local(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """Those of `devices` that belong to this process."""
    return [d for d in devices if d.process_index == jax.process_index()]


def from_main(function: Callable[[], Any]) -> Any:
    """What `function` gives in process 0, in every process; it runs there alone.

    Args:
      function: gives what JSON can hold.

    Raises:
      UserError: in every process, where `function` raises it in process 0.
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
    """Raises UserError in every process if `value` is not the same in all of them."""
    values = np.atleast_1d(multihost_utils.process_allgather(np.int32(value))) if several() else np.array([value])
    if (values != values[0]).any():
        raise UserError(
            f"{what} differs between the processes: {', '.join(map(str, values.tolist()))}; all of them must be given "
            "the same command, and a --workdir and data that all machines share"
        )


def barrier(name: str) -> None:
    """Waits for all processes."""
    if several():
        multihost_utils.sync_global_devices(name)


def leave(together: bool) -> None:
    """Before the end of a process: where all end `together`, none goes before the others have saved."""
    if together and several():
        jax.distributed.shutdown()


def leave_last() -> None:
    """Before the end of a process that found a mistake, which mostly all find, each in its time.

    JAX aborts those that are left when process 0 is gone; it gives them a moment to say what they found.
    """
    if several() and is_main():
        time.sleep(_MOMENT_SECONDS)


def others_gone(error: Exception) -> RunFailed:
    """What to say where a step failed in one of several processes."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return RunFailed(
        f"process {jax.process_index()} of {jax.process_count()} cannot go on, probably because another is gone: "
        f"{reason[:160]}; start all of them again with the same command, and they continue"
    )
