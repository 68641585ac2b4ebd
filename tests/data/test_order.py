"""Tests the order of images: a permutation for each seed and epoch."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recu_jax.data.order import eval_order, train_order

SEEDS, EPOCHS = st.integers(0, 2**32), st.integers(0, 10**6)


@given(seed=SEEDS, epoch=EPOCHS, images=st.integers(1, 200), batch=st.integers(1, 50))
def test_an_epoch_has_each_image_at_most_once_and_whole_batches_alone(seed, epoch, images, batch):
    order = train_order(seed, epoch, images, batch)
    assert order.shape == (images // batch, batch) and order.dtype == np.int32 and not order.flags.writeable
    assert len(np.unique(order)) == order.size and ((order >= 0) & (order < images)).all()
    np.testing.assert_array_equal(order, train_order(seed, epoch, images, batch))


@given(one=st.tuples(SEEDS, EPOCHS), other=st.tuples(SEEDS, EPOCHS))
def test_any_two_of_seed_and_epoch_have_two_orders(one, other):
    assume(one != other)
    assert (train_order(*one, 50, 10) != train_order(*other, 50, 10)).any()


def test_no_two_of_seed_and_epoch_share_an_order():
    """If seed + epoch seeded the order, the second epoch of seed 0 would equal the first epoch of seed 1."""
    orders = {train_order(seed, epoch, 50, 10).tobytes() for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize("images,batch", [(10, 4), (12, 4), (3, 8)])
def test_eval_order_counts_every_image_once(images, batch):
    indices, weights = eval_order(images, batch)
    assert indices.shape == weights.shape == (-(-images // batch), batch)
    counted = np.zeros(images)
    np.add.at(counted, indices.ravel(), weights.ravel())
    np.testing.assert_array_equal(counted, 1)
    # The padding is image 0 with weight 0. All callers share the arrays, so the arrays must be read-only.
    assert (indices[weights == 0] == 0).all() and not (indices.flags.writeable or weights.flags.writeable)
