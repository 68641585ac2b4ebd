"""Defines Bop, the optimizer that flips signs and has no latent weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class BopState(NamedTuple):
    """State of Bop.

    Attributes:
      count: number of steps, int32 ().
      mean: moving average of the gradients, in the structure of the parameters.
    """

    count: jax.Array  # type: ignore[assignment]
    mean: Any


def bop(threshold: float = 1e-8, gamma: optax.ScalarOrSchedule = 1e-4) -> optax.GradientTransformation:
    """Returns Bop, which flips a weight's sign when the average of its gradient is large and has the weight's sign.

        m = (1 - gamma) m + gamma g
        w = -w  where |m| > threshold and sign(m) = sign(w)

    m is the moving average, 0 at first. g is the gradient with respect to the 1-bit weights. In the paper w is +1 or
    -1. Here w keeps its magnitude and only its sign changes, so a kernel is initialized like latent weights. A weight
    that is exactly 0 stays 0.

    The weight binarizer must pass g on unchanged, as `weights.ClippedSign` does where `|w| <= 1`. It must not center
    the weights before it takes their signs.

    Helwegen et al., "Latent Weights Do Not Exist: Rethinking Binarized Neural Network Optimization", NeurIPS 2019,
    arXiv 1906.02107, algorithm 1.

    Args:
      threshold: a weight flips only if |m| is larger; the paper calls it tau.
      gamma: adaptivity rate, a number or a schedule of the step. The paper lowers it during the training, like a
        learning rate.

    Returns:
      A gradient transformation. Its `update` needs the parameters and raises ValueError without them.
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
