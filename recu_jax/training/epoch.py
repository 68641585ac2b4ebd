"""Runs the training steps of an epoch, checks that losses are finite, and stops on request."""

import collections
import json
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from recu_jax.atomic_write import atomic_write
from recu_jax.errors import RunFailed
from recu_jax.training import distributed
from recu_jax.training.feed import Feed
from recu_jax.training.progress import Progress
from recu_jax.training.recipe import Recipe
from recu_jax.training.step import TrainState
from recu_jax.training.stopping import StopRequests

_RECORDS_SHOWN = 8
NOT_FINITE_FILE = "not_finite.json"

_NAMES = ("loss", "top1")
# A dispatch is one call to the devices, of one or more steps. The host goes on to the next dispatch while at most this
# many are unfinished, running or queued. With a smaller number, a device would be idle whenever the host is late. With
# a much larger number, a run that is asked to stop would go on for minutes.
_IN_FLIGHT = 2


class StepMetrics:
    """Loss and top-1 (percent) of each training step of the current epoch.

    Attributes:
      steps: number of steps added so far.
      unchecked: number of those steps whose metrics are not yet fetched from the devices.
    """

    def __init__(self, saved: Mapping[str, Sequence[float]] | None = None):
        """Starts an empty record, or continues the record of an earlier process.

        Args:
          saved: the result of `as_json` from the checkpoint. None for a new epoch.
        """
        self._values = {name: list(saved[name]) if saved else [] for name in _NAMES}
        self._on_devices: list[Mapping[str, jax.Array]] = []
        self.steps = len(self._values["loss"])
        self.unchecked = 0

    def add(self, metrics: Mapping[str, jax.Array], steps: int) -> None:
        """Adds the metrics of one dispatch. The devices may still be computing them.

        Args:
          metrics: `loss` and `top1`, each of shape (steps,).
          steps: number of steps in the dispatch.
        """
        self._on_devices.append(metrics)
        self.steps += steps
        self.unchecked += steps

    def fetch(self) -> int | None:
        """Waits for all steps that were added, and copies their metrics to the host.

        Returns:
          Of the steps that this call fetched, the first whose loss is not finite, counted from 0 in the epoch; None if
          there is no such step.
        """
        first = len(self._values["loss"])
        for metrics in jax.device_get(self._on_devices):
            for name in _NAMES:
                self._values[name] += np.asarray(metrics[name], np.float64).tolist()
        self._on_devices, self.unchecked = [], 0
        losses = self._values["loss"]
        return next((i for i in range(first, len(losses)) if not math.isfinite(losses[i])), None)

    def last(self) -> dict[str, float]:
        """Returns loss and top-1 (percent) of the last fetched step."""
        return {name: self._values[name][-1] for name in _NAMES}

    def loss(self, step: int) -> float:
        """Returns the loss of a fetched step. `step` counts from 0 in the epoch."""
        return self._values["loss"][step]

    def means(self) -> dict[str, float]:
        """Returns the means of loss and top-1 (percent) over the fetched steps."""
        return {name: float(np.mean(self._values[name])) for name in _NAMES}

    def as_json(self) -> dict[str, Any]:
        """Returns the metrics of the fetched steps as lists of floats, for the record of a checkpoint."""
        return {name: list(self._values[name]) for name in _NAMES}


class Recorder(Protocol):
    """Receives the events of an epoch. `recorder.RunRecorder` implements it."""

    workdir: pathlib.Path
    progress: Progress

    def compiled(self) -> None:
        """Notes that the first dispatch of the process, which includes the compilation, is done."""

    def check(self) -> None:
        """Raises an exception if the run must end, for example after a failed save. Called after every dispatch."""


