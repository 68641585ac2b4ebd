"""Defines signs with the gradients that papers use. The true gradient of a sign is 0 almost everywhere.

The functions named `..._sign` return `sign(x)`, with sign(0) = +1. Each docstring gives the slope, by which the
backward pass multiplies the gradient. `recu_jax.functional` has two more such functions: `ste_sign`, with slope 1, and
Bi-Real Net's `approx_sign`.
"""

import jax
import jax.numpy as jnp

from recu_jax.functional import sign
from recu_jax.ops.reductions import wide

# Upper limit of beta |x|. At this limit, the magnitude of the swish sign's slope is below 1e-31 for beta up to 35.
# Without the limit, the slope at an infinite x would be NaN: a product of infinity and exp(-infinity), which is 0.
_FAR = 80.0


@jax.custom_jvp
def sign_with_slope(x: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns `sign(x)`; the derivative with respect to x is `slope`.

    Args:
      x: any shape.
      slope: array of the shape of x; no gradient flows to it.
    """
    return sign(x)


@sign_with_slope.defjvp
def _sign_with_slope_jvp(primals, tangents):
    (x, slope), (tangent, _) = primals, tangents
    return sign_with_slope(x, slope), tangent * slope.astype(x.dtype)


def _wide_magnitude(x):
    return jnp.abs(wide(x))


def clipped_slope(x: jax.Array, clip: float = 1.0) -> jax.Array:
    """Returns 1 where `|x| <= clip`, else 0."""
    return (jnp.abs(x) <= clip).astype(x.dtype)


def clipped_sign(x: jax.Array, clip: float = 1.0) -> jax.Array:
    """Returns `sign(x)` with slope 1 where `|x| <= clip`, else 0: the clipped straight-through estimator.

    Courbariaux et al., "Binarized Neural Networks", 2016, arXiv 1602.02830, section 1.3, with clip 1.
    """
    return sign_with_slope(x, clipped_slope(x, clip))


def swish_sign(x: jax.Array, beta: float = 5.0) -> jax.Array:
    """Returns `sign(x)` with slope `beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x))`.

    The slope is the derivative of the paper's "SignSwish", the curve `2 s(beta x) (1 + beta x (1 - s(beta x))) - 1`
    with the logistic function s. The slope is negative where `beta |x| > 2.4`, because the curve overshoots 1. Darabi
    et al., "BNN+: Improved Binary Network Training", 2018, arXiv 1812.11800, section 3. The paper uses beta = 5 among
    other values.
    """
    z = jnp.minimum(beta * _wide_magnitude(x), _FAR)
    # With u = exp(-z), 1 + cosh(z) = (1 + u)^2 / 2u and tanh(z / 2) = (1 - u) / (1 + u). These forms do not overflow.
    u = jnp.exp(-z)
    return sign_with_slope(x, beta * (2 - z * (1 - u) / (1 + u)) * 2 * u / (1 + u) ** 2)


def ede_sign(x: jax.Array, t: jax.Array | float) -> jax.Array:
    """Returns `sign(x)` with slope `k t (1 - tanh^2(t x))`, the derivative of `k tanh(t x)`; `k = max(1 / t, 1)`.

    The slope is near 1 while t is small. Qin et al., "Forward and Backward Information Retention for Accurate Binary
    Neural Networks" (IR-Net), CVPR 2020, arXiv 1909.10788, section 3.3, the "error decay estimator".
    """
    z = t * _wide_magnitude(x)
    return sign_with_slope(x, jnp.maximum(1.0, t) * (1 - jnp.tanh(z) ** 2))


def reste_sign(x: jax.Array, o: jax.Array | float, near: float = 0.1, far: float = 1.5) -> jax.Array:
    """Returns `sign(x)` with slope `(1 / o) |x|^((1 - o) / o)` for `near < |x| <= far`.

    The slope is the derivative of `sign(x) |x|^(1 / o)`. This derivative is infinite at 0. Where `|x| <= near`, the
    slope is therefore `near^(1 / o) / near`, the slope of the chord of the curve from 0 to `near`. Where `|x| > far`,
    the slope is 0. With o = 1, the function is the straight-through estimator clipped at `far`.

    Wu et al., "Estimator Meets Equilibrium Perspective: A Rectified Straight Through Estimator for Binary Neural
    Networks Training", ICCV 2023, arXiv 2308.06689. `near` and `far` have the values of the authors' code.
    """
    magnitude = _wide_magnitude(x)
    power = (1.0 - o) / o
    slope = jnp.where(magnitude <= near, near**power, jnp.maximum(magnitude, near) ** power / o)
    return sign_with_slope(x, jnp.where(magnitude <= far, slope, 0))
