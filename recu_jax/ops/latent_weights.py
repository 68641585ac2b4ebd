"""Computes the signs of standardized latent weights, and their gradient through the clamp (SPEC.md 1.1 to 1.4).

The unfused form is `ste_sign(recu(standardize(kernel), tau))` in `recu_jax.functional`. From it XLA makes programs for
CPUs that read and write the weights some forty times in a train step. In a step of ImageNet's ResNet-18, with 11
million weights, this took a seventh of the processor time. The compiled kernels of this module read the weights once
forward and once backward, and XLA's form for other devices stores no standardized weights.

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
from recu_jax.ops.reductions import moments, sum_rows, sum_rows_of_both, wide
from recu_jax.ops.reverse_mode import reverse_mode


@reverse_mode
def standardized_signs(kernel: jax.Array, quantile: jax.Array | float, spread: float, epsilon: float) -> jax.Array:
    """Returns the signs of the standardized weights `w1 = (w - mean(w)) * spread / sqrt(var(w) + epsilon)`.

    The gradient of the signs passes to `w1` where `|w1| <= quantile * mean|w1|`, and from there to `w` through mean and
    variance. A NaN among the weights of a channel makes all signs of this channel NaN.

    Args:
      kernel: latent weights, (*window, in_features / groups, features), with at least two weights for each feature.
      quantile: quantile of a Laplace distribution of scale 1, (); infinity clips nothing. It gets no gradient.
      spread: standard deviation of the result.
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
        signs, statistics = compiled_or_xla(kernel, compiled=compiled, xla=by_xla)
    else:
        signs, statistics = by_xla(kernel)
    scale = statistics[2].sum() / kernel.size
    # An infinite quantile clips nothing, also where the scale is 0: there the product would be NaN.
    bound = jnp.where(jnp.isinf(quantile), quantile, quantile * scale)
    return signs, (kernel, statistics, bound)


def _backward(spread, epsilon, saved, gradient):
    kernel, *others = saved
    by_xla = functools.partial(_gradient_by_xla, spread)
    if kernel.dtype == jnp.float32:
        compiled = functools.partial(_compiled_gradient, spread)
        return compiled_or_xla(gradient, kernel, *others, compiled=compiled, xla=by_xla), None
    return by_xla(gradient, kernel, *others), None


_signs.defvjp(_forward, _backward)


def _signs_by_xla(spread, epsilon, kernel):
    """Returns the signs, and for each feature mean, scale and sum of `|w1|`, (3, features).

    `w1` is `(w - mean) * scale`.
    """
    rows = wide(kernel.reshape(-1, kernel.shape[-1]))
    mean, squares = moments(rows, 0)
    centered = rows - mean[None]
    scale = spread / jnp.sqrt(squares / (rows.shape[0] - 1) + epsilon)
    one = jnp.ones((), rows.dtype)
    signs = jnp.where(jnp.isnan(centered), centered, jnp.where(centered >= 0, one, -one))
    statistics = jnp.stack([mean, scale, sum_rows(jnp.abs(centered)) * scale])
    return signs.reshape(kernel.shape).astype(kernel.dtype), statistics


def _compiled_signs(spread, epsilon, backend, kernel):
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
    return packed.call(
        "recu_weight_gradient", shape, gradient, kernel, statistics, bound, spread=np.float32(spread), isa=backend
    )
