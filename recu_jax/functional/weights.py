"""Turns latent weights into binary weights and their scale (SPEC.md sections 1 and 3).

A kernel is (*window, in_features / groups, features): its last axis is the output channel.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.errors import UserError
from recu_jax.functional.signs import ste_sign
from recu_jax.ops.latent_weights import is_served, standardized_signs
from recu_jax.ops.reductions import wide

# Added to each variance (SPEC.md 1.1 and 2).
EPSILON = 1e-5


def check_tau(tau: Any) -> None:
    """Raises UserError if `tau` is a Python number outside (0.5, 1]. Values of JAX arrays are not checked."""
    if isinstance(tau, (int, float)) and not 0.5 < tau <= 1.0:
        raise UserError(f"tau is {tau}; it must be above 0.5 and at most 1 (1 clips nothing)")


def check_tau_range(tau_min: float, tau_max: float, prefix: str = "") -> None:
    """Raises UserError unless `0.5 < tau_min <= tau_max <= 1`; the message puts `prefix` before both names."""
    if not 0.5 < tau_min <= tau_max <= 1.0:
        raise UserError(
            f"{prefix}tau_min is {tau_min} and {prefix}tau_max is {tau_max}; they must satisfy "
            "0.5 < tau_min <= tau_max <= 1"
        )


def standardize(kernel: jax.Array, *, b: float = 2.0, center: bool = True) -> jax.Array:
    """Centers and scales the latent weights of each output channel (SPEC.md 1.1).

    `w0 = w - mean(w)`, `w1 = w0 * sqrt(2) * b / sqrt(var(w0) + 1e-5)`, with the unbiased `var`. The factor is
    `sqrt(2) b` because this is the standard deviation of a Laplace distribution of scale `b`. The gradient flows
    through mean and variance.

    Args:
      kernel: (*window, in_features / groups, features).
      b: scale b* of the Laplace distribution of the result.
      center: whether to subtract the mean.

    Returns:
      The standardized weights, in the shape and dtype of `kernel`.

    Raises:
      UserError: a channel has fewer than two weights, so its variance is not defined.
    """
    axes = tuple(range(kernel.ndim - 1))
    _check_variance(kernel)
    w = wide(kernel)
    if center:
        w = w - w.mean(axes, keepdims=True)
    variance = w.var(axes, keepdims=True, ddof=1)
    return (w * (math.sqrt(2) * b / jnp.sqrt(variance + EPSILON))).astype(kernel.dtype)


def _check_variance(kernel):
    if math.prod(kernel.shape[:-1]) < 2:
        raise UserError(
            f"standardize: a kernel of shape {kernel.shape} has one weight per output channel, and needs two for a "
            "variance; use standardize=False"
        )


# A second name, because the argument `standardize` of `clamped_weights` hides the function.
_standardize = standardize


def laplace_scale(weights: jax.Array) -> jax.Array:
    """Estimates the scale `b = mean|w|` of a zero-mean Laplace distribution over a whole layer (SPEC.md 1.2).

    This is the maximum-likelihood estimate. It carries no gradient.

    Args:
      weights: standardized weights of one layer, any shape.

    Returns:
      (), float32 or wider.
    """
    return lax.stop_gradient(jnp.abs(wide(weights)).mean())


def laplace_quantile(scale: jax.Array | float, tau: jax.Array | float) -> jax.Array:
    """Computes the tau-quantile `Q(tau) = -b ln(2 - 2 tau)` of a zero-mean Laplace distribution (SPEC.md 1.2).

    `Q(1)` is infinite, also where `scale` is 0.

    Args:
      scale: b, the result of `laplace_scale`.
      tau: in (0.5, 1].

    Raises:
      UserError: `tau` is a Python number outside (0.5, 1].
    """
    check_tau(tau)
    tau = jnp.asarray(tau, jnp.result_type(scale, float))
    # At tau = 1 the formula gives infinity, except with a scale of 0, where 0 times infinity is NaN.
    return jnp.where(tau < 1, -scale * jnp.log(2.0 - 2.0 * tau), jnp.inf)


def recu(weights: jax.Array, tau: jax.Array | float) -> jax.Array:
    """Applies the rectified clamp unit: clamps weights to `[-Q(tau), Q(tau)]` of the layer's Laplace fit (SPEC.md 1.3).

    The gradient is 1 inside the interval and 0 outside. No gradient flows to Q. The clamp clips a share of about
    `2 (1 - tau)` of the weights.

    Args:
      weights: standardized weights of one layer, any shape.
      tau: in (0.5, 1].

    Returns:
      The clamped weights, in the shape and dtype of `weights`.

    Raises:
      UserError: `tau` is a Python number outside (0.5, 1].

    Example:
      At tau = 0.75 and b = 2, `Q = -2 ln 0.5 = 1.386`:

      >>> w = jnp.array([0.5, -1.0, 4.5])
      >>> recu(w, tau=0.75)
      Array([ 0.5      , -1.       ,  1.3862944], dtype=float32)
    """
    bound = lax.stop_gradient(laplace_quantile(laplace_scale(weights), tau)).astype(weights.dtype)
    return jnp.where(jnp.abs(weights) <= bound, weights, jnp.copysign(bound, weights))


def clamped_weights(
    kernel: jax.Array,
    tau: jax.Array | float | None = None,
    *,
    standardize: bool = True,
    clamp: bool = True,
    b: float = 2.0,
    center: bool = True,
) -> jax.Array:
    """Standardizes and clamps latent weights (SPEC.md 1.1 to 1.3). The signs of the result `w2` are the binary weights.

    Args:
      kernel: latent weights, (*window, in_features / groups, features).
      tau: in (0.5, 1]; None turns the clamp off.
      standardize: whether to standardize.
      clamp: whether to clamp.
      b, center: arguments of `functional.standardize`.

    Returns:
      `w2`, in the shape and dtype of `kernel`.

    Raises:
      UserError: `tau` is a Python number outside (0.5, 1], or a channel has fewer than two weights to standardize.
    """
    w = _standardize(kernel, b=b, center=center) if standardize else kernel
    return recu(w, tau) if clamp and tau is not None else w


def binarize_weights(
    kernel: jax.Array,
    tau: jax.Array | float | None = None,
    *,
    standardize: bool = True,
    clamp: bool = True,
    b: float = 2.0,
    center: bool = True,
) -> jax.Array:
    """Takes the signs of the clamped latent weights, with the straight-through gradient (SPEC.md 1.4).

    Equals `ste_sign(clamped_weights(kernel, tau, ...))` up to rounding. With `standardize` and `center` it takes fewer
    passes over the weights, a NaN stays in its channel, and there is no forward-mode derivative.

    Args:
      kernel: latent weights, (*window, in_features / groups, features).
      tau: in (0.5, 1]; None turns the clamp off.
      standardize, clamp, b, center: as in `clamped_weights`.

    Returns:
      +1 and -1 in the shape and dtype of `kernel`.

    Raises:
      UserError: `tau` is a Python number outside (0.5, 1], or a channel has fewer than two weights to standardize.
    """
    if not (standardize and center and is_served(kernel, tau, b)):
        return ste_sign(clamped_weights(kernel, tau, standardize=standardize, clamp=clamp, b=b, center=center))
    _check_variance(kernel)
    quantile = laplace_quantile(1.0, tau) if clamp and tau is not None else math.inf
    return standardized_signs(kernel, quantile, math.sqrt(2) * float(b), EPSILON)


def mean_alpha(clamped: jax.Array) -> jax.Array:
    """Computes the paper's scale of each output channel, the mean of `|w2|` (SPEC.md 3).

    Args:
      clamped: `w2`, the result of `clamped_weights`.

    Returns:
      (features,), in the dtype of `clamped`.
    """
    return jnp.abs(wide(clamped)).mean(tuple(range(clamped.ndim - 1))).astype(clamped.dtype)
