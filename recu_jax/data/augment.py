"""Crops, flips, normalizes and mixes images on the device."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recu_jax.ops.conv import per_channel

CROP_FILLS = ("zeros", "reflection")


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: Any = jnp.float32) -> jax.Array:
    """Computes `(pixel / 255 - mean) / std` for each channel.

    Args:
      images: uint8, (..., channels).
      mean: one number for each channel.
      std: one number for each channel.
      dtype: of the result.

    Returns:
      Images of the same shape and of `dtype`.
    """
    x = images.astype(jnp.promote_types(dtype, jnp.float32))
    means, stds = (per_channel(jnp.asarray(v, x.dtype), x) for v in (mean, std))
    return ((x / 255 - means) / stds).astype(dtype)


def crop_and_flip(keys: jax.Array, images: jax.Array, padding: int, flip: bool, fill: str = "zeros") -> jax.Array:
    """Pads each image, crops it to its original size at a random place, and may mirror it.

    One gather does all three. For 256 CIFAR images on 2 CPU cores, it takes 1.0 ms. A dynamic slice under `vmap` takes
    1.4 ms, and one-hot products take 12 ms.

    Args:
      keys: typed PRNG keys, (batch,). An image's crop and flip depend only on its key.
      images: uint8, (batch, height, width, channels).
      padding: pixels added on each side. The offset of the crop is uniform on [0, 2 padding].
      flip: whether to mirror left and right with probability 1/2.
      fill: the added pixels. `"zeros"`, or `"reflection"`, which is NumPy's padding mode `reflect`: the edge pixel is
        not repeated. With `"reflection"`, `padding` must be less than height and width, which is not checked here.

    Returns:
      Images of the same shape and dtype.
    """
    _, height, width, _ = images.shape

    def draw(key):
        crop_key, flip_key = jax.random.split(key)
        return jax.random.randint(crop_key, (2,), -padding, padding + 1), jax.random.bernoulli(flip_key)

    offsets, flips = jax.vmap(draw)(keys)
    rows = offsets[:, :1] + jnp.arange(height)[None, :]
    columns = jnp.arange(width)[None, :]
    if flip:
        columns = jnp.where(flips[:, None], columns[:, ::-1], columns)
    columns = offsets[:, 1:] + columns
    if fill == "reflection":
        rows, columns = _reflected(rows, height), _reflected(columns, width)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    i = jnp.arange(len(images))[:, None, None]
    cropped = images[i, rows.clip(0, height - 1)[:, :, None], columns.clip(0, width - 1)[:, None, :]]
    return jnp.where(inside[..., None], cropped, jnp.zeros((), cropped.dtype))


def _reflected(index, size):
    """Moves an index that lies outside 0 to size - 1 to its mirror image at the first or the last one."""
    last = size - 1
    return last - jnp.abs(last - jnp.abs(index))


def mixup_shares(keys: jax.Array, alpha: float, dtype: Any = jnp.float32) -> jax.Array:
    """Draws the share that each image keeps in `mixup`, from Beta(alpha, alpha).

    Args:
      keys: typed PRNG keys, (batch,). An image's share depends only on its key.
      alpha: above 0. Small values give shares near 0 and 1; 1 gives the uniform distribution.
      dtype: of the result, float32 or float64.

    Returns:
      (batch,), from 0 to 1.
    """
    return jax.vmap(lambda key: jax.random.beta(key, alpha, alpha, dtype=dtype))(keys)


def partners(values: jax.Array) -> jax.Array:
    """Swaps the entries 2i and 2i + 1 of `values`, (batch, ...). `batch` must be even."""
    return values.reshape(-1, 2, *values.shape[1:])[:, ::-1].reshape(values.shape)


def mixup(x: jax.Array, shares: jax.Array) -> jax.Array:
    """Mixes the images 2i and 2i + 1 of a batch with each other: `share * image + (1 - share) * partner`.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv 1710.09412.

    Args:
      x: (batch, height, width, channels), of any float type. `batch` must be even.
      shares: float32 or float64, (batch,).

    Returns:
      Images of the same shape and dtype.
    """
    shares = shares.reshape(-1, *(1,) * (x.ndim - 1))
    return (shares * x + (1 - shares) * partners(x)).astype(x.dtype)
