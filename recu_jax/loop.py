"""A whole run: data to the devices, epochs of steps, evaluation, checkpoints, and the way back from one."""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from recu_jax import backend, data, distributed, pretrained
from recu_jax.checkpoint import Checkpoints, Damaged, Found, any_saved, newest_good, read_best, saved, set_aside
from recu_jax.config import check_config, check_resumable, check_same_model, check_trained_here, plain
from recu_jax.diary import Diary
from recu_jax.errors import UserError
from recu_jax.feed import Feed, make_feed
from recu_jax.history import History
from recu_jax.lock import WorkdirLock
from recu_jax.progress import Progress
from recu_jax.recipe import Recipe, make_recipe
from recu_jax.steps import Steps, check_finite
from recu_jax.stopping import StopRequests
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
    feed: Feed
    recipe: Recipe


def _prepare(config: ml_collections.ConfigDict) -> Run:
    check_config(config)
    backend.keep_compiled_programs(config.compilation_cache_dir)
    devices = _devices(config)
    dataset = data.load(config.dataset, config.data_dir, config.num_workers)
    feed = make_feed(config, dataset, devices)
    return Run(devices, feed, make_recipe(config, dataset, feed.steps_per_epoch))


def _devices(config):
    devices = distributed.all_devices()
    count = config.num_devices or len(devices)
    if count > len(devices) or (distributed.several() and count < len(devices)):
        whose = "the processes of this run have" if distributed.several() else "this machine has"
        raise UserError(f"config.num_devices is {count}; {whose} {len(devices)}")
    for field in ("batch_size", "eval_batch_size"):
        if config[field] % count:
            raise UserError(
                f"config.{field} is {config[field]}, which does not divide over {count} devices; use a multiple of "
                f"{count}, or set config.num_devices"
            )
    return devices[:count]


