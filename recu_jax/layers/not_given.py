"""Defines `NOT_GIVEN`, the default of `tau`. It marks a missing tau, while `tau=None` turns the clamp off."""

import enum

import jax

from recu_jax.binarizers.interface import Number


class NotGiven(enum.Enum):
    """Type of `NOT_GIVEN`, the default of `tau`. `NOT_GIVEN` differs from None, which turns the clamp off.

    A model that passes tau on to its layers uses the same default:

        def __call__(self, x, tau=recu_jax.NOT_GIVEN, train=False):
    """

    NOT_GIVEN = enum.auto()

    def __repr__(self) -> str:
        return self.name


#: The default of `tau`: no tau was given.
NOT_GIVEN = NotGiven.NOT_GIVEN
Tau = Number | NotGiven | None
# `jit`, `nn.remat` and `nn.scan` accept as arguments only arrays, numbers, None, and objects of registered types.
jax.tree_util.register_static(NotGiven)
