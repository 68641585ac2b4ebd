"""One batch of photographs as a function of its step: which images, read, decoded, cropped; picklable, for workers."""

import dataclasses

import numpy as np

from recu_jax.data import images
from recu_jax.data.order import eval_order, train_order
from recu_jax.data.photos import Records
from recu_jax.data.transform import Transform

# Of images in a row that cannot be decoded, before a disk or a download is to blame and not an image.
SKIP_AT_MOST = 1000


@dataclasses.dataclass(frozen=True)
class TrainBatch:
    """`batch = TrainBatch(...)(step)`: a training step's share of images.

    Attributes:
      records, transform, seed, batch_size: see `stream.train_batches`.
      share: columns of the batch to make.
      skip: whether a corrupt image's place is taken by the next image, by number, that is not.
      may_drop: whether weight 0 is a way to do without an image.
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
        """What a step's number means other images without."""
        return {"images": len(self.records), "batch_size": self.batch_size, "seed": self.seed}

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        n = len(self.records)
        epoch, row = divmod(step, n // self.batch_size)
        records = train_order(self.seed, epoch, n, self.batch_size)[row, self.share]
        batch = _empty(records, np.ones(len(records), np.float32), self.transform.image_size)
        for i, record in enumerate(records.tolist()):
            for candidate in range(record, record + (min(n, SKIP_AT_MOST + 1) if self.skip else 1)):
                # The last word keeps record 0 apart from the epoch's order: NumPy pads its entropy with zeros.
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
    """`batch = EvalBatch(...)(step)`: an evaluation step's share of images; attributes as `TrainBatch`."""

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
