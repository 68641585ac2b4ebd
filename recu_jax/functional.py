"""The method as pure functions: SPEC.md sections 1 to 3 (Xu et al., "ReCU", ICCV 2021, arXiv 2103.12369).

Arrays are channels last. A kernel is (*window, in_features / groups, features): its last axis is the output channel.
Every function returns the dtype of its input. Statistics of bfloat16 and float16 arrays are computed in float32.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.errors import UserError
from recu_jax.ops.conv import ConvSpec, PaddingLike, match_varying_axes, per_channel, wrap_padding
from recu_jax.ops.reductions import sum_columns, wide
from recu_jax.ops.scaled_conv import scaled_conv

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
    if math.prod(kernel.shape[:-1]) < 2:
        raise UserError(
            f"standardize: a kernel of shape {kernel.shape} has one weight per output channel, and needs two for a "
            "variance; use standardize=False"
        )
    w = wide(kernel)
    if center:
        w = w - w.mean(axes, keepdims=True)
    variance = w.var(axes, keepdims=True, ddof=1)
    return (w * (math.sqrt(2) * b / jnp.sqrt(variance + EPSILON))).astype(kernel.dtype)


# `clamped_weights` has an argument named `standardize`, which hides the function.
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
    # 0 times the infinite logarithm would be NaN.
    return jnp.where(tau < 1, -scale * jnp.log(2.0 - 2.0 * tau), jnp.inf)


def recu(weights: jax.Array, tau: jax.Array | float) -> jax.Array:
    """Rectified clamp unit: clamps weights to `[-Q(tau), Q(tau)]` of the layer's Laplace fit (SPEC.md 1.3).

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


def sign(x: jax.Array) -> jax.Array:
    """Returns +1 where `x >= 0` and -1 where `x < 0`, without a gradient.

    The result is never 0, so a sign is one bit. NaN stays NaN.
    """
    one = jnp.ones((), x.dtype)
    return jnp.where(jnp.isnan(x), lax.stop_gradient(x), jnp.where(x >= 0, one, -one))


@jax.custom_jvp
def ste_sign(x: jax.Array) -> jax.Array:
    """Sign with the straight-through estimator of the weights: its gradient is the identity (SPEC.md 1.4)."""
    return sign(x)


@ste_sign.defjvp
def _ste_sign_jvp(primals, tangents):
    return ste_sign(*primals), tangents[0]


@jax.custom_jvp
def approx_sign(x: jax.Array) -> jax.Array:
    """Sign with the gradient `max(0, 2 - 2|x|)` of Bi-Real Net's piecewise polynomial (SPEC.md 2)."""
    return sign(x)


