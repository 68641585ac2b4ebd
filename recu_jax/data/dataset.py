"""What a data set is to the rest of the library: four arrays and how to normalise them."""

import dataclasses

import numpy as np

from recu_jax.errors import UserError

MOST_CLASSES = 100_000  # 200 MB of weights of the last layer
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images in memory.

    Attributes:
      train_images, test_images: uint8, (n, height, width, channels).
      train_labels, test_labels: int32, (n,), in [0, num_classes).
      num_classes: number of classes.
      mean, std: per channel, of pixels scaled to [0, 1].
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def checked(dataset: Dataset, source: str) -> Dataset:
    """`dataset`, if its arrays fit each other.

    Raises:
      UserError: names the array, what it is, and what it must be.
    """
    if dataset.num_classes > MOST_CLASSES:
        raise UserError(
            f"{source}: labels run to {dataset.num_classes - 1}, which makes {dataset.num_classes} classes; they must "
            f"count the classes from 0, at most {MOST_CLASSES}"
        )
    for split in ("train", "test"):
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
