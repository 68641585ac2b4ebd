"""The sign, with sign(0) = +1, and the gradients that papers use instead of its own, which is 0 almost everywhere.

Every function here returns `sign(x)`. Its docstring gives the slope. The backward pass multiplies the gradient by this
slope. The identity (`ste_sign`) and Bi-Real Net's gradient (`approx_sign`) are in `recu_jax.functional`.
"""

import jax
import jax.numpy as jnp

from recu_jax.functional import sign
from recu_jax.ops.reductions import wide

# Limit of beta |x|. Beyond it the slope of the swish sign is less than 1e-32, and exp(beta |x|) soon becomes infinite.
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
    """Slope 1 where `|x| <= clip`, else 0: the clipped straight-through estimator.

    Courbariaux et al., "Binarized Neural Networks", 2016, arXiv 1602.02830, section 1.3, with clip 1.
    """
    return sign_with_slope(x, clipped_slope(x, clip))


def swish_sign(x: jax.Array, beta: float = 5.0) -> jax.Array:
    """Slope `beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x))`: the derivative of the "SignSwish".

    SignSwish is the curve `2 s(beta x) (1 + beta x (1 - s(beta x))) - 1` with the logistic function s. Its derivative
    is negative where `beta |x| > 2.4`, because the curve overshoots 1. Darabi et al., "BNN+: Improved Binary Network
    Training", 2018, arXiv 1812.11800, section 3. The paper uses beta = 5 among other values.
    """
    z = jnp.minimum(beta * _wide_magnitude(x), _FAR)
    # With u = exp(-z), 1 + cosh(z) = (1 + u)^2 / 2u and tanh(z / 2) = (1 - u) / (1 + u). These forms do not overflow.
    u = jnp.exp(-z)
    return sign_with_slope(x, beta * (2 - z * (1 - u) / (1 + u)) * 2 * u / (1 + u) ** 2)


def ede_sign(x: jax.Array, t: jax.Array | float) -> jax.Array:
    """Slope `k t (1 - tanh^2(t x))` with `k = max(1 / t, 1)`: the derivative of `k tanh(t x)`.

    The slope is near 1 while t is small. Qin et al., "Forward and Backward Information Retention for Accurate Binary
    Neural Networks" (IR-Net), CVPR 2020, arXiv 1909.10788, section 3.3, the "error decay estimator".
    """
    z = t * _wide_magnitude(x)
    return sign_with_slope(x, jnp.maximum(1.0, t) * (1 - jnp.tanh(z) ** 2))


def reste_sign(x: jax.Array, o: jax.Array | float, near: float = 0.1, far: float = 1.5) -> jax.Array:
    """Slope `(1 / o) |x|^((1 - o) / o)`, the derivative of `sign(x) |x|^(1 / o)`, for `near < |x| <= far`.

    Where `|x| <= near` the slope is that of the chord, `near^(1 / o) / near`, because the derivative is infinite at 0.
    Beyond `far` the slope is 0. With o = 1 this is the straight-through estimator clipped at `far`. Wu et al.,
    "Estimator Meets Equilibrium Perspective: A Rectified Straight Through Estimator for Binary Neural Networks
    Training", ICCV 2023, arXiv 2308.06689. `near` and `far` have the values of the authors' code.
    """
    magnitude = _wide_magnitude(x)
    power = (1.0 - o) / o
    slope = jnp.where(magnitude <= near, near**power, jnp.maximum(magnitude, near) ** power / o)
    return sign_with_slope(x, jnp.where(magnitude <= far, slope, 0))
