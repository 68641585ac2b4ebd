"""Batches of photographs from disk: Grain has the worker processes, OpenCV decodes, any position can be resumed.

A batch is a function of (seed, step), whatever the number of workers and processes; see `order` for which images it
holds. An image's crop is a function of (seed, epoch, record).
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
    """Batches of `epochs` epochs in the order of `order.train_order`, from step `start_step` on.

    Args:
      records: the training images.
      seed: of the order and of the crops.
      batch_size: of all processes together; what is left after the last whole batch of an epoch is not seen in it.
      epochs: number of epochs from step 0.
      transform: what is done to an image.
      num_workers: processes that decode; 0 decodes in threads of this one.
      start_step: the first step to make; the steps before it cost nothing.
      process_index: which columns of each batch to make: the `process_index`-th of `process_count` equal shares.
      process_count: number of processes that train together.
      on_corrupt: `error` stops at an image that cannot be decoded, `skip` takes the next one that can, by number.

    Raises:
      UserError: a batch that does not divide over the processes, or holds more than there is, or an unknown option.
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
    """Batches that hold each image once, in the order of `order.eval_order`; arguments as for `train_batches`.

    With `on_corrupt="skip"` an image that cannot be decoded has weight 0, as what fills up the last batch has.

    Raises:
      UserError: as `train_batches`.
    """
    share = _share(batch_size, process_index, process_count)
    make = EvalBatch(records, transform, batch_size, share)
    return Batches(make, -(-len(records) // batch_size), num_workers, on_corrupt)


class Batches:
    """An iterator over batches, each a dict of arrays, b = batch_size / process_count images:

    - `image`: uint8 RGB, (b, image_size, image_size, 3).
    - `label`: int32, (b,).
    - `weight`: float32, (b,); 0 for what fills up the last batch of an evaluation, and for corrupt test images.
    - `record`: int32, (b,); which of the records it is.
    - `corrupt`: int32, (b,); -1, or the record whose place it took, or which it is, that cannot be decoded.

    Workers start with the first batch, which takes 1 to 2 s of each. They end with the last batch, with `close`, with
    the `with` block, and with the process that started them, however that ends. With workers, images are views of
    shared memory: let go of them, or copy them, before the program's last line, or Python warns of a leak.

    Attributes:
      step: number of the next batch.

    Raises:
      UserError: with `on_corrupt="error"`, names the images that cannot be decoded; with `skip`, none can.
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
        self._reader: Any = None  # Grain's iterator, and the step and state it started in
        self._first: dict[str, Any] = {}

    def __len__(self) -> int:
        """Number of batches from here to the end."""
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
        """The position, for `json.dumps`: the next batch's step, and what tells that it is of the same stream."""
        state = {"step": self.step, "stream": self._make_batch.stream, "num_workers": self._num_workers}
        if self._reader is not None:
            state |= {"first_step": self._first["step"], "reader": copy.deepcopy(self._reader.get_state())}
            state["check"] = _checksum(state)
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position that `get_state` gave, here or in another run, with any number of workers.

        Raises:
          UserError: the position is of other data, another seed or another batch size, past the end, or none at all.
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
                f"the saved position is of {k} {state['stream'].get(k)}, this run has {here[k]}; a batch's number "
                "means other images there"
            )
        if not 0 <= state["step"] <= self._end:
            raise UserError(f"the saved position is step {state['step']}; there are {self._end} steps")
        # Where workers run they stay and are sent to the position, if it is one of theirs.
        reader = None
        if self._reader is not None:
            if state["step"] == self._first["step"]:
                reader = self._first["reader"]
            elif (state.get("num_workers"), state.get("first_step")) == (self._num_workers, self._first["step"]):
                # Grain believes what it is given: a changed position would be other images, without a word.
                reader = state.get("reader") if state.get("check") == _checksum(state) else None
        if reader is None:
            self.close()
        else:
            self._reader.set_state(copy.deepcopy(reader))  # Grain keeps and changes what it is given
        self.step = state["step"]

    def close(self) -> None:
        """Stops the workers; the next batch would start new ones."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
            # Grain's iterator holds a batch in a reference cycle, and a thread of Grain's frees its shared memory; both
            # before the program ends, or Python warns of a leak.
            gc.collect()
            time.sleep(0.05)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _check(self, batch):
        is_corrupt = batch["corrupt"] >= 0
        if self._on_corrupt == "skip":  # what is left is what nothing was found in the place of
            is_corrupt &= (batch["weight"] == 0) & (not self._make_batch.may_drop)
        if not is_corrupt.any():
            return
        records, corrupt = self._make_batch.records, batch["corrupt"][is_corrupt].tolist()
        batch.clear()  # the exception's traceback keeps it
        self.close()
        named = first_few(corrupt, _NAMED_AT_MOST, name=lambda i: f"{records.name(i)}: {_reason(records, i)}")
        if self._on_corrupt == "error":
            way_out = "replace or remove it, or set on_corrupt to 'skip'"
        else:
            way_out = f"nor can the {SKIP_AT_MOST} after it; look at the files"
        raise UserError(f"cannot decode {named}; {way_out}")


def _checksum(state):
    """Of all that a position says, the same after a way through JSON."""
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
