"""What is measured of the standardised latent weights of one layer, to be held against `theory`.

Weights are arrays of any shape, float32 at least, before the clamp; `scale` is their b = mean|w|.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from recu_jax.diagnostics import theory

# Histograms: equal bins from -RANGE to RANGE in units of b, the outer two open. Beyond lie 0.03% of a Laplace
# distribution's weights.
BINS, RANGE = 64, 8.0


def inner_edges() -> jax.Array:
    """Edges between the bins, in units of b: (BINS - 1,)."""
    return jnp.linspace(-RANGE, RANGE, BINS + 1)[1:-1]


def histogram(weights: jax.Array, scale: jax.Array) -> jax.Array:
    """How many weights fall into each bin: int32, (BINS,)."""
    units = weights.reshape(-1) / jnp.maximum(scale, jnp.finfo(weights.dtype).tiny)
    bins = jnp.clip(jnp.floor((units + RANGE) * (BINS / (2 * RANGE))), 0, BINS - 1).astype(jnp.int32)
    return jnp.zeros(BINS, jnp.int32).at[bins].add(1)


def laplace_distance(counts: jax.Array) -> jax.Array:
    """Kolmogorov distance of a histogram from the Laplace fit: the goodness of the fit, 0 the best.

    The largest difference between the two distribution functions at the inner edges. Noise makes it about
    `0.8 / sqrt(n)` for n weights that are Laplace distributed; normally distributed ones are 0.04 off.
    """
    empirical = jnp.cumsum(counts)[:-1] / counts.sum()
    return jnp.abs(empirical - theory.laplace_cdf(inner_edges())).max()


def quantization_error(weights: jax.Array, scale: jax.Array, bound: jax.Array) -> jax.Array:
    """Mean of `(|w2| - b)^2`, where w2 are the weights clamped to +-`bound`: what `b sign(w2)` loses of them."""
    return jnp.square(jnp.minimum(jnp.abs(weights), bound) - scale).mean()


def entropy(
    counts: jax.Array, scale: jax.Array, bound: jax.Array, largest: jax.Array, clipped: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """Information entropy of the weights clamped to +-`bound`, in nats, estimated from their histogram `counts`.

    The weights at either bound are a mass, `-p ln p`; those between make a density, `-sum p_i ln(p_i / width_i)` over
    the bins, of which the outermost end at the bound, or at the `largest` magnitude. With Miller and Madow's
    correction, (bins that hold weights - 1) / 2n, for what a histogram of n weights underestimates.

    Args:
      counts: (BINS,), of the weights before the clamp.
      scale, bound, largest: scalars.
      clipped: how many weights lie below -bound and above bound.
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
    """How many of each bin's weights are among the `outside` outermost on the left."""
    before = jnp.cumsum(counts) - counts
    return jnp.clip(outside - before, 0, counts)
