"""Data sets by name, all in memory as uint8: `load("digits")`."""

from recu_jax.data import digits, npz, tfds
from recu_jax.data.dataset import Dataset, checked
from recu_jax.errors import UserError, unknown

NAMES = ("digits", "npz", *tfds.NAMES)


def load(name: str, data_dir: str | None = None, num_workers: int = 2) -> Dataset:
    """The data set `name`.

    Args:
      name: one of `NAMES`.
      data_dir: TFDS's folder for `cifar10`, `cifar100` and `mnist`; the file's path for `npz`; unused for `digits`.
      num_workers: threads that decode images while they are loaded.

    Raises:
      UserError: no such data set, or it is not there, or its arrays do not fit each other.
    """
    if name not in NAMES:
        raise unknown("dataset", name, NAMES)
    if name == "digits":
        return checked(digits.load(), "digits")
    if name == "npz":
        if data_dir is None:
            raise UserError("data_dir is not set; data set 'npz' needs the path of a .npz file")
        return checked(npz.load(data_dir), data_dir)
    return checked(tfds.load(name, data_dir, num_workers), name)
