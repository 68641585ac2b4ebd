"""Data sets, their order, and augmentation against NumPy."""

import importlib.util
import io
import pathlib

import bad_files
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds

from recu_jax import UserError, data
from recu_jax.data.augment import crop_and_flip, normalize
from recu_jax.data.order import eval_order, train_order


def test_digits_split():
    d = data.load("digits")
    assert d.train_images.shape == (1437, 8, 8, 1) and d.test_images.shape == (360, 8, 8, 1)
    assert d.train_images.dtype == np.uint8 and d.train_images.max() == 255
    share = np.bincount(d.test_labels) / np.bincount(np.concatenate([d.train_labels, d.test_labels]))
    np.testing.assert_allclose(share, 0.2, atol=0.005)
    both = {a.tobytes() for a in d.train_images} & {a.tobytes() for a in d.test_images}
    assert not both
    np.testing.assert_allclose(d.train_images.mean() / 255, d.mean[0], atol=1e-3)
    np.testing.assert_allclose(d.train_images.std() / 255, d.std[0], atol=1e-3)


def test_digits_split_is_fixed():
    # Which images are for testing must not change with a release of scikit-learn.
    assert data.load("digits").test_labels[:12].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6]


def test_train_order_is_a_permutation_of_seed_and_epoch():
    a = train_order(seed=3, epoch=7, num_images=103, batch_size=10)
    assert a.shape == (10, 10) and len(np.unique(a)) == 100 and a.min() >= 0 and a.max() < 103
    np.testing.assert_array_equal(a, train_order(3, 7, 103, 10))
    assert (a != train_order(3, 8, 103, 10)).any() and (a != train_order(4, 7, 103, 10)).any()


@pytest.mark.parametrize("images,batch", [(10, 4), (12, 4), (3, 8)])
def test_eval_order_counts_every_image_once(images, batch):
    indices, weights = eval_order(images, batch)
    assert indices.shape[1] == batch
    counted = np.zeros(images)
    np.add.at(counted, indices.ravel(), weights.ravel())
    np.testing.assert_array_equal(counted, 1)


def test_crops_and_flips_are_those_of_a_padded_image():
    images = np.random.default_rng(0).integers(1, 256, (200, 6, 5, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0), 200)
    got = np.asarray(crop_and_flip(keys, images, padding=2, flip=True))
    seen = set()
    for image, result in zip(images, got, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        matches = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            if (padded[top : top + 6, left : left + 5][:, :: -1 if flip else 1] == result).all()
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 45  # of 50; 200 draws miss one with probability 2%


def test_an_images_augmentation_depends_on_its_key_alone():
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 1), np.uint8)
    keys = jax.random.split(jax.random.key(1), 8)
    whole = crop_and_flip(keys, images, 2, True)
    np.testing.assert_array_equal(whole[3:5], crop_and_flip(keys[3:5], images[3:5], 2, True))


def test_normalize():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 3), np.uint8)
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.4])
    np.testing.assert_allclose(normalize(images, mean, std), (images / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    assert normalize(images, mean, std, jnp.bfloat16).dtype == jnp.bfloat16


def test_npz(tmp_path):
    arrays = bad_files.arrays(train_images=np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8))
    arrays["test_images"] = arrays["test_images"][..., 0]
    np.savez(tmp_path / "a.npz", **arrays)
    d = data.load("npz", str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(d.train_images[..., 0], arrays["train_images"])
    assert d.num_classes == 4 and len(d.mean) == 1
    np.testing.assert_allclose(d.mean[0], arrays["train_images"].mean() / 255)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"test_labels": None}, "lacks test_labels"),
        ({"train_images": np.zeros((20, 8, 8, 3))}, "train_images is float64"),
        ({"train_images": np.zeros((20, 8), np.uint8)}, "train_images is uint8 of shape (20, 8)"),
        ({"train_labels": np.arange(19)}, "one integer for each of the 20"),
        ({"train_labels": np.zeros(20)}, "train_labels is float64"),
        ({"test_labels": np.arange(6) - 1}, "run from -1"),
        ({"test_images": np.zeros((6, 9, 9, 3), np.uint8)}, "must have one shape"),
        ({"test_images": np.zeros((0, 8, 8, 3), np.uint8), "test_labels": np.zeros(0, int)}, "is empty"),
        ({"train_labels": np.array([{}] * 20)}, "without pickles"),
    ],
)
def test_npz_that_does_not_fit(tmp_path, changes, message):
    np.savez(tmp_path / "a.npz", **bad_files.arrays(**changes))
    with pytest.raises(UserError) as error:
        data.load("npz", str(tmp_path / "a.npz"))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_npz_that_is_not_there_or_not_one(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        data.load("npz", str(tmp_path / "missing.npz"))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(UserError, match="cannot be read"):
        data.load("npz", str(tmp_path / "broken.npz"))


def prepare(data_dir, name, version, images, labels):
    """Writes a TFDS data set of this name, with the last five images for testing, as TFDS itself would."""
    features = {"image": tfds.features.Image(shape=images[0].shape), "label": tfds.features.ClassLabel(num_classes=10)}

    def examples(part):
        for i, (image, label) in enumerate(zip(images[part], labels[part], strict=True)):
            png = cv2.imencode(".png", image if image.shape[-1] == 1 else image[..., ::-1])[1].tobytes()
            yield i, {"image": io.BytesIO(png), "label": int(label)}  # an array would need TensorFlow

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


@pytest.mark.parametrize(
    "name,version,shape,padding", [("cifar10", "3.0.2", (32, 32, 3), 0), ("mnist", "3.0.1", (28, 28, 1), 2)]
)
@pytest.mark.filterwarnings("ignore")
def test_tfds_without_tensorflow(tmp_path, name, version, shape, padding):
    r = np.random.default_rng(0)
    images, labels = r.integers(0, 256, (25, *shape), np.uint8), r.integers(0, 10, 25)
    prepare(tmp_path, name, version, images, labels)
    d = data.load(name, str(tmp_path))
    assert d.train_images.shape == (20, 32, 32, shape[-1]) and d.test_images.shape == (5, 32, 32, shape[-1])
    pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    expected = {(a.tobytes(), b) for a, b in zip(np.pad(images, pad), labels, strict=True)}
    got = zip(np.concatenate([d.train_images, d.test_images]), [*d.train_labels, *d.test_labels], strict=True)
    assert {(a.tobytes(), b) for a, b in got} == expected


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow would download it")
@pytest.mark.filterwarnings("ignore")
def test_tfds_that_is_not_there_says_what_to_type(tmp_path):
    with pytest.raises(UserError, match=r"no cifar10 in .*pip install 'recu_jax\[prepare\]'"):
        data.load("cifar10", str(tmp_path))


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        data.load("cifar-10")
