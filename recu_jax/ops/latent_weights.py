"""Computes the signs of standardized latent weights, and their gradient through the clamp (SPEC.md 1.1 to 1.4).

The unfused form is `ste_sign(recu(standardize(kernel), tau))` in `recu_jax.functional`. On CPUs XLA compiles it into
some forty passes over the weights in a train step. The compiled kernels load the weights from memory once forward and
once backward, because a tile of channels stays in the cache between passes. On other devices XLA computes the same
formulas, and stores no standardized weights.

The clamp changes no sign. So the forward pass needs neither tau nor the scale of the Laplace fit, and only the backward
pass clamps.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recu_jax.ops import packed
from recu_jax.ops.by_platform import compiled_or_xla
from recu_jax.ops.conv import match_varying_axes
from recu_jax.ops.partitioned import over_batch
from recu_jax.ops.reductions import moments, sum_rows, sum_rows_of_both, wide
from recu_jax.ops.reverse_mode import reverse_mode


def is_served(kernel: jax.Array, tau: Any, b: Any) -> bool:
    """Tells whether `standardized_signs` can take these arguments of `functional.binarize_weights`.

    It cannot if `tau` is not a scalar, `b` is not a Python number, the kernel is empty, or the kernel is sharded over
    its window or its input channels on explicit mesh axes.
    """
    spec = getattr(getattr(jax.typeof(kernel), "sharding", None), "spec", ())
    return (
        isinstance(b, (int, float))
        and (tau is None or jnp.ndim(tau) == 0)
        and kernel.size > 0
        and all(axis is None for axis in spec[:-1])
    )


@reverse_mode
def standardized_signs(kernel: jax.Array, quantile: jax.Array | float, spread: float, epsilon: float) -> jax.Array:
    """Returns the signs of the standardized weights `w1 = (w - mean(w)) * spread / sqrt(var(w) + epsilon)`.

    The gradient of the signs passes to `w1` where `|w1| <= quantile * mean|w1|`, and from there to `w` through mean and
    variance. A NaN or infinity among the weights of a channel makes all signs of this channel NaN. If the quantile is
    finite, the other channels then get no gradient.

    Args:
      kernel: latent weights, (*window, in_features / groups, features), with at least two weights for each feature.
      quantile: quantile of a Laplace distribution of scale 1, (); infinity clips nothing. It gets no gradient.
      spread: standard deviation of `w1`, apart from `epsilon`.
      epsilon: number that is added to the variance.

    Returns:
      +1 and -1, in the shape and dtype of `kernel`.
    """
    statistic = wide(kernel).dtype
    operands: Any = match_varying_axes(kernel, jnp.asarray(quantile, statistic))
    return _signs(*operands, spread, epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _signs(kernel, quantile, spread, epsilon):
    return _forward(kernel, quantile, spread, epsilon)[0]


def _forward(kernel, quantile, spread, epsilon):
    by_xla = functools.partial(_signs_by_xla, spread, epsilon)
    if kernel.dtype == jnp.float32:
        compiled = functools.partial(_compiled_signs, spread, epsilon)
        signs, statistics = compiled_or_xla(kernel, quantile, compiled=compiled, xla=by_xla)
    else:
        signs, statistics = by_xla(kernel, quantile)
    return signs, (kernel, statistics, _bound(quantile, statistics, kernel.size))


def _bound(quantile, statistics, count):
    # An infinite quantile clips nothing, also where the scale is 0: there the product would be NaN.
    return jnp.where(jnp.isinf(quantile), quantile, quantile * (statistics[2].sum() / float(count)))


def _backward(spread, epsilon, saved, gradient):
    kernel, *others = saved
    by_xla = functools.partial(_gradient_by_xla, spread)
    if kernel.dtype == jnp.float32:
        compiled = functools.partial(_compiled_gradient, spread)
        return compiled_or_xla(gradient, kernel, *others, compiled=compiled, xla=by_xla), None
    return by_xla(gradient, kernel, *others), None


_signs.defvjp(_forward, _backward)


@jax.custom_jvp
def _clamped_sign(w, bound):
    one = jnp.ones((), w.dtype)
    return jnp.where(jnp.isnan(w), w, jnp.where(w >= 0, one, -one))


@_clamped_sign.defjvp
def _clamped_sign_jvp(primals, tangents):
    # Second derivatives come here: JAX differentiates the forward pass once more, by XLA's form.
    w, bound = primals
    return _clamped_sign(w, bound), jnp.where(jnp.abs(w) <= bound, tangents[0], 0)


def _signs_by_xla(spread, epsilon, kernel, quantile):
    """Returns the signs, and for each feature mean, scale and sum of `|w1|`, (3, features).

    `w1` is `(w - mean) * scale`.
    """
    rows = wide(kernel.reshape(-1, kernel.shape[-1]))
    mean, squares = moments(rows, 0, rows.dtype)
    centered = rows - mean[None]
    scale = spread / jnp.sqrt(squares / (rows.shape[0] - 1) + epsilon)
    statistics = jnp.stack([mean, scale, sum_rows(jnp.abs(centered)) * scale])
    signs = _clamped_sign(centered * scale[None], _bound(quantile, statistics, kernel.size))
    return signs.reshape(kernel.shape).astype(kernel.dtype), statistics


def _compiled_signs(spread, epsilon, backend, kernel, quantile):
    shapes = (
        jax.ShapeDtypeStruct(kernel.shape, jnp.float32),
        jax.ShapeDtypeStruct((3, kernel.shape[-1]), jnp.float32),
    )
    numbers = {"spread": np.float32(spread), "epsilon": np.float32(epsilon)}
    return tuple(packed.call("recu_weight_signs", shapes, kernel, isa=backend, **numbers))


def _gradient_by_xla(spread, gradient, kernel, statistics, bound):
    """Returns the gradient of the kernel.

    Let m be the gradient of the signs where it passes the clamp, else 0, d the centered weights, and n their number in
    a feature. Then the gradient is `scale * (m - mean(m) - d * sum(m d) / ((n - 1) (var + epsilon)))`.
    """
    rows = wide(kernel.reshape(-1, kernel.shape[-1]))
    mean, scale = statistics[:1], statistics[1:2]
    centered = rows - mean
    passed = jnp.where(jnp.abs(centered) * scale <= bound, wide(gradient).reshape(rows.shape), 0)
    total, product = sum_rows_of_both(passed, passed * centered)
    pull = product[None] * (scale / spread) ** 2 / (rows.shape[0] - 1)
    result = (passed - total[None] / rows.shape[0] - centered * pull) * scale
    return result.reshape(kernel.shape).astype(kernel.dtype)


def _compiled_gradient(spread, backend, gradient, kernel, statistics, bound):
    shape = jax.ShapeDtypeStruct(kernel.shape, jnp.float32)

    def call(*args):
        return packed.call("recu_weight_gradient", shape, *args, spread=np.float32(spread), isa=backend)

    # Under `vmap` over examples, only the gradient has the axis of the examples, which may be sharded.
    return over_batch(call, gradient, kernel, statistics, bound[None], batched=[False] * 4)
