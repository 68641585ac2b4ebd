"""What is done to all binary layers of a model at once, whoever wrote it: hand them tau, and list them.

Linen, inside the training step, beside no change to the model:

    logits = model.apply(with_tau({"params": params}, tau), x)

NNX, in the training step before the model is called:

    set_tau(model, tau)
    logits = model(x)

Evaluation needs neither: tau changes gradients, and with the learned scale no output.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax import layers
from recu_jax.errors import UserError
from recu_jax.functional import check_tau


def _spread(tau: jax.Array | float, parameters: list[Any]) -> jax.Array:
    """tau in the shape of the smallest of a layer's parameters.

    Layers that are scanned or mapped over have all their parameters stacked along one axis, wherever that is; what
    takes the parameters apart then takes this apart as well.
    """
    shape = min((jnp.shape(nn.meta.unbox(p)) for p in parameters), key=math.prod)
    return jnp.broadcast_to(jnp.asarray(tau, jnp.result_type(float)), shape)


def with_tau(variables: Mapping[str, Any], tau: jax.Array | float) -> dict[str, Any]:
    """Variables of a Linen model with which all its binary layers train, with this tau, for `model.apply`.

    Layers that are called with neither `tau` nor `train` then take this tau and train; what a call says goes first.
    The result has one entry more beside each kernel of `params`, the collection that transformations within models
    (`nn.scan`, `nn.remat`, `nn.vmap`, `nn.jit`) carry along in any case. It is for this one call: hand the optimizer,
    checkpoints and evaluation the variables as they were.

    Args:
      variables: of the model: `{"params": ..., ...}`; they are not changed.
      tau: in (0.5, 1], a Python number or a scalar array, traced as well.

    Raises:
      UserError: tau is a Python number outside (0.5, 1], or `variables` hold no kernel.
    """
    check_tau(tau)
    flat = flatten_dict(variables.get("params", {}), keep_empty_nodes=True)
    beside = {path[:-1] for path in flat if path[-1] == "kernel"}
    if not beside:
        raise UserError(
            f"with_tau: variables with the entries {sorted(variables)} hold no kernel; give it what init returned, "
            "{'params': ...}"
        )
    taus = {
        (*parent, layers.TAU): _spread(tau, [leaf for path, leaf in flat.items() if path[:-1] == parent])
        for parent in beside
    }
    return {**variables, "params": unflatten_dict({**flat, **taus})}


def set_tau(model: Any, tau: jax.Array | float | None) -> None:
    """Gives all binary layers of an NNX model this tau; they take it where a call says none. Changes `model`.

    It is kept in variables of the type `recu_jax.nnx.Tau`, which is no `nnx.Param`: optimizers leave them alone. They
    come with the first call, so that a jitted step is compiled once more after it, unless there was one before. None
    takes them away, and the model's state is what it was: before saving, say.

    Args:
      model: an `nnx.Module`.
      tau: in (0.5, 1], a Python number or a scalar array, traced as well; or None.

    Raises:
      UserError: tau is a Python number outside (0.5, 1], or the model has no binary layer.
    """
    from recu_jax.nnx import Tau

    check_tau(tau)
    for _, layer in _nnx_layers(model):
        if tau is None:
            layer.tau = None
        else:
            spread = _spread(tau, [parameter[...] for parameter in layer.parameters().values()])
            if layer.tau is None:
                layer.tau = Tau(spread)
            else:
                layer.tau[...] = spread


@dataclasses.dataclass(frozen=True)
class BinaryLayer:
    """One binary layer of a model.

    Attributes:
      path: where its parameters are in those of the model, such as `"block1/conv1"`; empty if it is the model.
      kind: `"conv"` or `"dense"`.
      kernel_shape: (*window, in_features / groups, features), with one axis more for each `scan` or `vmap` around it.
      scale: of its outputs, `"learned"`, `"mean"` or `"none"`.
      binary_weights: False where the activations alone are 1 bit.
    """

    path: str
    kind: str
    kernel_shape: tuple[int, ...]
    scale: str
    binary_weights: bool

    @property
    def weights(self) -> int:
        """How many weights the kernel has."""
        return math.prod(self.kernel_shape)


def _record(path: tuple[Any, ...], layer: nn.Module, kernel: Any) -> BinaryLayer:
    kind = "conv" if isinstance(layer, layers.BinaryConv) else "dense"
    shape = tuple(jnp.shape(nn.meta.unbox(kernel)))
    return BinaryLayer("/".join(map(str, path)), kind, shape, layer.scale, layer.binary_weights)


def binary_layers(model: Any, *args: Any, **kwargs: Any) -> list[BinaryLayer]:
    """The binary layers of a model, in the order in which they are called (Linen) or found (NNX).

        binary_layers(create_model("cifar_resnet20"), jnp.ones((1, 32, 32, 3)))
        binary_layers(nnx_model)

    Args:
      model: a Linen module, or an `nnx.Module`.
      *args, **kwargs: for a Linen module, what it is called with; `jax.ShapeDtypeStruct` will do for arrays. Nothing
        is computed.

    Raises:
      UserError: the model has no binary layer.
    """
    if not isinstance(model, nn.Module):
        return [_record(path, layer.linen, layer.kernel[...]) for path, layer in _nnx_layers(model)]
    seen = {}

    def look(call, args, kwargs, context):
        if isinstance(context.module, (layers.BinaryConv, layers.BinaryDense)):
            seen[context.module.path] = context.module
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        variables = jax.eval_shape(lambda *args: model.init(jax.random.key(0), *args, **kwargs), *args)
    if not seen:
        raise _none_in(model)
    flat = flatten_dict(variables["params"])
    return [_record(path, layer, flat[(*path, "kernel")]) for path, layer in seen.items()]


def _nnx_layers(model: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Paths and binary layers of an NNX model."""
    # Here, as flax.nnx takes as long to import as Flax does; who has such a model has imported it.
    from flax import nnx

    from recu_jax.nnx import BinaryConv, BinaryDense

    found = [(path, node) for path, node in nnx.iter_graph(model) if isinstance(node, (BinaryConv, BinaryDense))]
    if not found:
        raise _none_in(model)
    return found


def _none_in(model: Any) -> UserError:
    return UserError(
        f"{type(model).__name__} has no binary layer; build it of BinaryConv and BinaryDense of recu_jax (Linen) or "
        "recu_jax.nnx"
    )
