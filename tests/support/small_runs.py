"""Configs and data sets of runs that take seconds."""

import numpy as np

from configs.digits import get_config
from recu_jax.config.fields import check_config
from recu_jax.data import Dataset


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
