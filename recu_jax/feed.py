"""How images reach the devices: a data set that lives there, or batches that stream in while steps run.

Both feeds look the same to `recu_jax.loop`: `step` makes the training step, `take` gives the arguments of the next
dispatch, and `evaluator` makes a function of the state.
"""

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import ml_collections
import numpy as np

from recu_jax import backend
from recu_jax.data import Dataset, Photos, stream, workers
from recu_jax.data.order import eval_order, train_order
from recu_jax.errors import UserError
from recu_jax.recipe import Recipe
from recu_jax.train import TrainState, eval_batch, eval_step, parallel, place, replicate, train_batch, train_steps

Evaluator = Callable[[TrainState], dict[str, float]]


def make_feed(config: ml_collections.ConfigDict, dataset: Dataset | Photos, devices: Sequence[jax.Device]):
    """The feed for a data set.

    Raises:
      UserError: the batch is larger than the training set.
    """
    images = len(dataset.train_images if isinstance(dataset, Dataset) else dataset.train)
    if config.batch_size > images:
        raise UserError(f"config.batch_size is {config.batch_size}; {config.dataset} has only {images} training images")
    feed = ResidentFeed if isinstance(dataset, Dataset) else StreamFeed
    return feed(config, dataset, devices)


def split_over_devices(array: np.ndarray, count: int) -> np.ndarray:
    """(steps, batch) to (count, steps, batch / count)."""
    return np.moveaxis(array.reshape(len(array), count, -1), 1, 0)


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
        part = split_over_devices(order[first : first + self._chunk], len(self._devices))
        return part.shape[1], (*self._train_set, part)

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
        indices, weights = (split_over_devices(a, len(devices)) for a in order)

        def evaluate(state: TrainState) -> dict[str, float]:
            return _means([step(state, *test_set, indices[:, i], weights[:, i]) for i in range(indices.shape[1])])

        return evaluate

    def close(self) -> None:
        """Nothing to end."""


class StreamFeed:
    """Encoded images on disk: workers decode them, and the next batch is on its way while a step runs.

    Adds to an epoch's metrics `data_wait`, the share of the time in which the devices stood still for want of data,
    and, where corrupt records are skipped, how many there were.
    """

    def __init__(self, config: ml_collections.ConfigDict, dataset: Photos, devices: Sequence[jax.Device]):
        workers.check_installed()
        self._config, self._dataset, self._devices = config, dataset, devices
        self.image_shape = (config.image_size, config.image_size, 3)
        self.steps_per_epoch = len(dataset.train) // config.batch_size
        self._transform = stream.Transform(
            image_size=config.image_size,
            crop=config.train_crop,
            area=tuple(config.crop_area),
            flip=config.flip,
            rotation_degrees=config.rotation_degrees,
            augment=config.augment,
            eval_resize=config.eval_resize,
        )
        # One thread takes the next batch and sends it off while the step before it runs.
        self._sender = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._batches = None
        self._waited, self._skipped = 0.0, 0

    def _common(self):
        return {
            "transform": self._transform,
            "num_workers": self._config.num_workers,
            "on_corrupt": self._config.on_corrupt,
            "process_index": jax.process_index(),
            "process_count": jax.process_count(),
        }

    def step(self, recipe: Recipe) -> Callable:
        """As `ResidentFeed.step`."""
        mapped = (False, False, True, True)
        return parallel(partial(train_batch, recipe=recipe), self._devices, mapped, donate=True)

    def start(self, step: int) -> None:
        """As `ResidentFeed.start`."""
        self._batches = stream.train_batches(
            self._dataset.train,
            seed=self._config.seed,
            batch_size=self._config.batch_size,
            epochs=self._config.epochs,
            start_step=step,
            **self._common(),
        )
        self._next = self._sender.submit(self._send, self._batches)

    def _send(self, batches):
        batch = next(batches, None)
        if batch is None:
            return None
        # A copy: JAX lets go of host arrays late, and the workers' shared memory must be free before the program ends.
        # 15 ms for 512 images of 224 pixels, in this thread.
        images = np.array(batch["image"])
        return place((images, batch["label"], batch["weight"]), self._devices), int((batch["corrupt"] >= 0).sum())

    def take(self, step: int, previous: Any) -> tuple[int, tuple]:
        """As `ResidentFeed.take`; steps are taken in order, from that of `start`."""
        del step
        if not self._next.done():
            # Steps that are still running hide the wait; from when they are through on, it is time lost.
            jax.block_until_ready(previous)
            began = time.monotonic()
            self._next.exception()
            self._waited += time.monotonic() - began
        (images, labels, _), skipped = self._next.result()
        self._skipped += skipped
        self._next = self._sender.submit(self._send, self._batches)
        return 1, (images, labels)

    def epoch_metrics(self, seconds: float) -> dict[str, float]:
        """As `ResidentFeed.epoch_metrics`."""
        metrics = {"data_wait": self._waited / seconds}
        if self._config.on_corrupt == "skip":
            metrics["skipped_records"] = self._skipped
        self._waited, self._skipped = 0.0, 0
        return metrics

    def evaluator(self, recipe: Recipe) -> Evaluator:
        """As `ResidentFeed.evaluator`."""
        mapped = (False, True, True, True)
        step = parallel(partial(eval_batch, recipe=recipe), self._devices, mapped, donate=False)

        def evaluate(state: TrainState) -> dict[str, float]:
            test, size, sums = self._dataset.test, self._config.eval_batch_size, []
            with stream.eval_batches(test, batch_size=size, **self._common()) as batches:
                coming = self._sender.submit(self._send, batches)
                while (sent := coming.result()) is not None:
                    coming = self._sender.submit(self._send, batches)
                    # The sums are waited for, so that no more than two batches are on the devices.
                    sums.append(jax.device_get(step(state, *sent[0])))
            return _means(sums)

        return evaluate

    def close(self) -> None:
        """Ends the workers."""
        self._sender.shutdown(wait=True, cancel_futures=True)
        if self._batches is not None:
            self._batches.close()


def _means(sums: Sequence[dict[str, Any]]) -> dict[str, float]:
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
