"""Writes checkpoints, metrics, diagnostics and the report of a run, sends metrics to trackers, and shows progress."""

import pathlib
import time
from types import TracebackType
from typing import Any

import jax

from recu_jax import records
from recu_jax.config.fields import plain
from recu_jax.diagnostics.check import dead_layers
from recu_jax.records import EpochRecords
from recu_jax.report.live import LiveReport
from recu_jax.training import distributed, measuring
from recu_jax.training.checkpoint import Checkpoints
from recu_jax.training.epoch import StepMetrics, check_finite
from recu_jax.training.progress import Progress, say
from recu_jax.training.run import Run, Start, announce_compilation
from recu_jax.training.step import TrainState
from recu_jax.training.trackers import Trackers


class RunRecorder:
    """Records a run. The training loop calls it after every dispatch and every epoch.

    With several processes, process 0 alone writes the records and shows the progress. All processes measure the
    diagnostics and save checkpoints.

    Use it in a `with` block. Checkpoints can be saved only within the block. At the end of the block they are
    complete.

    Attributes:
      workdir: folder of the run.
      progress: the progress display.
    """

    def __init__(self, run: Run, workdir: pathlib.Path, start: Start):
        config, writes = run.config, distributed.is_main()
        trains = start.epoch < config.epochs
        self.workdir = workdir
        self._run, self._resumed = run, start.resumed
        self._said_of_dead_layers = ""
        self._compiled, self._compiling_since = False, run.ready_at
        self._started = False
        self._diagnostics = measuring.EpochDiagnostics(run, start) if config.diagnostics and trains else None
        self._records = EpochRecords(workdir, start.epoch + 1, writes)
        self._trackers = None
        if writes and trains:
            step = self._records.rows[-1]["step"] + 1 if self._records.rows else 0
            resumed = start.resumed is not None
            self._trackers = Trackers(config, workdir, step, resumed=resumed)
            records.add_start(workdir, plain(config), start.epoch + 1, run.devices, resumed)
        # If the run is already finished, an existing report stays as it is.
        self._report = LiveReport(workdir, keep=not trains) if writes and config.report else None
        self.progress = Progress(
            config.epochs, run.feed.steps_per_epoch, config.batch_size, config.log_every_steps, silent=not writes
        )
        if start.resumed:
            self._say_resumed(start, start.resumed.step)

    def __enter__(self) -> "RunRecorder":
        self._checkpoints = Checkpoints(self.workdir).__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.progress.close()
        if kind is None and self._report is not None:
            self._report.finish(self._records.rows, self._records.diagnostics)
            say(self._report.where())
        try:
            self._checkpoints.__exit__(kind, error, traceback)
        finally:
            # The trackers are closed last, because a tracker may wait for its server.
            if self._trackers is not None:
                self._trackers.close()

    def compiled(self) -> None:
        """Announces that the first dispatch of the process, which includes the compilation, is done."""
        self._compiled = True
        self.progress.compiled(self._compiling_since)

    def check(self) -> None:
        """Raises RunFailed if a save in the background failed."""
        self._checkpoints.check()

    def check_first_batch(self, state: TrainState) -> None:
        """Prints a line if a binary layer of a new run cannot learn. Does nothing without `config.diagnostics`.

        Call it after the feed has started and before the first step.

        Args:
          state: before the first step, on the devices.
        """
        if self._diagnostics is not None and self._resumed is None:
            images = self._run.feed.first_images(measuring.IMAGES)
            self._say_dead_layers(self._diagnostics.measure_inputs(state, images))

    def start_epoch(self, epoch: int, metrics: StepMetrics) -> None:
        """Starts the clock and the display of an epoch. Call it before the first step.

        Args:
          epoch: counted from 0.
          metrics: metrics of the steps of this epoch that an earlier process did.
        """
        self._epoch_began = time.monotonic()
        if self._started and not self._compiled:
            # An earlier process did all steps of the previous epoch, so this process compiles the step only now.
            self._compiling_since = self._epoch_began
            announce_compilation()
        self._started = True
        self.progress.start_epoch(epoch + 1, metrics.steps, self._compiling_since)

    def end_epoch(self, state: TrainState, epoch: int, trained: dict[str, float], tested: dict[str, float]) -> None:
        """Writes the metrics and diagnostics of an epoch, updates the report, and saves a checkpoint if one is due.

        Args:
          state: after the last step, on the devices.
          epoch: counted from 0.
          trained: training metrics of the epoch.
          tested: test metrics of the epoch.
        """
        config, row = self._run.config, self._row(epoch, trained, tested)
        measured = self._measured(row, state)
        self._records.write(row, measured)
        if self._trackers is not None:
            self._trackers.write(row, measured)
        if self._report is not None:
            self._report.update(self._records.rows, self._records.diagnostics)
        if (epoch + 1) % config.checkpoint_every_epochs == 0 or epoch + 1 == config.epochs:
            self._save(state, row)
        self.progress.end_epoch(row)

    def save_unfinished(self, state: TrainState, epoch: int, metrics: StepMetrics) -> None:
        """Saves a checkpoint of an unfinished epoch and waits until it is on the disk.

        Args:
          state: on the devices.
          epoch: counted from 0.
          metrics: metrics of the steps of the epoch so far.
        """
        self._save(state, {"epoch": epoch + 1}, {"epoch": epoch + 1, **metrics.as_json()})
        self._checkpoints.wait()

    def last_and_best(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the metrics of the last epoch and of the best epoch.

        The best epoch has the highest test top-1. If several epochs have it, the latest of them is the best.
        """
        rows = self._records.rows or ([self._resumed.record["metrics"]] if self._resumed else [])
        return rows[-1], max(rows, key=lambda row: (row["test_top1"], row["epoch"]))

    def _row(self, epoch, trained, tested):
        recipe, first_step = self._run.recipe, epoch * self._run.feed.steps_per_epoch
        return {
            "epoch": epoch + 1,
            "step": first_step + self._run.feed.steps_per_epoch,
            **trained,
            **tested,
            "learning_rate": float(recipe.learning_rate(first_step)),
            "tau": float(recipe.tau(first_step)),
        }

    def _measured(self, row, state):
        if self._diagnostics is None:
            return None
        seconds = measuring.plain(time.monotonic() - self._epoch_began)
        images = self._run.feed.test_sample(measuring.IMAGES)
        rate = row["learning_rate"] / self._run.config.learning_rate
        measured = self._diagnostics.measure(state, row["tau"], rate, images)
        self._say_dead_layers({name: layer for name, layer in measured["layers"].items() if "nan_inputs" in layer})
        return {**{k: row[k] for k in ("epoch", "step", "tau")}, "seconds": seconds, **measured}

    def _say_resumed(self, start, step):
        if not distributed.is_main():
            return
        epochs, steps = self._run.config.epochs, self._run.feed.steps_per_epoch
        if start.epoch >= epochs:
            say(f"finished: all {epochs} epochs are done, and nothing is left to train")
            return
        of_next = f", and {start.metrics.steps} of the {steps} steps of the next" if start.metrics.steps else ""
        if start.metrics.steps == steps:
            of_next = ", and all steps of the next, which is tested now"
        say(
            f"resuming {self.workdir} at step {step} of {epochs * steps}: {start.epoch} of {epochs} epochs are done"
            + of_next
        )
        if start.metrics.steps < steps:  # otherwise the evaluation is next, which `Progress.testing` announces
            announce_compilation()

    def _say_dead_layers(self, measured):
        """Prints a line about the layers that cannot learn, unless the line is the same as last time."""
        line = dead_layers(measured)
        if line and line != self._said_of_dead_layers and distributed.is_main():
            say(line)
        self._said_of_dead_layers = line

    def _save(self, state, metrics, unfinished_epoch=None):
        state = jax.device_get(state)
        check_finite(state)
        diagnostics = self._diagnostics.for_checkpoint() if self._diagnostics is not None else None
        self._checkpoints.save(
            state, plain(self._run.config), metrics, unfinished_epoch, diagnostics, self._run.info.as_json()
        )
