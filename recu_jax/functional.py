"""The method as pure functions: SPEC.md sections 1 to 3 (Xu et al., "ReCU", ICCV 2021, arXiv 2103.12369).

Arrays are channels last: a kernel is (*window, in_features / groups, features), its output channel the last axis.
Every function returns the dtype it was given; statistics of bfloat16 and float16 arrays are computed in float32.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.conv import ConvSpec, PaddingLike, per_channel, vary_alike, wrap_padding
from recu_jax.errors import UserError
from recu_jax.scaled_conv import scaled_conv
from recu_jax.sums import sum_columns

EPSILON = 1e-5


def check_tau(tau: Any) -> None:
    """Raises UserError if `tau`, where its value is known while tracing, is outside (0.5, 1]."""
    if isinstance(tau, (int, float)) and not 0.5 < tau <= 1.0:
        raise UserError(f"tau is {tau}; it must be above 0.5 and at most 1 (1 clips nothing)")


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def standardize(kernel: jax.Array, *, b: float = 2.0, centre: bool = True) -> jax.Array:
    """Centres and scales the latent weights of each output channel (SPEC.md 1.1).

    `w0 = w - mean(w)`, `w1 = w0 * sqrt(2) * b / sqrt(var(w0) + 1e-5)`, `var` unbiased: a Laplace distribution of
    scale `b` has the standard deviation `sqrt(2) b`. The gradient flows through mean and variance.

    Args:
      kernel: (*window, in_features, features).
      b: scale b* of the Laplace distribution that the result is to have.
      centre: whether to subtract the mean.

    Raises:
      UserError: a channel has fewer than two weights, whose variance is not defined.
    """
    axes = tuple(range(kernel.ndim - 1))
    if math.prod(kernel.shape[:-1]) < 2:
        raise UserError(
            f"standardize: a kernel of shape {kernel.shape} has one weight per output channel, and needs two for a "
            "variance; use standardize=False"
        )
    w = _wide(kernel)
    if centre:
        w = w - w.mean(axes, keepdims=True)
    variance = w.var(axes, keepdims=True, ddof=1)
    return (w * (math.sqrt(2) * b / jnp.sqrt(variance + EPSILON))).astype(kernel.dtype)


def laplace_scale(weights: jax.Array) -> jax.Array:
    """Maximum-likelihood scale `b = mean|w|` of a zero-mean Laplace distribution over a whole layer (SPEC.md 1.2).

    Scalar, float32 at least; carries no gradient.
    """
    return lax.stop_gradient(jnp.abs(_wide(weights)).mean())


def laplace_quantile(scale: jax.Array | float, tau: jax.Array | float) -> jax.Array:
    """tau-quantile `Q(tau) = -b ln(2 - 2 tau)` of a zero-mean Laplace distribution (SPEC.md 1.2); `Q(1) = inf`.

    Args:
      scale: b, as `laplace_scale` gives it.
      tau: in (0.5, 1].

    Raises:
      UserError: `tau` is a Python number outside (0.5, 1].
    """
    check_tau(tau)
    return -scale * jnp.log(2.0 - 2.0 * jnp.asarray(tau, jnp.result_type(scale, float)))


def recu(weights: jax.Array, tau: jax.Array | float) -> jax.Array:
    """Rectified clamp unit: clamps to `[-Q(tau), Q(tau)]` of the layer's Laplace fit (SPEC.md 1.3).

    The gradient is 1 inside and 0 outside; none flows to Q. A share of about `2 (1 - tau)` of the weights is clipped.
    """
    bound = lax.stop_gradient(laplace_quantile(laplace_scale(weights), tau)).astype(weights.dtype)
    return jnp.where(jnp.abs(weights) <= bound, weights, jnp.copysign(bound, weights))


def sign(x: jax.Array) -> jax.Array:
    """+1 where `x >= 0`, else -1, without a gradient. Never 0, so that a sign is one bit."""
    return jnp.where(x >= 0, jnp.ones((), x.dtype), -jnp.ones((), x.dtype))


@jax.custom_jvp
def ste_sign(x: jax.Array) -> jax.Array:
    """Sign with the identity as its gradient, the straight-through estimator of the weights (SPEC.md 1.4)."""
    return sign(x)


@ste_sign.defjvp
def _ste_sign_jvp(primals, tangents):
    return ste_sign(*primals), tangents[0]


@jax.custom_jvp
def approx_sign(x: jax.Array) -> jax.Array:
    """Sign with the gradient `max(0, 2 - 2|x|)`, that of Bi-Real Net's piecewise polynomial (SPEC.md 2)."""
    return sign(x)


