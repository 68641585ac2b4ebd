"""Prepares a run before its first step: devices, data, recipe, and the state from which it starts or continues."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections

from recu_jax import data
from recu_jax.config.fields import check_config, check_resumable, check_trained_here, with_local_paths
from recu_jax.errors import UserError
from recu_jax.ops import backend, native
from recu_jax.training import distributed, pretrained, trackers
from recu_jax.training.checkpoint import Damaged, ResumePoint, any_saved, newest_good, saved, set_aside
from recu_jax.training.epoch import StepMetrics
from recu_jax.training.feed import Feed, make_feed
from recu_jax.training.progress import say
from recu_jax.training.recipe import Recipe, for_cpus, make_recipe
from recu_jax.training.step import TrainState, state_shapes


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts that training and evaluation both need.

    Attributes:
      config: of the run. `num_devices` holds the number of devices in use.
      devices: the devices in use, of all processes.
      feed: gives the batches.
      recipe: the constants of a step.
      info: describes the data set that the network is or was trained on.
      ready_at: creation time of this object, in seconds of `time.monotonic`.
    """

    config: ml_collections.ConfigDict
    devices: Sequence[jax.Device]
    feed: Feed
    recipe: Recipe
    info: data.DatasetInfo
    ready_at: float = dataclasses.field(default_factory=time.monotonic)


@dataclasses.dataclass(frozen=True)
class Start:
    """The point from which a run starts or continues.

    Attributes:
      state: the state before the next step.
      epoch: the epoch of the next step, counted from 0.
      metrics: metrics of the steps of this epoch that an earlier process did.
      resumed: the checkpoint that holds the state; None for a new run.
    """

    state: TrainState
    epoch: int
    metrics: StepMetrics
    resumed: ResumePoint | None


@dataclasses.dataclass(frozen=True)
class GivenVariables:
    """Variables that a run reads from other runs or files.

    They are read before the workdir is created, so that an error leaves no empty workdir behind.

    Attributes:
      teacher: variables of the teacher; empty without one.
      first: the first state of a new run; None if the workdir holds checkpoints.
    """

    teacher: Mapping[str, Any]
    first: TrainState | None


def prepare(config: ml_collections.ConfigDict, announced_workdir: str | pathlib.Path | None = None) -> Run:
    """Prepares a training run: checks the config, loads the data set, and makes the feed and the recipe.

    Args:
      config: of the run.
      announced_workdir: the workdir that process 0 names in a line with the model, the data set and the devices. A
        second line gives the size of the data set. With None, neither line is printed.

    Raises:
      UserError: a config field is invalid or does not fit the devices or the data set, the tracker is not installed, or
        the data set is missing.
    """
    config, devices = _checked(config)
    trackers.check(config.tracker)
    announce = announced_workdir is not None and distributed.is_main()
    if announce:
        where = f" in {config.data_dir}" if config.data_dir else ""
        say(
            f"{config.model} ({config.conv}) on {config.dataset}, {_in_words(devices)}; workdir {announced_workdir}; "
            f"reading the images{where}"
        )
    dataset = data.load(config.dataset, config.data_dir, config.num_workers).hold_out(config.held_out)
    if announce:
        shape = "x".join(map(str, dataset.image_shape(config.image_size)))
        held = " (held out of the training images)" if config.held_out else ""
        say(f"{dataset.train_count} training and {dataset.test_count} test images{held}, {shape}")
    return _made(config, dataset, devices, data.info_of(config.dataset, dataset, config.image_size))


def prepare_evaluation(config: ml_collections.ConfigDict, info: data.DatasetInfo | None) -> Run:
    """Prepares an evaluation. The training images may be missing.

    Args:
      config: of the evaluation.
      info: describes the data set that the network was trained on. With None, classes and normalization come from
        `config.dataset`, and a file of `npz` must hold its training images.

    Raises:
      UserError: as in `prepare`; or the image shape or the classes of the data set do not fit `info`.
    """
    config, devices = _checked(config)
    dataset = data.load_test(config.dataset, config.data_dir, config.num_workers, info)
    return _made(config, dataset, devices, info or data.info_of(config.dataset, dataset, config.image_size))


def _checked(config):
    check_config(config)
    config = with_local_paths(config)
    backend.keep_compiled_programs(config.compilation_cache_dir)
    devices = _devices(config)
    config.num_devices = len(devices)
    return config, devices


