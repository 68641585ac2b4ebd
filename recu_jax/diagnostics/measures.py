"""Computes measures of the standardized latent weights of one layer. `theory` predicts their values.

Arguments named `weights` are arrays of any shape, float32 or wider, before the clamp. `scale` is their `b = mean|w|`.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from recu_jax.diagnostics import theory

# Histograms have equal bins from -RANGE to RANGE in units of b. The two outer bins are open. 0.03% of a Laplace
# distribution's weights lie beyond this range.
BINS, RANGE = 64, 8.0


def inner_edges() -> jax.Array:
    """Returns the edges between the bins, in units of b: (BINS - 1,)."""
    return jnp.linspace(-RANGE, RANGE, BINS + 1)[1:-1]


def histogram(weights: jax.Array, scale: jax.Array) -> jax.Array:
    """Counts the weights in each bin: int32, (BINS,)."""
    units = weights.reshape(-1) / jnp.maximum(scale, jnp.finfo(weights.dtype).tiny)
    bins = jnp.clip(jnp.floor((units + RANGE) * (BINS / (2 * RANGE))), 0, BINS - 1).astype(jnp.int32)
    return jnp.zeros(BINS, jnp.int32).at[bins].add(1)


def laplace_distance(counts: jax.Array) -> jax.Array:
    """Computes the Kolmogorov distance of a histogram from the Laplace fit; 0 is a perfect fit.

    This is the largest difference between the two distribution functions at the inner edges. For n weights from a
    Laplace distribution it is about `0.8 / sqrt(n)`, because of noise. For many weights from a normal distribution it
    is 0.04.

    Args:
      counts: result of `histogram`, (BINS,).

    Returns:
      ().
    """
    empirical = jnp.cumsum(counts)[:-1] / counts.sum()
    return jnp.abs(empirical - theory.laplace_cdf(inner_edges())).max()


def quantization_error(weights: jax.Array, scale: jax.Array, bound: jax.Array) -> jax.Array:
    """Computes the mean of `(|w2| - b)^2`, where b is `scale`, and w2 are `weights` clamped to +-`bound`.

    This is the mean squared error of `b sign(w2)` as an approximation of w2.
    """
    return jnp.square(jnp.minimum(jnp.abs(weights), bound) - scale).mean()


def entropy(
    counts: jax.Array, scale: jax.Array, bound: jax.Array, largest: jax.Array, clipped: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """Estimates the information entropy of the weights clamped to +-`bound`, in nats, from their histogram.

    The weights at each bound are a point mass, of share p, and add `-p ln p`. The weights between the bounds have a
    density and add `-sum p_i ln(p_i / width_i)` over the bins. The outermost bins end at the bound, or at the `largest`
    magnitude if that is smaller. A histogram of n weights underestimates the entropy, so the correction of Miller and
    Madow is added: (number of filled bins and point masses - 1) / 2n.

    Args:
      counts: histogram of the weights before the clamp, (BINS,).
      scale, bound, largest: scalars; `largest` is the largest magnitude before the clamp.
      clipped: number of weights below -bound, and above bound.

    Returns:
      ().
    """
    n = counts.sum()
    below, above = clipped
    between = counts - _beyond(counts, below) - _beyond(counts[::-1], above)[::-1]
    reach = jnp.minimum(bound, largest)
    edges = scale * jnp.concatenate([-jnp.full(1, jnp.inf), inner_edges(), jnp.full(1, jnp.inf)])
    edges = jnp.clip(edges, -reach, reach)
    widths = jnp.where(between > 0, edges[1:] - edges[:-1], 1)
    p, mass = between / n, jnp.stack([below, above]) / n
    plug_in = -(xlogy(p, p) - p * jnp.log(jnp.maximum(widths, jnp.finfo(widths.dtype).tiny))).sum()
    filled = (between > 0).sum() + (mass > 0).sum()
    return plug_in - xlogy(mass, mass).sum() + (filled - 1) / (2 * n)


def _beyond(counts, outside):
    """Counts, for each bin, how many of its weights are among the `outside` smallest of all weights."""
    before = jnp.cumsum(counts) - counts
    return jnp.clip(outside - before, 0, counts)
