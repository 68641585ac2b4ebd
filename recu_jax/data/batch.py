"""Makes the batch of one step: selects, reads, decodes and crops its photographs.

The classes are picklable, so that worker processes can use them.
"""

import dataclasses

import numpy as np

from recu_jax.data import images
from recu_jax.data.order import eval_order, train_order
from recu_jax.data.photos import Records
from recu_jax.data.transform import Transform

# After this many undecodable images in a row, the disk or the download is probably broken, and training stops.
SKIP_AT_MOST = 1000


@dataclasses.dataclass(frozen=True)
class TrainBatch:
    """Makes this process's images of a training step: `batch = TrainBatch(...)(step)`.

    Attributes:
      records: the training images.
      transform: crops and augments an image.
      skip: whether a corrupt image is replaced by the next image, by record number, that can be decoded.
      seed: of the order and of the crops.
      batch_size: number of images in a batch of all processes.
      share: the positions in the batch that this process makes.
      may_drop: whether a step may leave out a corrupt image if corrupt images are skipped. Here it is False: a corrupt
        image without a replacement is an error.
    """

    records: Records
    transform: Transform
    skip: bool
    seed: int
    batch_size: int
    share: slice
    may_drop = False

    @property
    def stream(self) -> dict[str, int]:
        """Values that select the images of a step. With other values, the same step selects other images."""
        return {"images": len(self.records), "batch_size": self.batch_size, "seed": self.seed}

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        n = len(self.records)
        epoch, row = divmod(step, n // self.batch_size)
        records = train_order(self.seed, epoch, n, self.batch_size)[row, self.share]
        batch = _empty(records, np.ones(len(records), np.float32), self.transform.image_size)
        for i, record in enumerate(records.tolist()):
            for candidate in range(record, record + (min(n, SKIP_AT_MOST + 1) if self.skip else 1)):
                # The 1 at the end is needed. NumPy pads a seed with zeros, so for record 0 the seed
                # [seed, epoch, record] would give the random numbers of [seed, epoch], which draw the epoch's order.
                rng = np.random.default_rng([self.seed, epoch, record, 1])
                try:
                    data, label = self.records.read(candidate % n)
                    batch["image"][i] = self.transform.train(data, rng)
                except images.CorruptImage:
                    batch["corrupt"][i] = record
                    continue
                batch["label"][i], batch["record"][i] = label, candidate % n
                break
            else:
                batch["weight"][i] = 0
        return batch


@dataclasses.dataclass(frozen=True)
class EvalBatch:
    """Makes this process's images of an evaluation step: `batch = EvalBatch(...)(step)`.

    `transform`, `batch_size` and `share` are as in `TrainBatch`. `records` are the test images, and `may_drop` is True.
    A corrupt image gets weight 0.
    """

    records: Records
    transform: Transform
    batch_size: int
    share: slice
    may_drop = True

    @property
    def stream(self) -> dict[str, int]:
        return {"images": len(self.records), "batch_size": self.batch_size}

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        records, weights = (a[step, self.share] for a in eval_order(len(self.records), self.batch_size))
        batch = _empty(records, weights.copy(), self.transform.image_size)
        for i, record in enumerate(records.tolist()):
            if not weights[i]:
                continue
            try:
                data, batch["label"][i] = self.records.read(record)
                batch["image"][i] = self.transform.evaluate(data)
            except images.CorruptImage:
                batch["corrupt"][i], batch["weight"][i] = record, 0
        return batch


def _empty(records, weights, size):
    n = len(records)
    return {
        "image": np.zeros((n, size, size, 3), np.uint8),
        "label": np.zeros(n, np.int32),
        "weight": weights,
        "record": records.copy(),
        "corrupt": np.full(n, -1, np.int32),
    }
