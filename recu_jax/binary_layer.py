"""Lists the binary layers of any Linen or NNX model, and says how each of them binarizes.

`binary_layers` accepts both kinds of models:

    binary_layers(create_model("cifar_resnet20"), jnp.ones((1, 32, 32, 3)))    # Linen
    binary_layers(nnx_model)                                                   # NNX

`one_bit_weights` returns the binary weights with which the layers compute.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from recu_jax import layers
from recu_jax.binarizers import ActivationBinarizer, WeightBinarizer
from recu_jax.errors import UserError
from recu_jax.layers.evaluation import weights_in_evaluation
from recu_jax.layers.packed import latent_weights_are_gone


@dataclasses.dataclass(frozen=True)
class BinaryLayer:
    """Describes one binary layer of a model.

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
      stacked: the axes of `kernel_shape` that a `scan` or `vmap` around the layer added.
      stacked_alpha: the axes that the `scan` or `vmap` added to alpha. Within the layer, alpha has one axis.
    """

    path: str
    kind: str
    kernel_shape: tuple[int, ...]
    alpha: str
    binary_weights: bool
    kernel_binarizer: WeightBinarizer
    input_binarizer: ActivationBinarizer
    stacked: tuple[int, ...] = ()
    stacked_alpha: tuple[int, ...] = dataclasses.field(default=(), compare=False, repr=False)

    @property
    def weights(self) -> int:
        """Number of weights in the kernel."""
        return math.prod(self.kernel_shape)

    def leaf(self, collection: Mapping[str, Any], name: str) -> Any:
        """Returns the array `name` of this layer from a collection of variables, such as its `kernel` from `params`."""
        # The whole path is one key. Flax allows "/" in the name of a layer, so splitting the path at "/" could split
        # a name.
        return nn.meta.unbox(flatten_dict(collection, sep="/")["/".join(filter(None, (self.path, name)))])


def binary_layers(model: Any, *args: Any, **kwargs: Any) -> list[BinaryLayer]:
    """Lists the binary layers of a model, in the order of their calls (Linen) or of the module graph (NNX).

    Args:
      model: a Linen module, or an `nnx.Module`.
      *args, **kwargs: arguments of a call of the Linen module. `jax.ShapeDtypeStruct` may stand for an array, because
        nothing is computed. Flags and other values that are no arrays reach the model as they are.

    Returns:
      One entry per layer, even if the layer is called several times; an empty list if the model has no binary layer.

    Raises:
      UserError: a layer of the NNX model is packed.
    """
    if not isinstance(model, nn.Module):
        return [_of_nnx("/".join(map(str, path)), layer) for path, layer in nnx_layers(model)]
    seen: dict[tuple[str, ...], nn.Module] = {}

    def listen(call, args, kwargs, context):
        y = call(*args, **kwargs)
        if is_binary_call(context):
            rank = jnp.ndim(nn.meta.unbox(context.module.get_variable("params", "kernel")))
            seen.setdefault(context.module.path, context.module)
            for name, sizes in ((_MARK, _SIZES[:rank]), (_ALPHA_MARK, _SIZES[:1])):
                context.module.put_variable("params", name, jnp.zeros(sizes))
        return y

    leaves, structure = jax.tree.flatten((args, kwargs))
    is_array = [hasattr(leaf, "shape") for leaf in leaves]

    def init(arrays):
        given = iter(arrays)
        args, kwargs = jax.tree.unflatten(
            structure, [next(given) if a else leaf for leaf, a in zip(leaves, is_array, strict=True)]
        )
        return model.init(jax.random.key(0), *args, **kwargs)

    with nn.intercept_methods(listen):
        variables = jax.eval_shape(init, [leaf for leaf, a in zip(leaves, is_array, strict=True) if a])
    flat = flatten_dict(variables.get("params", {}))
    return [
        _record(
            "/".join(path),
            layer,
            flat[(*path, "kernel")],
            _added(flat[(*path, _MARK)]),
            _added(flat[(*path, _ALPHA_MARK)]),
        )
        for path, layer in seen.items()
    ]


# While `binary_layers` traces a Linen model, each binary layer gets two more parameters: one with as many axes as its
# kernel, and one with one axis, like alpha. These axes have the sizes `_SIZES`, which are unlikely lengths of a `scan`
# or `vmap`. If an axis has another size, a `scan` or `vmap` added it.
_MARK, _ALPHA_MARK = "recu_axes", "recu_axes_of_alpha"
_SIZES = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049)


def _added(mark):
    return tuple(i for i, size in enumerate(mark.shape) if size not in _SIZES)


class OneBitWeights(NamedTuple):
    """The weights with which a binary layer computes `alpha * conv(signs of the inputs, signs)`.

    Attributes:
      signs: +1 and -1 in the shape and dtype of the kernel, (*window, in_features / groups, features).
      alpha: scale of each output channel, (features,), or None without a scale.
    """

    signs: jax.Array
    alpha: jax.Array | None


def one_bit_weights(
    model: Any, variables: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any
) -> dict[str, OneBitWeights]:
    """Returns the 1-bit weights and the scales of all binary layers of a model, as evaluation uses them.

    The signs of a stored kernel may differ from the 1-bit weights, because ReCU and Libra standardize the kernel before
    they take signs. In networks trained with ReCU, 0.3 to 0.7% of the signs differ.

    Args:
      model: a Linen module, `one_bit_weights(model, variables, images)`, or an `nnx.Module`, `one_bit_weights(model)`.
      variables: variables of the Linen module.
      *args, **kwargs: arguments of a call of the Linen module, as in `binary_layers`. Values of arrays do not matter.

    Returns:
      Signs and alpha by path of the layer, as in `binary_layers`. Layers whose weights are not 1 bit are left out.
      Where a `scan` or `vmap` around a layer stacks kernels, the stacked axes come first, in both arrays.

    Raises:
      UserError: the model has no binary layer, `variables` do not fit the model, a layer of the NNX model is packed, or
        the weights of a layer have an offset, as AdaBin's have.
    """
    found = layers_with_weights(model, variables, *args, **kwargs)
    return {layer.path: weights for layer, weights in found}


def layers_with_weights(
    model: Any, variables: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any
) -> list[tuple[BinaryLayer, OneBitWeights]]:
    """Returns each layer that has 1-bit weights, and its weights. Arguments and errors are as in `one_bit_weights`."""
    if isinstance(model, nn.Module):
        found = variables or {}
        arrays = [
            (layer, *(_leaf(layer, found, *name) for name in _VARIABLES))
            for layer in binary_layers(model, *args, **kwargs)
        ]
    else:
        held = [layer for _, layer in nnx_layers(model)]
        arrays = [
            (record, _latent(layer), *(None if v is None else v[...] for v in (layer.alpha, layer.last_tau)))
            for record, layer in zip(binary_layers(model), held, strict=True)
        ]
    if not arrays:
        raise no_binary_layer(model)
    for layer, kernel, *_ in arrays:
        if kernel is None or jnp.shape(kernel) != layer.kernel_shape:
            raise UserError(
                f"the variables do not fit {type(model).__name__}: its layer {layer.path!r} has a kernel of shape "
                f"{layer.kernel_shape}, and they have "
                f"{'none' if kernel is None else f'one of shape {jnp.shape(kernel)}'}; give the variables of this model"
            )
        if layer.binary_weights and layer.kernel_binarizer.shifted:
            raise UserError(
                f"the weights of layer {layer.path!r} have an offset, by {layer.kernel_binarizer}, "
                "and here they must be alpha * signs; train with another binarizer of weights"
            )
    return [(layer, _one_bit(layer, *of_layer)) for layer, *of_layer in arrays if layer.binary_weights]


# Collection and name of the variables that determine signs and alpha.
_VARIABLES = (("params", "kernel"), ("params", "alpha"), ("batch_stats", "tau"))


def _leaf(layer, variables, collection, name):
    try:
        return layer.leaf(variables[collection], name)
    except KeyError:
        return None


def _one_bit(layer: BinaryLayer, kernel: Any, alpha: Any, tau: Any) -> OneBitWeights:
    """Binarizes one kernel, as the layer does in evaluation."""

    def one(kernel, alpha, tau):
        mean_tau = None if layer.alpha != "mean" else 1.0 if tau is None else tau
        signs, own, mean = weights_in_evaluation(layer.kernel_binarizer, kernel, mean_tau=mean_tau)
        alpha = alpha if mean is None else mean
        scales = [scale for scale in (alpha, own) if scale is not None]
        return OneBitWeights(signs, functools.reduce(jnp.multiply, scales) if scales else None)

    kernel = jnp.moveaxis(kernel, layer.stacked, range(len(layer.stacked)))
    if alpha is not None:
        alpha = jnp.moveaxis(alpha, layer.stacked_alpha, range(len(layer.stacked)))
    for _ in layer.stacked:
        one = jax.vmap(one, (0, 0, 0 if getattr(tau, "ndim", 0) else None))
    return one(kernel, alpha, tau)


def is_binary_call(context: nn.module.InterceptorContext) -> bool:
    """Tells whether a call that `nn.intercept_methods` reports is the call of a binary layer."""
    return isinstance(context.module, layers.BinaryConv | layers.BinaryDense) and context.method_name == "__call__"


def nnx_layers(model: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Returns the path and the module of each binary layer of an NNX model."""
    # Imported here, because flax.nnx takes as long to import as Flax itself. A user with an NNX model has imported it
    # already.
    from flax import nnx

    from recu_jax.nnx import BinaryConv, BinaryDense

    return [(path, node) for path, node in nnx.iter_graph(model) if isinstance(node, BinaryConv | BinaryDense)]


