"""Defines batch normalization with Flax's variables, PyTorch's epsilon and momentum, and an explicit backward pass."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.ops.by_platform import by_platform
from recu_jax.ops.conv import per_channel
from recu_jax.ops.reductions import moments, sum_rows, sum_rows_of_both

EPSILON = 1e-5
MOMENTUM = 0.9

Normalized = Callable[[jax.Array, jax.Array, str | None], tuple[jax.Array, jax.Array, jax.Array]]
Evaluated = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class BatchNorm(nn.Module):
    """Normalizes each channel, the last axis, over all other axes; a drop-in replacement for `nn.BatchNorm`.

    XLA's CPU compiler is slow at the sums that automatic differentiation puts into the backward pass. Here the forward
    and the backward pass compute their sums with `recu_jax.ops.reductions`.

    Statistics have the dtype `param_dtype`. The running variance is biased, as in Flax. For n values per channel,
    PyTorch's is n / (n - 1) times as large.

    Variables: `params/scale`, `params/bias`, `batch_stats/mean`, `batch_stats/var`, all (channels,).

    Attributes:
      dtype: dtype of the result; None infers it from the input and `param_dtype`.
      param_dtype: dtype of the variables.
      axis_name: mapped axis over which the statistics are averaged; with None each device has its own statistics.
      scale_init: initializer of `scale`.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    scale_init: Callable[..., jax.Array] = nn.initializers.ones_init()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool,
        normalized: Normalized | None = None,
        evaluated: Evaluated | None = None,
    ) -> jax.Array:
        """Normalizes x.

        Args:
          x: (..., channels).
          use_running_average: True normalizes by the running statistics. False normalizes by the statistics of x and
            updates the running ones.
          normalized: function of scale, bias and `axis_name` that replaces `normalize`, with the same outputs.
            It may also compute the operations before and after the normalization, as `recu_jax.ops.unit` does. Of x,
            only the number of channels and the dtype are then used.
          evaluated: the same for the running statistics: a function of mean, factor and bias, (channels,), that
            replaces `(x - mean) * factor + bias`.

        Returns:
          The normalized x, in the shape of x.
        """
        channels = x.shape[-1:]
        scale = self.param("scale", self.scale_init, channels, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), channels, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, self.param_dtype)
        dtype = self.dtype or jnp.promote_types(x.dtype, self.param_dtype)
        if use_running_average:
            factor = scale * lax.rsqrt(running_var.value + EPSILON)
            if evaluated:
                return evaluated(running_mean.value, factor, bias).astype(dtype)
            wide = x.astype(factor.dtype)
            y = (wide - per_channel(running_mean.value, wide)) * per_channel(factor, wide) + per_channel(bias, wide)
            return y.astype(dtype)
        # `init` runs outside of the mapped axis, so JAX would not know the name of the axis.
        axis_name = None if self.is_initializing() else self.axis_name
        y, mean, var = normalized(scale, bias, axis_name) if normalized else normalize(x, scale, bias, axis_name)
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            running_mean.value = MOMENTUM * running_mean.value + (1 - MOMENTUM) * mean
            running_var.value = MOMENTUM * running_var.value + (1 - MOMENTUM) * var
        return y.astype(dtype)


def _mean_and_var(x: jax.Array, axis_name: str | None, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Returns mean and biased variance of x, (rows, channels), over its rows and over the mapped axis, in `dtype`."""
    if axis_name is None:
        mean, squares = moments(x, 0, dtype)
        return mean, squares / x.shape[0]
    x = x.astype(dtype)
    mean = lax.pmean(sum_rows(x) / x.shape[0], axis_name)
    centered = x - per_channel(mean, x)
    return mean, lax.pmean(sum_rows(centered * centered) / x.shape[0], axis_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes `(x - mean) / sqrt(var + 1e-5) * scale + bias` per channel, in the dtype of `scale`.

    Args:
      x: (..., channels).
      scale, bias: (channels,).
      axis_name: mapped axis over which mean and variance are averaged, or None.

    Returns:
      The result, in the shape of x, and the mean and the biased variance of x, (channels,). Mean and variance carry no
      gradient.
    """
    return _normalize_fwd(x, scale, bias, axis_name)[0]


def _normalize_fwd(x, scale, bias, axis_name):
    rows = x.reshape(-1, x.shape[-1])
    mean, var = _mean_and_var(rows, axis_name, scale.dtype)
    rows, inverse = rows.astype(scale.dtype), lax.rsqrt(var + EPSILON)
    y = (rows - per_channel(mean, rows)) * per_channel(inverse * scale, rows) + per_channel(bias, rows)
    return (y.reshape(x.shape), mean, var), (x, mean, inverse, scale)


def _normalize_bwd(axis_name, saved, cotangents):
    x, mean, inverse, scale = saved
    dy = cotangents[0].reshape(-1, x.shape[-1])
    rows = x.reshape(dy.shape).astype(dy.dtype)
    normalized = (rows - per_channel(mean, rows)) * per_channel(inverse, rows)
    dbias, dscale = sum_rows_of_both(dy, dy * normalized)
    factor, count = inverse * scale, rows.shape[0]
    if axis_name is None:
        arrays = dy, normalized, dbias, dscale, factor
        on_gpus = _by_sums if dy.dtype == jnp.float16 else _by_sums_on_gpus  # the count may overflow float16
        dx = by_platform(*arrays, cpu=_by_sums, gpu=on_gpus, default=_by_sums)
    else:
        mean_dy, mean_product = lax.pmean((dbias / count, dscale / count), axis_name)
        dx = _by_means(dy, normalized, mean_dy, mean_product, factor)
    return dx.reshape(x.shape).astype(x.dtype), dscale, dbias


normalize.defvjp(_normalize_fwd, _normalize_bwd)


def _by_means(dy, normalized, mean_dy, mean_product, factor):
    """Returns the gradient of the input, (rows, channels)."""
    dx = dy - per_channel(mean_dy, dy) - normalized * per_channel(mean_product, dy)
    return dx * per_channel(factor, dy)


def _by_sums(dy, normalized, dbias, dscale, factor):
    return _by_means(dy, normalized, dbias / dy.shape[0], dscale / dy.shape[0], factor)


def _by_sums_on_gpus(dy, normalized, dbias, dscale, factor):
    # To compute the means from the sums would take one more kernel. So the operation that reads `dy` uses the sums. XLA
    # computes `factor / count` in the forward pass.
    count = jnp.asarray(dy.shape[0], dy.dtype)
    return _by_means(count * dy, normalized, dbias, dscale, factor / count)
