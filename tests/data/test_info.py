"""Tests the loading of test images for a trained network: without training images, and with the network's classes."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from recu_jax import UserError, data
from recu_jax.data import npz
from tests.data.test_folder import folders, tiny_imagenet, write
from tests.support import bad_files, prepared_tfds
from tests.support.small_runs import dataset

NAMED = data.DatasetInfo("image_folder", (8, 8, 3), ("Zebra", "a b", "b"), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def test_it_goes_through_a_record():
    info = data.info_of("npz", dataset(8, 1), 224)
    assert info == data.DatasetInfo("npz", (8, 8, 1), tuple("0123456789"), (0.5,), (0.25,))
    record = json.loads(json.dumps({"dataset": info.as_json()}))
    assert data.from_record(record, "run") == info and data.from_record({}, "run") is None
    for damaged in ("text", {}, {"name": "npz"}, {**info.as_json(), "mean": 3}):
        with pytest.raises(UserError, match="run: the record of the data set is not what a run writes"):
            data.from_record({"dataset": damaged}, "run")


def test_folders_of_test_images_alone(tmp_path):
    """The classes are those of the run, matched by name. `val` need not have all of them."""
    files = folders(tmp_path)
    write(tmp_path / "val/b/2.png", 23)
    whole = data.load_test("image_folder", str(tmp_path))
    shutil.rmtree(tmp_path / "train")
    alone = data.load_test("image_folder", str(tmp_path), info=NAMED)
    for found in (whole, alone):
        assert found.train_count == 0 and found.class_names == ("Zebra", "a b", "b")
        assert found.test.read(0) == (files["val/a b/1.webp"], 1) and found.test.read(1)[1] == 2
    assert (alone.mean, alone.std) == (NAMED.mean, NAMED.std)
    # Without the information of a run, the folders in `val` are the classes.
    bare = data.load_test("image_folder", str(tmp_path))
    assert (bare.num_classes, bare.class_names, bare.test.read(0)[1]) == (2, ("a b", "b"), 0)
    write(tmp_path / "val/bird/3.png")
    with pytest.raises(UserError, match=r"class folder 'bird' \(1 of 3 such\), which the run lacks"):
        data.load_test("image_folder", str(tmp_path), info=NAMED)
    with pytest.raises(UserError, match="has no folder 'train'"):
        data.load("image_folder", str(tmp_path))


def test_annotated_test_images_alone(tmp_path):
    tiny_imagenet(tmp_path)
    whole = data.load_test("tiny_imagenet", str(tmp_path))
    shutil.rmtree(tmp_path / "train")
    alone = data.load_test("tiny_imagenet", str(tmp_path))
    assert alone.class_names == whole.class_names == ("n01", "n02")
    assert alone.test.labels.tolist() == whole.test.labels.tolist()


def test_a_split_of_tfds_alone(tmp_path):
    bad_files.tfds(tmp_path, damage=bad_files.remove_shards)
    found = data.load_test("cifar10", str(tmp_path))
    assert (found.train_count, found.test_count, found.num_classes) == (0, 5, 10)
    examples = [(f"n{i}.JPEG", bad_files.photograph(), i) for i in range(4)]
    prepared_tfds.prepare_imagenet(tmp_path, {"validation": examples})
    found = data.load_test("imagenet2012", str(tmp_path))
    assert (found.train_count, found.test_count, found.num_classes) == (0, 4, 1000)
    with pytest.raises(UserError, match="has no split 'train'"):
        data.load("imagenet2012", str(tmp_path))


def test_arrays_of_test_images_alone(tmp_path):
    path = bad_files.npz(tmp_path, train_images=None, train_labels=None)
    info = data.DatasetInfo("npz", (8, 8, 3), tuple("01234"), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    found = data.load_test("npz", str(path), info=info)
    assert (found.train_count, found.test_count, found.num_classes) == (0, 6, 5)
    assert (found.mean, found.std) == (info.mean, info.std)
    with pytest.raises(UserError, match="lacks train_images, train_labels"):  # to compute the mean
        data.load_test("npz", str(path))
    with pytest.raises(UserError, match="test_labels run from -1"):
        data.load_test("npz", str(bad_files.npz(tmp_path, test_labels=np.arange(6) - 1)), info=info)
    assert npz.TEST_KEYS == ("test_images", "test_labels")


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"image_shape": (8, 8, 1), "mean": (0.5,), "std": (1.0,)},
            "has images of 8x8x3; the run was trained on 8x8x1",
        ),
        ({"image_shape": (9, 8, 3)}, "has images of 8x8x3; the run was trained on 9x8x3 of npz"),
        ({"class_names": ("0", "1")}, r"has 4 classes \(0; 1|has 4 classes \(0, 1, 2, and 1 more\); .* the 2 of npz"),
    ],
)
def test_other_images_or_classes_are_refused(tmp_path, changes, message):
    info = data.DatasetInfo("npz", (8, 8, 3), tuple("0123"), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    with pytest.raises(UserError, match=message):
        data.load_test("npz", str(bad_files.npz(tmp_path)), info=dataclasses.replace(info, **changes))


def test_names_must_be_equal_where_both_have_some(tmp_path):
    named = dataclasses.replace(dataset(8), class_names=tuple("abcdefghij"))
    info = data.DatasetInfo("cifar10", (8, 8, 3), tuple("bacdefghij"), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(UserError, match=r"x has 10 classes \(a, b, c, and 7 more\); .* 10 of cifar10 \(b, a, c, and"):
        data.info.for_network(named, "x", info)
    for fits in (dataclasses.replace(info, class_names=tuple("0123456789")), data.info_of("x", named, 8)):
        assert data.info.for_network(named, "x", fits).num_classes == 10
