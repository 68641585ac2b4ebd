"""Collects the features of a network, from which a student can learn: the outputs of its blocks.

A feature is the output, (batch, height, width, channels), of a submodule named as in `parts.blocks`, `layer1_0`. The
network without blocks, `cifar_vgg_small`, has the outputs of RPReLU instead, `nonlinear1`, if that is its nonlinearity.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from recu_jax.errors import UserError

# Where Flax puts the outputs that `is_feature` selects. Name it in `mutable`.
COLLECTION = "intermediates"
_NAMES = re.compile(r"layer\d+_\d+|nonlinear\d+")


def is_feature(module: nn.Module, method: str) -> bool:
    """Tells whether a call returns a feature. Give this function to `apply` as `capture_intermediates`."""
    return method == "__call__" and len(module.path) == 1 and _NAMES.fullmatch(module.path[0]) is not None


def features(changed: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Returns {name of the submodule: its output}, from the changed collections that `apply` has returned."""
    found = changed.get(COLLECTION, {}).items()
    return {name: calls["__call__"][-1] for name, calls in found if _NAMES.fullmatch(name)}


def with_features(model: nn.Module, variables: Any, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the logits and the features of a model in evaluation."""
    logits, changed = model.apply(variables, x, capture_intermediates=is_feature, mutable=[COLLECTION])
    return logits, features(changed)


def check(student: nn.Module, teacher: nn.Module, image: jax.ShapeDtypeStruct, names: tuple[str, str]) -> None:
    """Checks that two networks have features of the same names and shapes. Traces both, and computes nothing.

    Args:
      student, teacher: the networks.
      image: one image, (1, height, width, channels).
      names: of the two models, for the error message.

    Raises:
      UserError: they do not.
    """

    def shapes(model):
        def of_fresh(x):
            return with_features(model, model.init(jax.random.key(0), x), x)[1]

        return {name: f.shape[1:] for name, f in jax.eval_shape(of_fresh, image).items()}

    ours, theirs = shapes(student), shapes(teacher)
    if ours == theirs != {}:
        return
    if not ours:
        raise UserError(
            f"config.teacher_features is set, and config.model {names[0]!r} has no features: no submodule is named as "
            "layer1_0 or nonlinear1; leave the field out, or, for cifar_vgg_small, add --config.nonlinearity=rprelu"
        )
    name = next(n for n in (*ours, *theirs) if ours.get(n) != theirs.get(n))
    both = [f"{found.get(name, 'missing')} in {model}" for found, model in zip((ours, theirs), names, strict=True)]
    raise UserError(
        f"config.teacher_features is set, and the feature {name} is {both[0]} and {both[1]}; use a teacher with the "
        "same blocks, or leave the field out"
    )
