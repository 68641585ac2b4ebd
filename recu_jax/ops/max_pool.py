"""Halves images by max pooling, with stride 2.

XLA's gradient of max pooling is slow on CPUs and GPUs. For a batch of 512 images in the first layers of ImageNet's
ResNet-18 it writes 3.8 GB: four index arrays of 32 bits and two padded images. The gradient of this module instead
writes one byte per window. On two CPU cores it takes a fifth of the time for windows of 3x3, and a ninth for windows of
2x2. TPUs have an operation of their own for XLA's gradient, and use it.
"""

import functools
import itertools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.ops.by_platform import by_platform
from recu_jax.ops.reverse_mode import reverse_mode


@reverse_mode
def max_pool(x: jax.Array, window: Literal[2, 3]) -> jax.Array:
    """Pools x, (batch, height, width, channels), over windows with stride 2.

    The gradient of a window goes to its largest element. If several are equal, it goes to the first of them in row
    order, as in `nn.max_pool`.

    Args:
      x: real numbers.
      window: 3 for windows of 3x3 with padding 1, 2 for windows of 2x2 without padding.

    Returns:
      (batch, ceil(height / 2), ceil(width / 2), channels) for a window of 3; with floor for a window of 2.
    """
    return _max_pool(x, window)


def pooled(x: jax.Array, window: Literal[2, 3]) -> jax.Array:
    """Computes the same as `max_pool`, with XLA's derivatives, of forward mode too."""
    return nn.max_pool(x, (window, window), (2, 2), "VALID" if window == 2 else ((1, 1), (1, 1)))


def _backward(window, x, dy):
    def of_xla(x, dy):
        return jax.vjp(lambda x: pooled(x, window), x)[1](dy)[0]

    gradient = functools.partial(_gradient, window)
    return (by_platform(x, dy, cpu=gradient, gpu=gradient, default=of_xla),)


_max_pool = jax.custom_vjp(pooled, nondiff_argnums=(1,))
_max_pool.defvjp(lambda x, window: (pooled(x, window), x), _backward)

# By size of the window: key 0 is row 2i of an image, and key 1 is row 2i + 1. Each pair stands for one window that
# holds this row: the index of the window relative to i, and the index of the row within the window. The same table
# serves for columns.
_WINDOWS: dict[int, dict[int, tuple[tuple[int, int], ...]]] = {
    2: {0: ((0, 0),), 1: ((0, 1),)},
    3: {0: ((0, 1),), 1: ((0, 2), (1, 0))},
}


def _gradient(window, x, dy):
    # The barrier keeps XLA from computing the numbers again for each use.
    largest = lax.optimization_barrier(_largest(window, x, dy.shape))
    shifted = {by: (_shift(largest, by, -1), _shift(dy, by, 0)) for by in itertools.product((0, 1), repeat=2)}

    def pixels(row, column):
        """Returns the gradient at every second row and column, beginning with `row` and `column`."""
        total = jnp.zeros_like(dy)
        for (i, down), (j, right) in itertools.product(_WINDOWS[window][row], _WINDOWS[window][column]):
            numbers, gradients = shifted[i, j]
            total += jnp.where(numbers == window * down + right, gradients, 0)
        return total

    rows = [jnp.stack([pixels(row, 0), pixels(row, 1)], 3) for row in (0, 1)]
    batch, height, width, channels = dy.shape
    both = jnp.stack(rows, 2).reshape(batch, 2 * height, 2 * width, channels)
    # Cuts off rows and columns of the padding, or adds those of the image that no window holds.
    ends = [(0, 0, 0), (0, x.shape[1] - 2 * height, 0), (0, x.shape[2] - 2 * width, 0), (0, 0, 0)]
    return lax.pad(both, jnp.zeros((), dy.dtype), ends)


def _largest(window, x, shape):
    """Returns for each window the index, from 0, of its first largest element: int8, of shape `shape`."""
    batch, height, width, channels = shape
    lowest = jnp.array(-jnp.inf, x.dtype)
    around = (1, 1, 0) if window == 3 else (0, 0, 0)
    padded = lax.pad(x, lowest, ((0, 0, 0), around, around, (0, 0, 0)))
    best, number = None, jnp.zeros(shape, jnp.int8)
    for n, (i, j) in enumerate(itertools.product(range(window), repeat=2)):
        end = (batch, i + 2 * height - 1, j + 2 * width - 1, channels)
        element = lax.slice(padded, (0, i, j, 0), end, (1, 2, 2, 1))
        number = number if best is None else jnp.where(element > best, jnp.int8(n), number)
        best = element if best is None else jnp.maximum(best, element)
    return number


def _shift(x, by, fill):
    """Moves x up by `by[0]` rows and left by `by[1]` columns. `fill` fills the rows and columns at the end."""
    down, right = by
    return lax.pad(x, jnp.array(fill, x.dtype), ((0, 0, 0), (-down, down, 0), (-right, right, 0), (0, 0, 0)))
