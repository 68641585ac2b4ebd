"""Defines the binarizers of activations. All return `sign(x)`, but RSign and AdaBin shift x before.

Each docstring gives the slope, by which the backward pass multiplies the gradient.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from recu_jax import functional
from recu_jax.binarizers import signs
from recu_jax.binarizers.interface import ActivationBinarizer, Number
from recu_jax.binarizers.weights import geometric
from recu_jax.ops.conv import per_channel


@dataclasses.dataclass(frozen=True)
class ReCU(ActivationBinarizer):
    """Sign with slope `max(0, 2 - 2|x0|)`, where x0 is x divided by the standard deviation of its sample.

    The gradient also flows through the division. SPEC.md section 2. Xu et al., "ReCU: Reviving the Dead Weights in
    Binary Neural Networks", ICCV 2021, arXiv 2103.12369, and the authors' code.
    """

    def __call__(self, x: jax.Array, *, sample_ndim: int, train: bool, progress: Number | None = None) -> jax.Array:
        return functional.binarize_activations(x, sample_ndim, train=train)

    def lets_through(
        self, x: jax.Array, *, sample_ndim: int, progress: Number | None = None, **parameters: jax.Array
    ) -> jax.Array:
        """Returns True where `|x0| < 1`."""
        return jnp.abs(functional.normalize_sample(x, sample_ndim)) < 1


@dataclasses.dataclass(frozen=True)
class ClippedSign(ActivationBinarizer):
    """Sign with slope 1 where `|x| <= clip`, else 0.

    Courbariaux et al., "Binarized Neural Networks", 2016, arXiv 1602.02830, section 1.3.
    """

    clip: float = 1.0

    def __call__(self, x: jax.Array, *, sample_ndim: int, train: bool, progress: Number | None = None) -> jax.Array:
        return signs.clipped_sign(x, self.clip)


@dataclasses.dataclass(frozen=True)
class ApproxSign(ActivationBinarizer):
    """Sign with slope `max(0, 2 - 2|x|)`, the derivative of a piecewise polynomial.

    Liu et al., "Bi-Real Net", ECCV 2018, arXiv 1808.00278, section 3.3.
    """

    def __call__(self, x: jax.Array, *, sample_ndim: int, train: bool, progress: Number | None = None) -> jax.Array:
        return functional.approx_sign(x)


@dataclasses.dataclass(frozen=True)
class SwishSign(ActivationBinarizer):
    """Sign with slope `beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x))`, the derivative of a smooth curve.

    `signs.swish_sign` describes the curve. Darabi et al., "BNN+: Improved Binary Network Training", 2018, arXiv
    1812.11800, section 3.
    """

    beta: float = 5.0

    def __call__(self, x: jax.Array, *, sample_ndim: int, train: bool, progress: Number | None = None) -> jax.Array:
        return signs.swish_sign(x, self.beta)


@dataclasses.dataclass(frozen=True)
class EDE(ActivationBinarizer):
    """Sign with slope `k t (1 - tanh^2(t x))`, where `t = t_min (t_max / t_min)^progress` and `k = max(1 / t, 1)`.

    Qin et al., "Forward and Backward Information Retention for Accurate Binary Neural Networks" (IR-Net), CVPR 2020,
    arXiv 1909.10788, section 3.3. The authors' CIFAR-10 code uses t_min = 1e-3.

    Attributes:
      t_min, t_max: t at the beginning and at the end of the training.
    """

    annealed: ClassVar[bool] = True

    t_min: float = 0.1
    t_max: float = 10.0

    def __call__(self, x: jax.Array, *, sample_ndim: int, train: bool, progress: Number | None = None) -> jax.Array:
        return signs.ede_sign(x, geometric(self.t_min, self.t_max, progress))


@dataclasses.dataclass(frozen=True)
class ReSTE(ActivationBinarizer):
    """Sign with slope `(1 / o) |x|^((1 - o) / o)` for `near < |x| <= far`, 0 for `|x| > far`, else a constant.

    `o = 1 + (o_end - 1) (1 - cos(pi progress / 2))`, as in the authors' code, rises from 1 to o_end during the
    training. `signs.reste_sign` gives the constant. Wu et al., "Estimator Meets Equilibrium Perspective: A Rectified
    Straight Through Estimator for Binary Neural Networks Training", ICCV 2023, arXiv 2308.06689.

    Attributes:
      o_end: o at the end of the training.
      near, far: bounds of `|x|` between which the slope is the derivative of `|x|^(1 / o)`.
    """

    annealed: ClassVar[bool] = True

    o_end: float = 3.0
    near: float = 0.1
    far: float = 1.5

    def __call__(self, x: jax.Array, *, sample_ndim: int, train: bool, progress: Number | None = None) -> jax.Array:
        o = 1.0 if progress is None else 1 + (self.o_end - 1) * (1 - jnp.cos(math.pi / 2 * progress))
        return signs.reste_sign(x, o, self.near, self.far)


@dataclasses.dataclass(frozen=True)
class RSign(ActivationBinarizer):
    """`sign(x - shift)` with slope `max(0, 2 - 2|x - shift|)`, and one learned shift per channel.

    After a relu, start the shift above 0: with a shift of 0 every sign is +1.

    The gradient of a shift is minus the sum of the gradients of its channel's activations. Liu et al., "ReActNet:
    Towards Precise Binary Neural Network with Generalized Activation Functions", ECCV 2020, arXiv 2003.03488, section
    4.

    Attributes:
      initial_shift: the shift of every channel before the training. The paper's is 0.
    """

    initial_shift: float = 0.0

    @property
    def parameters(self) -> Mapping[str, Callable[..., jax.Array]]:  # type: ignore[override]
        """Name and initializer of the learned parameter `shift`."""
        return {"shift": jax.nn.initializers.constant(self.initial_shift)}

    def __call__(  # type: ignore[override]
        self, x: jax.Array, *, sample_ndim: int, train: bool, progress: Number | None = None, shift: jax.Array
    ) -> jax.Array:
        return functional.approx_sign(x - per_channel(shift, x))


@dataclasses.dataclass(frozen=True)
class AdaBin(ActivationBinarizer):
    """Forward `spread sign(v) + shift`, `v = (x - shift) / spread`, with one learned spread and one shift per layer.

    `__call__` returns the sign, with slope `max(0, 2 - 2|v|)` with respect to v. The spread starts at 1 and the
    shift at 0. Zero padding stays 0. Nothing keeps the spread above 0. At 0 the layer gives NaN.

    Tu et al., "AdaBin: Improving Binary Neural Networks with Adaptive Binary Sets", ECCV 2022, arXiv 2208.08084. The
    authors' code has the values `spread (sign(v) + shift)`: their center is `spread shift` there, and here `shift`.
    """

    per_layer: ClassVar[bool] = True
    scaled: ClassVar[bool] = True
    parameters: ClassVar[Mapping[str, Callable[..., jax.Array]]] = {
        "spread": jax.nn.initializers.ones,
        "shift": jax.nn.initializers.zeros,
    }

    def __call__(  # type: ignore[override]
        self,
        x: jax.Array,
        *,
        sample_ndim: int,
        train: bool,
        progress: Number | None = None,
        spread: jax.Array,
        shift: jax.Array,
    ) -> jax.Array:
        return functional.approx_sign((x - per_channel(shift, x)) / per_channel(spread, x))

    def values(self, spread: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:  # type: ignore[override]
        """Returns the spread and the shift."""
        return spread, shift
