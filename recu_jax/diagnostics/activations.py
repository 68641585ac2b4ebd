"""The activations of every binary layer, which needs a forward pass."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from recu_jax import functional, layers
from recu_jax.diagnostics.binary_layers import is_binary_call


def activation_windows(
    model: nn.Module, variables: Mapping[str, Any], *inputs: Any, **options: Any
) -> dict[str, jax.Array]:
    """Share of each binary layer's input activations that lie inside the straight-through window.

    There a gradient passes: `|a0| < 1` for the activations `a0` that are divided by the standard deviation of their
    sample, as in training (SPEC.md 2). The forward pass itself is that of evaluation unless `options` say otherwise:
    batch norm takes its running statistics, and no mapped axis is needed. Pure, to be jitted.

    Args:
      model: any Linen module that holds our layers; nothing in it has to be prepared (`nn.intercept_methods` listens).
      variables: its variables.
      inputs, options: what it is called with, one batch.

    Returns:
      By name of the layer scalars in [0, 1]; a layer that is called more than once has the mean.
    """
    shares: dict[str, list[jax.Array]] = {}

    def listen(call, arguments, keywords, context):
        if is_binary_call(context):
            x = arguments[0] if arguments else keywords["x"]
            shares.setdefault("/".join(context.module.path), []).append(_share_inside(context.module, x))
        return call(*arguments, **keywords)

    with nn.intercept_methods(listen):
        model.apply(variables, *inputs, **options)
    return {name: jnp.stack(found).mean() for name, found in shares.items()}


def _share_inside(module, x):
    sample_ndim = 1
    if isinstance(module, layers.BinaryConv):
        sample_ndim = (1 if isinstance(module.kernel_size, int) else len(module.kernel_size)) + 1
    return (jnp.abs(functional.normalize_sample(x, sample_ndim)) < 1).mean()