@approx_sign.defjvp
def _approx_sign_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    return approx_sign(x), t * jnp.maximum(0, 2 - 2 * jnp.abs(x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def normalize_sample(x: jax.Array, sample_ndim: int) -> jax.Array:
    """Divides each sample by its standard deviation: `x / sqrt(var + 1e-5)`, with the unbiased `var` (SPEC.md 2).

    Args:
      x: (*batch, *sample).
      sample_ndim: number of trailing axes that make one sample; 3 for (height, width, channels).

    Returns:
      The normalized samples, in the shape and dtype of `x`.
    """
    return _normalize_sample_fwd(x, sample_ndim)[0]


def _normalize_sample_fwd(x, sample_ndim):
    rows = wide(x).reshape(-1, math.prod(x.shape[x.ndim - sample_ndim :]))
    n = rows.shape[1]
    mean = (sum_columns(rows) / n)[:, None]
    variance = sum_columns(jnp.square(rows - mean))[:, None] / max(n - 1, 1)
    inverse = lax.rsqrt(variance + EPSILON)
    return (rows * inverse).reshape(x.shape).astype(x.dtype), (x, mean, inverse)


def _normalize_sample_bwd(sample_ndim, saved, dy):
    x, mean, inverse = saved
    rows, dy = (wide(a).reshape(len(mean), -1) for a in (x, dy))
    # d inverse / d x = -inverse^3 (x - mean) / (n - 1). The mean adds nothing, because sum(x - mean) = 0.
    slope = sum_columns(dy * rows)[:, None] * inverse**3 / max(rows.shape[1] - 1, 1)
    dx = dy * inverse - (rows - mean) * slope
    return (dx.reshape(x.shape).astype(x.dtype),)


normalize_sample.defvjp(_normalize_sample_fwd, _normalize_sample_bwd)


def binarize_activations(x: jax.Array, sample_ndim: int, *, train: bool) -> jax.Array:
    """Takes the signs of the activations (SPEC.md 2).

    In training each sample is first divided by its standard deviation. This division sets the window in which the
    gradient of `approx_sign` is not 0. Evaluation skips the division: a positive factor changes no sign.

    Args:
      x: (*batch, *sample).
      sample_ndim: number of trailing axes that make one sample.
      train: whether to divide.

    Returns:
      +1 and -1 in the shape and dtype of `x`.
    """
    return approx_sign(normalize_sample(x, sample_ndim) if train else x)


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
      tau: in (0.5, 1]; None clamps nothing.
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


def binarize_weights(kernel: jax.Array, tau: jax.Array | float | None = None, **options: Any) -> jax.Array:
    """Takes the signs of the clamped latent weights, with the straight-through gradient (SPEC.md 1.4).

    Args:
      kernel: latent weights, (*window, in_features / groups, features).
      tau: in (0.5, 1]; None clamps nothing.
      **options: keyword arguments of `clamped_weights`.

    Returns:
      +1 and -1 in the shape and dtype of `kernel`.

    Raises:
      UserError: see `clamped_weights`.
    """
    return ste_sign(clamped_weights(kernel, tau, **options))


def mean_alpha(clamped: jax.Array) -> jax.Array:
    """Computes the paper's scale of each output channel, the mean of `|w2|` (SPEC.md 3).

    Args:
      clamped: `w2`, the result of `clamped_weights`.

    Returns:
      (features,), in the dtype of `clamped`.
    """
    return jnp.abs(wide(clamped)).mean(tuple(range(clamped.ndim - 1))).astype(clamped.dtype)


def conv_of_signs(
    signs: jax.Array,
    weights: jax.Array,
    alpha: jax.Array | None = None,
    *,
    strides: int | Sequence[int] | None = 1,
    padding: PaddingLike = "SAME",
    kernel_dilation: int | Sequence[int] | None = 1,
    feature_group_count: int = 1,
    input_dilation: int | Sequence[int] | None = 1,
    precision: Any = None,
    binary: bool = True,
) -> jax.Array:
    """1-bit convolution `alpha * conv(signs, weights)` of binarized activations and binarized weights (SPEC.md 3).

    Zero padding is added to the signs. A tap outside the image thus counts 0, not +1 or -1.

    A NaN among the signs or weights gives NaN in each output that depends on it. The compiled kernels of CPUs give NaN
    in all outputs of its sample or channel.

    Args:
      signs: (batch, *spatial, in_features), +1 and -1; their dtype is the dtype of the computation.
      weights: (*window, in_features / groups, features), +1 and -1, or real weights with `binary=False`.
      alpha: scale, (features,), or None.
      strides: an int, or one per spatial dimension.
      padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"`, `"CIRCULAR"`, `"REFLECT"`, `"CAUSAL"` (1-D), an int, or one int or
        (low, high) per spatial dimension.
      kernel_dilation: an int, or one per spatial dimension.
      feature_group_count: groups of channels; `in_features` groups make a depthwise convolution.
      input_dilation: an int, or one per spatial dimension. The zeros between the signs count 0, as padding does.
      precision: as in `nn.Conv`; sums of signs are exact with any.
      binary: False for real weights: only the activations are 1 bit, as in stage 1 of two-stage training (SPEC.md 7).

    Returns:
      (batch, *out_spatial, features) in the dtype of `signs`.

    Raises:
      UserError: the padding is unknown.
    """
    window = weights.shape[:-2]
    spec = ConvSpec.create(window, strides, padding, kernel_dilation, feature_group_count, input_dilation, precision)
    signs, spec = wrap_padding(signs, window, spec)
    return scaled_conv(*match_varying_axes(signs, weights.astype(signs.dtype), alpha), spec, binary)


def dense_of_signs(
    signs: jax.Array, weights: jax.Array, alpha: jax.Array | None = None, *, precision: Any = None
) -> jax.Array:
    """1-bit dense layer `alpha * (signs @ weights)` of binarized activations and binarized weights.

    Args:
      signs: (..., in_features), +1 and -1.
      weights: (in_features, features), +1 and -1.
      alpha: scale, (features,), or None.
      precision: as in `nn.Dense`; sums of signs are exact with any.

    Returns:
      (..., features) in the dtype of `signs`.
    """
    y = jnp.matmul(signs, weights.astype(signs.dtype), precision=precision)
    return y if alpha is None else y * per_channel(alpha, y)
