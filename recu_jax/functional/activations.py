"""Turns real activations into binary activations (SPEC.md section 2)."""

import math

import jax
from jax import lax

from recu_jax.functional.signs import approx_sign
from recu_jax.functional.weights import EPSILON
from recu_jax.ops.reductions import moments, sum_columns, wide
from recu_jax.ops.reverse_mode import reverse_mode


@reverse_mode
def normalize_sample(x: jax.Array, sample_ndim: int) -> jax.Array:
    """Divides each sample by its standard deviation: `x / sqrt(var + 1e-5)`, with the unbiased `var` (SPEC.md 2).

    Args:
      x: (*batch, *sample).
      sample_ndim: number of trailing axes that make one sample; 3 for (height, width, channels).

    Returns:
      The normalized samples, in the shape and dtype of `x`.
    """
    return _normalize_sample(x, sample_ndim)


def _normalize_sample_fwd(x, sample_ndim):
    rows = wide(x).reshape(-1, math.prod(x.shape[x.ndim - sample_ndim :]))
    n = rows.shape[1]
    mean, squares = (values[:, None] for values in moments(rows, 1))
    inverse = lax.rsqrt(squares / max(n - 1, 1) + EPSILON)
    return (rows * inverse).reshape(x.shape).astype(x.dtype), (x, mean, inverse)


def _normalize_sample_bwd(sample_ndim, saved, dy):
    x, mean, inverse = saved
    rows, dy = (wide(a).reshape(mean.shape[0], -1) for a in (x, dy))
    # d inverse / d x = -inverse^3 (x - mean) / (n - 1). The derivative of the mean has no term here, because it is
    # multiplied by sum(x - mean) = 0.
    slope = sum_columns(dy * rows)[:, None] * inverse**3 / max(rows.shape[1] - 1, 1)
    dx = dy * inverse - (rows - mean) * slope
    return (dx.reshape(x.shape).astype(x.dtype),)


_normalize_sample = jax.custom_vjp(
    lambda x, sample_ndim: _normalize_sample_fwd(x, sample_ndim)[0], nondiff_argnums=(1,)
)
_normalize_sample.defvjp(_normalize_sample_fwd, _normalize_sample_bwd)


def binarize_activations(x: jax.Array, sample_ndim: int, *, train: bool) -> jax.Array:
    """Takes the signs of the activations (SPEC.md 2).

    In training each sample is first divided by its standard deviation. This division sets the window in which the
    gradient of `approx_sign` is not 0. Evaluation skips the division: a positive factor changes no sign.

    Args:
      x: (*batch, *sample).
      sample_ndim: number of trailing axes that make one sample.
      train: whether to divide each sample by its standard deviation.

    Returns:
      +1 and -1 in the shape and dtype of `x`.
    """
    return approx_sign(normalize_sample(x, sample_ndim) if train else x)
