"""Random crop, flip and normalisation of uint8 images, on the device."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recu_jax.conv import per_channel


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: Any = jnp.float32) -> jax.Array:
    """`(pixel / 255 - mean) / std` per channel: uint8 (..., channels) to `dtype`."""
    x = images.astype(jnp.promote_types(dtype, jnp.float32))
    means, stds = (per_channel(jnp.asarray(v, x.dtype), x) for v in (mean, std))
    return ((x / 255 - means) / stds).astype(dtype)


def crop_and_flip(keys: jax.Array, images: jax.Array, padding: int, flip: bool) -> jax.Array:
    """Pads with zeros, crops back to the size at random, and mirrors every second image, by one gather.

    One gather takes 1.0 ms for 256 CIFAR images on 2 CPU cores, a vmapped dynamic slice 1.4, one-hot products 12.

    Args:
      keys: (batch,) typed PRNG keys, one per image: an image's crop depends on nothing but its key.
      images: uint8, (batch, height, width, channels).
      padding: zeros on each side, in pixels; offsets are uniform on [0, 2 padding].
      flip: whether to mirror left and right with probability 1/2.
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
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    i = jnp.arange(len(images))[:, None, None]
    cropped = images[i, rows.clip(0, height - 1)[:, :, None], columns.clip(0, width - 1)[:, None, :]]
    return jnp.where(inside[..., None], cropped, jnp.zeros((), cropped.dtype))
