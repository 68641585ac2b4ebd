"""Lists data sets of encoded photographs that stay on the disk: ImageNet, Tiny-ImageNet, and folders of images."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Protocol

from recu_jax.data import array_records, folder, tfds
from recu_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from recu_jax.errors import UserError, unknown

NAMES = ("imagenet2012", "image_folder", "tiny_imagenet")
# SPEC.md section 7.
TINY_IMAGENET_MEAN, TINY_IMAGENET_STD = (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)


class Records(Protocol):
    """Encoded images. They can be read in any order. The object must be picklable, for worker processes."""

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
      class_names: one for each class; () if the classes have only numbers.
      in_memory: False. `Dataset` has True.
    """

    train: Records
    test: Records
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()

    in_memory: ClassVar[bool] = False

    def image_shape(self, image_size: int) -> tuple[int, ...]:
        """Returns (height, width, channels) of every image after its crop to sides of `image_size` pixels."""
        return (image_size, image_size, 3)

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return len(self.train)

    @property
    def test_count(self) -> int:
        """Number of test images."""
        return len(self.test)

    def hold_out(self, count: int) -> "Photos":
        """Returns this data set. Raises UserError if `count` is not 0: only images in memory can be held out."""
        if count:
            raise UserError(
                f"config.held_out is {count}, and these photographs stay on the disk; leave the field out, or move "
                "photographs from train/ to val/"
            )
        return self


def load(
    name: str, data_dir: str | None = None, test_only: bool = False, class_names: Sequence[str] | None = None
) -> Photos:
    """Lists the images of the data set `name` without reading them.

    Args:
      name: one of `NAMES`.
      data_dir: for `imagenet2012`, TFDS's folder; None for TFDS's default. For the other data sets, the folder that
        holds `train` and `val`.
      test_only: leaves out the training images. They may then be missing.
      class_names: for folders, names of the classes in the order of their ids. None takes the classes of `train`,
        or those of `val` if there is no `train`.

    Raises:
      UserError: `name` is unknown, the data is missing or damaged, or a class is not one of the allowed names.
    """
    if name not in NAMES:
        raise unknown("dataset", name, NAMES)
    train: Records
    test: Records
    if name == "imagenet2012":
        builder = tfds.prepared_builder(name, data_dir)
        test = array_records.from_builder(builder, "validation")
        train = folder.NO_RECORDS if test_only else array_records.from_builder(builder, "train")
        names = builder.info.features["label"].names
    else:
        if data_dir is None:
            raise UserError(f"data_dir is not set; data set {name!r} needs the folder that holds train and val")
        train, test, names = folder.load(data_dir, test_only, class_names)
    statistics = (IMAGENET_MEAN, IMAGENET_STD)
    if name == "tiny_imagenet":
        statistics = (TINY_IMAGENET_MEAN, TINY_IMAGENET_STD)
    return Photos(train, test, len(names), *statistics, tuple(names))
