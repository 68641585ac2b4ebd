"""`<workdir>/run.json`: the config of a run, and with which versions, on what and when it was started."""

import datetime
import json
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import flax
import jax
import jaxlib

import recu_jax
from recu_jax.replacing import replacing

FILE = "run.json"


def add_start(workdir: pathlib.Path, config: dict[str, Any], epoch: int, devices: Sequence[jax.Device]) -> None:
    """Writes that the run starts, or continues, with `epoch`, counted from 1.

    Args:
      workdir: of the run.
      config: its fields, as JSON keeps them.
      epoch: the first to be trained now.
      devices: of all processes.
    """
    start = {"epoch": epoch, "time": _now(), "versions": _versions(), "hardware": _hardware(devices)}
    earlier = read(workdir).get("starts", []) if epoch > 1 else []
    with replacing(workdir / FILE) as file:
        file.write((json.dumps({"config": config, "starts": [*earlier, start]}, indent=1) + "\n").encode())


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """What `add_start` wrote: `config` and `starts`; empty where there is nothing that can be read."""
    try:
        record = json.loads((workdir / FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    good = isinstance(record, dict) and isinstance(record.get("config"), dict) and _are_starts(record.get("starts"))
    return record if good else {}


def _are_starts(starts):
    return isinstance(starts, list) and all(
        isinstance(s, dict) and all(isinstance(s.get(k), dict) for k in ("versions", "hardware")) for s in starts
    )


def _now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _versions():
    modules = (recu_jax, jax, jaxlib, flax)
    return {"python": platform.python_version(), **{module.__name__: module.__version__ for module in modules}}


def _hardware(devices):
    kinds = sorted({device.device_kind for device in devices})
    return {
        "devices": f"{len(devices)} {', '.join(kinds)}",
        "platform": devices[0].platform,
        "processes": jax.process_count(),
        "processor": _processor(),
        "cores": _cores(),
    }


def _cores():
    """Cores that this process may use, fewer than the machine's under `taskset` or a batch system."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor():
    """The processor's name where Linux tells it; otherwise its architecture."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
