"""Defines signs and their straight-through estimators (SPEC.md sections 1.4 and 2)."""

import jax
import jax.numpy as jnp
from jax import lax


def sign(x: jax.Array) -> jax.Array:
    """Returns +1 where `x >= 0` and -1 where `x < 0`, without a gradient.

    The result is never 0, so a sign is one bit. NaN stays NaN.
    """
    one = jnp.ones((), x.dtype)
    return jnp.where(jnp.isnan(x), lax.stop_gradient(x), jnp.where(x >= 0, one, -one))


@jax.custom_jvp
def ste_sign(x: jax.Array) -> jax.Array:
    """Returns `sign(x)`. The gradient passes unchanged: the straight-through estimator of the weights (SPEC.md 1.4)."""
    return sign(x)


@ste_sign.defjvp
def _ste_sign_jvp(primals, tangents):
    return ste_sign(*primals), tangents[0]


def approx_slope(x: jax.Array) -> jax.Array:
    """Returns `max(0, 2 - 2|x|)`, the factor of the gradient in `approx_sign`."""
    return jnp.maximum(0, 2 - 2 * jnp.abs(x))


@jax.custom_jvp
def approx_sign(x: jax.Array) -> jax.Array:
    """Returns `sign(x)` with the gradient `max(0, 2 - 2|x|)` of Bi-Real Net's piecewise polynomial (SPEC.md 2)."""
    return sign(x)


@approx_sign.defjvp
def _approx_sign_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    return approx_sign(x), t * approx_slope(x)