class EpochRunner:
    """Runs epochs of training steps."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        recipe: Recipe,
        feed: Feed,
        teacher: Any,
        stop: StopRequests,
        recorder: Recorder,
    ):
        """Makes the training step.

        Args:
          config: of the run.
          recipe: of the run.
          feed: gives the batches.
          teacher: variables of the teacher, on the devices. Empty without a teacher.
          stop: checked after every dispatch.
          recorder: called after every dispatch.
        """
        self._batch_size, self._check_every = config.batch_size, config.check_finite_every_steps
        self._recipe, self._feed, self._teacher = recipe, feed, teacher
        self._stop, self._recorder = stop, recorder
        self._step = feed.step(recipe)
        # Dispatches with different numbers of steps are compiled separately. These numbers are compiled so far.
        self._compiled: set[int] = set()

    def run(self, state: TrainState, epoch: int, done: StepMetrics) -> tuple[TrainState, dict[str, float] | None]:
        """Runs the remaining steps of `epoch`.

        Args:
          state: on the devices. Its memory is donated to the result.
          epoch: counted from 0.
          done: metrics of the steps of this epoch that are already done. The call adds the metrics of the new steps.

        Returns:
          The state after the last step, and the training metrics of the epoch. The metrics are None if the run was
          asked to stop.

        Raises:
          RunFailed: a loss is not finite. Losses are checked after a dispatch if at least
            `config.check_finite_every_steps` steps are unchecked or if the progress display is due, and after the last
            step. So more steps may run before the error is raised.
        """
        feed, first_step = self._feed, epoch * self._feed.steps_per_epoch
        metrics, timed_steps, stopped = None, 0, False
        in_flight: collections.deque[Mapping[str, jax.Array]] = collections.deque()
        epoch_began = time.monotonic()
        began = epoch_began
        while done.steps < feed.steps_per_epoch and not stopped:
            steps, arguments = feed.take(first_step + done.steps, previous=metrics)
            compiles = steps not in self._compiled
            if compiles:
                jax.block_until_ready(metrics)
            dispatched = time.monotonic()
            state, metrics = self._step(state, self._teacher, *arguments)
            done.add(metrics, steps)
            in_flight.append(metrics)
            if len(in_flight) > _IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
            if compiles:
                # Images per second are measured without dispatches that include a compilation.
                jax.block_until_ready(metrics)
                now = time.monotonic()
                began = began + now - dispatched if self._compiled else now
                if not self._compiled:
                    self._recorder.compiled()
                    self._stop.protect()
                self._compiled.add(steps)
            else:
                timed_steps += steps
            shown = self._recorder.progress.due(steps)
            if shown or done.unchecked >= self._check_every:
                self.check(done, epoch)
            self._recorder.progress.advance(steps, **(done.last() if shown else {}))
            self._recorder.check()
            stopped = self._stop.due(first_step + done.steps)
        self.check(done, epoch)
        if stopped:
            return state, None
        ended = time.monotonic()
        seconds = ended - began
        means = done.means()
        return state, {
            "train_loss": means["loss"],
            "train_top1": means["top1"],
            "images_per_second": timed_steps * self._batch_size / seconds if timed_steps else 0.0,
            **feed.epoch_metrics(ended - epoch_began),
        }

    def check(self, done: StepMetrics, epoch: int) -> None:
        """Fetches the metrics of the unchecked steps and checks that every loss is finite.

        If a loss is not finite, process 0 writes `not_finite.json` into the workdir. The file gives the epoch and the
        step (both counted from 1), the loss, the learning rate, tau and the indices of the batch's training images.

        Args:
          done: metrics of the steps of the epoch so far.
          epoch: counted from 0.

        Raises:
          RunFailed: a loss is not finite.
        """
        bad = done.fetch()
        if bad is None:
            return
        step = epoch * self._feed.steps_per_epoch + bad
        records = self._feed.records(step)
        report = {
            "epoch": epoch + 1,
            "step": step + 1,
            "loss": str(done.loss(bad)),
            "learning_rate": float(self._recipe.learning_rate(step)),
            "tau": float(self._recipe.tau(step)),
            "records": records.tolist(),
        }
        where = self._recorder.workdir / NOT_FINITE_FILE
        if distributed.is_main():
            with atomic_write(where) as file:
                file.write(f"{json.dumps(report)}\n".encode())
        shown = ", ".join(map(str, records[:_RECORDS_SHOWN].tolist()))
        raise RunFailed(
            f"the loss is {report['loss']} at step {step + 1} (epoch {epoch + 1}, learning rate "
            f"{report['learning_rate']:.4g}, tau {report['tau']:.4f}) on training images {shown}, ... (all in "
            f"{where}); nothing was saved since: lower config.learning_rate, or look at these images"
        )


def check_finite(state: TrainState) -> None:
    """Checks a state before it is saved.

    Args:
      state: host arrays.

    Raises:
      RunFailed: a parameter or a running statistic is not finite.
    """
    for name in ("params", "batch_stats"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(state, name)):
            if not np.isfinite(leaf).all():
                raise RunFailed(
                    f"{name}{jax.tree_util.keystr(path)} is not finite after step {int(state.step)}, which is not "
                    "saved; the last checkpoint stays: lower config.learning_rate"
                )
