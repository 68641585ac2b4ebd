"""A data set that lives on every device."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import ml_collections
import numpy as np

from recu_jax import backend
from recu_jax.data import Dataset
from recu_jax.data.order import eval_order, train_order
from recu_jax.feed.shares import Evaluator, here, means, never, records
from recu_jax.recipe import Recipe
from recu_jax.train import TrainState, eval_step, parallel, replicate, train_steps


class ResidentFeed:
    """A data set that lives on every device; a dispatch holds one step or many."""

    def __init__(self, config: ml_collections.ConfigDict, dataset: Dataset, devices: Sequence[jax.Device]):
        self._config, self._dataset, self._devices = config, dataset, devices
        self.image_shape = dataset.train_images.shape[1:]
        self.steps_per_epoch = len(dataset.train_images) // config.batch_size
        steps = config.steps_per_dispatch or backend.steps_per_dispatch(self.steps_per_epoch)
        self._chunk = min(steps, self.steps_per_epoch)

    def step(self, recipe: Recipe) -> Callable:
        """The training step, jitted: `state, metrics = step(state, teacher, *arguments)`."""
        mapped = (False, False, False, False, True)
        return parallel(partial(train_steps, recipe=recipe), self._devices, mapped, donate=True)

    def start(self, step: int) -> None:
        """Called once, before the first `take`; `step` is the first one to be done."""
        del step
        self._train_set = replicate((self._dataset.train_images, self._dataset.train_labels), self._devices)

    def take(self, step: int, previous: Any) -> tuple[int, tuple]:
        """What the dispatch that begins with `step` needs: how many steps it holds, and its arguments.

        `previous` is the result of the dispatch before, None for the first.
        """
        del previous
        epoch, first = divmod(step, self.steps_per_epoch)
        order = train_order(self._config.seed, epoch, len(self._dataset.train_images), self._config.batch_size)
        part = here(order[first : first + self._chunk], self._devices)
        return part.shape[1], (*self._train_set, part)

    def records(self, step: int) -> np.ndarray:
        """Which training images the batch of `step` is made of: int32, (batch,)."""
        return records(self._config, len(self._dataset.train_images), step)

    def epoch_metrics(self, seconds: float) -> dict[str, float]:
        """What this feed adds to an epoch's metrics, `seconds` long."""
        del seconds
        return {}

    def evaluator(self, recipe: Recipe) -> Evaluator:
        """A function of the state that gives the metrics of the whole test set."""
        devices = self._devices
        test_set = replicate((self._dataset.test_images, self._dataset.test_labels), devices)
        mapped = (False, False, False, True, True)
        step = parallel(partial(eval_step, recipe=recipe), devices, mapped, donate=False)
        order = eval_order(len(self._dataset.test_images), self._config.eval_batch_size)
        indices, weights = (here(a, devices) for a in order)

        def evaluate(state: TrainState, leave_off: Callable[[], bool] = never) -> dict[str, float] | None:
            sums = []
            for i in range(indices.shape[1]):
                sums.append(step(state, *test_set, indices[:, i], weights[:, i]))
                if leave_off():
                    return None
            return means(sums)

        return evaluate

    def test_sample(self, count: int) -> np.ndarray:
        """The first `count` test images, or as many as there are: uint8, (images, height, width, channels)."""
        return self._dataset.test_images[:count]

    def close(self) -> None:
        """Nothing to end."""
