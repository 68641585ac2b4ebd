"""Lists the binary layers of any Linen or NNX model, and how each of them binarizes.

Both kinds of models are accepted:

    binary_layers(create_model("cifar_resnet20"), jnp.ones((1, 32, 32, 3)))    # Linen
    binary_layers(nnx_model)                                                   # NNX
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from recu_jax import layers
from recu_jax.binarizers import ActivationBinarizer, WeightBinarizer
from recu_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class BinaryLayer:
    """One binary layer of a model.

    Attributes:
      path: path of the layer's parameters in the model's parameters, such as `"block1/conv1"`; empty if the layer is
        the model.
      kind: `"conv"` or `"dense"`.
      kernel_shape: (*window, in_features / groups, features), with one more axis for each `scan` or `vmap` around the
        layer.
      alpha: scale of the outputs, `"learned"`, `"mean"` or `"none"`.
      binary_weights: False if only the activations are 1 bit.
      kernel_binarizer: binarizer of the weights.
      input_binarizer: binarizer of the activations.
    """

    path: str
    kind: str
    kernel_shape: tuple[int, ...]
    alpha: str
    binary_weights: bool
    kernel_binarizer: WeightBinarizer
    input_binarizer: ActivationBinarizer

    @property
    def weights(self) -> int:
        """Number of weights in the kernel."""
        return math.prod(self.kernel_shape)

    def leaf(self, collection: Mapping[str, Any], name: str) -> Any:
        """Returns the array `name` of this layer from a collection of variables, such as its `kernel` from `params`."""
        for part in filter(None, self.path.split("/")):
            collection = collection[part]
        return nn.meta.unbox(collection[name])


def binary_layers(model: Any, *args: Any, **kwargs: Any) -> list[BinaryLayer]:
    """Lists the binary layers of a model, in the order of their calls (Linen) or of the module graph (NNX).

    Args:
      model: a Linen module, or an `nnx.Module`.
      *args, **kwargs: arguments of a call of the Linen module. `jax.ShapeDtypeStruct` may stand for an array, because
        nothing is computed.

    Returns:
      One entry per layer, even if the layer is called several times; an empty list if the model has no binary layer.
    """
    if not isinstance(model, nn.Module):
        return [_record("/".join(map(str, path)), layer.linen, layer.kernel[...]) for path, layer in nnx_layers(model)]
    seen: dict[tuple[str, ...], nn.Module] = {}

    def listen(call, args, kwargs, context):
        if is_binary_call(context):
            seen.setdefault(context.module.path, context.module)
        return call(*args, **kwargs)

    with nn.intercept_methods(listen):
        variables = jax.eval_shape(lambda *args: model.init(jax.random.key(0), *args, **kwargs), *args)
    flat = flatten_dict(variables.get("params", {}))
    return [_record("/".join(path), layer, flat[(*path, "kernel")]) for path, layer in seen.items()]


def is_binary_call(context: nn.module.InterceptorContext) -> bool:
    """Tells whether a call that `nn.intercept_methods` reports is the call of a binary layer."""
    return isinstance(context.module, layers.BinaryConv | layers.BinaryDense) and context.method_name == "__call__"


def nnx_layers(model: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Returns path and layer of each binary layer of an NNX model."""
    # Imported here, because flax.nnx takes as long to import as Flax itself. A user with an NNX model has imported it
    # already.
    from flax import nnx

    from recu_jax.nnx import BinaryConv, BinaryDense

    return [(path, node) for path, node in nnx.iter_graph(model) if isinstance(node, BinaryConv | BinaryDense)]


def no_binary_layer(model: Any) -> UserError:
    """Returns the error for a model without binary layers where at least one is needed."""
    return UserError(
        f"{type(model).__name__} has no binary layer; build it of BinaryConv and BinaryDense of recu_jax (Linen) or "
        "recu_jax.nnx"
    )


def _record(path: str, layer: Any, kernel: Any) -> BinaryLayer:
    return BinaryLayer(
        path,
        "conv" if isinstance(layer, layers.BinaryConv) else "dense",
        tuple(jnp.shape(nn.meta.unbox(kernel))),
        layer.alpha,
        layer.binary_weights,
        layer.kernel_binarizer,
        layer.input_binarizer,
    )
