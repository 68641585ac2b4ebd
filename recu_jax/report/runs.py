"""What a report needs to know of a run, from its workdir."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from recu_jax import run_record
from recu_jax.config import base_config, plain
from recu_jax.errors import UserError
from recu_jax.logbook import DIAGNOSTICS, METRICS, read


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, finished or not.

    Attributes:
      name: for legends.
      rows: of metrics.jsonl, at least one.
      diagnostics: rows of diagnostics.jsonl; none for a run of before there were any.
      config: its fields; empty where it is not known.
      starts: as `run_record` keeps them.
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
        """The row with the best test top-1."""
        return max(self.rows, key=lambda row: (row.get("test_top1", 0), row["epoch"]))

    @functools.cached_property
    def layers(self) -> list[str]:
        """Names of the layers that are measured, in the network's order."""
        return list(self.diagnostics[-1]["layers"]) if self.diagnostics else []

    def changed_fields(self) -> dict[str, Any]:
        """Fields of the config that are not the base config's."""
        base = plain(base_config())
        return {k: v for k, v in self.config.items() if k not in base or base[k] != v}


def read_run(workdir: str | pathlib.Path, name: str | None = None) -> Run:
    """The run in `workdir`.

    Raises:
      UserError: there is no epoch of a run.
    """
    workdir = pathlib.Path(workdir)
    rows = [row for row in read(workdir / METRICS) if "test_top1" in row]
    if not rows:
        raise UserError(f"{workdir} holds no {METRICS} with an epoch; give the workdir of a run")
    diagnostics = [row for row in read(workdir / DIAGNOSTICS) if isinstance(row.get("layers"), dict)]
    record = run_record.read(workdir)
    config = record.get("config") or _config_of_checkpoint(workdir)
    return Run(name or workdir.resolve().name, rows, diagnostics, config, record.get("starts", []))


def _config_of_checkpoint(workdir):
    """That of a run of before there was a run.json."""
    if not (workdir / "checkpoints").is_dir():
        return {}
    from recu_jax.checkpoint import Damaged, saved

    for checkpoint in reversed(saved(workdir)):
        try:
            return checkpoint.record["config"]
        except Damaged:
            continue
    return {}


def names(workdirs: Sequence[str | pathlib.Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [pathlib.Path(w).resolve().parts for w in workdirs]
    for length in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(p[-length:]) for p in parts]
        if len(set(ends)) == len(ends):
            return ends
    return [str(w) for w in workdirs]
