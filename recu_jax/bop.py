"""Bop, the optimiser of 1-bit weights that has no latent ones, as an optax transformation.

Helwegen et al., "Latent Weights Do Not Exist: Rethinking Binarized Neural Network Optimization", NeurIPS 2019,
arXiv 1906.02107, algorithm 1.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import path_aware_map


class BopState(NamedTuple):
    """Steps done, int32 (), and the moving average of the gradients, in the structure of the parameters."""

    count: jax.Array  # type: ignore[assignment]
    mean: Any


def bop(threshold: float = 1e-8, gamma: optax.ScalarOrSchedule = 1e-4) -> optax.GradientTransformation:
    """Flips a weight when its mean gradient has spoken against its sign long enough.

        m = (1 - gamma) m + gamma g
        w = -w  where |m| > threshold and sign(m) = sign(w)

    with m = 0 at first and g the gradient at the 1-bit weights. In the paper w is +1 or -1; here a flip keeps whatever
    magnitude w has, so that a kernel is initialised as a latent weight is, and nothing but its sign ever changes. A
    weight that is exactly 0 stays so. The gradient must come through a sign that hands it on (`weights.ClippedSign`:
    where `|w| <= 1`) and does not centre the weights before.

    Args:
      threshold: the paper's tau.
      gamma: adaptivity rate, a number or a schedule of the step. The paper lowers it as one lowers a learning rate.

    Returns:
      A transformation whose `update` needs the parameters.
    """

    def init(params):
        return BopState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params=None):
        if params is None:
            raise ValueError("bop flips the signs of the parameters: call update(gradients, state, params)")
        rate = gamma(state.count) if callable(gamma) else gamma
        mean = jax.tree.map(lambda m, g: ((1 - rate) * m + rate * g).astype(m.dtype), state.mean, gradients)

        def flip(m, w):
            return jnp.where((jnp.abs(m) > threshold) & (jnp.sign(m) == jnp.sign(w)), -2 * w, jnp.zeros_like(w))

        return jax.tree.map(flip, mean, params), BopState(state.count + 1, mean)

    return optax.GradientTransformation(init, update)


def with_bop(
    rest: optax.GradientTransformation,
    kernels: Collection[tuple[str, ...]],
    threshold: float = 1e-8,
    gamma: optax.ScalarOrSchedule = 1e-4,
) -> optax.GradientTransformation:
    """Bop for the parameters at the paths `kernels`, as `layers.binary_kernels` gives them, `rest` for all others."""

    def labels(params):
        return path_aware_map(lambda path, _: "bop" if path in kernels else "rest", params)

    return optax.multi_transform({"bop": bop(threshold, gamma), "rest": rest}, labels)
