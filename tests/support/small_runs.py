"""Makes configs and data sets for runs that take seconds, and writes workdirs of runs without training."""

import jax
import numpy as np

from configs.digits import get_config
from recu_jax.config.fields import check_config
from recu_jax.data import Dataset
from recu_jax.training.epoch import StepMetrics
from recu_jax.training.recorder import RunRecorder
from recu_jax.training.run import find_start, prepare, read_given_variables
from recu_jax.training.step import replicate


def digits(**changes):
    c = get_config()
    c.num_devices, c.tensorboard = 1, False
    for name, value in changes.items():
        c[name] = value
    check_config(c)
    return c


def dataset(side, channels=3):
    r = np.random.default_rng(0)
    images, labels = r.integers(0, 256, (50, side, side, channels), np.uint8), r.integers(0, 10, 50).astype(np.int32)
    return Dataset(images[:37], labels[:37], images[37:], labels[37:], 10, (0.5,) * channels, (0.25,) * channels)


def recorded(config, workdir, top1=50.0):
    """Writes a workdir as a run leaves it after one epoch. Its variables are the initial ones, changed at random."""
    config = config.copy_and_resolve_references()
    config.epochs, config.diagnostics, config.report = 1, False, False
    run = prepare(config)
    workdir.mkdir(parents=True, exist_ok=True)
    start = find_start(run, workdir, read_given_variables(run, workdir).first)
    r = np.random.default_rng(0)

    def moved(a):
        return (a * r.uniform(0.5, 1.5, a.shape)).astype(a.dtype)

    state = jax.device_get(start.state)
    state = state.replace(step=state.step + 1, **{k: jax.tree.map(moved, v) for k, v in state.variables.items()})
    with RunRecorder(run, workdir, start) as recorder:
        recorder.start_epoch(0, StepMetrics())
        tested = {"test_loss": 0.5, "test_top1": top1, "test_top5": 99.0, "test_images": 360}
        trained = {"train_loss": 1.0, "train_top1": 50.0, "images_per_second": 100.0}
        recorder.end_epoch(replicate(state, run.devices), 0, trained, tested)
    return workdir
