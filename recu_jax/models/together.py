"""Binarizes the weights of all layers of a model together.

The binarization of one kernel takes a dozen small operations. Each is a program of its own on a GPU, and its start
takes longer than its work. So kernels of one shape are stacked, and binarized as one array.
"""

import inspect
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax import layers
from recu_jax.binary_layer import is_binary_call
from recu_jax.models.own import in_training


def with_signs(model: nn.Module, variables: Mapping[str, Any], x: jax.Array, tau: Any, progress: Any) -> dict[str, Any]:
    """Returns variables with the 1-bit weights of the layers, for one call of `in_training` with the other arguments.

    The results and gradients of the call are the same, up to rounding. A layer still binarizes its weights itself if no
    other layer has the binarizer and the shape of the kernel, if the model changes tau or progress on the way to it, if
    a transformation such as `nn.scan` or `nn.remat` is around it, or if its alpha is `"mean"`.

    Args:
      model, variables, x, tau, progress: arguments of `in_training`. `variables` are not changed.
    """
    flat = flatten_dict(variables["params"], keep_empty_nodes=True)
    groups = defaultdict(list)
    for path, binarizer in _layers(model, variables, x, tau, progress).items():
        kernel = nn.meta.unbox(flat[(*path, "kernel")])
        groups[binarizer, kernel.shape, kernel.dtype].append((path, kernel))
    added = {}
    for (binarizer, *_), members in groups.items():
        if len(members) > 1:
            paths, kernels = zip(*members, strict=True)
            signs, own = jax.vmap(lambda kernel, of=binarizer: of(kernel, tau, progress))(jnp.stack(kernels))
            for i, path in enumerate(paths):
                added[(*path, layers.SIGNS)] = signs[i]
                if own is not None:
                    added[(*path, layers.OWN_SCALE)] = own[i]
    return {**variables, "params": unflatten_dict({**flat, **added})}


def _layers(model, variables, x, tau, progress):
    """Returns the binarizers of the layers that get the given tau and progress, by path."""
    found: dict[tuple[str, ...], Any] = {}
    others = set()

    def listen(call, args, kwargs, context):
        layer = context.module
        if is_binary_call(context) and layer.binary_weights and layer.alpha != "mean":
            bound = inspect.signature(type(layer).__call__).bind(layer, *args, **kwargs)
            bound.apply_defaults()
            own = bound.arguments
            found[layer.path] = layer.kernel_binarizer
            same_tau = _is_same(layer, own["tau"], tau, layers.TAU)
            if not (same_tau and _is_same(layer, own["progress"], progress, layers.PROGRESS)):
                others.add(layer.path)
        return call(*args, **kwargs)

    with nn.intercept_methods(listen):
        jax.eval_shape(lambda variables, x: in_training(model, variables, x, tau, progress), variables, x)
    return {path: binarizer for path, binarizer in found.items() if path not in others}


def _is_same(layer, given, value, name):
    # A layer without the argument takes the value beside its kernel, if `with_tau` put one there.
    left_out = given is None or given is layers.NOT_GIVEN
    return given is value or (left_out and layer.has_variable("params", name))
