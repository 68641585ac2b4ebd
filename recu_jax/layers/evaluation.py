"""Computes the weights of a layer in evaluation, the same to the last bit in the layer and in `recu_jax.pack`.

XLA rounds a product and a sum once if it fuses them, and else twice. Whether it fuses them depends on the code around,
and so would the last bit of a weight or a scale. Optimization barriers keep XLA from fusing the code of this module
with other code. The code is jitted here, so that it rounds in the same way when the caller does not use jit.
"""

import functools
from typing import Any

import jax
from jax import lax

from recu_jax import functional
from recu_jax.binarizers import WeightBinarizer


def weights_in_evaluation(
    binarizer: WeightBinarizer, kernel: jax.Array, tau: Any = None, progress: Any = None, *, mean_tau: Any = None
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """Binarizes a kernel.

    Args:
      binarizer: the kernel binarizer.
      kernel: (*window, in_features / groups, features).
      tau, progress: as in `WeightBinarizer.__call__`; they only change gradients.
      mean_tau: tau for the alpha of `alpha="mean"`; None if the layer has another alpha.

    Returns:
      The signs and the scale, as `binarizer` returns them; the alpha of `alpha="mean"`, (features,), or None.
    """
    compute = _jitted if can_be_hashed(binarizer) else _weights  # jit hashes its static arguments
    return compute(binarizer, kernel, tau, progress, mean_tau)


def can_be_hashed(binarizer: WeightBinarizer) -> bool:
    """Tells whether a binarizer has a hash. A user's own binarizer may have none."""
    try:
        hash(binarizer)
    except TypeError:
        return False
    return True


def _weights(binarizer, kernel, tau, progress, mean_tau):
    kernel = lax.optimization_barrier(kernel)
    signs, own = binarizer(kernel, tau, progress)
    mean = None if mean_tau is None else functional.mean_alpha(binarizer.clamped(kernel, mean_tau))
    return lax.optimization_barrier((signs, own, mean))


_jitted = functools.partial(jax.jit, static_argnums=0)(_weights)