@approx_sign.defjvp
def _approx_sign_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    return approx_sign(x), t * jnp.maximum(0, 2 - 2 * jnp.abs(x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def normalize_sample(x: jax.Array, sample_ndim: int) -> jax.Array:
    """Divides each sample by its standard deviation, `x / sqrt(var + 1e-5)`, `var` unbiased (SPEC.md 2).

    Args:
      x: (*batch, *sample).
      sample_ndim: how many trailing axes make one sample, 3 for (height, width, channels).
    """
    return _normalize_sample_fwd(x, sample_ndim)[0]


def _normalize_sample_fwd(x, sample_ndim):
    rows = _wide(x).reshape(-1, math.prod(x.shape[x.ndim - sample_ndim :]))
    n = rows.shape[1]
    mean = (sum_columns(rows) / n)[:, None]
    variance = sum_columns(jnp.square(rows - mean))[:, None] / max(n - 1, 1)
    inverse = lax.rsqrt(variance + EPSILON)
    return (rows * inverse).reshape(x.shape).astype(x.dtype), (x, mean, inverse)


def _normalize_sample_bwd(sample_ndim, saved, dy):
    x, mean, inverse = saved
    rows, dy = (_wide(a).reshape(len(mean), -1) for a in (x, dy))
    # d inverse / d x = -inverse^3 (x - mean) / (n - 1); the mean adds nothing, as sum(x - mean) = 0.
    slope = sum_columns(dy * rows)[:, None] * inverse**3 / max(rows.shape[1] - 1, 1)
    dx = dy * inverse - (rows - mean) * slope
    return (dx.reshape(x.shape).astype(x.dtype),)


normalize_sample.defvjp(_normalize_sample_fwd, _normalize_sample_bwd)


def binarize_activations(x: jax.Array, sample_ndim: int, *, train: bool) -> jax.Array:
    """Signs of the activations (SPEC.md 2).

    In training each sample is first divided by its standard deviation, which decides where the window of
    `approx_sign`'s gradient lies; evaluation skips the division, as a positive factor changes no sign.
    """
    return approx_sign(normalize_sample(x, sample_ndim) if train else x)


def latent_to_clamped(
    kernel: jax.Array,
    tau: jax.Array | float | None = None,
    *,
    standardized: bool = True,
    clamp: bool = True,
    b: float = 2.0,
    centre: bool = True,
) -> jax.Array:
    """Standardised and clamped latent weights `w2`, whose signs are the binary weights (SPEC.md 1.1 to 1.3).

    Args:
      kernel: latent weights, (*window, in_features, features).
      tau: in (0.5, 1]; None clamps nothing.
      standardized: whether to standardise.
      clamp: whether to clamp.
      b, centre: of the standardisation, as in `standardize`.
    """
    w = standardize(kernel, b=b, centre=centre) if standardized else kernel
    return recu(w, tau) if clamp and tau is not None else w


def binarize_weights(kernel: jax.Array, tau: jax.Array | float | None = None, **options: Any) -> jax.Array:
    """Signs of the clamped latent weights, with the straight-through gradient (SPEC.md 1.4); arguments as above."""
    return ste_sign(latent_to_clamped(kernel, tau, **options))


def computed_alpha(clamped: jax.Array) -> jax.Array:
    """The paper's scale of each output channel, the mean of `|w2|` (SPEC.md 3): (features,)."""
    return jnp.abs(_wide(clamped)).mean(tuple(range(clamped.ndim - 1))).astype(clamped.dtype)


def binary_conv(
    x: jax.Array,
    kernel: jax.Array,
    alpha: jax.Array | None = None,
    tau: jax.Array | float | None = None,
    *,
    strides: int | Sequence[int] | None = 1,
    padding: PaddingLike = "SAME",
    kernel_dilation: int | Sequence[int] | None = 1,
    feature_group_count: int = 1,
    train: bool = False,
    standardized: bool = True,
    clamp: bool = True,
    b: float = 2.0,
    centre: bool = True,
    binary: bool = True,
) -> jax.Array:
    """1-bit convolution: `alpha * conv(sign(x), sign(recu(standardize(kernel))))`, SPEC.md sections 1 to 3.

    Zero padding is added after the sign, so that taps outside the image count 0, not +1 or -1.

    Args:
      x: (batch, *spatial, in_features) real activations; their dtype is the dtype of the computation.
      kernel: (*window, in_features / groups, features) latent weights; they stay in their own dtype up to the sign.
      alpha: (features,) scale, or None.
      tau: in (0.5, 1]; changes the gradient only. None clamps nothing.
      strides: int or one per spatial dimension.
      padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"`, `"CIRCULAR"`, `"REFLECT"`, `"CAUSAL"` (1-D), an int, or one int
        or (low, high) per spatial dimension.
      kernel_dilation: int or one per spatial dimension.
      feature_group_count: groups of channels; `in_features` makes it depthwise.
      train: whether to normalise each sample first.
      standardized: False leaves out the standardisation of the weights.
      clamp: False leaves out ReCU.
      b, centre: of the standardisation, as in `standardize`.
      binary: False takes the latent weights as they are, without standardisation, ReCU and sign: 1-bit activations
        on real weights, the first stage of two-stage training (SPEC.md 7).

    Returns:
      (batch, *out_spatial, features) in the dtype of `x`.

    Raises:
      UserError: tau is a Python number outside (0.5, 1], or a padding is unknown.
    """
    signs = binarize_activations(x, x.ndim - 1, train=train)
    options = {"standardized": standardized, "clamp": clamp, "b": b, "centre": centre}
    weights = binarize_weights(kernel, tau, **options) if binary else kernel
    return conv_of_signs(
        signs, weights, alpha, strides=strides, padding=padding, kernel_dilation=kernel_dilation,
        feature_group_count=feature_group_count, binary=binary,
    )  # fmt: skip


def conv_of_signs(
    signs: jax.Array,
    weights: jax.Array,
    alpha: jax.Array | None = None,
    *,
    strides: int | Sequence[int] | None = 1,
    padding: PaddingLike = "SAME",
    kernel_dilation: int | Sequence[int] | None = 1,
    feature_group_count: int = 1,
    binary: bool = True,
) -> jax.Array:
    """`alpha * conv(signs, weights)` of what some binarizers gave; the rest as in `binary_conv`.

    Args:
      signs: (batch, *spatial, in_features), +1 and -1.
      weights: (*window, in_features / groups, features), +1 and -1, or with `binary=False` real weights.
      alpha: (features,) scale, or None.
    """
    window = weights.shape[:-2]
    spec = ConvSpec.create(window, strides, padding, kernel_dilation, feature_group_count)
    signs, spec = wrap_padding(signs, window, spec)
    return scaled_conv(*vary_alike(signs, weights.astype(signs.dtype), alpha), spec, binary)


def binary_dense(
    x: jax.Array,
    kernel: jax.Array,
    alpha: jax.Array | None = None,
    tau: jax.Array | float | None = None,
    *,
    train: bool = False,
    standardized: bool = True,
    clamp: bool = True,
    b: float = 2.0,
    centre: bool = True,
    binary: bool = True,
) -> jax.Array:
    """1-bit dense layer, `alpha * (sign(x) @ sign(recu(standardize(kernel))))`; arguments as in `binary_conv`.

    Args:
      x: (..., in_features); each vector of the last axis is one sample to the normalisation.
      kernel: (in_features, features).

    Returns:
      (..., features) in the dtype of `x`.
    """
    signs = binarize_activations(x, 1, train=train)
    options = {"standardized": standardized, "clamp": clamp, "b": b, "centre": centre}
    weights = binarize_weights(kernel, tau, **options) if binary else kernel
    return dense_of_signs(signs, weights, alpha)


def dense_of_signs(signs: jax.Array, weights: jax.Array, alpha: jax.Array | None = None) -> jax.Array:
    """`alpha * (signs @ weights)` of what some binarizers gave: (..., in_features) to (..., features)."""
    y = signs @ weights.astype(signs.dtype)
    return y if alpha is None else y * per_channel(alpha, y)
