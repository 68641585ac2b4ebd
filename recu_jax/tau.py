"""Sets tau, and the progress of the training, for all binary layers of a model at once.

The model needs no change. Linen, inside the training step:

    logits = model.apply(with_tau({"params": params}, tau), x)

NNX, in the training step, before the call of the model:

    set_tau(model, tau)
    logits = model(x)

Annealed binarizers (EDE, ReSTE, Libra) also need `progress=`. Evaluation needs neither tau nor progress, because they
change only gradients. There is one exception: with `alpha="mean"` tau changes the outputs, and evaluation without tau
uses the tau of the last training step.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax import layers
from recu_jax.binary_layer import nnx_layers, no_binary_layer
from recu_jax.errors import UserError
from recu_jax.functional import check_tau
from recu_jax.layers.packed import BITS, packed_trains


def _spread(value: jax.Array | float, parameters: list[Any]) -> jax.Array:
    """Broadcasts `value` to the shape of a layer's smallest parameter.

    `nn.scan` and `nn.vmap` stack the entries of `params` along one axis, which may be any axis, and split every entry
    along it. A value in the shape of a parameter has this axis too, so it can be split. The shape of the smallest
    parameter takes the least memory.
    """
    shape = min((jnp.shape(nn.meta.unbox(p)) for p in parameters), key=math.prod)
    return jnp.broadcast_to(jnp.asarray(value, jnp.result_type(float)), shape)


def with_tau(
    variables: Mapping[str, Any], tau: jax.Array | float, progress: jax.Array | float | None = None
) -> dict[str, Any]:
    """Returns variables for `model.apply` with which all binary layers of a Linen model train at this tau.

    Layers must be called without `tau` and `train` for this. An argument of a layer's call takes precedence.

    The result holds one or two more entries beside each kernel of `params`. They are in `params` because
    transformations within models (`nn.scan`, `nn.remat`, `nn.vmap`, `nn.jit`) always carry this collection. Use the
    result for this one call. Give the optimizer, checkpoints and evaluation the original variables.

    Args:
      variables: variables of the model, `{"params": ..., ...}`; they are not changed.
      tau: in (0.5, 1], a Python number or a scalar array, which may be traced.
      progress: share of the training that is over, from 0 to 1, for annealed binarizers.

    Returns:
      `variables` with tau, and progress if it is given, beside each kernel.

    Raises:
      UserError: tau is a Python number outside (0.5, 1], `variables` hold no kernel, or they are packed.
    """
    check_tau(tau)
    flat = flatten_dict(variables.get("params", {}), keep_empty_nodes=True)
    if any(path[-1] == BITS for path in flat):
        raise packed_trains("with_tau: the model")
    beside = {path[:-1] for path in flat if path[-1] == "kernel"}
    if not beside:
        raise UserError(
            f"with_tau: variables with the entries {sorted(variables)} hold no kernel; give it what init returned, "
            "{'params': ...}"
        )
    given = {layers.TAU: tau} | ({} if progress is None else {layers.PROGRESS: progress})
    added = {
        (*parent, name): _spread(value, [leaf for path, leaf in flat.items() if path[:-1] == parent])
        for parent in beside
        for name, value in given.items()
    }
    return {**variables, "params": unflatten_dict({**flat, **added})}


def set_tau(model: Any, tau: jax.Array | float | None, progress: jax.Array | float | None = None) -> None:
    """Sets tau and progress of all binary layers of an NNX model. An argument of a layer's call takes precedence.

    This changes `model`. Both values are kept in variables of the type `recu_jax.nnx.Tau`. `Tau` is not an `nnx.Param`,
    so optimizers do not change it.

    The first call adds these variables to the model's state. A jitted step that was compiled before this call is
    compiled once more. `set_tau(model, None)` removes the variables, for example before saving. The model's state is
    then as before the first call.

    Args:
      model: an `nnx.Module`.
      tau: in (0.5, 1], a Python number or a scalar array, which may be traced; or None.
      progress: share of the training that is over, from 0 to 1, for annealed binarizers; or None.

    Raises:
      UserError: tau is a Python number outside (0.5, 1], or the model has no binary layer or is packed.
    """
    from recu_jax.nnx import Tau

    check_tau(tau)
    found = nnx_layers(model)
    if not found:
        raise no_binary_layer(model)
    if any(layer.kernel_bits is not None for _, layer in found):
        raise packed_trains("set_tau: the model")
    for _, layer in found:
        parameters = [parameter[...] for parameter in layer.parameters().values()]
        for name, value in (("tau", tau), ("progress", progress)):
            if value is None:
                setattr(layer, name, None)
            elif getattr(layer, name) is None:
                setattr(layer, name, Tau(_spread(value, parameters)))
            else:
                getattr(layer, name)[...] = _spread(value, parameters)
