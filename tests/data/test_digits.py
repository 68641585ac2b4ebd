"""Tests the digits: the split into training and test images, and the statistics of the training images."""

import numpy as np

from recu_jax import data


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
    # The split must not change with a release of scikit-learn.
    assert data.load("digits").test_labels[:12].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6]
