"""Tests loading data sets by name."""

import numpy as np
import pytest

from recu_jax import UserError, data
from tests.support.small_runs import dataset


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        data.load("cifar-10")


def test_held_out_images_are_tested_and_not_trained_on():
    whole = dataset(4)
    part = whole.hold_out(5)
    assert (part.train_count, part.test_count) == (whole.train_count - 5, 5)
    # Each training image, with its label, is either held out or still trained on. The test images of the data set are
    # gone.
    images = np.concatenate([part.train_images, part.test_images])
    labels = np.concatenate([part.train_labels, part.test_labels])
    order, before = (np.lexsort(a.reshape(len(a), -1).T) for a in (images, whole.train_images))
    np.testing.assert_array_equal(images[order], whole.train_images[before])
    np.testing.assert_array_equal(labels[order], whole.train_labels[before])
    np.testing.assert_array_equal(whole.train_images[part.train_records], part.train_images)
    assert whole.hold_out(0) is whole


@pytest.mark.parametrize("labels", [np.arange(1000) % 10, np.arange(1000) // 100], ids=["in turns", "sorted"])
def test_held_out_images_are_of_all_classes(labels):
    images = np.zeros((1000, 2, 2, 1), np.uint8)
    part = data.Dataset(images, labels, images[:1], labels[:1], 10, (0.5,), (0.5,)).hold_out(100)
    assert np.bincount(part.test_labels, minlength=10).min() >= 3


def test_too_many_held_out():
    with pytest.raises(UserError, match="held_out is 37, and there are 37 training images; hold out fewer"):
        dataset(4).hold_out(37)
