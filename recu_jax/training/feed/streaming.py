"""Feeds the devices from a data set whose encoded images are on the disk."""

import concurrent.futures
import multiprocessing
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import ml_collections
import numpy as np

from recu_jax.data import Photos, stream, workers
from recu_jax.errors import RunFailed, one_line
from recu_jax.training.feed.shares import Evaluator, means, records
from recu_jax.training.recipe import Recipe
from recu_jax.training.step import TrainState, eval_streamed, parallel, place, train_streamed

# After the workers are killed, the thread that reads from them has this long to end. Grain checks its workers every
# second.
_LETS_GO_SECONDS = 10


class StreamFeed:
    """Decodes images in worker processes, and sends the next batch to the devices while a step runs.

    The feed adds `data_wait` to an epoch's metrics: the share of the epoch's time in which the devices waited for data.
    If corrupt records are skipped, the feed also adds `skipped_records`, their number in the batches of this process.

    Attributes:
      image_shape: (height, width, channels).
      steps_per_epoch: number of whole batches in the training set. An epoch leaves out the images after its last whole
        batch.
    """

    def __init__(self, config: ml_collections.ConfigDict, dataset: Photos, devices: Sequence[jax.Device]):
        workers.check_installed()
        self._config, self._dataset, self._devices = config, dataset, devices
        self.image_shape = dataset.image_shape(config.image_size)
        self.steps_per_epoch = dataset.train_count // config.batch_size
        self._transform = stream.Transform(
            image_size=config.image_size,
            crop=config.train_crop,
            area=tuple(config.crop_area),
            flip=config.flip,
            rotation_degrees=config.rotation_degrees,
            augment=config.augment,
            eval_resize=config.eval_resize,
        )
        # One thread receives the next batch and sends it to the devices while the previous step runs.
        # The thread also starts the workers, which inherit the signal mask that the initializer sets.
        self._sender = concurrent.futures.ThreadPoolExecutor(
            1, thread_name_prefix="feed", initializer=workers.leave_stop_signals_to_other_threads
        )
        self._batches: stream.Batches | None = None
        self._waited, self._skipped = 0.0, 0
        self._hangs = False
        self._sample: np.ndarray | None = None

    def _common(self):
        return {
            "transform": self._transform,
            "num_workers": self._config.num_workers,
            "on_corrupt": self._config.on_corrupt,
            "process_index": jax.process_index(),
            "process_count": jax.process_count(),
        }

    def step(self, recipe: Recipe) -> Callable:
        """Makes the compiled training step, as `ResidentFeed.step` does."""
        mapped = (False, False, True, True)
        return parallel(partial(train_streamed, recipe=recipe), self._devices, mapped, donate=True)

    def start(self, step: int) -> None:
        """Starts the workers, which make the batches from `step` on. Call it once, before the first `take`."""
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
        # The images are in the workers' shared memory, which must be freed before the program ends. JAX may keep a host
        # array longer, so it gets a copy. The copy takes 15 ms for 512 images of 224 pixels, in this thread.
        images = np.array(batch["image"])
        return place((images, batch["label"], batch["weight"]), self._devices), int((batch["corrupt"] >= 0).sum())

    def take(self, step: int, previous: Any) -> tuple[int, tuple]:
        """Waits for the next batch. `ResidentFeed.take` describes the arguments and the result.

        The steps must be taken in order, from the step given to `start`.
        """
        del step
        if not self._next.done():
            # While the previous step runs, the devices are busy. Only the time after it counts as waiting for data.
            jax.block_until_ready(previous)
        began = time.monotonic()
        (images, labels, _), skipped = self._arrived(self._next)
        self._waited += time.monotonic() - began
        self._skipped += skipped
        self._next = self._sender.submit(self._send, self._batches)
        return 1, (images, labels)

    def _arrived(self, coming: concurrent.futures.Future):
        """Waits for the result of `_send`.

        Raises:
          RunFailed: no batch came within `config.data_timeout_seconds`, or a worker has ended.
          UserError: an image cannot be decoded.
        """
        seconds = self._config.data_timeout_seconds
        try:
            return coming.result(timeout=seconds)
        except TimeoutError as error:
            for worker in multiprocessing.active_children():
                worker.kill()
            # In the feed's thread, `_send` waits for a batch of these workers. `_send` fails once Grain notices that
            # the workers ended. If `_send` hangs for another reason, nothing can stop it.
            self._hangs = not concurrent.futures.wait([coming], _LETS_GO_SECONDS).done
            raise RunFailed(
                f"no batch came for {seconds} s: an input worker or the disk that it reads hangs; look at data_dir and "
                "the machine, or raise config.data_timeout_seconds, and run the same command again"
            ) from error
        except RuntimeError as error:
            if "Worker process" not in str(error):  # the words of Grain's message
                raise
            way_out = "run the same command again"
            if "exit code -9" in str(error):
                way_out = (
                    "the system kills them when memory runs out: use fewer (config.num_workers) or smaller batches, "
                    f"and {way_out}"
                )
            raise RunFailed(f"an input worker is gone ({one_line(error, 160)}); {way_out}") from error

    def records(self, step: int) -> np.ndarray:
        """Returns the indices of the training images in the batch of `step`, as `ResidentFeed.records` does.

        With `on_corrupt="skip"`, the batch may hold other images in place of corrupt ones.
        """
        return records(self._config, self._dataset.train_count, step)

    def epoch_metrics(self, seconds: float) -> dict[str, float]:
        """Returns `data_wait` and, if corrupt records are skipped, `skipped_records`. Then starts both from 0 again.

        `seconds` is the time that the epoch took.
        """
        metrics = {"data_wait": self._waited / seconds}
        if self._config.on_corrupt == "skip":
            metrics["skipped_records"] = self._skipped
        self._waited, self._skipped = 0.0, 0
        return metrics

    def evaluator(self, recipe: Recipe) -> Evaluator:
        """Makes the function that evaluates a state on the whole test set, as `ResidentFeed.evaluator` does."""
        mapped = (False, True, True, True)
        step = parallel(partial(eval_streamed, recipe=recipe), self._devices, mapped, donate=False)

        def evaluate(state: TrainState, should_stop: Callable[[], bool] | None = None) -> dict[str, float] | None:
            test, size, sums = self._dataset.test, self._config.eval_batch_size, []
            with stream.eval_batches(test, batch_size=size, **self._common()) as batches:
                coming = self._sender.submit(self._send, batches)
                try:
                    while (sent := self._arrived(coming)) is not None:
                        coming = self._sender.submit(self._send, batches)
                        if self._sample is None:
                            self._sample = np.asarray(sent[0][0].addressable_data(0))
                        # `device_get` waits for the sums, so that at most two batches are on the devices.
                        sums.append(jax.device_get(step(state, *sent[0])))
                        if should_stop is not None and should_stop():
                            return None
                finally:
                    self._settle(coming)
            return means(sums)

        return evaluate

    def test_sample(self, count: int) -> np.ndarray:
        """Returns at most `count` test images, in the form of `ResidentFeed.test_sample`. Call it after an evaluation.

        The images are those of the first test batch that this process's first device got.
        """
        assert self._sample is not None
        return self._sample.reshape(-1, *self.image_shape)[:count]

    def first_images(self, count: int) -> np.ndarray:
        """Returns at most `count` images of the first batch, augmented: uint8, (images, height, width, channels).

        Call it after `start` and before the first `take`. It waits for the batch. The images are those that this
        process's first device got.
        """
        (images, *_), _ = self._arrived(self._next)
        return np.asarray(images.addressable_data(0)).reshape(-1, *self.image_shape)[:count]

    def close(self) -> None:
        """Ends the workers. If the feed's thread hangs, does not wait for it, and leaves its batches open."""
        self._sender.shutdown(wait=not self._hangs, cancel_futures=True)
        if self._batches is not None and not self._hangs:
            self._batches.close()

    def _settle(self, coming: concurrent.futures.Future) -> None:
        """Cancels the next batch or waits for it. After this call, the feed's thread no longer uses the batches.

        If the feed's thread hangs, this function does not wait.
        """
        if not coming.cancel() and not self._hangs:
            concurrent.futures.wait([coming])
