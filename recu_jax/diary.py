"""What is kept of a run for people to read: metrics, diagnostics, TensorBoard events, and the report."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from recu_jax import distributed, run_record
from recu_jax.checkpoint import Found
from recu_jax.config import plain
from recu_jax.diagnostics import epochs
from recu_jax.feed import Feed
from recu_jax.logbook import Logbook
from recu_jax.recipe import Recipe
from recu_jax.report.live import LiveReport
from recu_jax.train import TrainState


class Diary:
    """Written after each epoch; of several processes one writes, and all measure.

    Attributes:
      rows: of metrics.jsonl.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: pathlib.Path,
        devices: Sequence[jax.Device],
        recipe: Recipe,
        feed: Feed,
        state: TrainState,
        found: Found | None,
        first_epoch: int,
    ):
        """`state` is that of `found`, or the first; `first_epoch` is the first to be trained, counted from 0."""
        self._feed = feed
        writes = distributed.is_main()
        self._diagnostics = None
        if config.diagnostics and first_epoch < config.epochs:
            self._diagnostics = epochs.EpochDiagnostics(recipe, feed.image_shape, devices, state, found)
        self._logbook = Logbook(workdir, first_epoch + 1, config.tensorboard, writes)
        if writes and first_epoch < config.epochs:
            run_record.add_start(workdir, plain(config), first_epoch + 1, devices)
        self._report = LiveReport(workdir) if writes and config.report and first_epoch < config.epochs else None

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self._logbook.rows

    def start_epoch(self) -> None:
        self._epoch_began = time.monotonic()

    def end_epoch(self, row: dict[str, Any], state: TrainState) -> None:
        """Keeps `row`, the metrics of the epoch, and what is measured of its `state`, which is on the devices."""
        diagnostics = None
        if self._diagnostics is not None:
            seconds = epochs.plain(time.monotonic() - self._epoch_began)
            images = self._feed.test_sample(epochs.IMAGES)
            measured = self._diagnostics.measure(state, row["tau"], images)
            diagnostics = {**{k: row[k] for k in ("epoch", "step", "tau")}, "seconds": seconds, **measured}
        self._logbook.write(row, diagnostics)
        if self._report is not None:
            self._report.update(self._logbook.rows, self._logbook.diagnostics)

    def for_checkpoint(self) -> dict[str, Any] | None:
        """What a checkpoint keeps beside the state, so that a run that is continued measures what it would have."""
        return self._diagnostics.for_checkpoint() if self._diagnostics is not None else None

    def close(self) -> None:
        """After the last epoch."""
        self._logbook.close()
        if self._report is not None:
            self._report.finish(self._logbook.rows, self._logbook.diagnostics)
