"""Helps the feeds: selects the images of a batch, takes this process's part of them, and computes test metrics."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from recu_jax.data.order import train_order
from recu_jax.training.step import TrainState


class Evaluator(Protocol):
    """Evaluates a state on the test set."""

    def __call__(self, state: TrainState, should_stop: Callable[[], bool] | None = None) -> dict[str, float] | None:
        """Evaluates `state` and returns the result of `means`.

        Calls `should_stop` after each batch. If `should_stop` returns True, the evaluation ends and returns None.
        """


def split_over_devices(array: np.ndarray, count: int) -> np.ndarray:
    """Splits the batches over `count` devices: (steps, batch) to (count, steps, batch / count)."""
    return np.moveaxis(array.reshape(len(array), count, -1), 1, 0)


def this_process_part(array: np.ndarray, devices: Sequence[jax.Device]) -> np.ndarray:
    """Takes the part of this process: (steps, batch) to (devices of this process, steps, batch / len(devices)).

    Args:
      array: (steps, batch), for all processes.
      devices: of all processes.
    """
    me = jax.process_index()
    return split_over_devices(array, len(devices))[[device.process_index == me for device in devices]]


def records(config: ml_collections.ConfigDict, images: int, step: int) -> np.ndarray:
    """Returns the indices of the training images in the batch of `step`: int32, (batch,).

    Args:
      config: of the run.
      images: number of training images.
      step: counted from 0 over the whole run.
    """
    epoch, row = divmod(step, images // config.batch_size)
    return train_order(config.seed, epoch, images, config.batch_size)[row]


def means(sums: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Computes the metrics of the test set from the sums of its batches, as `step.eval_streamed` returns them."""
    sums = [jax.device_get(s) for s in sums]
    total = {k: float(sum(s[k] for s in sums)) for k in sums[0]}
    images = total["images"]
    return {
        "test_loss": total["loss"] / images,
        "test_top1": 100 * total["top1"] / images,
        "test_top5": 100 * total["top5"] / images,
        "test_images": int(images),
    }
