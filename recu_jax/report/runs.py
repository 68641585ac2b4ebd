"""Reads the data of a report from the workdir of a run."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from recu_jax import records
from recu_jax.config.fields import base_config, plain
from recu_jax.errors import UserError
from recu_jax.records import DIAGNOSTICS, METRICS, read_epochs


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, finished or not.

    Attributes:
      name: name in legends.
      rows: rows of metrics.jsonl, at least one.
      diagnostics: rows of diagnostics.jsonl; empty if the run kept none.
      config: fields of the config; empty if it is not known.
      starts: the starts of the run, as `records.add_start` wrote them to run.json.
    """

    name: str
    rows: Sequence[dict[str, Any]]
    diagnostics: Sequence[dict[str, Any]]
    config: dict[str, Any]
    starts: Sequence[dict[str, Any]]

    @property
    def finished(self) -> bool:
        return self.rows[-1]["epoch"] >= self.config.get("epochs", 0)

    @property
    def best(self) -> dict[str, Any]:
        """The row with the best test top-1. If several rows have it, the last of them."""
        return max(self.rows, key=lambda row: (row.get("test_top1", 0), row["epoch"]))

    @functools.cached_property
    def layers(self) -> list[str]:
        """Names of the measured layers, in the order of the network."""
        return list(self.diagnostics[-1]["layers"]) if self.diagnostics else []

    def changed_fields(self) -> dict[str, Any]:
        """Returns the fields of the config that differ from the base config."""
        base = plain(base_config())
        return {k: v for k, v in self.config.items() if k not in base or base[k] != v}


def read_run(workdir: str | pathlib.Path, name: str | None = None) -> Run:
    """Reads the run in `workdir`.

    Args:
      workdir: workdir of a run.
      name: name in legends; None takes the name of the folder.

    Raises:
      UserError: `workdir` holds no epoch of a run.
    """
    workdir = pathlib.Path(workdir)
    rows = [row for row in read_epochs(workdir / METRICS) if "test_top1" in row]
    if not rows:
        raise UserError(f"{workdir} holds no {METRICS} with an epoch; give the workdir of a run")
    diagnostics = [row for row in read_epochs(workdir / DIAGNOSTICS) if isinstance(row.get("layers"), dict)]
    record = records.read_run(workdir)
    config = record.get("config", {})
    return Run(name or workdir.resolve().name, rows, diagnostics, config, record.get("starts", []))


def names(workdirs: Sequence[str | pathlib.Path]) -> list[str]:
    """Returns names that distinguish the paths. A name is the last folder of the path, or the last few folders."""
    parts = [pathlib.Path(w).resolve().parts for w in workdirs]
    for length in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(p[-length:]) for p in parts]
        if len(set(ends)) == len(ends):
            return ends
    return [str(w) for w in workdirs]
