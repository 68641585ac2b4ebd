"""Trains a run to its last epoch (`train`), or evaluates its best checkpoint (`evaluate`)."""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from recu_jax import data, paths
from recu_jax.config.fields import check_config, check_same_model
from recu_jax.errors import UserError
from recu_jax.models import num_classes_of
from recu_jax.training import bucket, distributed, pretrained
from recu_jax.training.checkpoint import any_saved, read_best
from recu_jax.training.checkpoint.lock import WorkdirLock
from recu_jax.training.epoch import EpochRunner, StepMetrics
from recu_jax.training.progress import say
from recu_jax.training.recorder import RunRecorder
from recu_jax.training.run import GivenVariables, Run, find_start, prepare, prepare_evaluation, read_given_variables
from recu_jax.training.step import TrainState, replicate, state_shapes
from recu_jax.training.stopping import StopRequests

# With `config.ema_decay`, a run tests the averaged weights. It also tests the weights without averaging, and records
# these three metrics of the weights without averaging as `raw_NAME`.
RAW = ("test_loss", "test_top1", "test_top5")


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a training run.

    Attributes:
      final: metrics of the last epoch, as in its row of metrics.jsonl.
      best: metrics of the epoch with the highest test top-1, as in its row of metrics.jsonl.
      state: the state after the last step, as host arrays.
    """

    final: dict[str, Any]
    best: dict[str, Any]
    state: TrainState


def train(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    end_process: Callable[[str], None] | None = None,
) -> Result:
    """Trains to the last epoch. If `workdir` holds undamaged checkpoints, training continues from the newest of them.

    A run can be stopped at any moment and continued. A continued run ends with bitwise the same parameters as a run
    without a stop, because data order, augmentation, tau and learning rate depend only on the config and the step.

    Args:
      config: has the fields of `base_config`.
      workdir: folder for checkpoints, metrics.jsonl and TensorBoard events. It is created if missing. With several
        processes, all of them must see the same folder. With one process, it may also be a folder in a bucket.
      end_process: called with the name of a signal that comes before the end of the first dispatch. With None, this
        signal raises `Stopped`. The docstring of `StopRequests` says why commands pass `end_process`.

    Returns:
      The metrics of the last and of the best epoch, and the final state.

    Raises:
      UserError: a config field is invalid, the data set is missing, the workdir is in use or holds a run of another
        config, all its checkpoints are damaged, or its bucket cannot be read or written to.
      RunFailed: a loss is not finite, the disk is full, an input worker ended or hangs, or the last copy to the
        bucket failed.
      Stopped: the process got SIGINT, SIGTERM, SIGUSR1 or a preemption notice. The current dispatch was finished and
        the state saved. A signal before the end of the first dispatch, or a second SIGINT, stops the run at once.
    """
    with StopRequests(end_process) as stop, bucket.mirrored(paths.of_run(workdir)) as workdir:
        run = prepare(config, announced_workdir=workdir)
        with contextlib.closing(run.feed):
            given = read_given_variables(run, workdir)
            lock, was_there = WorkdirLock(workdir), pathlib.Path(workdir).exists()
            distributed.from_main(lock.acquire)
            try:
                return _train(run, pathlib.Path(workdir), given, stop)
            except UserError:
                # Remove the workdir if this run created it and saved no checkpoint, for example because an image of the
                # data set could not be read.
                if distributed.is_main() and not was_there and not any_saved(workdir):
                    shutil.rmtree(workdir, ignore_errors=True)
                raise
            finally:
                lock.release()


def _train(run: Run, workdir: pathlib.Path, given: GivenVariables, stop: StopRequests) -> Result:
    start = find_start(run, workdir, given.first)
    recorder = RunRecorder(run, workdir, start)
    state, teacher = replicate(start.state, run.devices), replicate(given.teacher, run.devices)
    if start.epoch < run.config.epochs:
        run.feed.start(start.epoch * run.feed.steps_per_epoch + start.metrics.steps)
    evaluate_state = run.feed.evaluator(run.recipe)
    metrics = start.metrics
    with recorder:
        recorder.check_first_batch(state)
        epochs = EpochRunner(run.config, run.recipe, run.feed, teacher, stop, recorder)
        for epoch in range(start.epoch, run.config.epochs):
            recorder.start_epoch(epoch, metrics)
            state, trained = epochs.run(state, epoch, metrics)
            if trained:
                recorder.progress.testing()
            tested = _tested(evaluate_state, state, stop) if trained else None
            if trained is None or tested is None:
                recorder.save_unfinished(state, epoch, metrics)
                raise stop.stopped
            recorder.end_epoch(state, epoch, trained, tested)
            metrics = StepMetrics()
    return Result(*recorder.last_and_best(), jax.device_get(state))


def _tested(evaluate_state, state, stop):
    """Computes the test metrics of an epoch. Returns None if the run was asked to stop.

    With `config.ema_decay`, these are the metrics of the averaged weights. The metrics `raw_test_...` are then added,
    for the weights without averaging.
    """
    tested = evaluate_state(state.result, stop.due_between_steps)
    if tested is None or state.ema is None:
        return tested
    raw = evaluate_state(state, stop.due_between_steps)
    return raw and tested | {f"raw_{name}": raw[name] for name in RAW}


def evaluate(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Evaluates the best checkpoint of `workdir` on the test set of `config.dataset`.

    The data set need not be the one that the run was trained on, and its training images may be missing. Images are
    normalized as in the training of the run. For imported weights, images are normalized with the mean and standard
    deviation of `config.dataset`. For the data set `npz`, these are computed from the training images, so the file must
    then hold training images.

    Returns:
      `epoch` (of the checkpoint), `test_loss`, `test_top1` and `test_top5` (percent), `test_images` (number of images
      evaluated).

    Raises:
      UserError: a config field is invalid; the data set is missing, or its image shape or classes do not fit the run;
        `workdir` cannot be read, holds no checkpoint of a whole epoch, or holds a damaged checkpoint; or the best
        checkpoint is of another model.
    """
    check_config(config)
    workdir = bucket.fetched(paths.of_run(workdir))
    _, record, variables = read_best(workdir)
    check_same_model(record["config"], config, str(workdir))
    info = data.from_record(record, workdir)
    run = prepare_evaluation(config, info)
    if info is not None and info.name != config.dataset and distributed.is_main():
        say(f"evaluating on {config.dataset} with the normalization of {info.name}, on which the run was trained")
    classes, found = num_classes_of(variables["params"]), run.info.num_classes
    if classes not in (None, found):
        raise UserError(f"{workdir} has {classes} classes and {config.dataset} has {found}; give its data set")
    like = state_shapes(run.recipe, run.feed.image_shape)
    state = TrainState(jnp.int32(0), **pretrained.merge(like.variables, variables, str(workdir)), opt_state=())
    with contextlib.closing(run.feed):
        metrics = run.feed.evaluator(run.recipe)(replicate(state, run.devices))
    assert metrics is not None  # None only if `should_stop` ends the evaluation, and there is no `should_stop` here
    return {"epoch": record["metrics"]["epoch"], **metrics}
