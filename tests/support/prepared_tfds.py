"""Writes data sets as TFDS prepares them, without the original files."""

import io
import pathlib

import cv2
import tensorflow_datasets as tfds


def prepare(data_dir, name, version, images, labels):
    """Writes a data set of this name as TFDS itself would. The last five images are its test split."""
    features = {"image": tfds.features.Image(shape=images[0].shape), "label": tfds.features.ClassLabel(num_classes=10)}

    def examples(part):
        for i, (image, label) in enumerate(zip(images[part], labels[part], strict=True)):
            png = cv2.imencode(".png", image if image.shape[-1] == 1 else image[..., ::-1])[1].tobytes()
            yield i, {"image": io.BytesIO(png), "label": int(label)}  # an array instead of bytes would need TensorFlow

    methods = {
        "VERSION": tfds.core.Version(version),
        "pkg_dir_path": pathlib.Path(__file__).parent,
        "_info": lambda self: tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features)),
        "_split_generators": lambda self, _: {"train": examples(slice(0, -5)), "test": examples(slice(-5, None))},
        "_generate_examples": lambda self: (),
    }
    with tfds.core.registered.skip_registration():
        builder = type(name.capitalize(), (tfds.core.GeneratorBasedBuilder,), methods)
    builder(data_dir=data_dir, file_format="array_record").download_and_prepare()


def prepare_imagenet(data_dir, per_split):
    """Writes images as TFDS itself would write ImageNet, and returns the builder.

    `per_split` maps each split to its images, as (file name, JPEG bytes, label).
    """
    features = {
        "file_name": tfds.features.Text(),
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=1000),
    }

    def examples(split):
        for name, data, label in per_split[split]:
            yield name, {"file_name": name, "image": io.BytesIO(data), "label": label}

    methods = {
        "VERSION": tfds.core.Version("5.1.0"),
        "pkg_dir_path": pathlib.Path(__file__).parent,
        "_info": lambda self: tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features)),
        "_split_generators": lambda self, _: {split: examples(split) for split in per_split},
        "_generate_examples": lambda self: (),
    }
    with tfds.core.registered.skip_registration():
        builder = type("Imagenet2012", (tfds.core.GeneratorBasedBuilder,), methods)
    builder = builder(data_dir=data_dir, file_format="array_record")
    config = tfds.download.DownloadConfig(num_shards=3)
    builder.download_and_prepare(download_config=config)
    return builder
