"""What the Laplace model of the weights says of ReCU: the closed forms of SPEC.md section 5, with `s = 2 - 2 tau`.

Scalars or arrays in, the same out; `tau` in (0.5, 1], where 1 clips nothing.
"""

import math

import jax
import jax.numpy as jnp

# Where the quantisation error is least; the paper's "0.82".
BEST_TAU = 1 - 1 / (2 * math.e)


def clipped_share(tau: jax.Array | float) -> jax.Array:
    """Share of the weights beyond +-Q(tau): `s`."""
    return 2 - 2 * jnp.asarray(tau, float)


def quantization_error(scale: jax.Array | float, tau: jax.Array | float) -> jax.Array:
    """Mean of `(|w2| - b)^2` over clamped Laplace weights of scale b: `b^2 (1 + 2 s ln s)`."""
    s = clipped_share(tau)
    return jnp.square(scale) * (1 + 2 * jax.scipy.special.xlogy(s, s))


def entropy(scale: jax.Array | float, tau: jax.Array | float) -> jax.Array:
    """Information entropy of clamped Laplace weights of scale b, in nats: `(2 tau - 1)(1 + ln b) + ln 2`.

    The clamped weights have a density between -Q and Q and a mass of `1 - tau` at each; this is
    `-integral f ln f - 2 (1 - tau) ln(1 - tau)`.
    """
    return (1 - clipped_share(tau)) * (1 + jnp.log(scale)) + math.log(2)


def laplace_cdf(u: jax.Array | float) -> jax.Array:
    """Distribution function of the Laplace distribution of scale 1."""
    u = jnp.asarray(u, float)
    tail = jnp.exp(-jnp.abs(u)) / 2
    return jnp.where(u < 0, tail, 1 - tail)
