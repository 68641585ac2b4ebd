"""Turns real activations into binary activations (SPEC.md section 2)."""

import functools
import math

import jax
from jax import lax

from recu_jax.functional.signs import approx_sign, approx_slope, sign
from recu_jax.functional.weights import EPSILON
from recu_jax.ops.by_platform import by_platform
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _normalize_sample(x, sample_ndim):
    return _normalize_sample_fwd(x, sample_ndim)[0]


def _normalize_sample_fwd(x, sample_ndim):
    mean, inverse = _statistics(x, sample_ndim)
    return _scaled(x, inverse, sample_ndim).reshape(x.shape).astype(x.dtype), (x, mean, inverse)


def _statistics(x, sample_ndim):
    """Returns the mean and the inverse standard deviation of each sample, (samples, 1)."""
    rows = _rows(x, sample_ndim)
    mean, squares = (values[:, None] for values in moments(rows, 1, wide(x).dtype))
    return mean, lax.rsqrt(squares / max(rows.shape[1] - 1, 1) + EPSILON)


def _rows(x, sample_ndim):
    """Returns x as (samples, numbers of a sample)."""
    return x.reshape(-1, math.prod(x.shape[x.ndim - sample_ndim :]))


def _scaled(x, inverse, sample_ndim):
    """Returns x, divided by the standard deviation of each sample, as (samples, numbers of a sample)."""
    return _rows(wide(x), sample_ndim) * inverse


def _normalize_sample_bwd(sample_ndim, saved, dy):
    x, mean, inverse = saved
    rows, dy = (_rows(wide(a), sample_ndim) for a in (x, dy))
    # d inverse / d x = -inverse^3 (x - mean) / (n - 1). The derivative of the mean has no term here, because it is
    # multiplied by sum(x - mean) = 0.
    slope = by_platform(dy * rows, inverse, cpu=_slope, gpu=_slope_on_gpus, default=_slope)
    dx = dy * inverse - (rows - mean) * slope
    return (dx.reshape(x.shape).astype(x.dtype),)


def _slope(products, inverse):
    return sum_columns(products)[:, None] * inverse**3 / max(products.shape[1] - 1, 1)


def _slope_on_gpus(products, inverse):
    # To multiply the sums by the factor would take one more kernel. Before the sums, it takes none: the factor depends
    # on the forward pass alone, and XLA computes it there.
    return sum_columns(products * (inverse**3 / max(products.shape[1] - 1, 1)))[:, None]


_normalize_sample.defvjp(_normalize_sample_fwd, _normalize_sample_bwd)


@reverse_mode
def binarize_activations(x: jax.Array, sample_ndim: int, *, train: bool) -> jax.Array:
    """Takes the signs of the activations (SPEC.md 2).

    The signs are those of `x`. In training their gradient is the gradient of `approx_sign(normalize_sample(x))`.
    `normalize_sample` divides each sample by its standard deviation, which changes no sign. So `approx_sign` passes a
    gradient where the magnitude of `x` is below one standard deviation.

    Args:
      x: (*batch, *sample).
      sample_ndim: number of trailing axes that make one sample.
      train: False gives the gradient of `approx_sign(x)`.

    Returns:
      +1 and -1 in the shape and dtype of `x`. NaN stays NaN.
    """
    return _signs(x, sample_ndim) if train else approx_sign(x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _signs(x, sample_ndim):
    return sign(x)


def _signs_fwd(x, sample_ndim):
    normalized, saved = _normalize_sample_fwd(x, sample_ndim)
    return _sign_of(x, normalized), saved


@jax.custom_jvp
def _sign_of(x, normalized):
    # The signs wait for no sum over the sample, so XLA computes them where x is computed.
    return sign(x)


@_sign_of.defjvp
def _sign_of_jvp(primals, tangents):
    # Second derivatives come here: JAX differentiates the forward pass once more.
    return _sign_of(*primals), tangents[1] * approx_slope(primals[1])


def _signs_bwd(sample_ndim, saved, dy):
    x, _, inverse = saved
    # `dy * slope` is computed in the dtype of dy. If it were float32, XLA would not keep x on GPUs, but compute it
    # again from the arrays before it: 8% more bytes in a step of `cifar_resnet20` in bfloat16.
    slope = approx_slope(_scaled(x, inverse, sample_ndim)).reshape(dy.shape).astype(dy.dtype)
    return _normalize_sample_bwd(sample_ndim, saved, dy * slope)


_signs.defvjp(_signs_fwd, _signs_bwd)
