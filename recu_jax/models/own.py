"""Creates and checks models that users define in Python modules of their own.

`config.model = "package.module:factory"` names the factory of such a model. The factory is a subclass of
`flax.linen.Module`, or a function that returns a Linen module. It must accept `num_classes=`. A run also passes each
of `dtype=`, `conv=`, `norm_axis=`, `nonlinearity=` and `param_dtype=` that the factory accepts. It leaves out
`param_dtype=` for float32, and `nonlinearity=` if the config sets none. `models.cifar_resnet.CifarResNet` describes
these arguments.

The model takes images, (batch, height, width, channels). It may also take `tau`, `train` and `progress`, as the models
of this folder do. If the model does not take tau, its layers get tau and progress from `recu_jax.with_tau`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from recu_jax import references
from recu_jax.errors import UserError
from recu_jax.models.features import COLLECTION, is_feature
from recu_jax.tau import with_tau

_COLLECTIONS = {"params", "batch_stats"}


def create(reference: str, **arguments: Any) -> nn.Module:
    """Calls the factory that a reference names, and returns its model.

    Args:
      reference: `"package.module:factory"`.
      **arguments: arguments of the call.

    Raises:
      UserError: the factory does not exist or cannot be called, its call fails, or the result is not a Linen module.
    """
    factory = references.load("model", reference)
    if not callable(factory):
        raise UserError(
            f"model is {reference!r}, a {type(factory).__name__}; it must be a Flax module, or a function that returns "
            "one"
        )
    model = references.call("model", reference, factory, **arguments)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"model is {reference!r}, which returns a {type(model).__name__}; it must return a Linen module"
        )
    return model


def accepts(function: Callable[..., Any], argument: str) -> bool:
    """Tells whether `function` takes an argument of this name, as a parameter or by `**kwargs`."""
    try:
        taken = inspect.signature(function).parameters
    except ValueError:  # some classes in C have no signature
        return False
    return argument in taken or any(p.kind is p.VAR_KEYWORD for p in taken.values())


def accepted(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of `arguments` that the factory of a user's own model takes. Returns all for models of recu_jax.

    Args:
      name: name of the model, as in `create_model`.
      arguments: arguments for `create_model`.

    Raises:
      UserError: the factory does not exist.
    """
    if not references.is_reference(name):
        return dict(arguments)
    factory = references.load("model", name)
    return {k: v for k, v in arguments.items() if callable(factory) and accepts(factory, k)}


def in_training(
    model: nn.Module, variables: Mapping[str, Any], x: jax.Array, tau: Any, progress: Any, with_features: bool = False
) -> tuple[jax.Array, Any]:
    """Calls a model in training mode.

    Args:
      model: a model of recu_jax, or a user's own model, which may lack the arguments `tau`, `progress` and `train`.
      variables: variables of the model.
      x: images, (batch, height, width, channels).
      tau, progress: as in the models of recu_jax.
      with_features: whether `features.features` shall find the features among the changed collections.

    Returns:
      The logits, and the changed collections.
    """
    takes = functools.partial(accepts, type(model).__call__)
    if not takes("tau"):
        variables = with_tau(variables, tau, progress)
    given = {"tau": tau, "progress": progress, "train": True}
    given = {k: v for k, v in given.items() if takes(k)}
    if with_features:
        given |= {"capture_intermediates": is_feature}
    mutable = ["batch_stats", COLLECTION] if with_features else ["batch_stats"]
    return model.apply(variables, x, mutable=mutable, **given)  # type: ignore[return-value]


def check(name: str, model: nn.Module, image: jax.ShapeDtypeStruct, num_classes: int, axis: str) -> None:
    """Checks a user's own model: traces its initialization, evaluation and training on one image, without computing.

    Args:
      name: reference to the factory, for the error messages.
      model: the model that the factory returned.
      image: one image, (1, height, width, channels).
      num_classes: number of logits that the model must return.
      axis: name of the mapped axis that a training step runs in; the model's batch norm may average over it.

    Raises:
      UserError: a call fails or does not return logits, or the model has collections besides params and batch_stats.
    """
    tried = functools.partial(references.call, "model", name)
    variables: Any = tried(jax.eval_shape, model.init, jax.random.key(0), image, doing="its init on images")
    if others := sorted(set(variables) - _COLLECTIONS):
        raise UserError(f"model is {name!r}, with the collections {others}; a run keeps params and batch_stats alone")
    _check_logits(name, tried(jax.eval_shape, model.apply, variables, image, doing="its evaluation").shape, num_classes)

    def train(variables, x):
        mapped = jax.vmap(lambda x: in_training(model, variables, x, 0.9, 0.5)[0], axis_name=axis)
        return mapped(x[None])

    logits = tried(jax.eval_shape, train, variables, image, doing="its call in training")
    _check_logits(name, logits.shape[1:], num_classes)


def _check_logits(name: str, shape: Sequence[int], num_classes: int) -> None:
    if tuple(shape) != (1, num_classes):
        raise UserError(
            f"model is {name!r}, and returns {tuple(shape)} for one image; it must return logits, (1, {num_classes})"
        )
