"""Defines and checks a data set in memory: images, labels, and the mean and std that normalize the images."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from recu_jax.errors import UserError

MOST_CLASSES = 100_000  # with so many classes and 512 features, the last layer has 200 MB of weights
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set whose images are in memory.

    Attributes:
      train_images: uint8, (n, height, width, channels).
      train_labels: int32, (n,), in [0, num_classes).
      test_images: uint8, (n, height, width, channels).
      test_labels: int32, (n,), in [0, num_classes).
      num_classes: number of classes.
      mean: mean of each channel, for pixels scaled to [0, 1].
      std: standard deviation of each channel, for pixels scaled to [0, 1].
      class_names: one for each class; () if the classes have only numbers.
      train_records: index of each training image before `hold_out` took some away; None if none were taken.
      in_memory: True. `Photos` has False.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()
    train_records: np.ndarray | None = None

    in_memory: ClassVar[bool] = True

    def image_shape(self, image_size: int | None = None) -> tuple[int, ...]:
        """Returns (height, width, channels) of every image. `image_size` is ignored; `Photos` uses it."""
        del image_size
        return self.train_images.shape[1:]

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return len(self.train_images)

    @property
    def test_count(self) -> int:
        """Number of test images."""
        return len(self.test_images)

    def hold_out(self, count: int) -> "Dataset":
        """Returns the data set with other test images: `count` of the training images, drawn at random.

        The draw is always the same. The other images stay training images. With a count of 0 nothing changes.

        Raises:
          UserError: no training image would remain.
        """
        if not count:
            return self
        if count >= self.train_count:
            raise UserError(
                f"config.held_out is {count}, and there are {self.train_count} training images; hold out fewer"
            )
        drawn = np.random.default_rng(0).permutation(self.train_count)
        held, rest = np.sort(drawn[:count]), np.sort(drawn[count:])
        images, labels = self.train_images, self.train_labels
        return dataclasses.replace(
            self,
            train_images=images[rest],
            train_labels=labels[rest],
            test_images=images[held],
            test_labels=labels[held],
            train_records=rest,
        )

    def test_part(self) -> "Dataset":
        """Returns the data set without its training images."""
        return dataclasses.replace(self, train_images=self.test_images[:0], train_labels=self.test_labels[:0])


def checked(dataset: Dataset, source: str, splits: Sequence[str] = ("train", "test")) -> Dataset:
    """Checks the shapes, dtypes and labels of a data set, and returns it.

    Args:
      dataset: the data set.
      source: names the data set in the message.
      splits: the splits to check. An empty split is an error.

    Raises:
      UserError: an array has the wrong dtype or shape, a split is empty, a label is out of range, or there are more
        than `MOST_CLASSES` classes. The message gives the wrong value and the rule.
    """
    if dataset.num_classes > MOST_CLASSES:
        raise UserError(
            f"{source}: labels run to {dataset.num_classes - 1}, which makes {dataset.num_classes} classes; they must "
            f"count the classes from 0, at most {MOST_CLASSES}"
        )
    for split in splits:
        images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        if images.ndim != 4 or images.dtype != np.uint8:
            raise UserError(
                f"{source}: {split}_images is {images.dtype} of shape {images.shape}; it must be uint8 of shape "
                "(n, height, width, channels)"
            )
        if len(images) and not images.size:
            raise UserError(f"{source}: {split}_images is of shape {images.shape}, images without pixels")
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) != len(images):
            raise UserError(
                f"{source}: {split}_labels is {labels.dtype} of shape {labels.shape}; it must hold one integer for "
                f"each of the {len(images)} images"
            )
        if not len(labels):
            raise UserError(f"{source}: {split}_images is empty; at least one image is needed")
        if labels.min() < 0 or labels.max() >= dataset.num_classes:
            raise UserError(
                f"{source}: {split}_labels run from {labels.min()} to {labels.max()}; they must be in "
                f"[0, {dataset.num_classes})"
            )
    if dataset.train_images.shape[1:] != dataset.test_images.shape[1:]:
        raise UserError(
            f"{source}: training images are {dataset.train_images.shape[1:]} and test images "
            f"{dataset.test_images.shape[1:]}; they must have one shape"
        )
    return dataset
