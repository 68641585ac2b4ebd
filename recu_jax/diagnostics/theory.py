"""Predicts measures from ReCU's Laplace model of the weights: the formulas of SPEC.md section 5, with `s = 2 - 2 tau`.

All functions take and return scalars or arrays. `tau` is in (0.5, 1]; 1 clips nothing.
"""

import math

import jax
import jax.numpy as jnp

# The tau with the smallest quantization error. The paper rounds it to 0.82.
BEST_TAU = 1 - 1 / (2 * math.e)


def clipped_share(tau: jax.Array | float) -> jax.Array:
    """Returns the share of the weights beyond +-Q(tau): `s`."""
    return 2 - 2 * jnp.asarray(tau, float)


def quantization_error(scale: jax.Array | float, tau: jax.Array | float) -> jax.Array:
    """Returns the mean of `(|w2| - b)^2` over clamped Laplace weights of scale b: `b^2 (1 + 2 s ln s)`."""
    s = clipped_share(tau)
    return jnp.square(scale) * (1 + 2 * jax.scipy.special.xlogy(s, s))


def entropy(scale: jax.Array | float, tau: jax.Array | float) -> jax.Array:
    """Returns the information entropy of clamped Laplace weights of scale b, in nats: `(2 tau - 1)(1 + ln b) + ln 2`.

    The clamped weights have the density f between -Q and Q, and a point mass of `1 - tau` at -Q and at Q. The formula
    equals `-integral f ln f - 2 (1 - tau) ln(1 - tau)`.
    """
    return (1 - clipped_share(tau)) * (1 + jnp.log(scale)) + math.log(2)


def laplace_cdf(u: jax.Array | float) -> jax.Array:
    """Returns the distribution function of the Laplace distribution of scale 1."""
    u = jnp.asarray(u, float)
    tail = jnp.exp(-jnp.abs(u)) / 2
    return jnp.where(u < 0, tail, 1 - tail)
