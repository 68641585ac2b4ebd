"""Loads CIFAR-10, CIFAR-100 and MNIST from array_record files of TensorFlow Datasets (TFDS), without TensorFlow."""

import concurrent.futures
import importlib.util
import pathlib
from typing import Any

import numpy as np
from absl import logging

from recu_jax.data import array_records, images
from recu_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset
from recu_jax.errors import UserError, one_line, require

# Mean and std (SPEC.md section 7), and the zero padding on each side of an image: MNIST's 28x28 pixels become 32x32.
_SETS = {
    "cifar10": (IMAGENET_MEAN, IMAGENET_STD, 0),
    "cifar100": ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276), 0),
    "mnist": ((0.5,), (0.5,), 2),
}
NAMES = tuple(_SETS)
_CHUNK = 1000  # records read by one call; a call for each image would cost more than decoding the image

# Data sets that a user must download by hand. For each: what to do before TFDS can prepare the data set, and what to do
# instead.
_BY_HAND = {
    "imagenet2012": (
        "put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org into {where}/downloads/manual, ",
        "; or unpack them to train/CLASS and val/CLASS and use data set 'image_folder'",
    ),
}


def load(name: str, data_dir: str | None = None, num_workers: int = 2, test_only: bool = False) -> Dataset:
    """Loads a data set that TFDS has prepared. If TensorFlow is installed, TFDS prepares a missing data set first.

    Args:
      name: `cifar10`, `cifar100` or `mnist`.
      data_dir: TFDS's folder. None is TFDS's default, `~/tensorflow_datasets`.
      num_workers: number of threads that decode.
      test_only: leaves out the training images. They may then be missing.

    Raises:
      UserError: the data is missing or damaged, has another file format, or cannot be downloaded. The message says
        what to do.
    """
    mean, std, padding = _SETS[name]
    builder = prepared_builder(name, data_dir)
    label = builder.info.features["label"]

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        images, labels = _decode(array_records.from_builder(builder, split), num_workers, len(mean))
        return np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0))), labels

    test = read("test")
    train = (test[0][:0], test[1][:0]) if test_only else read("train")
    return Dataset(*train, *test, label.num_classes, mean, std, tuple(label.names))


def prepared_builder(name: str, data_dir: str | None = None) -> Any:
    """Returns TFDS's builder of a data set that exists as array_record files.

    If the data set is missing and TensorFlow is installed, TFDS prepares it first.

    Args:
      name: name of the data set in TFDS.
      data_dir: as for `load`.

    Raises:
      UserError: as in `load`.
    """
    require("tensorflow_datasets", "array_record", "cv2", extra="data")
    if data_dir is not None:
        folder = pathlib.Path(data_dir)
        if folder.name == name and not (folder / name).exists():
            raise UserError(f"data_dir is {data_dir}; it must be the folder that holds {name}: {folder.parent}")
        if not folder.is_dir():
            raise UserError(f"data_dir is {data_dir}, which is no folder; give TFDS's folder, or make it first")
    import tensorflow_datasets as tfds

    where = data_dir or "~/tensorflow_datasets"
    first, otherwise = _BY_HAND.get(name, ("", ""))
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # TFDS logs warnings about errors that this function also raises
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(f"TFDS does not find {name!r} in {where}: {str(error).splitlines()[0]}") from error
    except Exception as error:  # TFDS raises exceptions of many types for its own damaged files
        raise UserError(
            f"TFDS cannot read {name} in {where}: {one_line(error, 300)}; copy the folder there again, or prepare it "
            "anew"
        ) from error
    else:
        is_prepared = builder.is_prepared()
    finally:
        logging.set_verbosity(verbosity)
    if not is_prepared:
        if importlib.util.find_spec("tensorflow") is None:
            raise UserError(
                f"no {name} in {where}; to have TFDS {'' if first else 'download and '}prepare it there, once, "
                f"{first.format(where=where)}type: pip install tensorflow, and run the same command "
                f"again{otherwise}"
            )
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        try:
            builder.download_and_prepare()
        except Exception as error:  # errors of the download, the disk and TFDS need the same advice
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            first = first and "; " + first.format(where=where).removesuffix(", ")
            raise UserError(f"TFDS could not prepare {name} in {where}: {reason}{first}{otherwise}") from error
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{builder.data_path} is in {builder.info.file_format.value} form, which needs TensorFlow; convert it "
            f"once: tfds convert_format --dataset_dir={builder.data_path} --out_file_format=array_record --overwrite"
        )
    return builder


def _decode(records, num_workers: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    def one(i):
        try:
            return decode(*records.read(i))
        except images.CorruptImage as error:
            raise UserError(f"cannot decode {records.name(i)}: {error}; copy or prepare the data set again") from error

    def decode(data, label):
        return images.decode(data)[..., :channels], label

    def chunk(start):
        stop = min(start + _CHUNK, len(records))
        try:
            return [decode(*record) for record in records.read_range(start, stop)]
        except images.CorruptImage:
            return [one(i) for i in range(start, stop)]  # one by one, to name the corrupt image

    with concurrent.futures.ThreadPoolExecutor(max(num_workers, 1)) as pool:
        decoded = [image for part in pool.map(chunk, range(0, len(records), _CHUNK)) for image in part]
    shapes = {image.shape for image, _ in decoded}
    if len(shapes) > 1:
        raise UserError(f"the images are of several shapes, {', '.join(map(str, sorted(shapes)))}; prepare them again")
    return np.stack([image for image, _ in decoded]), np.array([label for _, label in decoded], np.int32)
