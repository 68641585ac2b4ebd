"""What a run writes down: an object an epoch in `metrics.jsonl` and `diagnostics.jsonl`, and all of it as TensorBoard
events.
"""

import json
import os
import pathlib
from typing import Any

import numpy as np

from recu_jax.diagnostics import measures
from recu_jax.replacing import replacing

METRICS, DIAGNOSTICS = "metrics.jsonl", "diagnostics.jsonl"


class Logbook:
    """Records of a run in its workdir.

    A resumed run redoes the epochs after its checkpoint; `start_epoch` is the first of them, and what an earlier
    process wrote from there on (a half-written last line, too) is taken out. Of several processes one `writes`; the
    others keep `rows` and `diagnostics` alone.
    """

    def __init__(
        self, workdir: str | pathlib.Path, start_epoch: int = 1, tensorboard: bool = True, writes: bool = True
    ):
        workdir = pathlib.Path(workdir)
        self._writes = writes
        self._paths = (workdir / METRICS, workdir / DIAGNOSTICS)
        self.rows, self.diagnostics = ([r for r in read(p) if r["epoch"] < start_epoch] for p in self._paths)
        self._events: Any = None
        if not writes:
            return
        for path, rows in zip(self._paths, (self.rows, self.diagnostics), strict=True):
            if rows or path.exists():
                with replacing(path) as kept:
                    kept.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        if tensorboard:
            from tensorboardX import SummaryWriter

            # Events from this step on, which the earlier process may have written, no longer count.
            step = self.rows[-1]["step"] + 1 if self.rows else 0
            self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step)

    def write(self, row: dict[str, Any], diagnostics: dict[str, Any] | None = None) -> None:
        """Appends one epoch's metrics, and its diagnostics where there are any; on the disk when it returns."""
        kept = ((self._paths[0], self.rows, row), (self._paths[1], self.diagnostics, diagnostics))
        for path, rows, new in kept:
            if new is not None:
                rows.append(new)
                if self._writes:
                    _append(path, new)
        if self._events is not None:
            scalars = {name: value for name, value in row.items() if name != "step"}
            self._add_events(row["step"], scalars, (diagnostics or {}).get("layers", {}))

    def _add_events(self, step, scalars, layers):
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)
        for layer, values in layers.items():
            for name, value in values.items():
                if name == "histogram":
                    self._add_histogram(layer, values, step)
                elif value is not None:
                    self._events.add_scalar(f"{name}/{layer}", value, step)
        self._events.flush()

    def _add_histogram(self, layer, values, step):
        counts, scale = np.asarray(values["histogram"]), values["scale"]
        limits = scale * np.linspace(-measures.RANGE, measures.RANGE, measures.BINS + 1)
        centres = (limits[1:] + limits[:-1]) / 2
        self._events.add_histogram_raw(
            f"weights/{layer}", min=limits[0], max=limits[-1], num=int(counts.sum()), sum=float(counts @ centres),
            sum_squares=float(counts @ centres**2), bucket_limits=limits[1:], bucket_counts=counts, global_step=step,
        )  # fmt: skip

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def _append(path, row):
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl` or `diagnostics.jsonl`; none if there is no such file.

    A line that is no row, such as one whose writing was cut off, is left out.
    """
    path = pathlib.Path(path)
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, or no text
            continue
        if isinstance(row, dict) and all(type(row.get(k)) is int for k in ("epoch", "step")):
            rows.append(row)
    return rows
