"""Tests the order of images: a permutation for each seed and epoch."""

import numpy as np
import pytest

from recu_jax.data.order import eval_order, train_order


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


def test_no_two_of_seed_and_epoch_share_an_order():
    """With seed + epoch in one number, the second epoch of seed 0 would be the first of seed 1."""
    orders = {train_order(seed, epoch, 50, 10).tobytes() for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
