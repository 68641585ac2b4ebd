"""Defines OvSW's two rules for latent weights whose signs hardly change."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recu_jax.functional import sign
from recu_jax.ops.conv import per_channel


class OvSWState(NamedTuple):
    """State of `ovsw`, in the structure of the parameters.

    Attributes:
      positive: which signs were +1 at the last step, booleans.
      flips: moving average of the flips of each sign.
    """

    positive: Any
    flips: Any


def _signs(params):
    return jax.tree.map(sign, params)


def ovsw(
    delta: float = 0.04, factor: float = 9e-4, signs: Callable[[Any], Any] = _signs
) -> optax.GradientTransformation:
    """Returns OvSW's two rules, which move latent weights whose signs hardly change. Chain it before an optimizer.

    Adaptive gradient scaling raises the gradients g of an output channel that are small beside its weights w:

        g = g delta / r  where r < delta, r = max(|g|, 1e-6) / max(|w|, 1e-3)

    |g| and |w| are the Euclidean norms over the channel. Silence-aware decay pulls weights with silent signs towards 0:

        c = 0.999 c + 0.001 [the sign has changed]
        g = g + factor w  where c < 1e-4

    c is 0 at first, so each weight decays until its sign first flips.

    Xiang et al., "OvSW: Overcoming Silent Weights for Accurate Binary Neural Networks", ECCV 2024, arXiv 2407.05257.
    The paper uses delta 0.04 and factor 9e-4 on CIFAR-10, and 0.01 and 2e-5 on ImageNet.

    Args:
      delta: least ratio r; 0 leaves the first rule out.
      factor: the paper's lambda; 0 leaves the second rule out.
      signs: function of the parameters. It returns the signs with which the layers compute, in the same structure.
        The default returns the signs of the parameters. ReCU and other binarizers that center weights need another.

    Returns:
      A gradient transformation of kernels, (..., features). Its `update` needs the parameters and raises ValueError
      without them.
    """

    def positive(params):
        return jax.tree.map(lambda s: s > 0, signs(params))

    def init(params):
        return OvSWState(positive(params), jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params=None):
        if params is None:
            raise ValueError("ovsw compares gradients with the parameters: call update(gradients, state, params)")
        now = positive(params)
        flips = jax.tree.map(
            lambda c, p, q: (0.999 * c + 0.001 * (p != q)).astype(c.dtype), state.flips, state.positive, now
        )

        def rules(g, w, c):
            ratio = jnp.maximum(_norm(g), 1e-6) / jnp.maximum(_norm(w), 1e-3)
            raised = g * per_channel(jnp.where(ratio < delta, delta / ratio, 1), g)
            return jnp.where(c < 1e-4, raised + factor * w, raised).astype(g.dtype)

        return jax.tree.map(rules, gradients, params, flips), OvSWState(now, flips)

    return optax.GradientTransformation(init, update)


def _norm(kernel):
    """Returns the Euclidean norm of each output channel, (features,)."""
    return jnp.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), axis=0)
