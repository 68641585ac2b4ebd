"""Describes the data set that a network was trained on: name, image shape, classes and normalization.

Every checkpoint of a run records the description.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from recu_jax.data.dataset import Dataset
from recu_jax.data.photos import Photos
from recu_jax.errors import UserError, first_few

_LISTED = 3  # class names in a message


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Describes a data set without its images.

    Attributes:
      name: one of `recu_jax.data.NAMES`.
      image_shape: (height, width, channels) of the network's images.
      class_names: one for each class. Without names they are the numbers "0", "1", ...
      mean: mean of each channel, for pixels scaled to [0, 1].
      std: standard deviation of each channel, for pixels scaled to [0, 1].
    """

    name: str
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def has_names(self) -> bool:
        """Whether the classes have names other than their numbers."""
        return self.class_names != _numbers(self.num_classes)

    def as_json(self) -> dict[str, Any]:
        """Returns the attributes as a dict, for the record of a checkpoint."""
        return dataclasses.asdict(self)


def info_of(name: str, dataset: Dataset | Photos, image_size: int) -> DatasetInfo:
    """Describes a loaded data set.

    Args:
      name: of the data set.
      dataset: the data set.
      image_size: height and width of photographs, in pixels.
    """
    names = dataset.class_names or _numbers(dataset.num_classes)
    return DatasetInfo(name, tuple(dataset.image_shape(image_size)), tuple(names), dataset.mean, dataset.std)


def from_record(record: Mapping[str, Any], workdir: str | pathlib.Path) -> DatasetInfo | None:
    """Reads the description of the data set from a checkpoint's record. Returns None for imported weights.

    Args:
      record: of the checkpoint. Its entry "dataset", if any, is a result of `DatasetInfo.as_json`.
      workdir: names the checkpoint's folder in the message.

    Raises:
      UserError: the entry does not have the form that a run writes.
    """
    said = record.get("dataset")
    if said is None:
        return None
    try:
        parts = {k: tuple(v) for k, v in said.items() if k != "name"}
        return DatasetInfo(name=said["name"], **parts)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{workdir}: the record of the data set is not what a run writes; bring it from a copy"
        ) from error


def for_network(dataset: Dataset | Photos, name: str, info: DatasetInfo) -> Dataset | Photos:
    """Returns a copy of a data set with the number of classes and the normalization that a network was trained with.

    Args:
      dataset: the data set that holds the test images.
      name: of the data set, for the message.
      info: describes the data set that the network was trained on.

    Raises:
      UserError: the data set has other class names, more classes, or images of another shape. Photographs are
        compared after the crop: their shape is (h, h, 3), where h is the height of the network's images.
    """
    shape = dataset.image_shape(info.image_shape[0])
    if shape != info.image_shape:
        raise UserError(
            f"{name} has images of {_by(shape)}; the run was trained on {_by(info.image_shape)} of {info.name}"
        )
    theirs = dataset.class_names or _numbers(dataset.num_classes)
    named = dataset.class_names and info.has_names
    if (named and theirs != info.class_names) or len(theirs) > info.num_classes:
        raise UserError(
            f"{name} has {len(theirs)} classes ({first_few(theirs, _LISTED, ', ')}); the run was trained on the "
            f"{info.num_classes} of {info.name} ({first_few(info.class_names, _LISTED, ', ')}); they must be the same"
        )
    return dataclasses.replace(dataset, num_classes=info.num_classes, mean=info.mean, std=info.std)


def _numbers(count):
    return tuple(str(i) for i in range(count))


def _by(shape):
    return "x".join(map(str, shape))
