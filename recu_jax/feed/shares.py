"""What both feeds need: which images, which part of them here, and what an evaluation adds up to."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from recu_jax.data.order import train_order
from recu_jax.train import TrainState


def never() -> bool:
    """For an evaluation that is not to be left off."""
    return False


class Evaluator(Protocol):
    """Gives the metrics of a state on the test set."""

    def __call__(self, state: TrainState, leave_off: Callable[[], bool] = never) -> dict[str, float] | None:
        """`leave_off` says between batches whether to do so, which gives None."""


def split_over_devices(array: np.ndarray, count: int) -> np.ndarray:
    """(steps, batch) to (count, steps, batch / count)."""
    return np.moveaxis(array.reshape(len(array), count, -1), 1, 0)


def here(array: np.ndarray, devices: Sequence[jax.Device]) -> np.ndarray:
    """(steps, batch) to (devices of this process, steps, batch / all devices)."""
    here = jax.process_index()
    return split_over_devices(array, len(devices))[[device.process_index == here for device in devices]]


def records(config: ml_collections.ConfigDict, images: int, step: int) -> np.ndarray:
    """Which of `images` training images the batch of `step` is made of: int32, (batch,)."""
    epoch, row = divmod(step, images // config.batch_size)
    return train_order(config.seed, epoch, images, config.batch_size)[row]


def means(sums: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Metrics of the test set from the sums over its batches."""
    sums = [jax.device_get(s) for s in sums]
    total = {k: float(sum(s[k] for s in sums)) for k in sums[0]}
    images = total["images"]
    return {
        "test_loss": total["loss"] / images,
        "test_top1": 100 * total["top1"] / images,
        "test_top5": 100 * total["top5"] / images,
        "test_images": int(images),
    }
