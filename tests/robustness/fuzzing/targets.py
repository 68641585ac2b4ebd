"""Defines targets: readers of bytes from outside, each with the values that it may return.

A target is a function of an empty folder of its own. It returns the samples that cases damage, and a function that
reads a case and asserts that its value is valid.
"""

import json
import pathlib
import zlib
from collections.abc import Callable

import numpy as np

from tests.robustness.fuzzing import samples

Reader = Callable[[bytes], None]


def jpeg_header(folder):
    from recu_jax.data import images

    def read(data):
        header = images.jpeg_header(data)
        if header is not None:
            assert header.height > 0 and header.width > 0 and 0 < header.height_at < header.end_at <= len(data)

    return [s for s in samples.photographs() if s[:2] == b"\xff\xd8"], read


def decode(folder):
    from recu_jax.data import images

    images.quiet_opencv()

    def read(data):
        rows, reduce = [(None, 1), (20, 1), (None, 2), (16, 4)][len(data) % 4]
        image = images.decode(data, rows=rows, reduce=reduce)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0

    return samples.photographs(), read


def transform(folder):
    from recu_jax.data import images
    from recu_jax.data.transform import Transform

    images.quiet_opencv()
    kinds = [Transform(16, eval_resize=20), Transform(24, crop="resize", rotation_degrees=20.0)]

    def read(data):
        for kind in kinds:
            for image in (kind.train(data, np.random.default_rng(0)), kind.evaluate(data)):
                assert image.dtype == np.uint8 and image.shape == (kind.image_size, kind.image_size, 3)

    return samples.photographs(), read


def example(folder):
    from recu_jax.data.array_records import example_fields

    def read(data):
        for name, value in example_fields(data):
            assert type(name) is str and type(value) in (bytes, int)
            assert len(value) <= len(data) if isinstance(value, bytes) else 0 <= value < 2**64

    return samples.examples(), read


def array_record(folder):
    from recu_jax.data.array_records import ArrayRecords
    from recu_jax.data.images import CorruptImage

    path = folder / "case.array_record"

    def read(data):
        path.write_bytes(data)
        records = ArrayRecords("train", [(str(path), 0, 3)], samples.CLASSES)
        refused = None
        for i in range(3):
            name = records.name(i)
            assert name.startswith(f"train image {i} (") and "\n" not in name
            try:
                image, label = records.read(i)
                assert type(image) is bytes and 0 <= label < samples.CLASSES
            except CorruptImage as error:
                refused = error
        if refused is not None:
            raise refused

    return samples.array_records(folder), read


def npz(folder):
    from recu_jax import data as datasets

    path = folder / "case.npz"

    def read(data):
        path.write_bytes(data)
        d = datasets.load("npz", str(path))
        for images, labels in ((d.train_images, d.train_labels), (d.test_images, d.test_labels)):
            assert images.dtype == np.uint8 and images.ndim == 4 and len(images) == len(labels) > 0
            assert labels.dtype == np.int32 and labels.min() >= 0 and labels.max() < d.num_classes
        assert len(d.mean) == len(d.std) == images.shape[-1] and np.isfinite(d.mean + d.std).all() and min(d.std) > 0

    return [*samples.arrays() * 12, samples.bomb()], read


def annotations(folder):
    from recu_jax.data import photos

    picture = samples.photographs()[0]
    for i in range(3):
        (folder / f"train/n0{i}").mkdir(parents=True)
        (folder / f"train/n0{i}/0.JPEG").write_bytes(picture)
    (folder / "val/images").mkdir(parents=True)
    for i in range(8):
        (folder / f"val/images/val_{i}.JPEG").write_bytes(picture)

    def read(data):
        (folder / "val/val_annotations.txt").write_bytes(data)
        p = photos.load("tiny_imagenet", str(folder))
        for i in range(len(p.test)):
            assert "\n" not in p.test.name(i).removeprefix(str(folder))
            assert 0 <= p.test.labels[i] < 3
        assert p.test.read(0)[0] == picture

    return samples.annotations(), read


def metrics(folder):
    from recu_jax import records as logbook

    path = folder / "metrics.jsonl"

    def read(data):
        path.write_bytes(data)
        for row in logbook.read_epochs(path):
            assert type(row) is dict and type(row["epoch"]) is int and type(row["step"]) is int

    return samples.metrics(), read


def position(folder):
    """Reads saved positions of a stream from JSON. If a position is not refused, the next batch is that of its step."""
    from recu_jax.data import photos, stream

    for split, n in (("train", 11), ("val", 2)):
        (folder / split / "a").mkdir(parents=True)
        for i in range(n):
            (folder / split / "a" / f"{i:02}.bmp").write_bytes(samples.photographs()[5])
    records = photos.load("image_folder", str(folder)).train
    options = {"seed": 3, "batch_size": 4, "epochs": 6, "transform": stream.Transform(8, eval_resize=8)}
    batches = stream.train_batches(records, **options, num_workers=0)
    expected, saved = [], []
    for _ in range(12):
        saved.append(json.dumps(batches.get_state()).encode())
        expected.append(next(batches)["record"].tolist())

    def read(data):
        try:
            state = json.loads(data)
        except (ValueError, RecursionError):  # any reader of JSON notices this, so another position is read
            state = _changed(np.random.default_rng(zlib.crc32(data)), json.loads(saved[len(data) % len(saved)]))
        batches.set_state(state)
        step = batches.step
        assert type(step) is int and 0 <= step <= 12 and step == state["step"]
        if step < 12:
            assert next(batches)["record"].tolist() == expected[step]

    return saved, read


