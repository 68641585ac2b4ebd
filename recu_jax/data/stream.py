"""Makes batches of photographs from the disk. Grain runs the worker processes, and OpenCV decodes.

For the same images and settings, a batch depends only on (seed, step), not on the number of workers and processes. So
a run can resume at any step. The module `order` selects the images of a batch. An image's crop depends only on (seed,
epoch, record).
"""

import copy
import gc
import json
import time
import zlib
from typing import Any

import numpy as np

from recu_jax.data import images, workers
from recu_jax.data.batch import SKIP_AT_MOST, EvalBatch, TrainBatch
from recu_jax.data.photos import Records
from recu_jax.data.transform import Transform
from recu_jax.errors import UserError, first_few, unknown

__all__ = ["ON_CORRUPT", "Batches", "Transform", "eval_batches", "train_batches"]

ON_CORRUPT = ("error", "skip")
_NAMED_AT_MOST = 3


def train_batches(
    records: Records,
    *,
    seed: int,
    batch_size: int,
    epochs: int,
    transform: Transform,
    num_workers: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    on_corrupt: str = "error",
) -> "Batches":
    """Makes the training batches of a run, in the order of `order.train_order`.

    Args:
      records: the training images.
      seed: of the order and of the crops.
      batch_size: number of images in a batch, over all processes. An epoch leaves out the images after its last whole
        batch.
      epochs: number of epochs from step 0.
      transform: crops and augments an image.
      num_workers: number of processes that decode. With 0, threads of this process decode.
      start_step: the first step. Steps before it cost no time.
      process_index: index of this process. The process makes share number `process_index` of each batch.
      process_count: number of processes that train together. A batch is divided into this many equal shares.
      on_corrupt: for an image that cannot be decoded, `error` raises UserError. `skip` takes the next image, by record
        number, that can be decoded.

    Raises:
      UserError: the batch does not divide over the processes, it is larger than the training set, or an argument is
        unknown or out of range.
    """
    share = _share(batch_size, process_index, process_count)
    steps_per_epoch = len(records) // batch_size
    if not steps_per_epoch:
        raise UserError(f"batch_size is {batch_size}, but there are {len(records)} training images; use fewer")
    make = TrainBatch(records, transform, on_corrupt == "skip", seed, batch_size, share)
    return Batches(make, epochs * steps_per_epoch, num_workers, on_corrupt, start_step)


