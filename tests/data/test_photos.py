"""Tests loading data sets of photographs by name, and ImageNet as TFDS prepares it."""

import importlib.util
import json
import pickle

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from recu_jax import UserError
from recu_jax.data import photos
from tests.support.prepared_tfds import prepare_imagenet


def test_unknown_name_and_missing_folder():
    with pytest.raises(UserError, match="did you mean 'imagenet2012'"):
        photos.load("imagenet", None)
    with pytest.raises(UserError, match="data_dir is not set"):
        photos.load("image_folder")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    r = np.random.default_rng(0)
    per_split = {"train": [], "validation": []}
    for i, label in enumerate([0, 1, 127, 128, 300, 999, 5, 6, 7, 8]):
        data = cv2.imencode(".jpg", r.integers(0, 256, (40, 50, 3), np.uint8))[1].tobytes()
        per_split["train" if i < 7 else "validation"].append((f"n{i}.JPEG", data, label))
    return root, per_split, prepare_imagenet(root, per_split)


@pytest.mark.filterwarnings("ignore")
def test_imagenet_of_tfds(imagenet):
    root, per_split, builder = imagenet
    assert len(list(root.rglob("*train.array_record*"))) == 3
    p = photos.load("imagenet2012", str(root))
    assert p.num_classes == 1000 and p.mean == (0.485, 0.456, 0.406)
    for records, split in ((p.train, "train"), (p.test, "validation")):
        assert len(records) == len(per_split[split])
        got = {(records.name(i), *records.read(i)) for i in range(len(records))}
        assert {(data, label) for _, data, label in got} == {(data, label) for _, data, label in per_split[split]}
        # TFDS's own reader gives the expected order.
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        for i, example in enumerate(source):
            assert records.read(i) == (example["image"], example["label"])
            assert records.name(i) == f"{split} image {i} ({example['file_name'].decode()})"
    p.train.read(0)
    assert pickle.loads(pickle.dumps(p.train)).read(3) == p.train.read(3)


@pytest.mark.filterwarnings("ignore")
def test_imagenet_as_tfrecords_says_how_to_convert(imagenet, tmp_path):
    version = tmp_path / "imagenet2012" / "5.1.0"
    version.mkdir(parents=True)
    for file in (imagenet[0] / "imagenet2012" / "5.1.0").glob("*.json"):
        (version / file.name).write_text(file.read_text())
    info = json.loads((version / "dataset_info.json").read_text())
    (version / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match=r"tfds convert_format --dataset_dir=.*imagenet2012.*array_record"):
        photos.load("imagenet2012", str(tmp_path))


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow would prepare it")
@pytest.mark.filterwarnings("ignore")
def test_imagenet_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(UserError) as error:
        photos.load("imagenet2012", str(tmp_path))
    for part in ("ILSVRC2012_img_train.tar", "downloads/manual", "pip install tensorflow", "image_folder"):
        assert part in str(error.value)
    assert "download and prepare" not in str(error.value) and "\n" not in str(error.value)
