"""Compares augmentation and normalization on the device with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax.data.augment import crop_and_flip, mixup, mixup_shares, normalize, partners


@pytest.mark.parametrize("fill,mode", [("zeros", "constant"), ("reflection", "reflect")])
def test_crops_and_flips_are_those_of_a_padded_image(fill, mode):
    images = np.random.default_rng(0).integers(1, 256, (200, 6, 5, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0), 200)
    got = np.asarray(crop_and_flip(keys, images, padding=2, flip=True, fill=fill))
    seen = set()
    for image, result in zip(images, got, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode)
        matches = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            if (padded[top : top + 6, left : left + 5][:, :: -1 if flip else 1] == result).all()
        ]
        # A window around the outermost column of a reflected image is its own mirror image.
        twice = fill == "reflection" and len({match[:2] for match in matches}) == 1
        assert len(matches) == 1 or twice
        seen.update(matches)
    assert len(seen) > 45  # of 50; 200 draws miss a given one with probability 2%


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


def test_mixup_of_neighbors_by_the_share_of_each():
    r = np.random.default_rng(0)
    x, shares = r.normal(size=(6, 4, 4, 3)).astype(np.float32), r.random(6).astype(np.float32)
    expected = [shares[i] * x[i] + (1 - shares[i]) * x[i + 1 - 2 * (i % 2)] for i in range(6)]
    np.testing.assert_allclose(mixup(x, shares), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(partners(jnp.arange(6)), [1, 0, 3, 2, 5, 4])
    assert mixup(x.astype(jnp.bfloat16), shares).dtype == jnp.bfloat16


def test_shares_are_of_the_beta_distribution():
    keys = jax.random.split(jax.random.key(0), 4000)
    shares = np.asarray(mixup_shares(keys, 0.2))
    assert 0 <= shares.min() and shares.max() <= 1
    # The mean is 1/2, the variance 1 / (4 (2 alpha + 1)). With 4,000 draws, the standard error of each is below 0.01.
    np.testing.assert_allclose([shares.mean(), shares.var()], [0.5, 0.25 / 1.4], atol=0.03)
