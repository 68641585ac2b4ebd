"""Halves images by max pooling: windows of 3x3, stride 2, padding 1.

XLA's gradient of max pooling is slow on GPUs. For a batch of 512 images in the first layers of ImageNet's ResNet-18 it
writes 3.8 GB: four index arrays of 32 bits and two padded images. On GPUs, the gradient of this module instead writes
one byte per window. On other devices it is XLA's gradient.
"""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.ops.by_platform import by_platform
from recu_jax.ops.reverse_mode import reverse_mode


@reverse_mode
def max_pool(x: jax.Array) -> jax.Array:
    """Pools x, (batch, height, width, channels), to (batch, ceil(height / 2), ceil(width / 2), channels).

    The gradient of a window goes to its largest element. If several are equal, it goes to the first of them in row
    order, as in `nn.max_pool`.
    """
    return _max_pool(x)


def _pooled(x):
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def _backward(x, dy):
    def of_xla(x, dy):
        return jax.vjp(_pooled, x)[1](dy)[0]

    return (by_platform(x, dy, cpu=of_xla, gpu=_gradient, default=of_xla),)


_max_pool = jax.custom_vjp(_pooled)
_max_pool.defvjp(lambda x: (_pooled(x), x), _backward)

# Key 0 is row 2i of an image, and key 1 is row 2i + 1. Each pair stands for one window that holds this row: the index
# of the window relative to i, and the index of the row within the window. The same table serves for columns.
_WINDOWS = {0: ((0, 1),), 1: ((0, 2), (1, 0))}


def _gradient(x, dy):
    # The barrier keeps XLA from computing the numbers again for each use.
    largest = lax.optimization_barrier(_largest(x, dy.shape))
    shifted = {by: (_shift(largest, by, -1), _shift(dy, by, 0)) for by in itertools.product((0, 1), repeat=2)}

    def pixels(row, column):
        """Returns the gradient at every second row and column, beginning with `row` and `column`."""
        total = jnp.zeros_like(dy)
        for (i, down), (j, right) in itertools.product(_WINDOWS[row], _WINDOWS[column]):
            numbers, gradients = shifted[i, j]
            total += jnp.where(numbers == 3 * down + right, gradients, 0)
        return total

    rows = [jnp.stack([pixels(row, 0), pixels(row, 1)], 3) for row in (0, 1)]
    batch, height, width, channels = dy.shape
    both = jnp.stack(rows, 2).reshape(batch, 2 * height, 2 * width, channels)
    return both[:, : x.shape[1], : x.shape[2]]


def _largest(x, shape):
    """Returns for each window the index, 0 to 8, of its first largest element: int8, of shape `shape`."""
    batch, height, width, channels = shape
    lowest = jnp.array(-jnp.inf, x.dtype)
    padded = lax.pad(x, lowest, ((0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)))
    best, number = None, jnp.zeros(shape, jnp.int8)
    for n, (i, j) in enumerate(itertools.product(range(3), repeat=2)):
        end = (batch, i + 2 * height - 1, j + 2 * width - 1, channels)
        element = lax.slice(padded, (0, i, j, 0), end, (1, 2, 2, 1))
        number = number if best is None else jnp.where(element > best, jnp.int8(n), number)
        best = element if best is None else jnp.maximum(best, element)
    return number


def _shift(x, by, fill):
    """Moves x up by `by[0]` rows and left by `by[1]` columns. `fill` fills the rows and columns at the end."""
    down, right = by
    return lax.pad(x, jnp.array(fill, x.dtype), ((0, 0, 0), (-down, down, 0), (-right, right, 0), (0, 0, 0)))
