"""Data sets by name: `load("digits")`."""

from recu_jax.data import digits, npz, photos, tfds
from recu_jax.data.dataset import Dataset, checked
from recu_jax.data.photos import Photos
from recu_jax.errors import UserError, unknown

NAMES = ("digits", "npz", *tfds.NAMES, *photos.NAMES)
# (height, width, channels) of images in memory, or None of photographs, and classes: of the data sets that always have
# the same.
KNOWN_SHAPES = {
    "digits": ((8, 8, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "mnist": ((32, 32, 1), 10),
    "imagenet2012": (None, 1000),
    "tiny_imagenet": (None, 200),
}


def load(name: str, data_dir: str | None = None, num_workers: int = 2) -> Dataset | Photos:
    """The data set `name`: a `Dataset` in memory, or `Photos`, encoded on the disk.

    Args:
      name: one of `NAMES`.
      data_dir: TFDS's folder for `cifar10`, `cifar100`, `mnist` and `imagenet2012`; the file's path for `npz`; the
        folder with train/ and val/ for `image_folder` and `tiny_imagenet`; unused for `digits`.
      num_workers: threads that decode images while a data set is loaded into memory.

    Raises:
      UserError: no such data set, or it is not there, or its arrays do not fit each other.
    """
    if name not in NAMES:
        raise unknown("dataset", name, NAMES)
    if name in photos.NAMES:
        return photos.load(name, data_dir)
    if name == "digits":
        return checked(digits.load(), "digits")
    if name == "npz":
        if data_dir is None:
            raise UserError("data_dir is not set; data set 'npz' needs the path of a .npz file")
        return checked(npz.load(data_dir), data_dir)
    return checked(tfds.load(name, data_dir, num_workers), name)
