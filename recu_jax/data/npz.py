"""Anyone's arrays: a NumPy file with train_images, train_labels, test_images, test_labels."""

import pathlib
import zipfile

import numpy as np

from recu_jax.data.dataset import Dataset
from recu_jax.errors import UserError

KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def load(path: str) -> Dataset:
    """Reads the file; mean and standard deviation of each channel come from its training images.

    Images are uint8, (n, height, width, channels) or (n, height, width); labels integers from 0.

    Raises:
      UserError: no such file, not an npz file, an array missing, or one that holds Python objects.
    """
    if not pathlib.Path(path).is_file():
        raise UserError(f"data_dir is {path!r}, where there is no file; data set 'npz' needs the path of a .npz file")
    try:
        # Opened here: NumPy leaves a file open that it cannot read.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            missing = [k for k in KEYS if k not in file]
            if missing:
                raise UserError(f"{path} lacks {', '.join(missing)}; it must hold {', '.join(KEYS)}")
            arrays = [file[k] for k in KEYS]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read as a .npz file without pickles: {error}") from error
    images = [a[..., None] if a.ndim == 3 else a for a in arrays[::2]]
    labels = [a.astype(np.int32) if np.issubdtype(a.dtype, np.integer) else a for a in arrays[1::2]]
    num_classes = int(max((y.max(initial=0) for y in labels if y.dtype == np.int32), default=0)) + 1
    mean, std = _channel_statistics(images[0])
    return Dataset(images[0], labels[0], images[1], labels[1], num_classes, mean, std)


def _channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if images.ndim != 4 or not images.size:
        return (), ()  # `checked` says what is wrong
    axes = (0, 1, 2)
    std = images.std(axes, dtype=np.float64) / 255
    mean = images.mean(axes, dtype=np.float64) / 255
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
