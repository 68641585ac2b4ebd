"""Binarizes the weights of all layers of a model together.

The binarization of one weight kernel takes a dozen small operations. A GPU launches each of them separately, and the
launch takes longer than the computation. So this module stacks kernels of equal shape and dtype, whose layers have the
same binarizer and kind of alpha, and binarizes them as one array.

A layer that computes in bfloat16 also gets its output scale here, as a factor of its signs. Otherwise the scale would
multiply the outputs, the signs and the gradients in operations of their own: in `cifar_resnet20` three kernels a layer.
In float32 a GPU rounds the operands of a convolution to TF32. There +1 and -1 stay exact, but a scaled sign would lose
digits. So layers of float32 keep the scale apart.
"""

import inspect
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from recu_jax import layers
from recu_jax.binary_layer import is_binary_call
from recu_jax.layers.evaluation import can_be_hashed
from recu_jax.models.own import in_training


def with_signs(model: nn.Module, variables: Mapping[str, Any], x: jax.Array, tau: Any, progress: Any) -> dict[str, Any]:
    """Returns `variables` with the 1-bit weights of the layers added to `params`.

    Pass the result to one call of `in_training` in place of `variables`, with the same `model`, `x`, `tau` and
    `progress`. The results and gradients are then those of `variables`, up to rounding.

    A layer still binarizes its weights itself if

    - its binarizer cannot be hashed, or has an offset,
    - alpha is `"mean"`,
    - `nn.scan` or `nn.vmap` stacks its kernel,
    - the model passes the layer a tau or a progress that is not the object given here. This happens if it computes
      a new value, or passes the value through `nn.remat`.

    Args:
      model, variables, x, tau, progress: arguments of `in_training`. `variables` are not changed.
    """
    flat = flatten_dict(variables["params"], keep_empty_nodes=True)
    groups = defaultdict(list)
    for path, fields in _layers(model, variables, x, tau, progress).items():
        kernel = nn.meta.unbox(flat[(*path, "kernel")])
        groups[*fields, kernel.shape, kernel.dtype].append((path, kernel))
    added = {}
    for (binarizer, alpha, narrow, *_), members in groups.items():
        paths, kernels = zip(*members, strict=True)
        signs, own = jax.vmap(lambda kernel, of=binarizer: of(kernel, tau, progress))(jnp.stack(kernels))
        entries = {layers.SIGNS: signs} if own is None else {layers.SIGNS: signs, layers.OWN_SCALE: own}
        scale = own
        if alpha == "learned":
            learned = jnp.stack([nn.meta.unbox(flat[(*path, "alpha")]) for path in paths])
            scale = learned if own is None else learned * own
        if narrow and scale is not None:
            # The gradient of the scale sums over thousands of weights, in the dtype of this product. So the product is
            # cast only afterwards.
            products = signs * lax.expand_dims(scale, range(1, signs.ndim - 1))
            entries = {layers.SCALED_SIGNS: products.astype(jnp.bfloat16)}
        for i, path in enumerate(paths):
            added.update({(*path, name): of_all[i] for name, of_all in entries.items()})
    return {**variables, "params": unflatten_dict({**flat, **added})}


def _layers(model, variables, x, tau, progress):
    """Finds the layers whose weights may be binarized together.

    Returns:
      `{path: (kernel binarizer, alpha, whether the layer computes in bfloat16)}`.
    """
    found: dict[tuple[str, ...], tuple[Any, str, bool]] = {}
    others = set()

    def listen(call, args, kwargs, context):
        layer, y = context.module, call(*args, **kwargs)
        if is_binary_call(context) and _joins(layer):
            bound = inspect.signature(type(layer).__call__).bind(layer, *args, **kwargs)
            bound.apply_defaults()
            own = bound.arguments
            found[layer.path] = layer.kernel_binarizer, layer.alpha, y.dtype == jnp.bfloat16
            same_tau = _is_same(layer, own["tau"], tau, layers.TAU)
            same_progress = _is_same(layer, own["progress"], progress, layers.PROGRESS)
            if not (same_tau and same_progress) or _is_stacked(layer, variables["params"]):
                others.add(layer.path)
        return y

    with nn.intercept_methods(listen):
        jax.eval_shape(lambda variables, x: in_training(model, variables, x, tau, progress), variables, x)
    return {path: fields for path, fields in found.items() if path not in others}


def _joins(layer):
    binarizer = layer.kernel_binarizer
    return layer.binary_weights and layer.alpha != "mean" and not binarizer.shifted and can_be_hashed(binarizer)


def _is_stacked(layer, params):
    for name in layer.path:
        params = params[name]
    # Within nn.scan and nn.vmap a layer sees one kernel of the stack.
    return nn.meta.unbox(params["kernel"]).ndim != nn.meta.unbox(layer.get_variable("params", "kernel")).ndim


def _is_same(layer, given, value, name):
    # A layer that is called without the argument uses the value that `with_tau` put beside its kernel, if there is one.
    left_out = given is None or given is layers.NOT_GIVEN
    return given is value or (left_out and layer.has_variable("params", name))