def _made(config, dataset, devices, info):
    feed = make_feed(config, dataset, devices)
    # An evaluation has no training images, so its `steps_per_epoch` is 0. The schedules need at least 1, although an
    # evaluation does not use them.
    recipe = make_recipe(config, dataset, max(feed.steps_per_epoch, 1))
    if devices[0].platform == "cpu":
        recipe = for_cpus(recipe)
    return Run(config, devices, feed, recipe, info)


def read_given_variables(run: Run, workdir: str | pathlib.Path) -> GivenVariables:
    """Reads the variables of the teacher and makes the first state of a new run.

    First checks that the checkpoints in `workdir`, if there are any, are of this run.

    Raises:
      UserError: the newest readable checkpoint was imported or has another config, or variables are missing or do not
        fit the model.
    """
    for checkpoint in reversed(saved(workdir)):
        try:
            _check_record(run, workdir, checkpoint.record)
            break
        except Damaged:
            continue
    shape = run.feed.image_shape
    teacher = pretrained.teacher_variables(run.config, run.recipe, shape)
    if any_saved(workdir):
        return GivenVariables(teacher, None)
    return GivenVariables(teacher, _first_state(run))


def _first_state(run):
    """Makes the first state of a new run. Reads the variables of `config.init_from` before it compiles anything."""
    config, recipe, shape = run.config, run.recipe, run.feed.image_shape
    given = pretrained.read_init_from(config, recipe, shape)
    announce_compilation()
    return pretrained.first_state(config, recipe, shape, given)


def announce_compilation() -> None:
    """Prints in process 0 that the run compiles. The compilation may take minutes."""
    if distributed.is_main():
        say("compiling")


def find_start(run: Run, workdir: pathlib.Path, first: TrainState | None) -> Start:
    """Finds the point from which the run starts or continues. Moves damaged checkpoints away.

    Args:
      run: as `prepare` returns it.
      workdir: folder of the run.
      first: the first state of a new run. With None, a new run makes its first state here.

    Raises:
      UserError: the newest readable checkpoint was imported or has another config, or all checkpoints are damaged, or
        the processes find different checkpoints.
    """
    shape = run.feed.image_shape
    like = state_shapes(run.recipe, shape)
    resumed = newest_good(workdir, lambda record: _check_record(run, workdir, record), like)
    distributed.agree(f"the newest checkpoint in {workdir} (its step; -1: none)", resumed.step if resumed else -1)
    if resumed and distributed.is_main():
        set_aside(resumed)
    distributed.barrier("damaged checkpoints are out of the way")
    if resumed is None:
        return Start(first or _first_state(run), 0, StepMetrics(), None)
    unfinished = resumed.record.get("unfinished_epoch")
    epoch = unfinished["epoch"] - 1 if unfinished else int(resumed.state.step) // run.feed.steps_per_epoch
    return Start(resumed.state, epoch, StepMetrics(unfinished), resumed)


def _check_record(run, workdir, record):
    check_trained_here(record, str(workdir))
    check_resumable(record["config"], run.config, str(workdir))


def _in_words(devices):
    """Describes the number and kind of the devices and, for CPUs, the instruction set of the compiled kernels."""
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    many = f"{len(devices)} device{'s' if len(devices) > 1 else ''} ({kinds})"
    if devices[0].platform != "cpu":
        return many
    sets = native.instruction_sets()
    return f"{many}, " + (f"{sets[0]} kernels" if sets else "no compiled kernels")


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
    _check_parts(config, count)
    return devices[:count]


def _check_parts(config, count):
    """Checks that the batch divides over `count` devices and their micro-batches.

    With mixup, each micro-batch must also divide into pairs.
    """
    batch, parts = config.batch_size, config.gradient_accumulation_steps
    if batch % (count * parts):
        raise UserError(
            f"config.batch_size is {batch}, which does not divide over {count} device{'s' * (count > 1)} and "
            f"{parts} gradient_accumulation_steps; use a multiple of {count * parts}"
        )
    if config.mixup_alpha and batch // (count * parts) % 2:
        raise UserError(
            f"config.mixup_alpha is {config.mixup_alpha}, which mixes pairs of images, and a device gets "
            f"{batch // (count * parts)} at a time; let config.batch_size be a multiple of {2 * count * parts}"
        )
