"""What the classes of a data set are called."""

import pathlib

from recu_jax.data import photos, tfds
from recu_jax.data.folder import class_folders


def class_names(name: str, data_dir: str | None, num_classes: int) -> list[str]:
    """A name for each class of data set `name`: TFDS's, or the folders', or the numbers where there are no others.

    Args:
      name: one of `recu_jax.data.NAMES`.
      data_dir: as for `recu_jax.data.load`, which has found the data set there.
      num_classes: number of classes.
    """
    if name in tfds.NAMES or name == "imagenet2012":
        return list(tfds.prepared_builder(name, data_dir).info.features["label"].names)
    if name in photos.NAMES and data_dir is not None:
        return class_folders(pathlib.Path(data_dir).expanduser() / "train")
    return [str(i) for i in range(num_classes)]
