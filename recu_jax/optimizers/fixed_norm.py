"""Defines Muon for latent weights: each step turns a kernel by an angle and leaves its norm as it is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class MuonState(NamedTuple):
    """State of `muon`.

    Attributes:
      count: number of steps, int32 ().
      momentum: state of `optax.contrib.scale_by_muon`.
    """

    count: jax.Array  # type: ignore[assignment]
    momentum: Any


def muon(learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9) -> optax.GradientTransformation:
    """Returns Muon for kernels whose norm does not matter. Each step turns a kernel W, and its norm stays the same:

        W2 = W - rate |W| O / |O|
        W = W2 |W| / |W2|

    O is the average of the gradients (Nesterov momentum), as a matrix with one column for each output channel, with all
    its singular values brought near 1 by five Newton-Schulz steps. So all directions of a kernel turn at a similar
    speed, however small their gradients are. |W| is the norm over the whole kernel. A binarizer that standardizes
    weights, such as ReCU, does not see their norm. The rate is the tangent of the angle by which a kernel turns.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. Kernels of fixed norm are from
    Jordan's `airbench94_muon`.

    Args:
      learning_rate: a number or a schedule of the step.
      momentum: share of the old average in the new one.

    Returns:
      A gradient transformation of kernels, (..., features). Its `update` needs the parameters and raises ValueError
      without them.
    """
    # Imported here, because only a run with Muon needs it.
    from optax import contrib

    def axes(kernels):
        return jax.tree.map(lambda w: contrib.MuonDimensionNumbers(tuple(range(w.ndim - 1)), w.ndim - 1), kernels)

    orthogonal = contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=axes)

    def init(params):
        return MuonState(jnp.zeros((), jnp.int32), orthogonal.init(params))

    def update(gradients, state, params=None):
        if params is None:
            raise ValueError("muon turns the parameters: call update(gradients, state, params)")
        directions, inner = orthogonal.update(gradients, state.momentum)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def turn(direction, w):
            tiny = jnp.finfo(w.dtype).tiny
            norm = jnp.linalg.norm(w.ravel())
            moved = w - rate * norm * direction / jnp.maximum(jnp.linalg.norm(direction.ravel()), tiny)
            return (moved * (norm / jnp.maximum(jnp.linalg.norm(moved.ravel()), tiny)) - w).astype(w.dtype)

        return jax.tree.map(turn, directions, params), MuonState(state.count + 1, inner)

    return optax.GradientTransformation(init, update)
