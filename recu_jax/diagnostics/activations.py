"""Measures the activations of every binary layer with a forward pass."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from recu_jax import layers
from recu_jax.binary_layer import is_binary_call


def measure_inputs(
    model: nn.Module, variables: Mapping[str, Any], *inputs: Any, **options: Any
) -> dict[str, dict[str, jax.Array]]:
    """Measures the inputs of each binary layer on one batch.

    The forward pass is `model.apply(variables, *inputs, **options)`. The models of recu_jax evaluate by default. Their
    batch norm then uses its running statistics, and needs no mapped axis. The function is pure and can be jitted.

    Args:
      model: any Linen module with layers of recu_jax. It needs no preparation, because `nn.intercept_methods` records
        the calls.
      variables: variables of the model.
      *inputs, **options: arguments of `model.apply` for one batch.

    Returns:
      The measures of each layer, scalars in [0, 1]: `{path of the layer: {measure: scalar}}`. If a layer is called
      several times, each measure is the mean over its calls.

      - `positive_signs`: share of +1 among the signs of the inputs.
      - `constant_channels`: share of the channels whose signs are the same for every example of the batch. If it is 1,
        the layer has the same output for every example.
      - `in_window`: share of the inputs through which a gradient passes. A gradient passes where the slope of the
        input binarizer is positive. For ReCU this is where `|a0| < 1`. a0 are the activations divided by the standard
        deviation of their sample, as in training (SPEC.md 2).
      - `nan_inputs`: share of NaN among the inputs.
    """
    found: dict[str, list[dict[str, jax.Array]]] = {}

    def report(layer, x, measures):
        found.setdefault("/".join(layer.path), []).append(measures)
        return x

    with nn.intercept_methods(reporting(report)):
        model.apply(variables, *inputs, **options)
    return {name: jax.tree.map(lambda *values: jnp.stack(values).mean(), *measures) for name, measures in found.items()}


def activation_windows(
    model: nn.Module, variables: Mapping[str, Any], *inputs: Any, **options: Any
) -> dict[str, jax.Array]:
    """Returns `in_window` of `measure_inputs` as `{path of the layer: scalar}`. The arguments are the same."""
    found = measure_inputs(model, variables, *inputs, **options)
    return {name: measures["in_window"] for name, measures in found.items()}


def reporting(report: Callable[[nn.Module, jax.Array, dict[str, jax.Array]], jax.Array]) -> Callable[..., Any]:
    """Returns an interceptor for `nn.intercept_methods` that calls `report` in each call of a binary layer.

    Args:
      report: function of the bound layer, its inputs, and the measures of one call, which `measure_inputs` describes.
        The layer then computes with the array that `report` returns instead of its inputs.
    """

    def listen(call, arguments, keywords, context):
        if is_binary_call(context):
            x, *rest = arguments or (keywords["inputs"],)
            x = jnp.asarray(x)
            x = report(context.module, x, _measures(context.module, x, keywords.get("progress")))
            return call(x, *rest, **{name: value for name, value in keywords.items() if name != "inputs"})
        return call(*arguments, **keywords)

    return listen


def _measures(layer, x, progress):
    sample_ndim = 1
    if isinstance(layer, layers.BinaryConv):
        sample_ndim = (1 if isinstance(layer.kernel_size, int) else len(layer.kernel_size)) + 1
    binarizer = layer.input_binarizer
    given = {name: nn.meta.unbox(layer.get_variable("params", name)) for name in binarizer.parameters}
    given |= {"sample_ndim": sample_ndim, "progress": progress}
    positive = binarizer(x, train=False, **given) > 0
    # If the input is one example without a batch axis, this compares the entries along the example's first axis.
    changes = (positive != positive[:1]).any(tuple(range(x.ndim - 1)))
    return {
        "positive_signs": positive.mean(),
        "constant_channels": 1 - changes.mean(),
        "in_window": binarizer.lets_through(x, **given).mean(),
        "nan_inputs": jnp.isnan(x).mean(),
    }
