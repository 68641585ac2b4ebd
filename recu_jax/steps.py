"""The training steps of one epoch: dispatched, watched for what is not finite, and left off where a stop is due."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from recu_jax import distributed
from recu_jax.errors import RunFailed
from recu_jax.feed import Feed
from recu_jax.history import History
from recu_jax.progress import Progress
from recu_jax.recipe import Recipe
from recu_jax.stopping import StopRequests
from recu_jax.train import TrainState

_RECORDS_SHOWN = 8
NOT_FINITE_FILE = "not_finite.json"


@dataclasses.dataclass
class Steps:
    """Runs epochs of training steps.

    Attributes:
      config, recipe, feed: of the run.
      step: what `feed.step` made.
      teacher: its variables, on the devices.
      stop: asked after every dispatch.
      watch: called after every dispatch; raises what else should end the run.
      progress: told of every dispatch.
      workdir: where a loss that is not finite is described.
    """

    config: ml_collections.ConfigDict
    recipe: Recipe
    feed: Feed
    step: Callable
    teacher: Any
    stop: StopRequests
    watch: Callable[[], None]
    progress: Progress
    workdir: pathlib.Path

    def run(self, state: TrainState, epoch: int, history: History) -> tuple[TrainState, dict[str, float] | None]:
        """The rest of `epoch` after the steps in `history`, which grows.

        Returns:
          The state after the last step done, and the epoch's training metrics, or None where a stop came first.

        Raises:
          RunFailed: a loss is not finite; at most `config.check_finite_every_steps` steps, or a dispatch, after it.
        """
        feed, first_step = self.feed, epoch * self.feed.steps_per_epoch
        metrics, began, timed_steps, stopped = None, None, 0, False
        epoch_began = time.monotonic()
        while history.steps < feed.steps_per_epoch and not stopped:
            steps, arguments = feed.take(first_step + history.steps, previous=metrics)
            state, metrics = self.step(state, self.teacher, *arguments)
            history.add(metrics, steps)
            if began is None:
                # The rate leaves out the first dispatch, in which the step is compiled.
                jax.block_until_ready(metrics)
                began = time.monotonic()
                self.stop.protect()
            else:
                timed_steps += steps
            shown = self.progress.due(steps)
            if shown or history.unchecked >= self.config.check_finite_every_steps:
                self.check(history, epoch)
            self.progress.advance(steps, **(history.last() if shown else {}))
            self.watch()
            stopped = self.stop.due(first_step + history.steps)
        self.check(history, epoch)
        if stopped:
            return state, None
        ended = time.monotonic()
        seconds = ended - began if began is not None else 0.0
        means = history.means()
        return state, {
            "train_loss": means["loss"],
            "train_top1": means["top1"],
            "images_per_second": timed_steps * self.config.batch_size / seconds if timed_steps else 0.0,
            **feed.epoch_metrics(ended - epoch_began),
        }

    def check(self, history: History, epoch: int) -> None:
        """Raises RunFailed, and describes it in the workdir, if a step's loss is not finite."""
        bad = history.fetch()
        if bad is None:
            return
        step = epoch * self.feed.steps_per_epoch + bad
        records = self.feed.records(step)
        report = {
            "epoch": epoch + 1,
            "step": step + 1,
            "loss": str(history.loss(bad)),
            "learning_rate": float(self.recipe.learning_rate(step)),
            "tau": float(self.recipe.tau(step)),
            "records": records.tolist(),
        }
        where = self.workdir / NOT_FINITE_FILE
        if distributed.is_main():
            where.write_text(json.dumps(report) + "\n")
        shown = ", ".join(map(str, records[:_RECORDS_SHOWN].tolist()))
        raise RunFailed(
            f"the loss is {report['loss']} at step {step + 1} (epoch {epoch + 1}, learning rate "
            f"{report['learning_rate']:.4g}, tau {report['tau']:.4f}) on training images {shown}, ... (all in "
            f"{where}); nothing was saved since: lower config.learning_rate, or look at these images"
        )


def check_finite(state: TrainState) -> None:
    """Raises RunFailed if a host state's parameters or statistics are not finite, so that it is not saved."""
    for name in ("params", "batch_stats"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(state, name)):
            if not np.isfinite(leaf).all():
                raise RunFailed(
                    f"{name}{jax.tree_util.keystr(path)} is not finite after step {int(state.step)}, which is not "
                    "saved; the last checkpoint stays: lower config.learning_rate"
                )
