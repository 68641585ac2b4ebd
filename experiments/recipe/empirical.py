"""Defines variants of ReCU that clamp to a quantile of the weights themselves, not of a fitted Laplace distribution.

python -m recu_jax.main --config=configs/cifar10.py --config.weight_binarizer=experiments.recipe.empirical:PerLayer
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.binarizers import weights
from recu_jax.binarizers.interface import Number
from recu_jax.functional.signs import ste_sign
from recu_jax.ops.reductions import wide


@dataclasses.dataclass(frozen=True)
class PerLayer(weights.ReCU):
    """Clamps the standardized weights of a layer to the magnitude that a share `2 (1 - tau)` of them exceeds."""

    def bound(self, standardized: jax.Array, tau: Number | None = None) -> jax.Array:
        if tau is None:
            return weights.WeightBinarizer.bound(self, standardized)
        return lax.stop_gradient(jnp.quantile(jnp.abs(wide(standardized)), 2 * tau - 1, self._axes(standardized)))

    def clamped(self, kernel: jax.Array, tau: Number | None = None) -> jax.Array:
        w = self.standardized(kernel)
        if tau is None:
            return w
        bound = self.bound(w, tau).astype(w.dtype)
        return jnp.where(jnp.abs(w) <= bound, w, jnp.copysign(bound, w))

    def standardized(self, kernel: jax.Array) -> jax.Array:
        return weights.ReCU.clamped(self, kernel)

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        return ste_sign(self.clamped(kernel, tau)), None

    @staticmethod
    def _axes(standardized):
        return None


@dataclasses.dataclass(frozen=True)
class PerChannel(PerLayer):
    """Clamps as `PerLayer` does, but with a magnitude of its own for each output channel."""

    @staticmethod
    def _axes(standardized):
        return tuple(range(standardized.ndim - 1))
