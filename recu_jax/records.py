"""Writes and reads the files in which a run records its results.

- `metrics.jsonl` and `diagnostics.jsonl`: one JSON object per epoch.
- `run.json`: the config, and for each start of the run its versions, hardware and time.
"""

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
from recu_jax.atomic_write import atomic_write

METRICS, DIAGNOSTICS, RUN = "metrics.jsonl", "diagnostics.jsonl", "run.json"


class EpochRecords:
    """Writes the records of a run to its workdir.

    A resumed run repeats the epochs after its checkpoint. `start_epoch` is the first of them. The constructor removes
    the rows that an earlier process wrote of these epochs, and also a half-written last line.

    Where several processes train, one of them has `writes=True`. The others only keep `rows` and `diagnostics` in
    memory.
    """

    def __init__(self, workdir: str | pathlib.Path, start_epoch: int = 1, writes: bool = True):
        workdir = pathlib.Path(workdir)
        self._writes = writes
        self._paths = (workdir / METRICS, workdir / DIAGNOSTICS)
        self.rows, self.diagnostics = ([r for r in read_epochs(p) if r["epoch"] < start_epoch] for p in self._paths)
        if not writes:
            return
        for path, rows in zip(self._paths, (self.rows, self.diagnostics), strict=True):
            if rows or path.exists():
                with atomic_write(path) as kept:
                    kept.write("".join(json.dumps(row) + "\n" for row in rows).encode())

    def write(self, row: dict[str, Any], diagnostics: dict[str, Any] | None = None) -> None:
        """Appends the metrics of one epoch, and its diagnostics if given. Returns once they are on the disk."""
        kept = ((self._paths[0], self.rows, row), (self._paths[1], self.diagnostics, diagnostics))
        for path, rows, new in kept:
            if new is not None:
                rows.append(new)
                if self._writes:
                    _append(path, new)


def _append(path, row):
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_epochs(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """Reads the rows of a `metrics.jsonl` or `diagnostics.jsonl`. Returns an empty list if the file does not exist.

    Lines that are not rows are skipped, for example a line whose writing was cut off.
    """
    path = pathlib.Path(path)
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested too deeply
            continue
        if isinstance(row, dict) and all(type(row.get(k)) is int for k in ("epoch", "step")):
            rows.append(row)
    return rows


def add_start(
    workdir: pathlib.Path, config: dict[str, Any], epoch: int, devices: Sequence[jax.Device], resumed: bool = False
) -> None:
    """Records in `run.json` that the run starts or continues.

    Args:
      workdir: workdir of the run.
      config: fields of the config, as JSON keeps them.
      epoch: the first epoch that is trained now, counted from 1.
      devices: devices of all processes.
      resumed: True if the run continues from a checkpoint. Then the starts that the file holds already are kept.
        Otherwise they are of a run that saved nothing, and are dropped.
    """
    start = {"epoch": epoch, "time": _now(), "versions": _versions(), "hardware": _hardware(devices)}
    earlier = read_run(workdir).get("starts", []) if resumed else []
    with atomic_write(workdir / RUN) as file:
        file.write((json.dumps({"config": config, "starts": [*earlier, start]}, indent=1) + "\n").encode())


def read_run(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads the `config` and `starts` that `add_start` wrote. Returns {} if the file is missing or damaged."""
    try:
        record = json.loads((workdir / RUN).read_bytes())
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
    """Returns how many cores this process may use. Under `taskset` or a batch system the machine may have more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor():
    """Returns the name of the processor if Linux reports it, otherwise the processor's architecture."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