def train(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> Result:
    """Trains to the last epoch, from the newest good checkpoint in `workdir` if there are any.

    A run that was stopped at any moment and continued ends with bitwise the same parameters as one never stopped:
    the order of the data, augmentation, tau and learning rate are functions of the seed and the step.

    Args:
      config: as `base_config` makes it.
      workdir: folder for checkpoints, metrics.jsonl and TensorBoard events; made where missing. Several processes must
        be given one that all of them see.

    Raises:
      UserError: a field breaks its rule, the data set is not there, the workdir is in use or holds a run of another
        config, or all its checkpoints are damaged.
      RunFailed: a loss that is not finite, a full disk, an input worker that is gone or hangs.
      Stopped: SIGINT, SIGTERM, SIGUSR1 or a preemption notice; the step at hand is done and saved.
    """
    with StopRequests() as stop:
        run = _prepare(config)
        config = config.copy_and_resolve_references()
        config.num_devices = len(run.devices)
        _check_fits(config, workdir)
        # Read before the workdir is made, so that nothing is left behind where one of them is not there.
        teacher = pretrained.teacher_variables(config, run.recipe, run.feed.image_shape)
        fresh = None if any_saved(workdir) else pretrained.first_state(config, run.recipe, run.feed.image_shape)
        lock, was_there = WorkdirLock(workdir), pathlib.Path(workdir).exists()
        distributed.from_main(lock.acquire)
        try:
            return _train(config, pathlib.Path(workdir), run, teacher, fresh, stop)
        except UserError:
            # A record that cannot be read, say, before anything was kept.
            if distributed.is_main() and not was_there and not any_saved(workdir):
                shutil.rmtree(workdir, ignore_errors=True)
            raise
        finally:
            run.feed.close()
            lock.release()


def _train(config, workdir, run, teacher, fresh, stop) -> Result:
    recipe, feed = run.recipe, run.feed
    found = _newest(config, workdir, run)
    state = found.state if found else fresh or pretrained.first_state(config, recipe, feed.image_shape)
    unfinished = found.record.get("unfinished_epoch") if found else None
    first_epoch = unfinished["epoch"] - 1 if unfinished else int(state.step) // feed.steps_per_epoch
    history = History(unfinished)
    _say_where(config, workdir, found, first_epoch, history)

    diary = Diary(config, workdir, run.devices, recipe, feed, state, found, first_epoch)
    progress = Progress(
        config.epochs, feed.steps_per_epoch, config.batch_size, config.log_every_steps, silent=not distributed.is_main()
    )
    state, teacher = replicate(state, run.devices), replicate(teacher, run.devices)
    if first_epoch < config.epochs:
        feed.start(first_epoch * feed.steps_per_epoch + history.steps)
    evaluate_state = feed.evaluator(recipe)
    with Checkpoints(workdir) as checkpoints:
        steps = Steps(config, recipe, feed, feed.step(recipe), teacher, stop, checkpoints.check, progress, workdir)
        for epoch in range(first_epoch, config.epochs):
            progress.start_epoch(epoch + 1, history.steps)
            diary.start_epoch()
            state, trained = steps.run(state, epoch, history)
            tested = evaluate_state(state, stop.due_between_steps) if trained else None
            if tested is None:
                unfinished = {"epoch": epoch + 1, **history.as_json()}
                _save(checkpoints, state, config, {"epoch": epoch + 1}, diary, unfinished)
                checkpoints.wait()
                raise stop.stopped
            row = _row(recipe, epoch, feed.steps_per_epoch, trained, tested)
            diary.end_epoch(row, state)
            if (epoch + 1) % config.checkpoint_every_epochs == 0 or epoch + 1 == config.epochs:
                _save(checkpoints, state, config, row, diary)
            progress.end_epoch(row)
            history = History()
        diary.close()
    rows = diary.rows or ([found.record["metrics"]] if found else [])
    best = max(rows, key=lambda row: (row["test_top1"], row["epoch"]))
    return Result(rows[-1], best, jax.device_get(state))


def _check_fits(config, workdir):
    """Raises UserError, before anything is changed, if the newest checkpoint that is readable is of another run."""
    for checkpoint in reversed(saved(workdir)):
        try:
            return _check_record(checkpoint.record, config, workdir)
        except Damaged:
            continue


def _check_record(record, config, workdir):
    check_trained_here(record, str(workdir))
    check_resumable(record["config"], config, str(workdir))


def _newest(config, workdir, run) -> Found | None:
    """Where the run goes on; damaged checkpoints are out of the way then."""

    def check(record):
        _check_record(record, config, workdir)

    found = newest_good(workdir, check, state_shapes(run.recipe, run.feed.image_shape))
    distributed.agree(f"the newest checkpoint in {workdir} (its step; -1: none)", found.step if found else -1)
    if found and distributed.is_main():
        set_aside(found)
    distributed.barrier("damaged checkpoints are out of the way")
    return found


def _say_where(config, workdir, found, epoch, history):
    if found and distributed.is_main():
        within = f" and {history.steps} steps" if history.steps else ""
        print(f"resuming {workdir} after epoch {epoch}{within} of {config.epochs} (step {found.step})", flush=True)


def _row(recipe, epoch, steps_per_epoch, trained, tested):
    first_step = epoch * steps_per_epoch
    return {
        "epoch": epoch + 1,
        "step": first_step + steps_per_epoch,
        **trained,
        **tested,
        "learning_rate": float(recipe.learning_rate(first_step)),
        "tau": float(recipe.tau(first_step)),
    }


def _save(checkpoints, state, config, metrics, diary, unfinished_epoch=None):
    state = jax.device_get(state)
    check_finite(state)
    checkpoints.save(state, plain(config), metrics, unfinished_epoch, diary.for_checkpoint())


def evaluate(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Evaluates the best checkpoint of `workdir` on the test set.

    Returns:
      `epoch`, `test_loss`, `test_top1`, `test_top5` (percent), `test_images` (how many were counted).

    Raises:
      UserError: as `train`, or there is no checkpoint in `workdir`, or it is damaged or of another model.
    """
    check_config(config)
    _, record, variables = read_best(workdir)
    check_same_model(record["config"], config, str(workdir))
    run = _prepare(config)
    like = state_shapes(run.recipe, run.feed.image_shape)
    state = TrainState(jnp.int32(0), **pretrained.merge(like.variables, variables, str(workdir)), opt_state=())
    try:
        metrics = run.feed.evaluator(run.recipe)(replicate(state, run.devices))
    finally:
        run.feed.close()
    assert metrics is not None  # as nothing says to leave off
    return {"epoch": record["metrics"]["epoch"], **metrics}
