"""Raises a helpful error where forward-mode differentiation meets a function with a hand-written backward pass."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from recu_jax.errors import UserError

_Function = TypeVar("_Function", bound=Callable[..., Any])


def reverse_mode(function: _Function) -> _Function:
    """Wraps `function`, which calls a `jax.custom_vjp`. Under `jax.jvp` the result raises UserError, not TypeError."""

    @functools.wraps(function)
    def checked(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise UserError(
                "the layers of recu_jax have no forward-mode derivative (jax.jvp, jax.jacfwd), as their backward pass "
                "is hand-written; use jax.grad or jax.vjp, and for a Hessian-vector product jax.jvp of jax.grad"
            ) from error

    return checked  # type: ignore[return-value]
