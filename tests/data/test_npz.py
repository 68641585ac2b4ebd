"""Tests arrays from .npz files, and files that do not fit."""

import numpy as np
import pytest

from recu_jax import UserError, data
from tests.support import bad_files


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
