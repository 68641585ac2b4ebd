"""Computes the cost of a Linen model."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict

from recu_jax.cost.calls import BinaryLayer, Calls, traced
from recu_jax.cost.counts import ModelCost


def linen_cost(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ModelCost:
    """Computes the cost of `model.apply(variables, *args, **kwargs)`, as `model_cost` defines it."""

    def init(*args, **kwargs):
        return model.init(jax.random.key(0), *args, **kwargs)

    variables = Calls(args, kwargs).shapes(init)
    parameters, statistics = (flatten_dict(nn.meta.unbox(variables.get(n, {}))) for n in ("params", "batch_stats"))
    calls = traced(args, kwargs, lambda calls: _trace(calls, model, variables), parameters)
    return calls.costs(parameters, statistics)


def _trace(calls: Calls, model: nn.Module, variables: Any) -> None:
    def record(call, args, kwargs, context):
        module = context.module
        layer = module if isinstance(module, BinaryLayer) and context.method_name == "__call__" else None
        return calls.record(
            module.path,
            type(module).__name__,
            lambda: call(*args, **kwargs),
            layer,
            lambda: nn.meta.unbox(module.get_variable("params", "kernel")).shape,
        )

    def apply(variables, *args, **kwargs):
        # All collections are mutable, because a model may write to any collection.
        return model.apply(variables, *args, mutable=True, **kwargs)

    with nn.intercept_methods(record):
        calls.trace(apply, variables)
