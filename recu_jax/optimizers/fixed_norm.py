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
    """Returns Muon for kernels whose norm does not matter. A step turns a kernel W, and its norm stays as it is:

        V = W - rate |W| O / |O|
        new W = V |W| / |V|

    Let M be the Nesterov average of the gradients, as a matrix of shape (prod(window) * in_features, features). O is M
    after five Newton-Schulz steps, which bring its singular values near 1. So each singular direction of M moves the
    kernel by a similar amount, also one with a small singular value. |W| is the norm over the whole kernel.

    ReCU and Libra standardize weights, so their results hardly depend on the norm. With other binarizers, such as
    AdaBin or ClippedSign, the norm matters, and stays at its initial value. A step turns a kernel by at most
    arcsin(rate): with a rate of 0.02 by 1.1 degrees.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. Kernels of fixed norm are from
    Jordan's `airbench94_muon`.

    Args:
      learning_rate: the rate, a number or a schedule of the step.
      momentum: share of the old average in the new one.

    Returns:
      A gradient transformation of kernels, (..., features). Its `update` needs the parameters and raises ValueError
      without them.
    """

    def axes(kernels):
        return jax.tree.map(lambda w: optax.contrib.MuonDimensionNumbers(tuple(range(w.ndim - 1)), w.ndim - 1), kernels)

    orthogonal = optax.contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=axes)

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
