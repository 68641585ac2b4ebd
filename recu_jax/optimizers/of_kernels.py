"""Gives the binary kernels of a model an optimizer of their own."""

from collections.abc import Collection

import optax
from flax.traverse_util import path_aware_map

from recu_jax.optimizers.sign_flips import bop


def with_bop(
    rest: optax.GradientTransformation,
    kernels: Collection[tuple[str, ...]],
    threshold: float = 1e-8,
    gamma: optax.ScalarOrSchedule = 1e-4,
) -> optax.GradientTransformation:
    """Returns an optimizer that applies Bop to the parameters at `kernels`, and `rest` to all other parameters.

    Args:
      rest, kernels: as in `with_own`.
      threshold, gamma: as in `bop`.
    """
    return with_own(rest, bop(threshold, gamma), kernels, "bop")


def with_own(
    rest: optax.GradientTransformation,
    own: optax.GradientTransformation,
    kernels: Collection[tuple[str, ...]],
    name: str = "latent",
) -> optax.GradientTransformation:
    """Returns an optimizer that applies `own` to the parameters at `kernels`, and `rest` to all other parameters.

    Args:
      rest: optimizer of all other parameters.
      own: optimizer of the parameters at `kernels`.
      kernels: paths in the parameters, such as `("conv1", "kernel")`.
      name: key of `own` in the optimizer's state.
    """

    def labels(params):
        return path_aware_map(lambda path, _: name if path in kernels else "rest", params)

    return optax.multi_transform({name: own, "rest": rest}, labels)
