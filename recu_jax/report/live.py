"""Rewrites the report of a run while it trains."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

from recu_jax import records
from recu_jax.atomic_write import atomic_write
from recu_jax.errors import UserError
from recu_jax.report.page import render
from recu_jax.report.runs import Run

FILE = "report.html"
# Largest share of a run's time that the report may take. So the report is not always rewritten after a short epoch.
MOST = 0.005


class LiveReport:
    """Writes `<workdir>/report.html`. The file is complete at every moment.

    The report is rewritten after an epoch if the time since the last rewrite is long enough: rewriting takes at most
    the share `MOST` of the run's time. After the last epoch it is always rewritten.

    With `keep`, a report that exists already stays as it is.

    An error while writing, such as a missing Plotly or a full disk, does not end the run. `where` reports the error.
    """

    def __init__(self, workdir: pathlib.Path, keep: bool = False):
        self._workdir = workdir
        self._keeps = keep and (workdir / FILE).exists()
        self._took, self._ended = 0.0, -float("inf")
        self._problem: str | None = None

    def update(self, rows: Sequence[dict[str, Any]], diagnostics: Sequence[dict[str, Any]]) -> None:
        """Rewrites the report after an epoch if enough time has passed.

        Args:
          rows, diagnostics: the records of all epochs so far.
        """
        if time.monotonic() - self._ended >= self._took / MOST:
            self.finish(rows, diagnostics)

    def finish(self, rows: Sequence[dict[str, Any]], diagnostics: Sequence[dict[str, Any]]) -> None:
        """Rewrites the report, however short the time since the last rewrite."""
        if self._problem or self._keeps or not rows:
            return
        began = time.monotonic()
        record = records.read_run(self._workdir)
        name, config, starts = self._workdir.resolve().name, record.get("config", {}), record.get("starts", [])
        try:
            page = render([Run(name, rows, diagnostics, config, starts)])
            with atomic_write(self._workdir / FILE) as file:
                file.write(page)
        except (UserError, OSError) as error:
            self._problem = str(getattr(error, "strerror", None) or error)
        self._ended = time.monotonic()
        self._took = self._ended - began

    def where(self) -> str:
        """Returns one line that says where the report is, or why there is none."""
        if self._problem:
            return f"no {FILE}: {self._problem}; once this is mended, the same command writes it"
        return f"report: {self._workdir / FILE}"
