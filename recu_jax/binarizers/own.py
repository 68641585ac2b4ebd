"""Loads binarizers from a user's own modules, for `config.weight_binarizer = "package.module:name"`.

`config.activation_binarizer` takes the same form. `name` is a binarizer, or a class or function that returns a
binarizer when it is called without arguments. The module `interface` says how to write a binarizer.
"""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from recu_jax import references
from recu_jax.binarizers.interface import ActivationBinarizer, WeightBinarizer
from recu_jax.errors import UserError

# Shapes of a kernel, (height, width, in_features, features), and of activations, (batch, height, width, channels). Each
# binarizer is called once on an abstract array of one of these shapes, so that a mistake in it shows before the run.
_KERNEL, _INPUT = ((3, 3, 4, 8), (2, 5, 5, 4))


def weight_binarizer(reference: str) -> WeightBinarizer:
    """Returns a user's own binarizer of weights.

    Args:
      reference: `"package.module:name"`.

    Raises:
      UserError: `reference` cannot be loaded or is not a binarizer of weights, the binarizer is not hashable, or its
        call fails or returns arrays of wrong shapes.
    """
    binarizer = _load("weight binarizer", reference, WeightBinarizer)
    kernel = jax.ShapeDtypeStruct(_KERNEL, jnp.float32)
    _check_arguments("weight binarizer", reference, binarizer, "(kernel, tau, progress)", kernel, 0.9, 0.5)
    found = _tried("weight binarizer", reference, lambda kernel: binarizer(kernel, 0.9, 0.5), kernel)
    shapes = jax.tree.map(jnp.shape, found)
    if shapes not in ((_KERNEL, None), (_KERNEL, _KERNEL[-1:])):
        returned = "one array" if shapes == _KERNEL else f"{shapes} for a kernel of shape {_KERNEL}"
        raise UserError(
            f"weight binarizer is {reference!r}, and returns {returned}; it must return a pair: signs of the kernel's "
            f"shape, and a scale of shape (features,) or None, as in `return signs, None`"
        )
    return binarizer


def activation_binarizer(reference: str) -> ActivationBinarizer:
    """Returns a user's own binarizer of activations.

    Args:
      reference: `"package.module:name"`.

    Raises:
      UserError: `reference` cannot be loaded or is not a binarizer of activations, the binarizer is not hashable, or
        its call fails or returns an array of another shape than its input.
    """
    binarizer = _load("activation binarizer", reference, ActivationBinarizer)
    x = jax.ShapeDtypeStruct(_INPUT, jnp.float32)
    parameters = dict.fromkeys(binarizer.parameters, jnp.zeros(binarizer.parameter_shape(_INPUT[-1])))

    def call(x):
        return binarizer(x, sample_ndim=3, train=True, progress=0.5, **parameters)

    shapes = jax.tree.map(jnp.shape, _tried("activation binarizer", reference, call, x))
    if shapes != _INPUT:
        raise UserError(
            f"activation binarizer is {reference!r}, and returns {shapes} for activations of shape {_INPUT}; it must "
            "return signs of the same shape"
        )
    return binarizer


def _load(what: str, reference: str, kind: type) -> Any:
    found = references.load(what, reference)
    if not isinstance(found, kind) and callable(found) and _fits(found):
        found = references.call(what, reference, found)
    if not isinstance(found, kind):
        raise UserError(
            f"{what} is {reference!r}, a {type(found).__name__}; it must be a recu_jax.binarizers.{kind.__name__}, its "
            "class, or a function without arguments that returns one"
        )
    try:
        hash(found)
    except TypeError as error:
        raise UserError(f"{what} is {reference!r}, which has no hash; make its class a frozen dataclass") from error
    return found


def _fits(function, *arguments):
    """Tells whether `function` can be called with these arguments; True if Python cannot find its signature."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _check_arguments(what, reference, binarizer, names, *arguments):
    if not _fits(binarizer, *arguments):
        raise UserError(
            f"{what} is {reference!r}, and its __call__ takes {inspect.signature(binarizer)}; it must take {names}"
        )


def _tried(what, reference, function, x):
    return references.call(what, reference, jax.eval_shape, function, x, doing="its call on an array")
