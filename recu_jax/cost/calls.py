"""Records which modules a model calls while the model is traced, and assigns the costs to the modules."""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from recu_jax.cost.counts import LayerCost, Macs, ModelCost
from recu_jax.cost.program import count_macs, declare_products, layer_scope
from recu_jax.layers import BinaryConv, BinaryDense

BinaryLayer = BinaryConv | BinaryDense
Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Call:
    kind: str
    output_shape: tuple[int, ...]
    layer: BinaryLayer | None
    products: int  # number of products in each output value of a 1-bit layer; 0 for other modules


class Calls:
    """Traces a model and records which modules are called.

    Args:
      args, kwargs: arguments of the model's call. Arrays and abstract arrays (`jax.ShapeDtypeStruct`) are traced. All
        other values are passed unchanged, because the model may branch on them.
    """

    def __init__(self, args: Sequence[Any], kwargs: Mapping[str, Any]):
        leaves, self._tree = jax.tree.flatten((tuple(args), dict(kwargs)))
        self._static = [None if _is_array(leaf) else leaf for leaf in leaves]
        self._arrays = [leaf if _is_array(leaf) else None for leaf in leaves]
        self._numbers: dict[Path, int] = {}
        self._calls: dict[Path, _Call] = {}
        self._within: list[Path] = []
        self._macs: dict[int | None, Macs] = {}

    def _arguments(self, arrays):
        leaves = [static if array is None else array for static, array in zip(self._static, arrays, strict=True)]
        return jax.tree.unflatten(self._tree, leaves)

    def shapes(self, function: Callable[..., Any]) -> Any:
        """Returns the shapes and dtypes of the result of `function(*args, **kwargs)`."""

        def run(arrays):
            args, kwargs = self._arguments(arrays)
            return function(*args, **kwargs)

        return jax.eval_shape(run, self._arrays)

    def trace(self, function: Callable[..., Any], variables: Any) -> None:
        """Traces `function(variables, *args, **kwargs)`. The function must call `record` for each call of a module."""

        def run(variables, arrays):
            args, kwargs = self._arguments(arrays)
            return function(variables, *args, **kwargs)

        self._macs = count_macs(jax.make_jaxpr(run)(variables, self._arrays).jaxpr)

    def record(
        self,
        path: Path,
        kind: str,
        call: Callable[[], Any],
        layer: BinaryLayer | None = None,
        kernel_shape: Callable[[], Sequence[int]] = tuple,
    ) -> Any:
        """Runs `call()` and marks its operations as those of the module at `path`.

        Args:
          path: path of the module.
          kind: name of the module's class.
          call: calls one method of the module.
          layer: the 1-bit layer that `call` computes, or None.
          kernel_shape: returns the shape of this layer's kernel, (*window, in_features / groups, features). It is
            called after `call`, and only with a layer.

        Returns:
          The result of `call()`.
        """
        if self._within and self._within[-1] == path:  # one method of the module calls another
            return call()
        with layer_scope(self._numbers.setdefault(path, len(self._numbers))):
            self._within.append(path)
            try:
                y = call()
            finally:
                self._within.pop()
            products = 0
            if layer is not None:
                products = math.prod(kernel_shape()[:-1])
                y = declare_products(y, products, 1 if layer.binary_weights else 8 * y.dtype.itemsize, 1)
        leaves = jax.tree.leaves(y)
        shape = tuple(leaves[0].shape) if leaves and _is_array(leaves[0]) else ()
        self._calls.setdefault(path, _Call(kind, shape, layer, products))
        return y

    def know(self, parameters: Iterable[Path]) -> bool:
        """Tells whether the modules of all these parameters were called."""
        return all(path[:-1] in self._numbers for path in parameters)

    def costs(self, parameters: Mapping[Path, Any], statistics: Mapping[Path, Any]) -> ModelCost:
        """Computes the cost of the traced model. The layers are in the order of their calls.

        Args:
          parameters, statistics: arrays or abstract arrays of the model. Each key is the path of a module and the name
            of the array.
        """
        owned: dict[Path, tuple[dict[str, Any], dict[str, Any]]] = defaultdict(lambda: ({}, {}))
        for kind, arrays in enumerate((parameters, statistics)):
            for path, array in arrays.items():
                owner = self._owner(path)
                owned[owner][kind]["/".join(path[len(owner) :])] = array
        macs = {path: self._macs.get(number, Counter()) for path, number in self._numbers.items()}
        paths = dict.fromkeys([*self._numbers, *owned])
        costs = [self._cost(path, *owned[path], macs.get(path, Counter())) for path in paths]
        if outside := self._macs.get(None):
            costs.append(LayerCost("", "", (), None, 0, 0, 0, outside))
        return ModelCost([c for c in costs if c.macs or c.binary_parameters or c.real_parameters or c.constants])

    def _owner(self, path: Path) -> Path:
        """Returns the path of the module that owns a variable. The variable's name may have several parts."""
        return next((path[:n] for n in range(len(path) - 1, -1, -1) if path[:n] in self._numbers), path[:-1])

    def _cost(self, path: Path, parameters: dict[str, Any], statistics: dict[str, Any], macs: Macs) -> LayerCost:
        call = self._calls.get(path, _Call("", (), None, 0))
        kernel: Any = parameters.get("kernel")
        constants = sum(array.size for array in statistics.values())
        binary = 0
        if call.layer is not None and call.layer.binary_weights:
            binary = kernel.size
            if call.layer.alpha == "mean":
                # Alpha is computed from the real weights and from the tau in `batch_stats`. Inference keeps alpha, one
                # number per output channel, instead of tau and the real weights.
                constants = kernel.size // call.products
        total = sum(array.size for array in parameters.values())
        shape = None if kernel is None else tuple(kernel.shape)
        return LayerCost("/".join(path), call.kind, call.output_shape, shape, binary, total - binary, constants, macs)


def traced(
    args: Sequence[Any], kwargs: Mapping[str, Any], trace: Callable[[Calls], None], parameters: Iterable[Path]
) -> Calls:
    """Traces a model with these arguments, and returns the recorded calls.

    JAX traces a part that is compiled within a model (`nn.jit`, `nnx.jit`) only once per process. A later trace then
    misses the calls in this part. If calls are missing, the model is traced again with compilation disabled.

    Args:
      args, kwargs: arguments of the model's call.
      trace: function that traces the model with the given `Calls`.
      parameters: paths of the parameters. Calls are missing if the module of a parameter was not called.
    """
    calls = Calls(args, kwargs)
    trace(calls)
    if not calls.know(parameters):
        calls = Calls(args, kwargs)
        with jax.disable_jit():
            trace(calls)
    return calls


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")
