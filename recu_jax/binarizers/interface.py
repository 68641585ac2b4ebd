"""What a binarizer is: a frozen object that is called, with its gradient in the function that it calls.

One of your own is a frozen dataclass over one of the two classes here:

    @dataclasses.dataclass(frozen=True)
    class Triangle(ActivationBinarizer):
        width: float = 1.0

        def __call__(self, x, *, sample_ndim, train, progress=None):
            return sign_with_slope(x, jnp.maximum(0, 1 - jnp.abs(x) / self.width))

    BinaryConv(64, (3, 3), activations=Triangle(0.5))

None of them holds running statistics: what they need, they compute of the array at hand.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import jax

Number = jax.Array | float


class Annealed(NamedTuple):
    """tau together with the share of the training that is over, for binarizers whose gradient changes with it.

    Goes wherever `tau` goes: models hand it on to their layers without looking at it, so that no model has an argument
    more. Both are Python numbers or scalar arrays, traced ones too: `Annealed(tau(step), progress(step))` with
    `schedules.exponential_tau` and `schedules.training_progress`.

    Attributes:
      tau: in (0.5, 1], or None.
      progress: epochs done by all epochs, from 0 to 1.
    """

    tau: Number | None
    progress: Number


def split_progress(tau: "Number | Annealed | None") -> tuple[Number | None, Number | None]:
    """tau and progress of what a layer was given as its `tau`; None for each that it was not given."""
    return (tau.tau, tau.progress) if isinstance(tau, Annealed) else (tau, None)


@dataclasses.dataclass(frozen=True)
class WeightBinarizer:
    """Latent weights to signs, and to a scale for each output channel.

    Attributes:
      annealed: whether the gradient depends on `progress`.
      scaled: whether there is a scale of its own, which a learned alpha then multiplies.
      keeps_signs: whether the signs are those of the latent weights, which the optimiser Bop relies on.
    """

    annealed: ClassVar[bool] = False
    scaled: ClassVar[bool] = False
    keeps_signs: ClassVar[bool] = True

    def __call__(
        self, kernel: jax.Array, tau: Number | None = None, progress: Number | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Binarises.

        The layer convolves with `scale * signs`; a gradient g with respect to that product comes back as `scale * g` to
        the signs, and as `sum(signs * g)` over a channel to the scale.

        Args:
          kernel: (*window, in_features / groups, features).
          tau: ReCU's, in (0.5, 1]; None clamps nothing.
          progress: share of the training that is over; None is its beginning.

        Returns:
          +1 and -1 in the shape and dtype of `kernel`, and (features,) in its dtype, or None for no scale.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ActivationBinarizer:
    """Real activations to signs.

    Attributes:
      annealed: whether the gradient depends on `progress`.
      parameters: name and initializer of each learned parameter; the layer that has the binarizer makes them, one
        number for each input channel, and gives them by name.
    """

    annealed: ClassVar[bool] = False
    parameters: ClassVar[Mapping[str, Callable[..., jax.Array]]] = {}

    def __call__(self, x: jax.Array, *, sample_ndim: int, train: bool, progress: Number | None = None) -> jax.Array:
        """Binarises.

        Args:
          x: (*batch, *sample), channels last.
          sample_ndim: how many trailing axes make one sample.
          train: whether gradients are wanted; the signs do not depend on it.
          progress: share of the training that is over; None is its beginning.

        Those that have `parameters` take these by name besides, each (channels,).

        Returns:
          +1 and -1 in the shape and dtype of `x`.
        """
        raise NotImplementedError
