"""Checks on one batch whether the binary layers of a model can learn.

    print(recu_jax.check_model(model, variables, images))    # Linen
    print(recu_jax.check_model(model, images))               # NNX

A layer is **dead** if the signs of its inputs are the same for every example of the batch, if no gradient passes
through its inputs, or if its inputs hold NaN. The network then cannot learn, although no error is raised.
"""

import dataclasses
import functools
import io
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict
from rich.console import Console
from rich.table import Table

from recu_jax.binary_layer import nnx_layers, no_binary_layer
from recu_jax.diagnostics.activations import reporting
from recu_jax.errors import UserError, first_few
from recu_jax.layers.packed import BITS, latent_weights_are_gone

_WIDTH = 120
_NORM = "put a normalization, such as nn.BatchNorm, before it"
# A layer that is not dead is still reported if at least the share _MANY_CONSTANT of its channels is constant, or if a
# gradient passes through less than the share _FEW_IN_WINDOW of its inputs.
_MANY_CONSTANT, _FEW_IN_WINDOW = 0.5, 0.02


@dataclasses.dataclass(frozen=True)
class LayerCheck:
    """The measures of one call of a binary layer.

    Attributes:
      path: path of the layer's parameters, as in `BinaryLayer`.
      call: 1 for the first call of the layer, 2 for the second, and so on.
      positive_signs, constant_channels, in_window, nan_inputs: shares, as in `measure_inputs`.
      channels: number of input channels.
    """

    path: str
    call: int
    positive_signs: float
    constant_channels: float
    in_window: float
    nan_inputs: float
    channels: int

    @property
    def dead(self) -> bool:
        """Whether the layer keeps the network from learning."""
        return is_dead(dataclasses.asdict(self))

    @property
    def problem(self) -> str:
        """What is wrong and what to do, in words; empty if nothing is wrong."""
        return problem(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class ModelCheck:
    """The result of `check_model`. `print` shows a table, and below the table what is wrong, in words.

    Attributes:
      layers: one entry for each call of a binary layer, in the order of the calls.
    """

    layers: tuple[LayerCheck, ...]

    @property
    def dead(self) -> list[LayerCheck]:
        """The dead layers; empty if the model can learn."""
        return [layer for layer in self.layers if layer.dead]

    def __str__(self) -> str:
        table = Table()
        for name in ("layer", "inputs +1", "constant channels", "in window", "NaN", ""):
            table.add_column(name, justify="left" if name in ("layer", "") else "right", overflow="fold")
        calls = {layer.path for layer in self.layers if layer.call > 1}
        for layer in self.layers:
            name = layer.path or "(the model)"
            table.add_row(
                f"{name}, call {layer.call}" if layer.path in calls else name,
                f"{layer.positive_signs:.1%}",
                f"{round(layer.constant_channels * layer.channels)} of {layer.channels}",
                f"{layer.in_window:.1%}",
                f"{layer.nan_inputs:.1%}",
                "dead" if layer.dead else "look" if layer.problem else "",
            )
        text = io.StringIO()
        Console(file=text, width=_WIDTH).print(table)
        said: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.problem:
                said.setdefault(layer.problem, []).append(layer.path or "(the model)")
        lines = [f"{', '.join(dict.fromkeys(paths))}: {words}" for words, paths in said.items()]
        return text.getvalue() + "\n".join(lines or ["All binary layers can learn."])


def is_dead(measures: Mapping[str, Any]) -> bool:
    """Tells whether a layer with these measures (`measure_inputs`) keeps the network from learning."""
    return measures["nan_inputs"] > 0 or measures["constant_channels"] >= 1 or measures["in_window"] <= 0


def problem(measures: Mapping[str, Any]) -> str:
    """Describes in words what is wrong with a layer, and what to do.

    Args:
      measures: measures of the layer, as `measure_inputs` returns them.

    Returns:
      One line; empty if nothing is wrong.
    """
    if measures["nan_inputs"] > 0:
        return "NaN among its inputs; look at the layers before it and at the data, or lower the learning rate"
    if measures["constant_channels"] >= 1:
        if measures["positive_signs"] >= 1:
            return (
                "all its inputs are >= 0, as after a relu, so all signs are +1 and its output is the same for every "
                f"example; {_NORM}, or give it input_binarizer=activations.RSign(initial_shift=0.5)"
            )
        return f"its signs are the same for every example, and so is its output; {_NORM}"
    if measures["in_window"] <= 0:
        return f"no gradient passes: all its inputs are outside the window of its gradient; {_NORM}"
    if measures["constant_channels"] >= _MANY_CONSTANT:
        share = f"{measures['constant_channels']:.0%}"
        return f"the signs of {share} of its channels are the same for every example; {_NORM}"
    if measures["in_window"] < _FEW_IN_WINDOW:
        return f"a gradient passes through only {measures['in_window']:.1%} of its inputs; {_NORM}"
    return ""


def dead_layers(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Names up to three dead layers, counts the rest, and says what is wrong with the first.

    Args:
      measured: measures (`measure_inputs`) by path of the layer.

    Returns:
      One line; empty if no layer is dead.
    """
    dead = [name for name, measures in measured.items() if is_dead(measures)]
    if not dead:
        return ""
    names = first_few(dead, 3, ", ", lambda name: name or "(the model)")
    many = (
        f"{len(dead)} of {len(measured)} binary layers cannot learn"
        if len(measured) > 1
        else "the binary layer cannot learn"
    )
    return f"{many}: {names}: {problem(measured[dead[0]])}"


def check_model(model: Any, *args: Any, **kwargs: Any) -> ModelCheck:
    """Runs one batch through a model and checks each binary layer.

    `print` shows the result. A table has one row for each call of a layer. The row describes the layer's inputs: the
    share of +1 among their signs, the number of channels whose signs are the same for every example, the share through
    which a gradient passes, and the share of NaN. The lines below the table say what is wrong and what to do.

    The model is not changed. The call compiles the forward pass once.

    Args:
      model: a Linen module or an `nnx.Module`. An `nnx.Module` runs in its current mode. In training mode it needs tau:
        first call `recu_jax.set_tau`, or switch the mode with `model.eval()`.
      *args: for a Linen module its variables and the arguments of its call, `check_model(model, variables, images)`;
        for an NNX module the arguments of its call. Give a batch of several different examples.
      **kwargs: keyword arguments; for a Linen module of `model.apply`, such as `train=True, mutable=["batch_stats"]`,
        for an NNX module of its call.

    Raises:
      UserError: the model has no binary layer or a packed one, a Linen module is given without its variables, or the
        batch has only one example.
    """
    run, arrays, expected = _runner(model, args, kwargs)
    found = _Found()
    jax.block_until_ready(jax.jit(found.listening(run))(arrays))
    if not expected <= found.traced:
        # If the model jits one of its parts, JAX caches the trace of this part. After an earlier call has filled the
        # cache, the layers of the part run without being reported. Without jit every layer is reported.
        found = _Found()
        with jax.disable_jit():
            jax.block_until_ready(found.listening(run)(arrays))
    if not found.layers:
        raise no_binary_layer(model)
    return ModelCheck(found.in_order())


class _Found:
    """Collects the measures of all calls.

    The measures leave the program by a callback, because they cannot be returned from within `nn.scan` or `nn.remat`.
    `nn.scan` refuses a callback whose result is not used. Therefore the callback returns a zero, which is added to the
    layer's inputs.
    """

    def __init__(self):
        self.layers: list[tuple[int, dict[str, Any]]] = []
        self.calls = 0
        self.traced: set[str] = set()

    def listening(self, run: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
        measure = reporting(self._report)

        def listen(call, arguments, keywords, context):
            self.traced |= {_path(context.module), "/".join(context.module.path)}
            return measure(call, arguments, keywords, context)

        def listened(arrays):
            with nn.intercept_methods(listen):
                outputs = run(arrays)
            return [leaf for leaf in jax.tree.leaves(outputs) if isinstance(leaf, jax.Array)]

        return listened

    def _report(self, layer, x, measures):
        if layer.has_variable("params", BITS):
            raise latent_weights_are_gone(layer)
        kernel = nn.meta.unbox(layer.get_variable("params", "kernel"))
        groups = getattr(layer, "feature_group_count", 1)
        self.calls += 1
        add = functools.partial(self._add, self.calls, _path(layer), kernel.shape[-2] * groups)
        zero = jax.pure_callback(add, jax.ShapeDtypeStruct((), np.float32), measures, vmap_method="sequential")
        return x + zero.astype(x.dtype)

    def _add(self, traced, path, channels, measures):
        call = 1 + sum(layer["path"] == path for _, layer in self.layers)
        shares = {name: float(value) for name, value in measures.items()}
        self.layers.append((traced, {"path": path, "call": call, "channels": channels, **shares}))
        return np.float32(0)

    def in_order(self) -> tuple[LayerCheck, ...]:
        """Returns the calls in the order of the program. Independent calls may have run in another order."""
        return tuple(LayerCheck(**layer) for _, layer in sorted(self.layers, key=lambda found: found[0]))


def _path(module):
    # An NNX layer computes with a Linen layer of its own. `_runner` names the Linen layer by the path of the NNX layer.
    return "/".join(module.path) or module.name or ""


def _runner(model, args, kwargs):
    """Returns `run`, `arrays` and `expected`.

    `run(arrays)` runs the model. `expected` holds paths of modules, all of which it must call.
    """
    if isinstance(model, nn.Module):
        if not args or not isinstance(args[0], Mapping):
            raise UserError("check_model: a Linen module needs its variables: check_model(model, variables, images)")
        variables, *inputs = args
        flat = flatten_dict(variables.get("params", {}))
        function, arguments = model.apply, (variables, *inputs)
        expected = {"/".join(path[:-1]) for path in flat}
    else:
        from flax import nnx  # imported here, because the import is slow

        copy = nnx.clone(model)
        for path, layer in nnx_layers(copy):
            layer.linen = layer.linen.clone(name="/".join(map(str, path)))
        definition, state = nnx.split(copy)
        function, arguments = lambda state, *a, **k: nnx.merge(definition, state)(*a, **k), (state, *args)
        expected = {"/".join(map(str, path)) for path, _ in nnx_layers(copy)}
    leaves, tree = jax.tree.flatten((arguments, kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")}
    batch = next((a for a in jax.tree.leaves((arguments[1:], kwargs)) if np.ndim(a) > 1), None)
    if batch is not None and len(batch) < 2:
        raise UserError(f"check_model: the batch is {batch.shape}; give several examples, so that signs can differ")

    def run(arrays):
        arguments, options = jax.tree.unflatten(tree, [arrays.get(i, leaf) for i, leaf in enumerate(leaves)])
        return function(*arguments, **options)

    return run, arrays, expected
