"""Defines the interface of binarizers, which are frozen objects whose call returns signs and defines the gradient.

To write your own binarizer, derive a frozen dataclass from one of the two classes of this file. The example uses
`sign_with_slope` of the module `signs`:

    @dataclasses.dataclass(frozen=True)
    class Triangle(ActivationBinarizer):
        width: float = 1.0

        def __call__(self, x, *, sample_ndim, train, progress=None):
            return sign_with_slope(x, jnp.maximum(0, 1 - jnp.abs(x) / self.width))

    BinaryConv(64, (3, 3), input_binarizer=Triangle(0.5))

Binarizers hold no running statistics. They compute all statistics from the array that they binarize.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

Number = jax.Array | float


@dataclasses.dataclass(frozen=True)
class WeightBinarizer:
    """Turns latent weights into signs, and optionally a scale and an offset for each output channel.

    Attributes:
      annealed: whether the gradient depends on `progress`.
      scaled: whether the binarizer returns a scale. A learned alpha multiplies this scale.
      shifted: whether weights have an `offset`. A learned alpha multiplies this offset.
      keeps_signs: whether each sign is the sign of its latent weight. The optimizer Bop requires this.
    """

    annealed: ClassVar[bool] = False
    scaled: ClassVar[bool] = False
    shifted: ClassVar[bool] = False
    keeps_signs: ClassVar[bool] = True

    @property
    def needs_tau(self) -> bool:
        """Whether training needs tau. If so, the layer raises an error when it trains without tau."""
        return False

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Binarizes a kernel.

        The layer convolves with `scale * signs`. Let g be the gradient with respect to this product. The signs then get
        the gradient `scale * g`, and the scale gets `sum(signs * g)` over its channel.

        Args:
          kernel: latent weights, (*window, in_features / groups, features).
          tau: ReCU's tau, in (0.5, 1]; None turns the clamp off.
          progress: share of the training that is over, from 0 to 1; None means 0.

        Returns:
          The signs, +1 and -1 in the shape and dtype of `kernel`; and the scale, (features,) in the dtype of `kernel`,
          or None.
        """
        raise NotImplementedError

    def offset(self, kernel: jax.Array) -> jax.Array:
        """Returns the offset of each output channel, (features,). A layer calls this method if `shifted` is True.

        The layer then convolves with `scale * signs + offset`. Gradients flow through the offset.
        """
        raise NotImplementedError

    def standardized(self, kernel: jax.Array) -> jax.Array:
        """Returns the real weights whose signs the binarizer takes, before any clamp, in the shape of `kernel`.

        This base class takes the signs of the latent weights themselves.
        """
        return kernel

    def bound(self, standardized: jax.Array, tau: Number | None = None) -> jax.Array:
        """Returns the largest magnitude that the clamp leaves in the `standardized` weights; infinity without a clamp.

        The result is a scalar.
        """
        return jnp.full((), jnp.inf, standardized.dtype)


@dataclasses.dataclass(frozen=True)
class ActivationBinarizer:
    """Turns real activations into signs.

    Attributes:
      annealed: whether the gradient depends on `progress`.
      parameters: name and initializer of each learned parameter. The layer creates the parameters, one number for each
        input channel, and passes them by name.
      per_layer: whether each parameter is one number for the layer, (1,), instead of one for each input channel.
      scaled: whether activations have a scale and an offset, which `values` returns.
    """

    annealed: ClassVar[bool] = False
    per_layer: ClassVar[bool] = False
    scaled: ClassVar[bool] = False
    parameters: ClassVar[Mapping[str, Callable[..., jax.Array]]] = {}

    def __call__(self, x: jax.Array, *, sample_ndim: int, train: bool, progress: Number | None = None) -> jax.Array:
        """Binarizes activations.

        A binarizer with `parameters` also takes each parameter as a keyword argument, (channels,), or (1,) with
        `per_layer`.

        Args:
          x: (*batch, *sample), channels last.
          sample_ndim: number of trailing axes that make one sample.
          train: whether gradients are wanted; the signs do not depend on it.
          progress: share of the training that is over, from 0 to 1; None means 0.

        Returns:
          +1 and -1 in the shape and dtype of `x`.
        """
        raise NotImplementedError

    def parameter_shape(self, channels: int) -> tuple[int, ...]:
        """Returns the shape of each parameter of a layer with this number of input channels."""
        return (1 if self.per_layer else channels,)

    def values(self, **parameters: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the scale and the offset of the activations, each (1,).

        A layer calls this method if `scaled` is True. It then computes with `scale * signs + offset`. Gradients flow
        through both. Both are one number for the layer, because the layer applies them to its outputs. So a `scaled`
        binarizer also sets `per_layer`.

        Args:
          **parameters: as in `__call__`.
        """
        raise NotImplementedError

    def lets_through(
        self, x: jax.Array, *, sample_ndim: int, progress: Number | None = None, **parameters: jax.Array
    ) -> jax.Array:
        """Tells where the slope is positive, so that a gradient passes: booleans in the shape of `x`.

        The arguments are those of `__call__` without `train`. This implementation requires that the slope at an entry
        of `x` depends on this entry alone.
        """

        def signs(x):
            return self(x, sample_ndim=sample_ndim, train=True, progress=progress, **parameters)

        _, slope = jax.jvp(signs, (x,), (jnp.ones_like(x),))
        return slope > 0
