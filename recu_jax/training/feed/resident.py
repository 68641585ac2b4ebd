"""Feeds the devices from a data set that fits into the memory of every device."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import ml_collections
import numpy as np

from recu_jax.data import Dataset
from recu_jax.data.order import eval_order, train_order
from recu_jax.ops import backend
from recu_jax.training.feed.shares import Evaluator, means, records, this_process_part
from recu_jax.training.recipe import Recipe
from recu_jax.training.step import TrainState, eval_resident, parallel, replicate, train_resident


class ResidentFeed:
    """Keeps the whole data set in the memory of every device. A dispatch contains one or more steps.

    Attributes:
      image_shape: (height, width, channels).
      steps_per_epoch: number of whole batches in the training set. An epoch leaves out the images after its last whole
        batch.
    """

    def __init__(self, config: ml_collections.ConfigDict, dataset: Dataset, devices: Sequence[jax.Device]):
        self._config, self._dataset, self._devices = config, dataset, devices
        self.image_shape = dataset.image_shape()
        self.steps_per_epoch = dataset.train_count // config.batch_size
        steps = config.steps_per_dispatch or backend.steps_per_dispatch(self.steps_per_epoch, devices[0].platform)
        self._chunk = min(steps, self.steps_per_epoch)

    def step(self, recipe: Recipe) -> Callable:
        """Makes the compiled training step: `state, metrics = step(state, teacher, *arguments)`.

        `take` returns these `arguments`.
        """
        mapped = (False, False, False, False, True)
        return parallel(partial(train_resident, recipe=recipe), self._devices, mapped, donate=True)

    def start(self, step: int) -> None:
        """Copies the training set to the devices. Call it once, before the first `take`.

        This feed ignores `step`, the first step that this process runs.
        """
        del step
        self._train_set = replicate((self._dataset.train_images, self._dataset.train_labels), self._devices)

    def take(self, step: int, previous: Any) -> tuple[int, tuple]:
        """Prepares the dispatch that begins with `step`.

        Args:
          step: counted from 0 over the whole run.
          previous: metrics of the previous dispatch; None for the first dispatch of an epoch. This feed ignores it.

        Returns:
          The number of steps in the dispatch, and the arguments of the training step after `state` and `teacher`.
        """
        del previous
        epoch, first = divmod(step, self.steps_per_epoch)
        order = train_order(self._config.seed, epoch, self._dataset.train_count, self._config.batch_size)
        part = this_process_part(order[first : first + self._chunk], self._devices)
        return part.shape[1], (*self._train_set, part)

    def records(self, step: int) -> np.ndarray:
        """Returns the indices, in the data set's file, of the training images in the batch of `step`: (batch,)."""
        numbers, found = self._dataset.train_records, records(self._config, self._dataset.train_count, step)
        return found if numbers is None else numbers[found]

    def epoch_metrics(self, seconds: float) -> dict[str, float]:
        """Returns the metrics that the feed adds to those of an epoch that took `seconds`. This feed adds none."""
        del seconds
        return {}

    def evaluator(self, recipe: Recipe) -> Evaluator:
        """Makes the function that evaluates a state on the whole test set."""
        devices = self._devices
        test_set = replicate((self._dataset.test_images, self._dataset.test_labels), devices)
        mapped = (False, False, False, True, True)
        step = parallel(partial(eval_resident, recipe=recipe), devices, mapped, donate=False)
        order = eval_order(len(self._dataset.test_images), self._config.eval_batch_size)
        indices, weights = (this_process_part(a, devices) for a in order)

        def evaluate(state: TrainState, should_stop: Callable[[], bool] | None = None) -> dict[str, float] | None:
            sums = []
            for i in range(indices.shape[1]):
                sums.append(step(state, *test_set, indices[:, i], weights[:, i]))
                if should_stop is not None and should_stop():
                    return None
            return means(sums)

        return evaluate

    def test_sample(self, count: int) -> np.ndarray:
        """Returns the first `count` test images, or all if fewer exist: uint8, (images, height, width, channels)."""
        return self._dataset.test_images[:count]

    def first_images(self, count: int) -> np.ndarray:
        """Returns the first `count` images of the run's first batch, without augmentation. Call it after `start`.

        Their dtype is uint8, and their shape (images, height, width, channels).
        """
        return self._dataset.train_images[records(self._config, self._dataset.train_count, 0)[:count]]

    def close(self) -> None:
        """Does nothing: this feed has no workers."""
