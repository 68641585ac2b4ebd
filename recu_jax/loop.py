"""A whole run: data to the devices, epochs of steps, evaluation, checkpoints, and the way back from one."""

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import ml_collections
import numpy as np

from recu_jax import backend, data
from recu_jax.checkpoint import Checkpoints
from recu_jax.config import check_config, check_resumable, check_same_model, plain
from recu_jax.data.order import eval_order, train_order
from recu_jax.errors import UserError
from recu_jax.logbook import Logbook
from recu_jax.progress import Progress
from recu_jax.train import (
    Recipe,
    TrainState,
    create_state,
    eval_step,
    make_recipe,
    parallel,
    replicate,
    train_steps,
)


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended: metrics of its last and of its best epoch (rows of metrics.jsonl), and its final state."""

    final: dict[str, Any]
    best: dict[str, Any]
    state: TrainState


@dataclasses.dataclass(frozen=True)
class Run:
    """What both training and evaluation need."""

    dataset: data.Dataset
    devices: Sequence[jax.Device]
    steps_per_epoch: int
    recipe: Recipe


def _prepare(config: ml_collections.ConfigDict) -> Run:
    check_config(config)
    devices = _devices(config)
    dataset = data.load(config.dataset, config.data_dir, config.num_workers)
    images = len(dataset.train_images)
    if config.batch_size > images:
        raise UserError(f"config.batch_size is {config.batch_size}; {config.dataset} has only {images} training images")
    steps_per_epoch = images // config.batch_size
    return Run(dataset, devices, steps_per_epoch, make_recipe(config, dataset, steps_per_epoch))


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


def split_over_devices(array: np.ndarray, count: int) -> np.ndarray:
    """(steps, batch) to (count, steps, batch / count)."""
    return np.moveaxis(array.reshape(len(array), count, -1), 1, 0)


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
    checkpoints = Checkpoints(workdir)
    try:
        return _train(config, pathlib.Path(workdir), run, checkpoints)
    finally:
        checkpoints.close()


def _train(config, workdir, run, checkpoints) -> Result:
    recipe, devices, steps_per_epoch = run.recipe, run.devices, run.steps_per_epoch
    state = create_state(recipe, config.seed, run.dataset.train_images.shape[1:])
    begun = checkpoints.latest()
    if begun is not None:
        check_resumable(checkpoints.record(begun)["config"], config, str(workdir))
        state = checkpoints.restore(begun, state)
    done = int(state.step) // steps_per_epoch
    if done:
        print(f"resuming {workdir} after epoch {done} of {config.epochs} (step {int(state.step)})", flush=True)
    logbook = Logbook(workdir, done + 1, config.tensorboard)
    state = replicate(state, devices)
    train_set = replicate((run.dataset.train_images, run.dataset.train_labels), devices)
    evaluate_state = evaluator(config, run)
    step = parallel(partial(train_steps, recipe=recipe), devices, mapped=(False, False, False, True), donate=True)
    progress = Progress(config.epochs, steps_per_epoch, config.batch_size, config.log_every_steps)

    for epoch in range(done, config.epochs):
        progress.start_epoch(epoch + 1)
        state, train_metrics = _train_epoch(config, run, step, state, train_set, epoch, progress)
        first_step = epoch * steps_per_epoch
        row = {
            "epoch": epoch + 1,
            "step": first_step + steps_per_epoch,
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


def _train_epoch(config, run, step, state, train_set, epoch, progress):
    order = train_order(config.seed, epoch, len(run.dataset.train_images), config.batch_size)
    order = split_over_devices(order, len(run.devices))
    chunk = min(config.steps_per_dispatch or backend.steps_per_dispatch(run.steps_per_epoch), run.steps_per_epoch)
    history, began, timed_steps = [], None, 0
    for first in range(0, run.steps_per_epoch, chunk):
        part = order[:, first : first + chunk]
        state, metrics = step(state, *train_set, part)
        history.append(metrics)
        steps = part.shape[1]
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
    seconds = time.monotonic() - began
    rate = timed_steps * config.batch_size / seconds if timed_steps else 0.0
    means = {k: float(np.concatenate([m[k] for m in history]).mean(dtype=np.float64)) for k in ("loss", "top1")}
    return state, {"train_loss": means["loss"], "train_top1": means["top1"], "images_per_second": rate}


def evaluator(config, run):
    """A function of the state that gives the metrics of the whole test set."""
    devices = run.devices
    test_set = replicate((run.dataset.test_images, run.dataset.test_labels), devices)
    step = parallel(
        partial(eval_step, recipe=run.recipe), devices, mapped=(False, False, False, True, True), donate=False
    )
    order = eval_order(len(run.dataset.test_images), config.eval_batch_size)
    indices, weights = (split_over_devices(a, len(devices)) for a in order)

    def evaluate_state(state: TrainState) -> dict[str, float]:
        sums = [step(state, *test_set, indices[:, i], weights[:, i]) for i in range(indices.shape[1])]
        total = {k: float(sum(s[k] for s in map(jax.device_get, sums))) for k in sums[0]}
        images = total["images"]
        return {
            "test_loss": total["loss"] / images,
            "test_top1": 100 * total["top1"] / images,
            "test_top5": 100 * total["top5"] / images,
        }

    return evaluate_state


def evaluate(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Evaluates the best checkpoint of `workdir` on the test set.

    Returns:
      `epoch`, `test_loss`, `test_top1`, `test_top5` (percent), `images` (how many were counted).

    Raises:
      UserError: as `train`, or there is no checkpoint in `workdir`, or it is of another model.
    """
    check_config(config)
    if not (pathlib.Path(workdir) / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoints; train first, or give the --workdir of a run")
    checkpoints = Checkpoints(workdir)
    try:
        step = checkpoints.best()
        if step is None:
            raise UserError(f"{workdir} holds no complete checkpoint; train at least one epoch first")
        record = checkpoints.record(step)
        check_same_model(record["config"], config, str(workdir))
        run = _prepare(config)
        state = create_state(run.recipe, config.seed, run.dataset.train_images.shape[1:])
        state = replicate(checkpoints.restore(step, state), run.devices)
    finally:
        checkpoints.close()
    metrics = evaluator(config, run)(state)
    return {"epoch": record["metrics"]["epoch"], **metrics, "images": len(run.dataset.test_images)}
