"""Data sets of encoded photographs that stay on the disk: ImageNet, Tiny-ImageNet, and folders of images."""

import dataclasses
import pathlib
from typing import ClassVar, Protocol

from recu_jax.data import array_records, folder, tfds
from recu_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from recu_jax.errors import UserError, unknown

NAMES = ("imagenet2012", "image_folder", "tiny_imagenet")
# SPEC.md section 7.
TINY_IMAGENET_MEAN, TINY_IMAGENET_STD = (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)


class Records(Protocol):
    """Encoded images. Any image can be read at any time. The object must be picklable, for worker processes."""

    def __len__(self) -> int: ...

    def read(self, i: int) -> tuple[bytes, int]:
        """Reads the encoded bytes of image `i` and its class.

        Raises:
          images.CorruptImage: the image cannot be read.
        """

    def name(self, i: int) -> str:
        """Names image `i` for messages: split, number and file."""


@dataclasses.dataclass(frozen=True)
class Photos:
    """A data set whose encoded images stay on the disk. The images of a `Dataset` are in memory.

    Attributes:
      train: the training images.
      test: the test images.
      num_classes: number of classes.
      mean: mean of each channel, for pixels scaled to [0, 1].
      std: standard deviation of each channel, for pixels scaled to [0, 1].
      in_memory: False. `Dataset` has True.
    """

    train: Records
    test: Records
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    in_memory: ClassVar[bool] = False

    def image_shape(self, image_size: int) -> tuple[int, ...]:
        """(height, width, channels) of every image after its crop to sides of `image_size` pixels."""
        return (image_size, image_size, 3)

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return len(self.train)

    @property
    def test_count(self) -> int:
        """Number of test images."""
        return len(self.test)


def load(name: str, data_dir: str | None = None) -> Photos:
    """Lists the images of the data set `name`. Does not read them.

    Args:
      name: one of `NAMES`.
      data_dir: for `imagenet2012`, TFDS's folder; None for TFDS's default. For the others, the folder that holds
        `train` and `val`.

    Raises:
      UserError: the name is unknown, the data is missing, or val has a class that train does not have.
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


def class_names(name: str, data_dir: str | None, num_classes: int) -> list[str]:
    """The names of the classes of the data set `name`.

    They come from TFDS or from the names of the class folders. Other data sets have the numbers 0, 1, ... as names.

    Args:
      name: one of `recu_jax.data.NAMES`.
      data_dir: as for `recu_jax.data.load`. The data set must exist there.
      num_classes: number of classes.
    """
    if name in tfds.NAMES or name == "imagenet2012":
        return list(tfds.prepared_builder(name, data_dir).info.features["label"].names)
    if name in NAMES and data_dir is not None:
        return folder.class_folders(pathlib.Path(data_dir) / "train")
    return [str(i) for i in range(num_classes)]
