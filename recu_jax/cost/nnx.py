"""Computes the cost of an NNX model."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from recu_jax.cost.calls import BinaryLayer, Calls, Path, traced
from recu_jax.cost.counts import ModelCost
from recu_jax.layers.packed import latent_weights_are_gone

_PATH = "_recu_jax_path"
_CALL = "__call__"


def nnx_cost(model: nnx.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ModelCost:
    """Computes the cost of `model(*args, **kwargs)` in evaluation mode, as `model_cost` defines it."""
    model = nnx.merge(*nnx.split(model))  # a copy, because the lines below change the model
    model.eval()
    modules = [(path, node) for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)]
    for path, module in modules:
        # An attribute of the module survives transformations that split and merge the module.
        setattr(module, _PATH, "/".join(map(str, path)))
    definition, state = nnx.split(model)

    def call(state, *args, **kwargs):
        merged: Any = nnx.merge(definition, state)
        return merged(*args, **kwargs)

    def trace(calls):
        with _recorded({type(module) for _, module in modules}, calls):
            calls.trace(call, state)

    parameters, statistics = (_arrays(nnx.state(model, kind)) for kind in (nnx.Param, nnx.BatchStat))
    return traced(args, kwargs, trace, parameters).costs(parameters, statistics)


def _arrays(state: Any) -> dict[Path, Any]:
    return {tuple(map(str, path)): jax.tree.leaves(variable)[0] for path, variable in nnx.to_flat_state(state)}


@contextlib.contextmanager
def _recorded(types: set[type], calls: Calls) -> Iterator[None]:
    """Records the calls of modules of these types within the block.

    Replaces the `__call__` of these types during the block, as `nnx.tabulate` does.
    """
    callable_types = [t for t in types if any(_CALL in parent.__dict__ for parent in t.__mro__)]
    own = {t: t.__dict__[_CALL] for t in callable_types if _CALL in t.__dict__}
    recording = {t: _recording(getattr(t, _CALL), calls) for t in callable_types}
    try:
        for t, call in recording.items():
            setattr(t, _CALL, call)
        yield
    finally:
        for t in callable_types:
            if t in own:
                setattr(t, _CALL, own[t])
            else:
                delattr(t, _CALL)


def _recording(call: Callable[..., Any], calls: Calls) -> Callable[..., Any]:
    def recorded(module, *args, **kwargs):
        path = getattr(module, _PATH, None)
        if path is None:  # a module that was created within the call
            return call(module, *args, **kwargs)
        # Each layer of `recu_jax.nnx` computes with a Linen layer, its attribute `linen`.
        linen = getattr(module, "linen", None)
        return calls.record(
            tuple(path.split("/")) if path else (),
            type(module).__name__,
            lambda: call(module, *args, **kwargs),
            linen if isinstance(linen, BinaryLayer) else None,
            lambda: _kernel_shape(module),
        )

    return recorded


def _kernel_shape(layer: Any) -> tuple[int, ...]:
    if layer.kernel is None:
        raise latent_weights_are_gone(layer)
    return jax.tree.leaves(layer.kernel)[0].shape
