"""Binarizers of weights. With w the latent weights of one output channel, n of them, and g the gradient with respect to
what the layer convolves with, each docstring gives that and the gradient with respect to w.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from recu_jax import functional
from recu_jax.binarizers.interface import Number, WeightBinarizer
from recu_jax.binarizers.signs import clipped_sign, clipped_slope, ede_sign, sign_with_slope


def _mean_magnitude(kernel: jax.Array) -> jax.Array:
    """`mean|w|` of each output channel, (features,), at least a tiny number, without a gradient."""
    return lax.stop_gradient(jnp.maximum(functional.computed_alpha(kernel), jnp.finfo(kernel.dtype).tiny))


@dataclasses.dataclass(frozen=True)
class ReCU(WeightBinarizer):
    """Forward `sign(w2)`, w2 the standardised and clamped weights; backward 1 where the clamp lets through, else 0.

    The gradient flows on through the standardisation; SPEC.md section 1. Xu et al., "ReCU: Reviving the Dead Weights in
    Binary Neural Networks", ICCV 2021, arXiv 2103.12369.

    Attributes:
      standardize: False leaves out the standardisation.
      clamp: False leaves out the clamp.
      b: Laplace scale b* that standardised weights have.
      centre: False standardises without subtracting the mean of each channel.
    """

    keeps_signs: ClassVar[bool] = False

    standardize: bool = True
    clamp: bool = True
    b: float = 2.0
    centre: bool = True

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        return functional.binarize_weights(kernel, tau, **self._options), None

    def clamped(self, kernel: jax.Array, tau: Number | None = None) -> jax.Array:
        """The real weights `w2` whose signs these are; arguments as for `__call__`."""
        return functional.latent_to_clamped(kernel, tau, **self._options)

    @property
    def _options(self):
        return {"standardized": self.standardize, "clamp": self.clamp, "b": self.b, "centre": self.centre}


@dataclasses.dataclass(frozen=True)
class ClippedSign(WeightBinarizer):
    """Forward `sign(w)`; backward g where `|w| <= 1`, else 0.

    Courbariaux et al., "Binarized Neural Networks", 2016, arXiv 1602.02830, section 1.3. The paper also
    clips the latent weights to [-1, 1] after each update; that is not done here.
    """

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        return clipped_sign(kernel), None


@dataclasses.dataclass(frozen=True)
class XNORNet(WeightBinarizer):
    """Forward `a sign(w)`, `a = mean|w|`; backward `g (1 / n + a [|w| <= 1])`.

    The 1 / n is the scale's own gradient, as the paper has it: of the product `sign(w_i) a` what a's dependence on w_i
    itself adds, without that of the other weights' products. Rastegari et al., "XNOR-Net: ImageNet Classification Using
    Binary Convolutional Neural Networks", ECCV 2016, arXiv 1603.05279, section 3.1. The paper's scale of the
    activations is not part of it, and neither are the centring and clipping of the latent weights after each update.
    """

    scaled: ClassVar[bool] = True

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        scale = _mean_magnitude(kernel)
        # g comes back multiplied by the scale.
        own = 1 / (math.prod(kernel.shape[:-1]) * lax.expand_dims(scale, range(kernel.ndim - 1)))
        return sign_with_slope(kernel, clipped_slope(kernel) + own), scale


@dataclasses.dataclass(frozen=True)
class MagnitudeAwareSign(WeightBinarizer):
    """Forward `a sign(w)`, `a = mean|w|`; backward `g a` where `|w| <= 1`, else 0: the scale is a constant.

    Liu et al., "Bi-Real Net", ECCV 2018, arXiv 1808.00278, section 3.3, "magnitude-aware gradient". The paper drops the
    scale from the trained network and makes up for it in batch norm; here it stays, which is the same function.
    """

    scaled: ClassVar[bool] = True

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        return clipped_sign(kernel), _mean_magnitude(kernel)


@dataclasses.dataclass(frozen=True)
class DoReFa(WeightBinarizer):
    """Forward `E sign(w)`, `E = mean|w|` over the whole layer; backward g, the identity.

    Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients", 2016,
    arXiv 1606.06160, section 2.3, for weights of 1 bit.
    """

    scaled: ClassVar[bool] = True

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        mean = jnp.maximum(functional.laplace_scale(kernel).astype(kernel.dtype), jnp.finfo(kernel.dtype).tiny)
        # g comes back multiplied by the scale.
        return sign_with_slope(kernel, jnp.full_like(kernel, 1 / mean)), jnp.full(kernel.shape[-1:], mean)


@dataclasses.dataclass(frozen=True)
class Libra(WeightBinarizer):
    """Forward `2^s sign(v)`, `v = (w - mean(w)) / std(w)`, `s = round(log2(mean|v|))`; backward as `signs.ede_sign`.

    With respect to v the gradient is `g 2^s k t (1 - tanh^2(t v))`, the shift s being a constant; it flows on through
    mean and standard deviation (unbiased, 1e-5 added to the variance). `t = t_min (t_max / t_min)^progress`,
    `k = max(1 / t, 1)`. Qin et al., "Forward and Backward Information Retention for Accurate Binary Neural Networks"
    (IR-Net), CVPR 2020, arXiv 1909.10788, section 3.2, "Libra parameter binarization", and 3.3. (The authors' CIFAR-10
    code starts at t_min = 1e-3.)

    Attributes:
      t_min, t_max: t at the beginning and the end of the training.
    """

    annealed: ClassVar[bool] = True
    scaled: ClassVar[bool] = True
    keeps_signs: ClassVar[bool] = False

    t_min: float = 0.1
    t_max: float = 10.0

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        # Standardised to the scale of a Laplace distribution whose standard deviation is 1.
        balanced = functional.standardize(kernel, b=math.sqrt(0.5))
        signs = ede_sign(balanced, geometric(self.t_min, self.t_max, progress))
        exponent = jnp.round(jnp.log2(_mean_magnitude(balanced).astype(jnp.promote_types(kernel.dtype, jnp.float32))))
        return signs, jnp.ldexp(jnp.ones_like(exponent), exponent.astype(jnp.int32)).astype(kernel.dtype)


def geometric(start: float, end: float, progress: Number | None) -> Number:
    """`start (end / start)^progress`, `start` without a progress."""
    return start if progress is None else start * (end / start) ** progress
