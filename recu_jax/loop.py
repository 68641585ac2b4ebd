"""A whole run: data to the devices, epochs of steps, evaluation, checkpoints, and the way back from one."""

import dataclasses
import pathlib
import shutil
import time
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from recu_jax import data, pretrained
from recu_jax.checkpoint import Checkpoints, any_saved, read_best
from recu_jax.config import check_config, check_resumable, check_same_model, check_trained_here, plain
from recu_jax.errors import UserError
from recu_jax.feed import ResidentFeed, StreamFeed, make_feed
from recu_jax.logbook import Logbook
from recu_jax.progress import Progress
from recu_jax.recipe import Recipe, make_recipe
from recu_jax.train import TrainState, replicate, state_shapes


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended: metrics of its last and of its best epoch (rows of metrics.jsonl), and its final state."""

    final: dict[str, Any]
    best: dict[str, Any]
    state: TrainState


@dataclasses.dataclass(frozen=True)
class Run:
    """What both training and evaluation need."""

    devices: Sequence[jax.Device]
    feed: ResidentFeed | StreamFeed
    recipe: Recipe


def _prepare(config: ml_collections.ConfigDict) -> Run:
    check_config(config)
    devices = _devices(config)
    dataset = data.load(config.dataset, config.data_dir, config.num_workers)
    feed = make_feed(config, dataset, devices)
    return Run(devices, feed, make_recipe(config, dataset, feed.steps_per_epoch))


def _devices(config):
    devices = jax.local_devices()
    count = config.num_devices or len(devices)
    if count > len(devices):
        raise UserError(f"config.num_devices is {count}; this machine has {len(devices)}")
    for field in ("batch_size", "eval_batch_size"):
        if config[field] % count:
            raise UserError(
                f"config.{field} is {config[field]}, which does not divide over {count} devices; use a multiple of "
                f"{count}, or set config.num_devices"
            )
    return devices[:count]


def train(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> Result:
    """Trains to the last epoch, from the newest checkpoint in `workdir` if there is one.

    A run that was stopped at any moment and continued ends with bitwise the same parameters as one never stopped:
    the order of the data, augmentation, tau and learning rate are functions of the seed and the step.

    Args:
      config: as `base_config` makes it.
      workdir: folder for checkpoints, metrics.jsonl and TensorBoard events; made where missing.

    Raises:
      UserError: a field breaks its rule, the data set is not there, or the workdir holds a run of another config.
    """
    run = _prepare(config)
    config = config.copy_and_resolve_references()
    config.num_devices = len(run.devices)
    # Read before the workdir is made, so that nothing is left behind where one of them is not there.
    teacher = pretrained.teacher_variables(config, run.recipe, run.feed.image_shape)
    fresh = None if any_saved(workdir) else pretrained.first_state(config, run.recipe, run.feed.image_shape)
    was_there = pathlib.Path(workdir).exists()
    try:
        pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{workdir} cannot be made: {error.strerror}; give another --workdir") from error
    try:
        with Checkpoints(workdir) as checkpoints:
            return _train(config, pathlib.Path(workdir), run, checkpoints, teacher, fresh)
    except UserError:
        if not was_there and not any_saved(workdir):  # a record that cannot be read, before anything was kept
            shutil.rmtree(workdir, ignore_errors=True)
        raise
    finally:
        run.feed.close()


def _train(config, workdir, run, checkpoints, teacher, fresh) -> Result:
    recipe, devices, feed = run.recipe, run.devices, run.feed
    begun = checkpoints.latest()
    if begun is not None:
        record = checkpoints.record(begun)
        check_trained_here(record, str(workdir))
        check_resumable(record["config"], config, str(workdir))
        state = checkpoints.restore(begun, state_shapes(recipe, feed.image_shape))
    else:
        state = fresh or pretrained.first_state(config, recipe, feed.image_shape)
    teacher = replicate(teacher, devices)
    done = int(state.step) // feed.steps_per_epoch
    if done:
        print(f"resuming {workdir} after epoch {done} of {config.epochs} (step {int(state.step)})", flush=True)
    logbook = Logbook(workdir, done + 1, config.tensorboard)
    state = replicate(state, devices)
    if done < config.epochs:
        feed.start(int(done * feed.steps_per_epoch))
    evaluate_state = feed.evaluator(recipe)
    step = feed.step(recipe)
    progress = Progress(config.epochs, feed.steps_per_epoch, config.batch_size, config.log_every_steps)

    for epoch in range(done, config.epochs):
        progress.start_epoch(epoch + 1)
        state, train_metrics = _train_epoch(config, feed, step, state, teacher, epoch, progress)
        first_step = epoch * feed.steps_per_epoch
        row = {
            "epoch": epoch + 1,
            "step": first_step + feed.steps_per_epoch,
            **train_metrics,
            **evaluate_state(state),
            "learning_rate": float(recipe.learning_rate(first_step)),
            "tau": float(recipe.tau(first_step)),
        }
        logbook.write(row)
        if (epoch + 1) % config.checkpoint_every_epochs == 0 or epoch + 1 == config.epochs:
            checkpoints.save(state, plain(config), row)
        progress.end_epoch(row)
    logbook.close()
    checkpoints.wait()
    final = checkpoints.record(checkpoints.latest())["metrics"]
    best = checkpoints.record(checkpoints.best())["metrics"]
    return Result(final, best, jax.device_get(state))


def _train_epoch(config, feed, step, state, teacher, epoch, progress):
    done, metrics, history, began, timed_steps = 0, None, [], None, 0
    first_step, epoch_began = epoch * feed.steps_per_epoch, time.monotonic()
    while done < feed.steps_per_epoch:
        steps, arguments = feed.take(first_step + done, previous=metrics)
        state, metrics = step(state, teacher, *arguments)
        history.append(metrics)
        done += steps
        if began is None:
            # The rate leaves out the first dispatch, in which the step is compiled.
            jax.block_until_ready(metrics)
            began = time.monotonic()
        else:
            timed_steps += steps
        if progress.due(steps):
            progress.advance(steps, float(metrics["loss"][-1]), float(metrics["top1"][-1]))
        else:
            progress.advance(steps)
    history = jax.device_get(history)
    ended = time.monotonic()
    rate = timed_steps * config.batch_size / (ended - began) if timed_steps else 0.0
    means = {k: float(np.concatenate([m[k] for m in history]).mean(dtype=np.float64)) for k in ("loss", "top1")}
    return state, {
        "train_loss": means["loss"],
        "train_top1": means["top1"],
        "images_per_second": rate,
        **feed.epoch_metrics(ended - epoch_began),
    }


def evaluate(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Evaluates the best checkpoint of `workdir` on the test set.

    Returns:
      `epoch`, `test_loss`, `test_top1`, `test_top5` (percent), `test_images` (how many were counted).

    Raises:
      UserError: as `train`, or there is no checkpoint in `workdir`, or it is of another model.
    """
    check_config(config)
    _, record, variables = read_best(workdir)
    check_same_model(record["config"], config, str(workdir))
    run = _prepare(config)
    like = state_shapes(run.recipe, run.feed.image_shape)
    state = TrainState(np.int32(0), **pretrained.merge(like.variables, variables, str(workdir)), opt_state=())
    try:
        metrics = run.feed.evaluator(run.recipe)(replicate(state, run.devices))
    finally:
        run.feed.close()
    return {"epoch": record["metrics"]["epoch"], **metrics}