def eval_batches(
    records: Records,
    *,
    batch_size: int,
    transform: Transform,
    num_workers: int,
    process_index: int = 0,
    process_count: int = 1,
    on_corrupt: str = "error",
) -> "Batches":
    """Makes batches that hold each image once, in the order of `order.eval_order`.

    The arguments are as for `train_batches`. With `on_corrupt="skip"`, an image that cannot be decoded has weight 0.
    Padding of the last batch has weight 0 too.

    Raises:
      UserError: the batch does not divide over the processes, or an argument is unknown or out of range.
    """
    share = _share(batch_size, process_index, process_count)
    make = EvalBatch(records, transform, batch_size, share)
    return Batches(make, -(-len(records) // batch_size), num_workers, on_corrupt)


class Batches:
    """An iterator over batches.

    A batch is a dict of arrays. With b = batch_size / process_count images in this process, they are:

    - `image`: uint8 RGB, (b, image_size, image_size, 3).
    - `label`: int32, (b,).
    - `weight`: float32, (b,). 0 for corrupt test images and for padding of the last evaluation batch, otherwise 1.
    - `record`: int32, (b,). Number of the record that holds the image.
    - `corrupt`: int32, (b,). Number of the record that `order` selects for this position, if this record cannot be
      decoded. Otherwise -1.

    Workers start at the first batch. A worker takes 1 to 2 s to start. Workers stop after the last batch, at `close`,
    at the end of the `with` block, and when their parent process ends, even if it is killed. With workers, images can
    be views of shared memory. Copy or delete the images before the program ends, or Python warns of a leak.

    Attributes:
      step: number of the next batch.

    Raises:
      UserError: with `on_corrupt="error"`, an image cannot be decoded; the message names it. With `skip`, a training
        image and the 1,000 images after it cannot be decoded.
    """

    def __init__(self, make_batch: TrainBatch | EvalBatch, end: int, num_workers: int, on_corrupt: str, start: int = 0):
        if on_corrupt not in ON_CORRUPT:
            raise unknown("on_corrupt", on_corrupt, ON_CORRUPT)
        if num_workers < 0:
            raise UserError(f"num_workers is {num_workers}; it must be 0 or more")
        if not 0 <= start <= end:
            raise UserError(f"start_step is {start}; there are {end} steps")
        self.step = start
        self._make_batch, self._end, self._num_workers, self._on_corrupt = make_batch, end, num_workers, on_corrupt
        self._reader: Any = None  # Grain's iterator
        self._first: dict[str, Any] = {}  # the step and Grain's state when the iterator started

    def __len__(self) -> int:
        """Returns the number of batches that remain."""
        return self._end - self.step

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self.step >= self._end:
            self.close()
            raise StopIteration
        if self._reader is None:
            share, size = self._make_batch.share, self._make_batch.transform.image_size
            nbytes = (share.stop - share.start) * size * size * 3
            self._reader = workers.reader(self._make_batch, nbytes, self.step, self._end, self._num_workers)
            self._first = {"step": self.step, "reader": copy.deepcopy(self._reader.get_state())}
        batch = next(self._reader)
        self.step += 1
        self._check(batch)
        return batch

    def get_state(self) -> dict[str, Any]:
        """Returns the position as a dict for `json.dumps`: the next step, and values that identify the stream."""
        state = {"step": self.step, "stream": self._make_batch.stream, "num_workers": self._num_workers}
        if self._reader is not None:
            state |= {"first_step": self._first["step"], "reader": copy.deepcopy(self._reader.get_state())}
            state["check"] = _checksum(state)
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position that `get_state` returned, in this run or in another one, with any number of workers.

        Raises:
          UserError: `state` is not a position, or is past the end. Or it comes from other data, another seed or another
            batch size.
        """
        here = self._make_batch.stream
        if (
            not isinstance(state, dict)
            or not isinstance(state.get("stream"), dict)
            or type(state.get("step")) is not int
        ):
            raise UserError(f"the saved position is {str(state)[:80]}; it must be what get_state gave")
        different = [k for k in here if state["stream"].get(k) != here[k]]
        if different:
            k = different[0]
            raise UserError(
                f"the saved position is of {k} {state['stream'].get(k)}, this run has {here[k]}; the same "
                "step would select other images"
            )
        if not 0 <= state["step"] <= self._end:
            raise UserError(f"the saved position is step {state['step']}; there are {self._end} steps")
        # Workers continue if their iterator can move to this position. Otherwise they are stopped.
        reader = None
        if self._reader is not None:
            if state["step"] == self._first["step"]:
                reader = self._first["reader"]
            elif (state.get("num_workers"), state.get("first_step")) == (self._num_workers, self._first["step"]):
                # Grain does not check a state. A changed state would silently give other images.
                reader = state.get("reader") if state.get("check") == _checksum(state) else None
        if reader is None:
            self.close()
        else:
            self._reader.set_state(copy.deepcopy(reader))  # Grain keeps the object and changes it
        self.step = state["step"]

    def close(self) -> None:
        """Stops the workers. The next batch starts new ones."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
            # Grain's iterator holds a batch in a reference cycle, which only the garbage collector frees. After the
            # collection, a thread of Grain frees the shared memory, and the sleep gives the thread time. If the program
            # ends before the thread is done, Python warns of a leak.
            gc.collect()
            time.sleep(0.05)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _check(self, batch):
        is_corrupt = batch["corrupt"] >= 0
        if self._on_corrupt == "skip":  # only a training image without a replacement is an error
            is_corrupt &= (batch["weight"] == 0) & (not self._make_batch.may_drop)
        if not is_corrupt.any():
            return
        records, corrupt = self._make_batch.records, batch["corrupt"][is_corrupt].tolist()
        batch.clear()  # otherwise the traceback of the exception keeps the shared memory in use
        self.close()
        named = first_few(corrupt, _NAMED_AT_MOST, name=lambda i: f"{records.name(i)}: {_reason(records, i)}")
        if self._on_corrupt == "error":
            way_out = "replace or remove it, or set on_corrupt to 'skip'"
        else:
            way_out = f"nor can the {SKIP_AT_MOST} after it; look at the files"
        raise UserError(f"cannot decode {named}; {way_out}")


def _checksum(state):
    """Computes the checksum of a position. Saving the position as JSON and loading it does not change the checksum."""
    text = json.dumps({k: v for k, v in state.items() if k != "check"}, sort_keys=True, default=str)
    return zlib.crc32(text.encode())


def _share(batch_size, process_index, process_count):
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"batch_size {batch_size} does not divide over {process_count} processes; use a multiple of {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise UserError(f"process_index is {process_index}; it must be in [0, {process_count})")
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


def _reason(records, i):
    try:
        images.decode(records.read(i)[0])
    except images.CorruptImage as reason:
        return reason
    return "another error than before"
