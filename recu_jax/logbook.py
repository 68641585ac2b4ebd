"""What a run writes down: `metrics.jsonl`, one object an epoch, and the same scalars as TensorBoard events."""

import json
import os
import pathlib
from typing import Any

from recu_jax.replacing import replacing


class Logbook:
    """Records of a run in its workdir.

    A resumed run redoes the epochs after its checkpoint; `start_epoch` is the first of them, and what an earlier
    process wrote from there on (a half-written last line, too) is taken out. Of several processes one `writes`; the
    others keep `rows` alone.
    """

    def __init__(
        self, workdir: str | pathlib.Path, start_epoch: int = 1, tensorboard: bool = True, writes: bool = True
    ):
        workdir = pathlib.Path(workdir)
        self._writes = writes
        self._path = workdir / "metrics.jsonl"
        self.rows = [row for row in read(self._path) if row["epoch"] < start_epoch]
        self._events = None
        if not writes:
            return
        with replacing(self._path) as kept:
            kept.write("".join(json.dumps(row) + "\n" for row in self.rows).encode())
        if tensorboard:
            from tensorboardX import SummaryWriter

            # Events from this step on, which the earlier process may have written, no longer count.
            step = self.rows[-1]["step"] + 1 if self.rows else 0
            self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step)

    def write(self, row: dict[str, Any]) -> None:
        """Appends one epoch's metrics; on the disk when it returns."""
        self.rows.append(row)
        if not self._writes:
            return
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self._events is not None:
            for name, value in row.items():
                if name != "step":
                    self._events.add_scalar(name, value, row["step"])
            self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def read(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; none if there is no such file.

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
