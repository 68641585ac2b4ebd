"""Data sets of encoded photographs, which stay on disk: ImageNet, Tiny-ImageNet, anyone's folders of images."""

import dataclasses
from typing import Protocol

from recu_jax.data import array_records, folder, tfds
from recu_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from recu_jax.errors import UserError, unknown

NAMES = ("imagenet2012", "image_folder", "tiny_imagenet")
# SPEC.md section 7.
TINY_IMAGENET_MEAN, TINY_IMAGENET_STD = (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)


class Records(Protocol):
    """Encoded images in random access; picklable, for worker processes."""

    def __len__(self) -> int: ...

    def read(self, i: int) -> tuple[bytes, int]:
        """The bytes of image `i` as they are on disk, and its class.

        Raises:
          images.CorruptImage: they cannot be read.
        """

    def name(self, i: int) -> str:
        """How an error names image `i`: split, number and file."""


@dataclasses.dataclass(frozen=True)
class Photos:
    """Images on disk; the counterpart of `Dataset`, whose images are in memory.

    Attributes:
      train, test: the records.
      num_classes: number of classes.
      mean, std: per channel, of pixels scaled to [0, 1].
    """

    train: Records
    test: Records
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load(name: str, data_dir: str | None = None) -> Photos:
    """The data set `name`; reads what images there are, none of them.

    Args:
      name: one of `NAMES`.
      data_dir: for `imagenet2012` TFDS's folder, None for its default; for the others the folder that holds `train`
        and `val`.

    Raises:
      UserError: no such data set, or it is not there, or its folders do not fit each other.
    """
    if name not in NAMES:
        raise unknown("dataset", name, NAMES)
    train: Records
    test: Records
    if name == "imagenet2012":
        builder = tfds.prepared_builder(name, data_dir)
        train, test = (array_records.from_builder(builder, split) for split in ("train", "validation"))
        num_classes = builder.info.features["label"].num_classes
    else:
        if data_dir is None:
            raise UserError(f"data_dir is not set; data set {name!r} needs the folder that holds train and val")
        train, test, num_classes = folder.load(data_dir)
    statistics = (IMAGENET_MEAN, IMAGENET_STD)
    if name == "tiny_imagenet":
        statistics = (TINY_IMAGENET_MEAN, TINY_IMAGENET_STD)
    return Photos(train, test, num_classes, *statistics)
