"""Defines the binarizers of weights.

Each docstring gives the forward result, with which the layer convolves, and the backward result, the gradient with
respect to w. w are the latent weights of one output channel, and n is their number. g is the gradient with respect to
the forward result.
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
from recu_jax.ops.reductions import wide


def _mean_magnitude(kernel: jax.Array) -> jax.Array:
    """Returns `mean|w|` of each output channel, (features,), without a gradient.

    The result is at least the smallest normal float, so that it can be a divisor.
    """
    return lax.stop_gradient(jnp.maximum(functional.mean_alpha(kernel), jnp.finfo(kernel.dtype).tiny))


@dataclasses.dataclass(frozen=True)
class ReCU(WeightBinarizer):
    """Forward `sign(w2)`, where w2 are the standardized and clamped weights; backward g inside the clamp, 0 outside.

    The gradient also flows through the standardization. SPEC.md section 1. Xu et al., "ReCU: Reviving the Dead Weights
    in Binary Neural Networks", ICCV 2021, arXiv 2103.12369.

    Attributes:
      standardize: whether to standardize.
      clamp: whether to clamp.
      b: Laplace scale b* of the standardized weights.
      center: False standardizes without subtracting the mean of each channel.
    """

    keeps_signs: ClassVar[bool] = False

    standardize: bool = True
    clamp: bool = True
    b: float = 2.0
    center: bool = True

    @property
    def needs_tau(self) -> bool:
        """Whether training needs tau. It does if `clamp` is True."""
        return self.clamp

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        return functional.binarize_weights(kernel, tau, **self._options), None

    def clamped(self, kernel: jax.Array, tau: Number | None = None) -> jax.Array:
        """Returns the real weights `w2` whose signs are the binary weights. `kernel` and `tau` are as in `__call__`."""
        return functional.clamped_weights(kernel, tau, **self._options)

    def standardized(self, kernel: jax.Array) -> jax.Array:
        """Returns the weights `w1` before the clamp (SPEC.md 1.1)."""
        return self.clamped(kernel)

    def bound(self, standardized: jax.Array, tau: Number | None = None) -> jax.Array:
        """Returns Q(tau) of the Laplace fit (SPEC.md 1.2); infinite with `clamp=False` or without tau."""
        if not self.clamp or tau is None:
            return super().bound(standardized)
        return functional.laplace_quantile(functional.laplace_scale(standardized), tau)

    @property
    def _options(self):
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True)
class ClippedSign(WeightBinarizer):
    """Forward `sign(w)`; backward g where `|w| <= 1`, else 0.

    Courbariaux et al., "Binarized Neural Networks", 2016, arXiv 1602.02830, section 1.3. The paper also clips the
    latent weights to [-1, 1] after each update. This binarizer does not.
    """

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        return clipped_sign(kernel), None


@dataclasses.dataclass(frozen=True)
class XNORNet(WeightBinarizer):
    """Forward `a sign(w)`, `a = mean|w|`; backward `g (1 / n + a)` where `|w| <= 1`, else `g / n`.

    The term 1 / n comes from the scale, as in the paper: it is `sign(w_i) da / dw_i`. The paper and this class
    leave out another effect: through a, w_i also changes the products `a sign(w_j)` of the other weights.

    Rastegari et al., "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks", ECCV 2016, arXiv
    1603.05279, section 3.1. Two parts of the paper are not included: the scale of the activations, and centering and
    clipping the latent weights after each update.
    """

    scaled: ClassVar[bool] = True

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        scale = _mean_magnitude(kernel)
        # The layer multiplies g by the scale, as `WeightBinarizer.__call__` says. The division cancels this factor.
        own = 1 / (math.prod(kernel.shape[:-1]) * lax.expand_dims(scale, range(kernel.ndim - 1)))
        return sign_with_slope(kernel, clipped_slope(kernel) + own), scale


@dataclasses.dataclass(frozen=True)
class MagnitudeAwareSign(WeightBinarizer):
    """Forward `a sign(w)`, `a = mean|w|`; backward `g a` where `|w| <= 1`, else 0. No gradient flows through a.

    Liu et al., "Bi-Real Net", ECCV 2018, arXiv 1808.00278, section 3.3, "magnitude-aware gradient". The paper removes
    the scale from the trained network and adapts batch norm. Here the scale stays. The network computes the same
    function either way.
    """

    scaled: ClassVar[bool] = True

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        return clipped_sign(kernel), _mean_magnitude(kernel)


@dataclasses.dataclass(frozen=True)
class DoReFa(WeightBinarizer):
    """Forward `E sign(w)`, where `E = mean|w|` over the whole layer; backward g.

    Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients", 2016,
    arXiv 1606.06160, section 2.3, for weights of 1 bit.
    """

    scaled: ClassVar[bool] = True

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        mean = jnp.maximum(functional.laplace_scale(kernel).astype(kernel.dtype), jnp.finfo(kernel.dtype).tiny)
        # The layer multiplies g by the scale, as `WeightBinarizer.__call__` says. The division cancels this factor.
        return sign_with_slope(kernel, jnp.full_like(kernel, 1 / mean)), jnp.full(kernel.shape[-1:], mean)


@dataclasses.dataclass(frozen=True)
class Libra(WeightBinarizer):
    """Forward `2^s sign(v)`, `v = (w - mean(w)) / std(w)`, `s = round(log2(mean|v|))`; backward as in `signs.ede_sign`.

    The gradient with respect to v is `g 2^s k t (1 - tanh^2(t v))`, with `t = t_min (t_max / t_min)^progress` and
    `k = max(1 / t, 1)`. No gradient flows through the exponent s. The gradient also flows through the mean and the
    standard deviation, `std(w) = sqrt(var(w) + 1e-5)` with the unbiased variance.

    Qin et al., "Forward and Backward Information Retention for Accurate Binary Neural Networks" (IR-Net), CVPR 2020,
    arXiv 1909.10788, sections 3.2, "Libra parameter binarization", and 3.3. The authors' CIFAR-10 code uses t_min =
    1e-3.

    Attributes:
      t_min, t_max: t at the beginning and at the end of the training.
    """

    annealed: ClassVar[bool] = True
    scaled: ClassVar[bool] = True
    keeps_signs: ClassVar[bool] = False

    t_min: float = 0.1
    t_max: float = 10.0

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        balanced = self.standardized(kernel)
        signs = ede_sign(balanced, geometric(self.t_min, self.t_max, progress))
        exponent = jnp.round(jnp.log2(wide(_mean_magnitude(balanced))))
        return signs, jnp.ldexp(jnp.ones_like(exponent), exponent.astype(jnp.int32)).astype(kernel.dtype)

    def standardized(self, kernel: jax.Array) -> jax.Array:
        """Returns the weights v, with mean 0 and standard deviation 1."""
        # A Laplace distribution with scale b = sqrt(0.5) has the standard deviation 1.
        return functional.standardize(kernel, b=math.sqrt(0.5))


@dataclasses.dataclass(frozen=True)
class AdaBin(WeightBinarizer):
    """Forward `a sign(v) + c`, `v = (w - c) / a`, with `c = mean(w)`, `a = sqrt(mean((w - c)^2))`.

    The gradient with respect to v is `g a k t (1 - tanh^2(t v))`, with t and k as in `Libra`. The gradient also flows
    through c and a. The layer adds c times the sum of the inputs in the window to its outputs, which costs as much as
    one more output channel per group.

    Tu et al., "AdaBin: Improving Binary Neural Networks with Adaptive Binary Sets", ECCV 2022, arXiv 2208.08084. t as
    in the authors' code.

    Attributes:
      t_min, t_max: t at the beginning and at the end of the training.
    """

    annealed: ClassVar[bool] = True
    scaled: ClassVar[bool] = True
    shifted: ClassVar[bool] = True
    keeps_signs: ClassVar[bool] = False

    t_min: float = 1e-3
    t_max: float = 10.0

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        standardized, scale = self._standardized_and_scale(kernel)
        return ede_sign(standardized, geometric(self.t_min, self.t_max, progress)), scale

    def offset(self, kernel: jax.Array) -> jax.Array:
        """Returns c."""
        return jnp.mean(wide(kernel), tuple(range(kernel.ndim - 1))).astype(kernel.dtype)

    def standardized(self, kernel: jax.Array) -> jax.Array:
        """Returns the weights v, with mean 0 and standard deviation 1."""
        return self._standardized_and_scale(kernel)[0]

    def _standardized_and_scale(self, kernel):
        kernel = jnp.asarray(kernel)
        axes = tuple(range(kernel.ndim - 1))
        centered = wide(kernel) - wide(kernel).mean(axes, keepdims=True)
        variance = (centered**2).mean(axes, keepdims=True)
        scale = jnp.sqrt(jnp.maximum(variance, float(jnp.finfo(kernel.dtype).tiny)))  # a divisor
        return (centered / scale).astype(kernel.dtype), scale.ravel().astype(kernel.dtype)


def geometric(start: float, end: float, progress: Number | None) -> Number:
    """Returns `start (end / start)^progress`, or `start` if progress is None."""
    return start if progress is None else start * (end / start) ** progress
