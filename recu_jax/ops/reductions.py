"""Computes sums over many elements in the form that is fast on each backend.

XLA's CPU compiler turns a long reduction into a tree of `reduce-window` operations, which are scalar loops. In a
`cifar_resnet20` train step they took 560 of 3,600 milliseconds of processor time. On the CPU the sums are therefore
products with a vector of ones, which are vectorized and use all cores. On GPU and TPU they stay reductions, because XLA
fuses a reduction with the operations before it. A GPU takes some microseconds to start a kernel, so on GPUs one
reduction computes two sums at once. A TPU would write the operands of such a reduction to memory, so on TPUs each sum
is a reduction of its own.

GPUs sum moments in up to 32 parts, except those of more than 131,072 rows. XLA fuses the sums of short parts with the
operation that computes their elements, and the sum of the parts with the operations after it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.ops.by_platform import by_platform
from recu_jax.ops.conv import match_varying_axes

# Most rows that one kernel of a GPU sums. XLA sums more in two kernels.
_MOST_ROWS = 4096


def sum_rows(x: jax.Array) -> jax.Array:
    """Sums x, (rows, columns), over its rows. Returns (columns,)."""
    return by_platform(x, cpu=functools.partial(_sum_on_cpus, axis=0), default=lambda x: x.sum(0))


def sum_columns(x: jax.Array) -> jax.Array:
    """Sums x, (rows, columns), over its columns. Returns (rows,)."""
    return by_platform(x, cpu=functools.partial(_sum_on_cpus, axis=1), default=lambda x: x.sum(1))


def sum_rows_of_both(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums x and y, each (rows, columns), over their rows. Returns two arrays, (columns,)."""
    return by_platform(
        x, y,
        cpu=lambda x, y: (_sum_on_cpus(x, 0), _sum_on_cpus(y, 0)),
        gpu=functools.partial(_sums_at_once, 0),
        default=lambda x, y: (x.sum(0), y.sum(0)),
    )  # fmt: skip


def moments(x: jax.Array, axis: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Returns the mean, and the sum of the squared deviations from it, over one axis of x, (rows, columns).

    On CPUs a first pass computes the mean, and a second pass sums the squares. On GPUs one pass computes both: it sums
    `x - first`, where `first` is the first element, and the squares of these differences. Without this shift,
    cancellation would lose digits where the mean is far from 0. An x in bfloat16 needs no shift if `dtype` is wider. x
    has 8 significant bits and its square 16, and float32 has 24. So cancellation costs less than the rounding of x to
    bfloat16 did. TPUs take one pass if x needs no shift, and two otherwise.

    Args:
      x: (rows, columns).
      axis: 0 for the moments of the columns, 1 for those of the rows.
      dtype: of the computation and of the results.
    """

    def two_passes(total, x):
        x = x.astype(dtype)
        mean = total(x) / x.shape[axis]
        centered = x - jnp.expand_dims(mean, axis)
        return mean, total(centered * centered)

    def one_pass(sums, x):
        return _moments_in_one_pass(sums, x, axis, dtype)

    def apart(x, y):
        return x.sum(axis), y.sum(axis)

    default = functools.partial(two_passes, lambda x: x.sum(axis))
    if _needs_no_shift(x, dtype):
        default = functools.partial(one_pass, apart)
    return by_platform(
        x,
        cpu=functools.partial(two_passes, functools.partial(_sum_on_cpus, axis=axis)),
        gpu=functools.partial(one_pass, functools.partial(_sums_in_parts, axis)),
        default=default,
    )


def _moments_in_one_pass(sums, x, axis, dtype):
    exact = x.astype(dtype)
    first = None if _needs_no_shift(x, dtype) else lax.slice_in_dim(exact, 0, 1, axis=axis)
    shifted = exact if first is None else exact - first
    total, squares = sums(shifted, shifted * shifted)
    offset = total / x.shape[axis]
    mean = offset if first is None else first.squeeze(axis) + offset
    return mean, jnp.maximum(squares - offset * total, 0)


def _needs_no_shift(x, dtype):
    return x.dtype == jnp.bfloat16 and jnp.dtype(dtype).itemsize >= 4


def _sums_at_once(axis, x, y):
    zeros: Any = match_varying_axes(x, y, jnp.zeros((), x.dtype), jnp.zeros((), y.dtype))[2:]
    return tuple(lax.reduce((x, y), tuple(zeros), lambda a, b: (a[0] + b[0], a[1] + b[1]), (axis,)))


def _sums_in_parts(axis, x, y):
    """Computes `_sums_at_once` of equal parts of x and y, and adds these up."""
    parts = _parts(x.shape[axis])
    if parts == 1 or (axis == 0 and x.shape[0] > parts * _MOST_ROWS):
        return _sums_at_once(axis, x, y)
    shape = (*x.shape[:axis], parts, x.shape[axis] // parts, *x.shape[axis + 1 :])
    x, y = x.reshape(shape), y.reshape(shape)
    return tuple(
        sum(lax.index_in_dim(s, part, axis, keepdims=False) for part in range(parts))
        for s in _sums_at_once(axis + 1, x, y)
    )


def _parts(length):
    """Returns the number of equal parts: at most 32, and 1 for a length that is symbolic."""
    return max(n for n in range(1, 33) if length % n == 0) if isinstance(length, int) else 1


def wide(x: jax.Array) -> jax.Array:
    """Casts `x` to float32, in which statistics are computed. float64 stays float64.

    `jnp.promote_types` cannot be used: under `jax_numpy_dtype_promotion="strict"` it refuses bfloat16 with float32.
    """
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _sum_on_cpus(x, axis):
    # Without the barrier XLA turns a product with ones into a reduction again.
    ones = lax.optimization_barrier(jnp.ones(x.shape[axis], x.dtype))
    return x @ ones if axis else ones @ x