def _latent(layer):
    """Returns the latent weights of an NNX layer."""
    if layer.kernel is None:
        raise latent_weights_are_gone(layer)
    return layer.kernel[...]


def no_binary_layer(model: Any) -> UserError:
    """Returns the error for a model without binary layers where at least one is needed."""
    return UserError(
        f"{type(model).__name__} has no binary layer; build it of BinaryConv and BinaryDense of recu_jax (Linen) or "
        "recu_jax.nnx"
    )


def _of_nnx(path: str, layer: Any) -> BinaryLayer:
    def added(shape, own):
        """Returns the axes to remove from `shape` to get `own`, the shape inside the layer."""
        return next(
            axes
            for axes in itertools.combinations(range(len(shape)), len(shape) - len(own))
            if [n for i, n in enumerate(shape) if i not in axes] == list(own)
        )

    kernel, own = _latent(layer), layer.kernel_shape
    of_alpha = () if layer.alpha is None else added(layer.alpha[...].shape, own[-1:])
    return _record(path, layer.linen, kernel, added(kernel.shape, own), of_alpha)


def _record(
    path: str, layer: Any, kernel: Any, stacked: tuple[int, ...], stacked_alpha: tuple[int, ...]
) -> BinaryLayer:
    return BinaryLayer(
        path,
        "conv" if isinstance(layer, layers.BinaryConv) else "dense",
        tuple(jnp.shape(nn.meta.unbox(kernel))),
        layer.alpha,
        layer.binary_weights,
        layer.kernel_binarizer,
        layer.input_binarizer,
        stacked,
        stacked_alpha,
    )
