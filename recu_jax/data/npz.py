"""Reads a user's own data set: a .npz file with `train_images`, `train_labels`, `test_images` and `test_labels`."""

import math
import os
import pathlib
import zipfile

import numpy as np

from recu_jax.data.dataset import Dataset
from recu_jax.errors import UserError, one_line

TEST_KEYS = ("test_images", "test_labels")
KEYS = ("train_images", "train_labels", *TEST_KEYS)
# The arrays may unpack to 256 MB, or to 100 times the file's size if that is more. Compression halves photographs and
# reduces drawings to a tenth, while a malicious file can reach 1:1,032, the limit of deflate.
_FEW_BYTES, _UNPACKED_A_BYTE = 256 << 20, 100


def load(path: str, test_only: bool = False) -> Dataset:
    """Reads a .npz file. Computes mean and standard deviation of each channel from the training images.

    With `test_only`, the file needs no training images, and mean and standard deviation are ().

    The images must be uint8, (n, height, width, channels) or (n, height, width). The labels must be integers from 0.
    `dataset.checked` checks these rules afterwards.

    Raises:
      UserError: the file does not exist, is not a .npz file, or unpacks to too many bytes. Or an array is missing,
        holds Python objects, or states a size that the file cannot hold.
    """
    if not pathlib.Path(path).is_file():
        raise UserError(f"data_dir is {path!r}, where there is no file; data set 'npz' needs the path of a .npz file")
    try:
        # Open the file here, because NumPy does not close a file that it cannot read.
        with open(path, "rb") as opened:
            keys = TEST_KEYS if test_only else KEYS
            _check_sizes(path, opened, keys)
            with np.load(opened, allow_pickle=False) as file:
                arrays = [file[k] for k in keys]
    except UserError:
        raise
    except Exception as error:  # zipfile and NumPy raise many types of errors for damaged bytes
        raise UserError(f"{path} cannot be read as a .npz file without pickles: {one_line(error, 200)}") from error
    images = [a[..., None] if a.ndim == 3 else a for a in arrays[::2]]
    labels = [_as_int32(a) for a in arrays[1::2]]
    num_classes = int(max((y.max(initial=0) for y in labels if y.dtype == np.int32), default=0)) + 1
    if test_only:
        return Dataset(images[0], labels[0], images[0], labels[0], num_classes, (), ()).test_part()
    mean, std = _channel_statistics(images[0])
    return Dataset(images[0], labels[0], images[1], labels[1], num_classes, mean, std)


def _check_sizes(path, opened, keys):
    """Checks the sizes that the arrays state. Without this check, NumPy allocates any stated size before it reads."""
    with zipfile.ZipFile(opened) as file:
        entries = {entry.filename: entry for entry in file.infolist()}
        missing = [k for k in keys if f"{k}.npy" not in entries]
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}; it must hold {', '.join(keys)}")
        unpacked = 0
        for key in keys:
            entry = entries[f"{key}.npy"]
            with file.open(entry) as array:
                nbytes = _stated_bytes(array)
            if nbytes > entry.file_size:
                raise UserError(
                    f"{path}: {key} states {nbytes} bytes and has at most {entry.file_size}; the file is damaged: save "
                    "it again"
                )
            unpacked += entry.file_size
    size = os.fstat(opened.fileno()).st_size
    opened.seek(0)
    if unpacked > max(_FEW_BYTES, _UNPACKED_A_BYTE * size):
        raise UserError(
            f"{path} has {size} bytes and unpacks to {unpacked}, more than {_UNPACKED_A_BYTE} times as many; save the "
            "arrays with numpy.savez, unpacked"
        )


def _stated_bytes(array):
    version = np.lib.format.read_magic(array)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(array)
    return math.prod(shape) * dtype.itemsize


def _as_int32(labels: np.ndarray) -> np.ndarray:
    """Converts integers to int32. Values that do not fit are clipped, and `dataset.checked` then refuses them."""
    if not np.issubdtype(labels.dtype, np.integer):
        return labels
    # The limit is one less than the largest int32, so that the number of classes fits into an int32 too.
    least, most = (max(-(2**31), np.iinfo(labels.dtype).min), min(2**31 - 2, np.iinfo(labels.dtype).max))
    return labels.clip(least, most).astype(np.int32)


def _channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if images.ndim != 4 or not images.size or images.dtype != np.uint8:
        return (), ()  # `dataset.checked` raises the error
    # Counting the pixels of each value from 0 to 255 gives exact results. `np.std` would copy the images to float64,
    # eight times their size.
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / (images.size // images.shape[-1])
        means.append(float(share @ levels))
        stds.append(float(np.sqrt(share @ (levels - means[-1]) ** 2)))
    return tuple(means), tuple(s if s > 0 else 1.0 for s in stds)
