"""Loads data sets by name: `load("digits")`."""

from recu_jax import paths
from recu_jax.data import digits, npz, photos, tfds
from recu_jax.data.dataset import Dataset, checked
from recu_jax.data.info import DatasetInfo, for_network
from recu_jax.data.info import from_record as from_record
from recu_jax.data.info import info_of as info_of
from recu_jax.data.photos import Photos
from recu_jax.errors import UserError, unknown

NAMES = ("digits", "npz", *tfds.NAMES, *photos.NAMES)
# Image shape (height, width, channels) and number of classes of each data set for which they are fixed. The shape of
# photographs is None, because it depends on `image_size`.
KNOWN_SHAPES: dict[str, tuple[tuple[int, ...] | None, int]] = {
    "digits": ((8, 8, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "mnist": ((32, 32, 1), 10),
    "imagenet2012": (None, 1000),
    "tiny_imagenet": (None, 200),
}


def shape_and_classes(name: str, data_dir: str | None, image_size: int) -> tuple[tuple[int, ...], int]:
    """Finds the image shape (height, width, channels) and the number of classes of the data set `name`.

    Args:
      name: as for `load`. The data set is loaded only if it is not in `KNOWN_SHAPES`.
      data_dir: as for `load`.
      image_size: height and width of photographs, in pixels.

    Raises:
      UserError: as in `load`.
    """
    if name not in KNOWN_SHAPES:
        dataset = load(name, data_dir)
        return dataset.image_shape(image_size), dataset.num_classes
    shape, classes = KNOWN_SHAPES[name]
    return shape or (image_size, image_size, 3), classes


def load(name: str, data_dir: str | None = None, num_workers: int = 2) -> Dataset | Photos:
    """Loads the data set `name`: a `Dataset` in memory, or `Photos`, whose encoded images stay on disk.

    Args:
      name: one of `NAMES`.
      data_dir: TFDS's folder for `cifar10`, `cifar100`, `mnist` and `imagenet2012`; the file's path for `npz`; the
        folder with train/ and val/ for `image_folder` and `tiny_imagenet`; unused for `digits`.
      num_workers: threads that decode images while a data set is loaded into memory.

    Raises:
      UserError: the name is unknown, the data is missing, or its arrays do not fit each other.
    """
    data_dir = _checked_source(name, data_dir)
    if name in photos.NAMES:
        return photos.load(name, data_dir)
    if name == "digits":
        return checked(digits.load(), "digits")
    if name == "npz":
        return checked(npz.load(data_dir), data_dir)
    return checked(tfds.load(name, data_dir, num_workers), name)


def load_test(
    name: str, data_dir: str | None = None, num_workers: int = 2, info: DatasetInfo | None = None
) -> Dataset | Photos:
    """Loads the test images of a data set for a trained network. The training images may be missing.

    The data set gets the normalization of `info`. Class folders get the class ids that their names have in `info`.

    Args:
      name, data_dir, num_workers: as for `load`.
      info: describes the data set that the network was trained on. With None, classes and normalization come from the
        data set `name`. A file of `npz` must then hold the training images too: mean and standard deviation are
        computed from them.

    Returns:
      The data set without training images.

    Raises:
      UserError: as in `load`; or the image shape or the classes do not fit `info`.
    """
    data_dir = _checked_source(name, data_dir)
    dataset: Dataset | Photos
    if name in photos.NAMES:
        known = info.class_names if info is not None and info.has_names else None
        dataset = photos.load(name, data_dir, test_only=True, class_names=known)
    elif name == "digits":
        dataset = digits.load().test_part()
    elif name == "npz":
        dataset = checked(npz.load(data_dir, test_only=info is not None), data_dir, ("test",)).test_part()
    else:
        dataset = checked(tfds.load(name, data_dir, num_workers, test_only=True), name, ("test",))
    return dataset if info is None else for_network(dataset, name, info)


def _checked_source(name, data_dir):
    if name not in NAMES:
        raise unknown("dataset", name, NAMES)
    if name == "npz" and data_dir is None:
        raise UserError("data_dir is not set; data set 'npz' needs the path of a .npz file")
    return data_dir and paths.local(data_dir, "data_dir")