def _changed(rng, state):
    """Returns a position in which some values are replaced by anything, or missing."""
    anything = [None, True, -1, 5, 3.0, 2**70, "", "train", [], [1], {}, {"images": 11}, float("nan"), "x" * 1000]
    for _ in range(rng.integers(1, 4)):
        inner = state
        while isinstance(inner, dict) and inner:
            key = list(inner)[rng.integers(len(inner))]
            if not isinstance(inner[key], dict) or rng.random() < 0.3:
                inner[key] = anything[rng.integers(len(anything))]
                if rng.random() < 0.2:
                    del inner[key]
                break
            inner = inner[key]
    return state if rng.random() < 0.95 else anything[rng.integers(len(anything))]


def tfds_folder(folder):
    """Reads TFDS's description of a data set: dataset_info.json and features.json, one of which is damaged."""
    from recu_jax.data import photos

    description = _tfds_description()
    samples_ = [json.dumps(content).encode() for content in description.values()]
    version = folder / "imagenet2012" / "5.1.0"
    version.mkdir(parents=True)
    for split in ("train", "validation"):
        (version / f"imagenet2012-{split}.array_record-00000-of-00001").write_bytes(samples.array_records(folder)[0])

    def read(data):
        damaged = "features.json" if b"featuresDict" in data else "dataset_info.json"
        for name, content in description.items():
            (version / name).write_bytes(data if name == damaged else json.dumps(content).encode())
        p = photos.load("imagenet2012", str(folder))
        assert len(p.train) > 0 and len(p.test) > 0 and p.num_classes > 0

    return samples_, read


def _tfds_description():
    def split(name):
        return {
            "name": name, "numBytes": "2000", "shardLengths": ["3"],
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }  # fmt: skip

    kind = "tensorflow_datasets.core.features"
    feature = {
        "file_name": {"pythonClassName": f"{kind}.text_feature.Text", "text": {}},
        "image": {
            "pythonClassName": f"{kind}.image_feature.Image",
            "image": {"dtype": "uint8", "encodingFormat": "jpeg", "shape": {"dimensions": ["-1", "-1", "3"]}},
        },
        "label": {"pythonClassName": f"{kind}.class_label_feature.ClassLabel", "classLabel": {"numClasses": "10"}},
    }
    return {
        "features.json": {
            "pythonClassName": f"{kind}.features_dict.FeaturesDict", "featuresDict": {"features": feature},
        },
        "dataset_info.json": {
            "fileFormat": "array_record", "name": "imagenet2012", "version": "5.1.0", "moduleName": "a",
            "splits": [split("train"), split("validation")],
        },
    }  # fmt: skip


def torch_file(folder):
    from recu_jax.pytorch import files as torch_files

    path = folder / "case.pth.tar"

    def read(data):
        path.write_bytes(data)
        file = torch_files.read(path)
        assert file.state_dict and all(type(k) is str for k in file.state_dict)
        assert all(isinstance(v, np.ndarray) and v.dtype != object for v in file.state_dict.values())
        assert file.epoch is None or type(file.epoch) is int
        assert file.best_top1 is None or np.isfinite(file.best_top1)

    return samples.checkpoints(), read


def torch_variables(folder):
    from flax.traverse_util import flatten_dict

    from recu_jax.pytorch import variables as torch_import

    path = folder / "case.pth.tar"

    def read(data):
        path.write_bytes(data)
        variables = torch_import.load_variables(path, "digits_resnet8")
        for array in flatten_dict(variables).values():
            assert array.dtype in (np.float32, np.float64) and np.isfinite(array).all()

    return [s for s in samples.checkpoints() if len(s) > 100_000], read


# By name: the function that makes the target, the share of `--cases` that it gets, and whether it needs PyTorch.
TARGETS: dict[str, tuple[Callable[[pathlib.Path], tuple[list[bytes], Reader]], float, bool]] = {
    "jpeg_header": (jpeg_header, 1.0, False),
    "decode": (decode, 1.0, False),
    "transform": (transform, 1.0, False),
    "example": (example, 1.0, False),
    "array_record": (array_record, 1.0, False),
    "npz": (npz, 1.0, False),
    "annotations": (annotations, 1.0, False),
    "metrics": (metrics, 1.0, False),
    "position": (position, 0.2, False),
    "tfds_folder": (tfds_folder, 0.2, False),
    "torch_file": (torch_file, 1.0, True),
    "torch_variables": (torch_variables, 0.2, True),
}
