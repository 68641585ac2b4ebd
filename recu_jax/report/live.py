"""The report of a run that trains, rewritten as its epochs end."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

from recu_jax import run_record
from recu_jax.errors import UserError
from recu_jax.replacing import replacing
from recu_jax.report.page import render
from recu_jax.report.runs import Run

FILE = "report.html"
# Of the time of a run, at most: where epochs take a second the page follows every few of them.
MOST = 0.005


class LiveReport:
    """`<workdir>/report.html`, whole at any moment.

    Rewritten after each epoch, but for epochs so short that this would take more than `MOST` of the time since it was
    last done; the last epoch's is always written. No run ends for its report: where it cannot be made, for want of
    Plotly or room on the disk, that is said once.
    """

    def __init__(self, workdir: pathlib.Path):
        self._workdir = workdir
        self._took, self._ended = 0.0, -float("inf")
        self._given_up = False

    def update(self, rows: Sequence[dict[str, Any]], diagnostics: Sequence[dict[str, Any]]) -> None:
        """After an epoch, with the rows of all epochs so far."""
        if time.monotonic() - self._ended >= self._took / MOST:
            self.finish(rows, diagnostics)

    def finish(self, rows: Sequence[dict[str, Any]], diagnostics: Sequence[dict[str, Any]]) -> None:
        """Writes it, whatever it takes."""
        if self._given_up or not rows:
            return
        began = time.monotonic()
        record = run_record.read(self._workdir)
        name, config, starts = self._workdir.resolve().name, record.get("config", {}), record.get("starts", [])
        try:
            page = render([Run(name, rows, diagnostics, config, starts)])
            with replacing(self._workdir / FILE) as file:
                file.write(page)
        except (UserError, OSError) as error:
            print(f"no {FILE}: {getattr(error, 'strerror', None) or error}", flush=True)
            self._given_up = True
        self._ended = time.monotonic()
        self._took = self._ended - began
