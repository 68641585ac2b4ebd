"""Checks that forward-mode derivatives are refused in one line, and that errors about other functions are unchanged."""

import jax
import jax.numpy as jnp
import pytest

from recu_jax import BinaryConv, UserError, check_model, functional
from recu_jax.ops.reverse_mode import reverse_mode

X = jnp.ones((2, 5, 5, 3))


@pytest.mark.parametrize("train", [False, True])
def test_the_line(train):
    layer = BinaryConv(4, (3, 3))
    variables = layer.init(jax.random.key(0), X)
    with pytest.raises(UserError, match=r"no forward-mode derivative .*; use jax.grad or jax.vjp, .* jax.jvp of jax"):
        jax.jvp(lambda x: layer.apply(variables, x, tau=0.9, train=train), (X,), (X,))


def test_the_wrapped_function_keeps_its_name_and_docstring():
    wrapped = reverse_mode(check_model)
    assert (wrapped.__name__, wrapped.__doc__) == (check_model.__name__, check_model.__doc__)


def test_other_mistakes_stay():
    with pytest.raises(TypeError, match=r"positional argument"):
        functional.normalize_sample(X)
    with pytest.raises(TypeError, match=r"^mine$"):
        reverse_mode(lambda: (_ for _ in ()).throw(TypeError("mine")))()
