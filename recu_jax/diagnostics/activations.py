"""Measures the activations of every binary layer with a forward pass."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from recu_jax import layers
from recu_jax.binary_layer import is_binary_call


def activation_windows(
    model: nn.Module, variables: Mapping[str, Any], *inputs: Any, **options: Any
) -> dict[str, jax.Array]:
    """Computes, for each binary layer, the share of input activations through which a gradient passes.

    A gradient passes where the slope of the layer's input binarizer is positive. For ReCU this is where `|a0| < 1`: a0
    are the activations divided by the standard deviation of their sample, as in training (SPEC.md 2).

    The forward pass is that of evaluation unless `options` say otherwise: batch norm uses its running statistics, so no
    mapped axis is needed. The function is pure and can be jitted.

    Args:
      model: any Linen module with layers of recu_jax. It needs no preparation, because `nn.intercept_methods` records
        the calls.
      variables: its variables.
      *inputs, **options: arguments of its call, one batch.

    Returns:
      Scalars in [0, 1] by name of the layer. For a layer with several calls, the mean over the calls.
    """
    shares: dict[str, list[jax.Array]] = {}

    def listen(call, arguments, keywords, context):
        if is_binary_call(context):
            x = arguments[0] if arguments else keywords["inputs"]
            shares.setdefault("/".join(context.module.path), []).append(_share_inside(context.module, x))
        return call(*arguments, **keywords)

    with nn.intercept_methods(listen):
        model.apply(variables, *inputs, **options)
    return {name: jnp.stack(found).mean() for name, found in shares.items()}


def _share_inside(module, x):
    sample_ndim = 1
    if isinstance(module, layers.BinaryConv):
        sample_ndim = (1 if isinstance(module.kernel_size, int) else len(module.kernel_size)) + 1
    binarizer = module.input_binarizer
    parameters = {name: module.get_variable("params", name) for name in binarizer.parameters}
    return binarizer.lets_through(x, sample_ndim=sample_ndim, **parameters).mean()
