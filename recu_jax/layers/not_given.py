"""The default of `tau`, by which a layer tells that no tau was given from `tau=None`, which asks for no clamp."""

import enum

import jax

from recu_jax.binarizers.interface import Number


class NotGiven(enum.Enum):
    """Type of `NOT_GIVEN`, the default of `tau`. It differs from None, which asks for no clamp.

    A model that passes tau on to its layers uses the same default:

        def __call__(self, x, tau=recu_jax.NOT_GIVEN, train=False):
    """

    NOT_GIVEN = enum.auto()

    def __repr__(self) -> str:
        return self.name


#: The default of `tau`: no tau was given.
NOT_GIVEN = NotGiven.NOT_GIVEN
Tau = Number | NotGiven | None
# As None, it passes through `jit`, `nn.remat` and `nn.scan`, which take arrays alone.
jax.tree_util.register_static(NotGiven)
